"""A journey as a page and as a sequence diagram: steps in their places, names in their texts."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise

import msgspec
import pytest
from drawn_labs import HARMFUL, drawn_lab
from told_journeys import conversation, dropped, veth

from netlab import paths
from netlab.cluster import Cluster
from netlab.journeys import Journey, Place, Rule
from netlab.packets import Flow, Protocol
from netlab.picture import html, sequence
from netlab.picture.layout import Layout, layout
from netlab.picture.model import focused, picture
from netlab.picture.spots import spot
from netlab.picture.steps import Sort, duration, steps
from netlab.picture.text import plain


class Page(HTMLParser):
    """What a browser reads of a page: elements with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.inside.setdefault(self._open, []).append(data)
        self.texts.append(data)


def told(journey: Journey, cluster: Cluster) -> list[tuple[str, str, str]]:
    """Return (place, sort, line) of each step."""
    netns = {step.place.netns for track in journey.tracks for step in track.steps}
    drawn = layout(focused(cluster, netns=netns, service="default/web"), titled=False)
    return [(step.short, step.sort.value, html.line(step)) for step in steps(journey, drawn)]


def test_a_conversation_is_told_step_by_step() -> None:
    found = told(*conversation())
    assert found[:9] == [
        ("client-1", "device", "out through eth0"),
        ("n1", "device", f"in from {veth('client-1')}"),
        ("n1", "rule", "Service default/web:http"),
        ("n1", "rule", "endpoint default/web-2-1, 2 of 3, p 0.5"),
        ("n1", "rewrite", "destination → 10.244.2.2:8080"),
        ("n1", "device", "in from docker0"),
        ("n1", "device", "out through flannel.1"),
        ("n1", "envelope", "put into VXLAN 1 by flannel.1"),
        ("n1", "device", "out through eth0, in VXLAN 1"),
    ]
    assert found[17] == ("web-2-1", "end", "delivered to default/web-2-1 8080/tcp")
    assert found[-2:] == [
        ("web-2-1", "same", "the way of SYN once more"),
        ("client-1", "same", "the way of SYN ACK once more"),
    ]


def drawn_steps(nodes: int = 3) -> list[html.Step]:
    journey, cluster = conversation(nodes)
    netns = {step.place.netns for track in journey.tracks for step in track.steps}
    return steps(journey, layout(focused(cluster, netns=netns), titled=False))


def test_a_rule_that_did_not_fit_is_counted_before_the_next_that_did() -> None:
    rules = [step for step in drawn_steps() if step.sort is Sort.RULE]
    assert [dict(step.facts).get("before it") for step in rules] == [
        None,
        "1 rule that did not fit",
    ]


def test_a_rule_that_decided_nothing_is_left_out() -> None:
    journey, cluster = conversation()
    track = journey.tracks[0]
    (rule,) = [step for step in track.steps if isinstance(step, Rule) and not step.fitted]
    idle = msgspec.structs.replace(
        rule, fitted=True, hit=msgspec.structs.replace(rule.hit, verdict="return")
    )
    steps_ = tuple(idle if step is rule else step for step in track.steps)
    alone = msgspec.structs.replace(journey, tracks=(msgspec.structs.replace(track, steps=steps_),))
    assert [one for one in told(alone, cluster) if one[1] == "rule"] == [
        ("n1", "rule", "Service default/web:http"),
        ("n1", "rule", "endpoint default/web-2-1, 2 of 3, p 0.5"),
    ]


def test_the_packet_changes_with_its_steps() -> None:
    found = drawn_steps()
    asked = [step.packet.flow.destination for step in found[:18]]
    assert asked == ["10.96.0.10"] * 4 + ["10.244.2.2"] * 14
    wrapped = [number for number, step in enumerate(found[:18]) if step.packet.outer]
    assert wrapped == [7, 8, 9, 10, 11]
    assert [step.packet.ttl for step in found[:18]] == [64] * 6 + [63] * 8 + [62] * 4


@pytest.mark.parametrize("nodes", [2, 3, 30])
def test_every_step_is_somewhere_in_the_picture(nodes: int) -> None:
    found = drawn_steps(nodes)
    assert all(step.way for step in found)
    assert [len(step.way) for step in found[-2:]] == [18, 16]
    assert len({step.way for step in found[:18]}) == 14  # 12 devices, a node's rules, inside a pod


def spots(drawn: Layout, *places: tuple[str, str]) -> list[tuple[float, float] | None]:
    return [spot(drawn, f"t.{name}".rstrip("."), device) for name, device in places]


