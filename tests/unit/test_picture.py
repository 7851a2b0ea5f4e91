"""The lab as a picture: what is drawn, where, and that no name gets out of its label."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import pytest
from drawn_labs import HARMFUL, drawn_lab, pod, service, slice_of
from msgspec.structs import replace

from netlab.cluster import cluster
from netlab.model.lab import Balancer
from netlab.picture.dot import dot
from netlab.picture.layout import Box, layout
from netlab.picture.mermaid import mermaid
from netlab.picture.model import picture
from netlab.picture.svg import svg
from netlab.picture.text import fitted, plain, width

SVG = "{http://www.w3.org/2000/svg}"
SIZES = [
    pytest.param(0, 0, 1, id="no-nodes"),
    pytest.param(1, 0, 1, id="one-node"),
    pytest.param(3, 5, 1, id="three-nodes"),
    pytest.param(4, 12, 1, id="four-nodes"),
    pytest.param(6, 3, 1, id="six-nodes"),
    pytest.param(7, 3, 1, id="seven-nodes"),
    pytest.param(30, 6, 1, id="thirty-nodes"),
    pytest.param(5, 2, 2, id="two-segments"),
    pytest.param(30, 2, 3, id="three-segments"),
    pytest.param(2, 200, 1, id="many-pods"),
]


def texts(drawing: str) -> list[str]:
    """Return the texts of an SVG, without tooltips."""
    return [
        node.text or (node[0].tail if len(node) else "") or ""
        for node in ElementTree.fromstring(drawing).iter(f"{SVG}text")
    ]


def test_a_pod_is_marked_with_the_services_it_serves() -> None:
    drawn = picture(drawn_lab(2, 1, names=("lonely",)))
    assert [(one.number, one.name, one.reach) for one in drawn.services] == [
        (1, "lonely", "1 endpoint"),
        (2, "web", "2 endpoints"),
    ]
    first, second = drawn.nodes
    assert [(pods.name, pods.services) for pods in first.pods] == [
        ("lonely", (1,)),
        ("web-1-1", (2,)),
    ]
    assert [pods.services for pods in second.pods] == [(2,)]


@pytest.mark.parametrize("nodes", [2, 8])
def test_the_gateway_of_machines_of_their_own_hangs_on_the_first(nodes: int) -> None:
    seen = drawn_lab(nodes, 1)
    seen = replace(seen, lab=replace(seen.lab, spread=True))
    drawn = picture(seen)
    assert drawn.members["gateway"].behind == drawn.nodes[0].netns
    assert "gateway ---|outside0| n0\n" in mermaid(drawn) and "gateway --- seg" not in mermaid(
        drawn
    )
    assert "gateway -- n0eth0 [lhead=cluster_n0" in dot(drawn) and "gateway -- seg" not in dot(
        drawn
    )
    where = layout(drawn)
    assert "outside0" in texts(svg(drawn))
    card, box = where.card(drawn.nodes[0].netns), where.members["gateway"]
    assert card is not None
    ends = [
        (float(one.attrib["x1"]), float(one.attrib["y1"]), float(one.attrib["x2"]))
        for one in ElementTree.fromstring(svg(drawn)).iter(f"{SVG}line")
        if float(one.attrib["y1"]) == box.bottom and float(one.attrib["y2"]) == card.box.y
    ]
    assert len(ends) == 1
    assert box.x < ends[0][0] < box.right and card.box.x < ends[0][2] < card.box.right


@pytest.mark.parametrize("nodes", [2, 8])
def test_the_balancer_of_machines_of_their_own_hangs_on_the_first_too(nodes: int) -> None:
    seen = drawn_lab(nodes, 1)
    given = Balancer("192.168.50.5", ["192.168.50.200/30"])
    drawn = picture(replace(seen, lab=replace(seen.lab, spread=True, balancer=given)))
    assert drawn.members["balancer"].behind == drawn.nodes[0].netns
    said = mermaid(drawn), dot(drawn)
    assert "balancer ---|balancer0| n0\n" in said[0] and "gateway --- balancer\n" in said[0]
    assert "gateway -- balancer;" in said[1] and 'headlabel="balancer0"' in said[1]
    assert not any("balancer -- seg" in one or "balancer --- seg" in one for one in said)
    assert {"balancer0", "outside0"} <= set(texts(svg(drawn)))


def test_an_endpoint_that_is_not_ready_or_no_pod_marks_none() -> None:
    state = drawn_lab(1, 1, services=0)
    web = pod("web-1-1", "n1", "10.244.1.2")
    one = slice_of("web", [web])
    one["endpoints"][0]["conditions"]["ready"] = False
    one["endpoints"].append({"addresses": ["192.0.2.7"]})
    documents = [*state.documents, service("web", "10.96.0.1"), one]
    drawn = picture(cluster(state.lab, documents, leases={}))
    assert drawn.services[0].endpoints == ("192.0.2.7",)
    assert drawn.nodes[0].pods[0].services == ()
    assert drawn.nodes[0].lease == ""


def test_a_broken_service_does_not_hide_the_others() -> None:
    state = drawn_lab(1, 1)
    broken = [service("a", "10.96.3.1", ports="none"), slice_of("b", [])]
    broken[1]["endpoints"] = "none"
    drawn = picture(cluster(state.lab, [*state.documents, *broken], leases={}))
    assert [one.name for one in drawn.services] == ["web"]


@pytest.mark.parametrize(
    ("nodes", "pods", "full", "drawn_pods"),
    [
        (3, 12, False, ["web-1-1", "web-1-10"]),
        (3, 13, False, ["web × 13"]),
        (7, 2, False, ["web × 2"]),
        (3, 13, True, ["web-1-1", "web-1-10"]),
        (7, 2, True, ["web-1-1", "web-1-2"]),
    ],
)
def test_many_pods_are_drawn_by_workload(
    nodes: int, pods: int, full: bool, drawn_pods: list[str]
) -> None:
    drawn = picture(drawn_lab(nodes, pods), full=full)
    assert [one.label for one in drawn.nodes[0].pods][:2] == drawn_pods
    assert drawn.nodes[0].number_of_pods == pods


def test_what_is_no_workload_of_many_is_counted_at_the_end() -> None:
    drawn = picture(drawn_lab(7, 3, names=tuple("abcdefg")))
    assert [one.label for one in drawn.nodes[0].pods] == ["web × 3", "a", "b", "more pods × 5"]
    assert [one.label for one in drawn.nodes[1].pods] == ["web × 3"]


def test_many_services_are_drawn_by_namespace_and_mark_no_pod() -> None:
    state = drawn_lab(2, 1, services=30)
    drawn = picture(state)
    assert [one.name for one in drawn.services] == ["default: 30 Services"]
    assert drawn.nodes[0].pods[0].services == ()
    assert len(picture(state, full=True).services) == 30


def test_a_namespace_and_no_services_can_be_asked_for() -> None:
    drawn = picture(drawn_lab(2, 1), namespace="shop")
    assert drawn.services == () and [node.pods for node in drawn.nodes] == [(), ()]
    assert picture(drawn_lab(2, 1), services=False).services == ()


def test_host_gw_has_no_overlay() -> None:
    drawn = picture(drawn_lab(2, 1, backend="host-gw"))
    assert {node.tunnel for node in drawn.nodes} == {""}
    for text in (svg(drawn), mermaid(drawn), dot(drawn)):
        assert "flannel.1" not in text


@pytest.mark.parametrize(("nodes", "pods", "segments"), SIZES)
def test_nothing_is_drawn_over_anything_else(nodes: int, pods: int, segments: int) -> None:
    drawn = layout(picture(drawn_lab(nodes, pods, segments=segments, services=5)))
    apart = [
        *(card.box for card in drawn.cards),
        *drawn.members.values(),
        *(box for _, box in drawn.services),
        *([drawn.router] if drawn.router else []),
    ]
    for one, other in combinations(apart, 2):
        assert not overlap(one, other)
    buses = [Box(x1, y, x2 - x1, 1) for band in drawn.bands for x1, x2, y in band.buses]
    assert not any(overlap(bus, box) for bus in buses for box in apart if box != drawn.router)
    for box in apart:
        assert within(box, Box(0, 0, drawn.width, drawn.height))
    for card in drawn.cards:
        for _, chip in card.chips:
            assert within(chip, card.box)
        for (_, one), (_, other) in combinations(card.chips, 2):
            assert not overlap(one, other)
    assert len(drawn.cards) == nodes


@pytest.mark.parametrize(("nodes", "pods", "segments"), SIZES)
def test_a_drawing_is_wellformed_and_says_how_many_there_are(
    nodes: int, pods: int, segments: int
) -> None:
    said = texts(svg(picture(drawn_lab(nodes, pods, segments=segments))))
    assert f"{nodes} node{'s' if nodes != 1 else ''}, {nodes * pods} pod" in " ".join(said)
    assert {f"n{number}" for number in range(1, nodes + 1)} <= set(said)


def test_the_same_lab_gives_the_same_picture() -> None:
    for form in (svg, mermaid, dot):
        assert form(picture(drawn_lab(3, 3))) == form(picture(drawn_lab(3, 3)))


def test_every_name_is_in_its_label_and_nowhere_else() -> None:
    drawn = picture(drawn_lab(1, 0, names=HARMFUL))
    said = ElementTree.fromstring(svg(drawn))
    whole = {node.text for node in said.iter(f"{SVG}title")} | set(texts(svg(drawn)))
    for name in HARMFUL:
        assert plain(name) in whole
    assert {node.tag.removeprefix(SVG) for node in said.iter()} <= {
        *("svg", "title", "style", "rect", "line", "text", "g")
    }


def test_a_drawing_refers_to_nothing_outside() -> None:
    drawing = svg(picture(drawn_lab(2, 2)))
    assert re.findall(r"https?://[^\"]*", drawing) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"url\(|@import|href|<script", drawing)


NODE = re.compile(
    r'^ *(?:subgraph )?\w+(?:\[{1,2}|\(|\{\{)?"?[^"]*"?(?:\]{1,2}|\)|\}\})?(?::::\w+)?$'
)


@pytest.mark.parametrize("nodes", [1, 7])
def test_a_flowchart_has_each_label_whole_and_each_edge_between_nodes_there_are(nodes: int) -> None:
    text = mermaid(picture(drawn_lab(nodes, 2, names=HARMFUL, segments=2)))
    head, _, body = text.partition("\n")
    assert head.startswith("flowchart LR")
    known: set[str] = set()
    edges: list[str] = []
    for line in body.splitlines():
        if line.lstrip().startswith(("%%", "classDef")):
            continue
        if re.search(r" -.?-|---", line.partition('"')[0]):
            edges += re.split(r" (?:---|-\.-) ", line.strip())
            continue
        assert NODE.match(line), line
        for label in re.findall(r'"(.*)"', line):
            assert not re.search(r"[\"&`\\;%<>]", re.sub(r"#\d+;|<br/>", "", label)), line
        if found := re.match(r" *(?:subgraph )?(\w+)[\[({]", line):
            known.add(found[1])
    assert set(edges) <= known
    assert any(edge.startswith("s") for edge in edges)


def test_too_many_edges_are_left_out() -> None:
    assert "-.- s0" in mermaid(picture(drawn_lab(20, 2)))
    assert "-.- s0" not in mermaid(picture(drawn_lab(70, 2)))
    assert "style=dotted" not in dot(picture(drawn_lab(70, 2)))


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs dot of graphviz")
@pytest.mark.parametrize(("nodes", "pods", "segments"), SIZES[1:])
def test_graphviz_draws_it_and_shows_every_name(nodes: int, pods: int, segments: int) -> None:
    text = dot(picture(drawn_lab(nodes, min(pods, 12), segments=segments, names=HARMFUL)))
    done = subprocess.run(
        ["dot", "-Tsvg"], input=text, capture_output=True, text=True, encoding="utf-8", timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = "\n".join(
        node.text or "" for node in ElementTree.fromstring(done.stdout).iter(f"{SVG}text")
    )
    for name in HARMFUL if nodes <= 3 else ():
        assert plain(name).replace(" ", "\xa0") in said.replace(" ", "\xa0")


def within(one: Box, other: Box) -> bool:
    return (
        other.x <= one.x
        and one.right <= other.right
        and other.y <= one.y
        and one.bottom <= other.bottom
    )


def overlap(one: Box, other: Box) -> bool:
    return (
        one.x < other.right
        and other.x < one.right
        and one.y < other.bottom
        and other.y < one.bottom
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("web-1 é 名", "web-1 é 名"),
        ("a\tb\n\x1b[0m\x7f", "a\ufffdb\ufffd\ufffd[0m\ufffd"),
        ("\ud800\u2028\u202e\u200b\uffff", "\ufffd" * 5),
    ],
)
def test_a_label_holds_what_can_be_shown(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("text", "room", "shown"),
    [
        ("web-1", 100, "web-1"),
        ("web-gm565p54cm-kvv8k", 120, "web-gm56…kvv8k"),
        ("web-1", 3, "…"),
    ],
)
def test_a_label_is_cut_in_its_middle(text: str, room: float, shown: str) -> None:
    assert fitted(text, 12, room) == shown
    assert shown == "…" or width(shown, 12) <= room