def test_devices_are_where_they_are_drawn() -> None:
    cluster = drawn_lab(3, 2, segments=2)
    drawn = layout(picture(cluster))
    card = drawn.card("t.n2")
    assert card is not None
    (_, chip), *_ = card.chips
    names = [
        ("n2", "eth0"),
        ("n2", "docker0"),
        ("n2", "flannel.1"),
        ("n2", veth("web-2-1")),
        ("n2", ""),
        ("n2", "lo"),
        ("n2.default.web-2-1", "eth0"),
        ("n2.default.web-2-1", ""),
        ("underlay", "n2"),
        ("underlay", "n1"),
        ("underlay", "gateway"),
        ("underlay", "br-seg0"),
        ("underlay", "br-seg1"),
        ("underlay", ""),
        ("gateway", "eth0"),
        ("gateway", "internet"),
        ("gateway", "client"),
        ("gateway", ""),
        ("internet", "eth0"),
        ("client", "eth0"),
        ("master", "eth0"),
        ("master", ""),
    ]
    found = spots(drawn, *names)
    assert None not in found
    assert len(set(found)) == len(found)
    assert spot(drawn, "t.n2", "eth0") == (card.spine, card.uplink.y)
    assert spot(drawn, "t.n2.default.web-2-1", "eth0") == (chip.right, chip.middle[1])
    assert spots(drawn, ("n9", "eth0"), ("n2.default.gone", "eth0")) == [None, None]


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("backend", ["vxlan", "host-gw"])
@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("web-1-1", "web-1-2"),
        ("web-1-1", "web-1-1"),
        ("web-1-1", "127.0.0.1"),
        ("web-1-1", "web-2-1"),
        ("web-1-1", "node/n1"),
        ("web-1-1", "node/n2"),
        ("node/n1", "web-2-1"),
        ("client", "node/n2"),
        ("web-2-1", "internet"),
        ("master", "web-1-1"),
        ("gateway", "node/n2"),
    ],
)
def test_every_expected_hop_has_a_place_in_the_picture_of_its_way(
    source: str, destination: str, backend: str, segments: int
) -> None:
    cluster = drawn_lab(3, 2, segments=segments, backend=backend)
    start, goal = paths.place(cluster, source), paths.place(cluster, destination)
    flow = Flow(paths.source_address(cluster, start, goal), goal.address, Protocol.TCP, 4000, 80)
    way = paths.expected(cluster, start, goal, flow)
    hops = [*way.request, *way.reply]
    drawn = layout(focused(cluster, netns={hop.netns for hop in hops}), titled=False)
    assert hops
    for hop in hops:
        assert spot(drawn, hop.netns, hop.device) is not None, hop.where
    for one, other in pairwise(way.request):
        if (one.netns, one.device) != (other.netns, other.device):
            assert spot(drawn, one.netns, one.device) != spot(drawn, other.netns, other.device)


def test_only_what_is_on_the_way_is_drawn() -> None:
    journey, cluster = conversation(30)
    netns = {step.place.netns for track in journey.tracks for step in track.steps}
    drawn = focused(cluster, netns=netns, service="default/web")
    assert [node.name for node in drawn.nodes] == ["n1", "n2"]
    assert drawn.absent == 28
    assert [pods.label for pods in drawn.nodes[0].pods] == ["client-1", "more pods × 6"]
    assert [pods.label for pods in drawn.nodes[1].pods] == ["web-2-1", "more pods × 5"]
    assert [one.name for one in drawn.services] == ["web"]
    assert drawn.members == {}
    outside = focused(cluster, netns={"t.client", "t.n1"})
    assert sorted(outside.members) == ["client", "gateway"]


def test_a_way_that_meets_nothing_known_is_a_page_all_the_same() -> None:
    journey, cluster = conversation()
    nowhere = Place("x.y", "node", "y")
    track = journey.tracks[0]
    moved = tuple(msgspec.structs.replace(step, place=nowhere) for step in track.steps)
    for tracks in ((msgspec.structs.replace(track, steps=moved),), ()):
        page = html.page(msgspec.structs.replace(journey, tracks=tracks), cluster)
        assert page.count("<article") == (18 if tracks else 0)
        assert ("Nothing was seen of it." in page) is not bool(tracks)


def test_a_page_has_every_step_in_words_and_for_its_script() -> None:
    page = Page(html.page(*conversation()))
    counted = Counter(tag for tag, _ in page.elements)
    assert counted["article"] == counted["li"] == 36
    (facts,) = [text for text in page.inside["script"] if text.startswith("{")]
    data = json.loads(facts)["steps"]
    assert len(data) == 36
    assert [step["wrapped"] for step in data[6:13]] == [False, *[True] * 5, False]
    assert data[17]["fate"] == "delivered"
    assert "-d 10.96.0.10/32 -p tcp" in "".join(page.inside["pre"])
    assert "10.96.0.10:80" in page.inside["del"]
    assert "10.244.2.2:8080" in page.inside["ins"]


def test_a_page_loads_nothing_and_runs_its_own_script_only() -> None:
    text = html.page(*conversation())
    page = Page(text)
    assert set(re.findall(r"https?://[\w./]*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket|innerHTML", text)
    for tag, attributes in page.elements:
        assert "src" not in attributes and tag not in ("link", "img", "iframe", "base", "object")
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#step").startswith("#step")
    (policy,) = [a["content"] for _, a in page.elements if "http-equiv" in a]
    script = next(text for text in page.inside["script"] if text.startswith('"use strict"'))
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert policy is not None and f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("name", HARMFUL)
def test_a_name_is_text_wherever_it_is_said(name: str) -> None:
    harmless, harmful = Page(html.page(*dropped("web-x"))), Page(html.page(*dropped(name)))
    shape, known = (
        [tag for tag, _ in page.elements if tag != "title"] for page in (harmful, harmless)
    )
    assert shape == known
    said = "".join(harmful.texts)
    for words in (f"no endpoint here: {plain(name)}", f"a note about {plain(name)}"):
        assert words in said


def test_a_dropped_packet_ends_in_the_words_of_its_rule() -> None:
    page = html.page(*dropped())
    assert 'class="end request dropped"' in page
    assert '"fate":"dropped"' in page
    assert "2 frames or rule messages were lost" in page


ARROW = re.compile(r"^  (p\d+)(->>|-x)(p\d+): [^;#]*(?:#\d+;[^;#]*)*$")
NOTE = re.compile(r"^  Note over (p\d+)(?:,(p\d+))?: [^;#]*(?:#\d+;[^;#]*)*$")


@pytest.mark.parametrize("name", ["", *HARMFUL])
def test_a_diagram_has_each_line_whole_and_each_arrow_between_participants(name: str) -> None:
    journey, _ = dropped(name) if name else conversation()
    first, comment, *lines = sequence.mermaid(journey).splitlines()
    assert (first, comment[:4]) == ("sequenceDiagram", "  %%")
    known = [line.split()[1] for line in lines if line.startswith("  participant ")]
    assert known == [f"p{number}" for number in range(len(known))]
    for line in lines[len(known) :]:
        found = ARROW.match(line) or NOTE.match(line)
        assert found, line
        assert {one for one in found.groups() if one and one.startswith("p")} <= set(known)
        assert not re.search(r"[<>]", re.sub(r"->>|<br/>", "", line)), line


def test_a_diagram_tells_devices_rules_rewrites_and_envelopes() -> None:
    lines = sequence.mermaid(conversation()[0]).splitlines()
    cable = veth("client-1")
    for line in (
        "  participant p0 as pod default/client-1 on n1",
        "  Note over p0,p4: SYN (request)",
        f"  p0->>p1: eth0 → {cable}<br/>10.244.1.100:40001 → 10.96.0.10:80",
        f"  p1->>p1: {cable} → docker0",
        "  Note over p1: destination rewritten (DNAT)<br/>10.96.0.10:80 → 10.244.2.2:8080"
        "<br/>endpoint default/web-2-1",
        "  Note over p1: put into VXLAN 1 by flannel.1<br/>192.168.50.101 → 192.168.50.102",
        "  p2->>p3: n2 → eth0<br/>10.244.1.100:40001 → 10.244.2.2:8080 in VXLAN 1",
        "  p4->>p4: delivered to default/web-2-1 8080/tcp",
        "  Note over p0,p4: data 24 bytes (request): the way of SYN once more, 12 devices in 33 µs",
    ):
        assert line in lines
    assert any(
        line.startswith("  p1-xp1: dropped by rule ")
        for line in sequence.mermaid(dropped()[0]).splitlines()
    )


@pytest.mark.parametrize(
    ("nanoseconds", "words"), [(0, "0 µs"), (84_400, "84 µs"), (1_250_000, "1.25 ms")]
)
def test_durations_are_in_a_fitting_unit(nanoseconds: int, words: str) -> None:
    assert duration(nanoseconds) == words
