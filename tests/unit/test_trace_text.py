"""A journey and a diagnosis as lines, as JSON, as packets: what people and programs rely on."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from test_assembly import ACROSS, across, told
from told_journeys import ASKED, OUT, conversation, dropped, places
from watched import Watch

from netlab import pcapng
from netlab.journeys import (
    Cause,
    Diagnosis,
    End,
    Fate,
    Journey,
    Kind,
    NamedEntry,
    NextHop,
    Rule,
    Seen,
    Step,
    Track,
)
from netlab.packets import Entry, Flow, Leg, Protocol, RuleHit
from netlab.telling import forms, packets, text

ROOT = Path(__file__).parents[2]
ENTRY = NamedEntry(
    places()["n1"],
    Entry(ASKED, Flow("10.244.2.2", "10.244.1.100", Protocol.TCP, 8080, 40001), id=77,
          state="ESTABLISHED", mark=3, timeout=86400),
)  # fmt: skip
LONG = "x" * 40
HOP = (
    "route 10.244.2.0/24 via 10.244.2.0 dev flannel.1; neighbour 10.244.2.0 lladdr "
    "02:00:00:00:00:02 permanent; FDB 02:00:00:00:00:02 dst 192.168.50.102"
)
RULE = (
    f'-d 10.96.0.10/32 -p tcp -m comment --comment "default/{LONG}:http cluster IP" -m tcp '
    "--dport 80 -m statistic --mode random --probability 0.16667000018 -j KUBE-SEP-ABCDEFGHIJKLMNOP"
)


def with_everything() -> Journey:
    journey = conversation()[0]
    first, *others = journey.tracks
    hop = NextHop(places()["n1"], "route", "flannel.1", HOP, "10.244.2.0", "02:00:00:00:00:02",
                  "192.168.50.102")  # fmt: skip
    at = next(n for n, step in enumerate(first.steps) if isinstance(step, Seen) and step.ttl == 63)
    told = replace(first, steps=(*first.steps[:at], hop, *first.steps[at:]))
    return replace(
        journey,
        tracks=(told, *others),
        entries=(ENTRY,),
        notes=("web is taken for a Service: names are not asked of DNS",),
        says={"pod": "web-2-1", "namespace": "default", "client": "10.244.1.100"},
    )


def hit(rule: str, verdict: str, chain: str = "KUBE-SERVICES") -> RuleHit:
    base = "PREROUTING"
    return RuleHit("t.n1", "ip", "nat", "prerouting", base, chain, rule, verdict, ASKED)


def of_long_names() -> Journey:
    """Everything as long as it may be: addresses, devices of 15 characters, names of 63."""
    at = replace(places()["pod"], name=f"{'n' * 63}/{'p' * 63}", node="w" * 63)
    flow = Flow("192.168.100.100", "192.168.200.200", Protocol.TCP, 65535, 65535)
    again = replace(flow, source="10.244.100.100")
    steps: list[Step] = [
        Seen(at, 1, "veth0123456789a", OUT, flow, 64, 60, 65536),
        Rule(at, hit(RULE, "jump KUBE-SVC-1"), means=f"Service default/{LONG}:http of somebody"),
        Rule(at, hit(RULE, "drop", f"endpoint-X-{'n' * 63}/{'s' * 63}/tcp/http__1.1.1.1/80")),
        Rule(at, hit(RULE, "", "KUBE-SVC-1"), fitted=False),
        Seen(at, 999_999_999, "veth0123456789a", OUT, again, 64, 60, 65536, icmp="echo-request"),
        End(at, Fate.DROPPED, f"by nat {LONG} at prerouting, {LONG}"),
    ]
    track = Track("fragmentation needed", Leg.REQUEST, flow, tuple(steps))
    return Journey(
        source=f"{'n' * 63}/{'p' * 63}",
        destination=f"Service default/{LONG}:http",
        flow=flow,
        tracks=(track,),
        endpoint=f"default/{LONG} 10.244.100.100:65535",
        refused=f"{LONG} is unreachable, {LONG}",
        entries=(NamedEntry(at, Entry(flow, flow.reply, id=2**32 - 1, state="ESTABLISHED")),),
        notes=(f"{LONG} {LONG} {LONG}",),
        lost=12,
    )


JOURNEYS = {
    "a conversation": with_everything(),
    "a drop": dropped("pair")[0],
    "long names": of_long_names(),
}


def too_long(lines: list[str], width: int) -> list[str]:
    """Return the lines that are longer, though no word of theirs is nearly as long."""
    return [one for one in lines if len(one) > width and max(map(len, one.split())) < width - 25]


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("every", [False, True], ids=["first", "every"])
@pytest.mark.parametrize("name", JOURNEYS)
def test_no_line_is_longer_than_the_terminal(name: str, every: bool, width: int) -> None:
    assert too_long(text.lines(JOURNEYS[name], width=width, every=every), width) == []


def test_a_conversation_reads_like_this() -> None:
    found = text.lines(with_everything())
    assert (
        found[:32]
        == """\
default/client-1 -> default/web, 10.244.1.100:40001 -> 10.96.0.10:80 tcp
sent to endpoint default/web-2-1 10.244.2.2:8080
answered in 410.00 ms by default/web-2-1, which saw 10.244.1.100
note: web is taken for a Service: names are not asked of DNS

SYN  10.244.1.100:40001 -> 10.96.0.10:80                              12 hops in 33 µs, ttl 64 -> 62
  pod default/client-1 on n1
     0 µs        eth0 out          ttl 64  mtu 1450  10.244.1.100:40001 -> 10.96.0.10:80
  n1
     3 µs     +3 veth6f9fcf65 in   ttl 64  mtu 1450
                 | prerouting nat KUBE-SERVICES: -d 10.96.0.10/32 -p tcp -j KUBE-SEP-1
                 |   => Service default/web:http
                 | - prerouting nat KUBE-SVC-1: x
                 | prerouting nat KUBE-SEP-1: -p tcp -j DNAT --to-destination 10.244.2.2:8080
                 |   => endpoint default/web-2-1, 2 of 3, p 0.5
                 DNAT: destination 10.96.0.10:80 => 10.244.2.2:8080, conntrack 77 (endpoint
                     default/web-2-1)
     6 µs     +3 docker0 in        ttl 64  mtu 1450  10.244.1.100:40001 -> 10.244.2.2:8080
                 route 10.244.2.0/24 via 10.244.2.0 dev flannel.1; neighbour 10.244.2.0 lladdr
                     02:00:00:00:00:02 permanent; FDB 02:00:00:00:00:02 dst 192.168.50.102
     9 µs     +3 flannel.1 out     ttl 63  mtu 1450
                 into VXLAN 1 by flannel.1: 192.168.50.101:51123 -> 192.168.50.102:8472, ttl 64
    12 µs     +3 eth0 out          ttl 63  mtu 1450
  underlay
    15 µs     +3 n1 in             ttl 63  mtu 1450
    18 µs     +3 n2 out            ttl 63  mtu 1450
  n2
    21 µs     +3 eth0 in           ttl 63  mtu 1450
                 out of VXLAN 1 by flannel.1
    24 µs     +3 flannel.1 in      ttl 63  mtu 1450
    27 µs     +3 docker0 out       ttl 62  mtu 1450
    30 µs     +3 vethdf862e29 out  ttl 62  mtu 1450""".splitlines()
    )
    assert found[-6:] == [
        "data 24 bytes     request: the same way as SYN, 33 µs, delivered",
        "data 180 bytes    reply: the same way as SYN ACK, 33 µs, delivered",
        "",
        "conntrack remembers",
        "  n1: 10.244.1.100:40001 -> 10.96.0.10:80 tcp ESTABLISHED",
        "      answered 10.244.2.2:8080 -> 10.244.1.100:40001, id 77",
    ]


def test_a_flow_that_a_process_made_is_told_behind_it() -> None:
    journey = with_everything()
    by = "the userspace proxy of n1 took it and chose default/web-2: a flow of its own"
    own = [replace(one, by=by) for one in journey.tracks]
    before = text.lines(journey)
    found = text.lines(replace(journey, tracks=(*journey.tracks, *own)))
    assert found.count(by) == 1
    at = found.index(by)
    assert found[: at - 1] == before[: at - 1]
    assert [line for line in found[at:] if line.startswith("SYN")] == [
        line for line in before if line.startswith("SYN")
    ]


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({}, "answered in 410.00 ms"),
        ({"pod": "a", "namespace": "b", "client": "1.1.1.1"}, " by b/a, which saw 1.1.1.1"),
        ({"pod": "internet", "client": "1.1.1.1"}, " by internet, which saw 1.1.1.1"),
        ({"status": 404, "reason": "Not Found", "pod": "a"}, ", HTTP 404 Not Found"),
        ({"status": 200, "reason": ""}, ", HTTP 200"),
        ({"rcode": "NXDOMAIN", "answers": 0}, ", NXDOMAIN, 0 answers"),
        ({"garbled": "\x15\x03"}, ", not in the words that were asked for: '\\x15\\x03'"),
    ],
)
def test_an_answer_says_by_whom(says: dict[str, Any], words: str) -> None:
    heading = text.heading(replace(with_everything(), says=says, notes=()))
    assert heading[-1].endswith(words)


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ('-m comment --comment "a b" -j X', "-j X"),
        ("-d 1.1.1.1/32 -m comment --comment word -j X", "-d 1.1.1.1/32 -j X"),
        ('ip daddr 1.1.1.1 comment "not published" drop', "ip daddr 1.1.1.1 drop"),
        ('counter drop comment "x"', "counter drop"),
    ],
)
def test_comments_are_left_out(rule: str, left: str) -> None:
    assert text.without_comment(rule) == left


def test_what_ends_a_packet_keeps_its_comment() -> None:
    found = "\n".join(text.lines(JOURNEYS["long names"], width=1000))
    assert f'default/{LONG}:http cluster IP" -m tcp' in found


def rules(*hits: RuleHit) -> list[str]:
    place = places()["n1"]
    return [step.hit.chain for step in text.shown([Rule(place, one) for one in hits])
            if isinstance(step, Rule)]  # fmt: skip


def test_what_decided_nothing_is_not_shown() -> None:
    assert rules(
        hit("to a", "jump a", "BASE"),
        hit("x", "return", "a"),
        hit("to b", "jump b", "BASE"),
        hit("y", "continue", "b"),
        hit("", "policy accept", "BASE"),
    ) == ["BASE", "b"]
    assert rules(hit("to a", "jump a", "BASE"), hit("to b", "jump b", "a")) == []
    assert rules(hit("", "policy drop", "BASE")) == ["BASE"]


# -- why


CAUSES = (
    Cause(Kind.ROUTE, places()["n1"], f"n1 has no route to {LONG}, {LONG}, {LONG}",
          ("a proof",), ("a repair", "another")),
    Cause(Kind.FDB, places()["n2"], "n2 does not know", ("proof",), ()),
)  # fmt: skip


def test_a_diagnosis_tells_the_first_cause_or_all() -> None:
    found = Diagnosis(JOURNEYS["a drop"], CAUSES, 0.2)
    brief = text.diagnosis(found)
    assert brief[-7:] == [
        "",
        f"cause:    n1 has no route to {LONG},",
        f"          {LONG}, {LONG}",
        "kind:     route",
        "proof:    a proof",
        "repair:   a repair",
        "repair:   another",
    ]
    whole = text.diagnosis(found, every=True)
    assert [one for one in whole if one.startswith("also:")] == ["also:     n2 does not know"]
    assert any(one.startswith("SYN  ") for one in whole)
    assert sum(one.startswith("default/pair -> ") for one in whole) == 1


def test_a_diagnosis_of_what_works_says_so() -> None:
    assert text.diagnosis(Diagnosis(with_everything()))[-1] == "nothing stops it"


@pytest.mark.parametrize("width", [60, 100])
def test_a_diagnosis_fits_the_terminal(width: int) -> None:
    found = text.diagnosis(Diagnosis(of_long_names(), CAUSES, 0.2), width=width, every=width == 100)
    assert too_long(found, width) == []


# -- JSON: fields may be added, none renamed, removed or given another meaning

PLACE = {"netns", "kind", "name", "node"}
FLOW = {"protocol", "source", "sourcePort", "destination", "destinationPort"}
VXLAN = {"source", "sourcePort", "destination", "destinationPort", "vni", "ttl"}
JOURNEY = {
    *("version", "source", "destination", "flow", "service", "endpoint", "answered", "refused"),
    *("says", "seconds", "packets", "conntrack", "ipvs", "lost", "notes", "attached"),
}
TRACK = {"name", "leg", "flow", "nanoseconds", "sameAs", "by", "steps"}
STEPS = {
    "device": {
        *("step", "place", "time", "device", "direction", "flow", "ttl", "length", "mtu"),
        *("sourceMac", "destinationMac", "vxlan", "icmp", "foreign"),
    },
    "rule": {
        *("step", "place", "hook", "family", "table", "base", "chain", "rule", "verdict"),
        *("fitted", "means", "mark", "state", "flow", "incoming", "outgoing"),
    },
    "rewrite": {"step", "place", "kind", "before", "after", "conntrack", "means", "by"},
    "next-hop": {"step", "place", "by", "device", "gateway", "mac", "tunnel", "words"},
    "envelope": {"step", "place", "device", "opened", "vxlan"},
    "end": {"step", "place", "fate", "words"},
}
CONNTRACK = {"place", "id", "original", "reply", "state", "mark", "timeout"}


def objects(document: Any, key: str) -> Iterator[Any]:
    """Yield every value of *key* in a document."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name == key and value is not None:
                yield value
            yield from objects(value, key)
    elif isinstance(document, list):
        for value in document:
            yield from objects(value, key)


def test_the_json_has_these_fields_and_no_others() -> None:
    said = json.loads(json.dumps(forms.document(with_everything())))
    assert set(said) == JOURNEY
    assert said["version"] == 1
    assert {frozenset(one) for one in said["packets"]} == {frozenset(TRACK)}
    steps = [step for one in said["packets"] for step in one["steps"]]
    assert {step["step"]: set(step) for step in steps} == STEPS
    assert {frozenset(one) for one in said["conntrack"]} == {frozenset(CONNTRACK)}
    for key, fields in (("place", PLACE), ("flow", FLOW), ("before", FLOW), ("after", FLOW),
                        ("original", FLOW), ("reply", FLOW), ("vxlan", VXLAN)):  # fmt: skip
        assert {frozenset(one) for one in objects(said, key)} == {frozenset(fields)}, key


def test_the_json_has_these_words() -> None:
    said = forms.document(with_everything())
    first = said["packets"][0]
    assert first["steps"][0] == {
        "step": "device",
        "place": {
            "netns": "t.n1.default.client-1",
            "kind": "pod",
            "name": "default/client-1",
            "node": "n1",
        },
        "time": 3000,
        "device": "eth0",
        "direction": "out",
        "flow": {
            "protocol": "tcp",
            "source": "10.244.1.100",
            "sourcePort": 40001,
            "destination": "10.96.0.10",
            "destinationPort": 80,
        },
        "ttl": 64,
        "length": 60,
        "mtu": 1450,
        "sourceMac": "",
        "destinationMac": "",
        "vxlan": None,
        "icmp": None,
        "foreign": False,
    }
    rewrites = [one for one in first["steps"] if one["step"] == "rewrite"]
    assert (rewrites[0]["kind"], rewrites[0]["conntrack"]) == ("dnat", 77)
    assert [one["sameAs"] for one in said["packets"]] == [None, None, 0, 1]
    assert said["conntrack"][0]["state"] == "ESTABLISHED"


def test_what_is_not_known_is_null() -> None:
    said = forms.document(JOURNEYS["a drop"])
    assert (said["service"], said["endpoint"]) == ("default/web:http", None)
    assert said["packets"][0]["steps"][0]["place"]["node"] == "n1"
    assert said["packets"][0]["steps"][1]["place"]["node"] is None


def test_a_diagnosis_as_json_has_these_fields() -> None:
    said = forms.diagnosis_document(Diagnosis(JOURNEYS["a drop"], CAUSES, 0.25))
    assert set(said) == {"version", "works", "seconds", "causes", "trace"}
    assert set(said["causes"][0]) == {"kind", "place", "what", "proof", "repair"}
    assert set(said["trace"]) == JOURNEY
    assert (said["works"], said["seconds"], said["causes"][0]["kind"]) == (False, 0.25, "route")


def test_the_kinds_of_causes_are_these() -> None:
    """They are part of the JSON form: others may come, none may go."""
    assert {str(kind) for kind in Kind} >= {
        *("rule", "rule-missing", "conntrack-invalid", "conntrack-full", "no-endpoints", "route"),
        *("neighbour", "fdb", "lease", "address", "interface-down", "interface-missing"),
        *("bridge-port", "tunnel", "forwarding-off", "rp-filter", "mtu", "ttl", "no-listener"),
        *("silent-server", "sender", "no-such-port", "unknown"),
    }


def test_every_field_and_kind_is_documented() -> None:
    documented = set(re.findall(r"`([^`]+)`", (ROOT / "docs" / "trace.md").read_text()))
    fields = {*JOURNEY, *TRACK, *CONNTRACK, *PLACE, *FLOW, *VXLAN, *STEPS}
    fields = fields.union(*STEPS.values()) | {"works", "causes", "what", "proof", "repair", "trace"}
    assert fields - documented == set()
    assert {str(kind) for kind in Kind} - documented == set()


# -- packets


def captured() -> Journey:
    watch = Watch()
    across(watch)
    tracks = tuple(told(watch))
    return Journey("default/web-1-1", "Service default/web:http", tracks[0].flow, tracks)


def read_back(data: bytes) -> tuple[list[str], list[tuple[pcapng.Packet, list[str]]]]:
    """Return the interfaces' names, and the packets with their comments."""
    names, found = [], []
    for block in pcapng.blocks(io.BytesIO(data)):
        if block.kind == pcapng.INTERFACE:
            names.append(dict(pcapng.options(block.data[16:]))[2].decode())
        elif block.kind == pcapng.PACKET:
            packet = pcapng.read_packet(block.data)
            comments = [value.decode() for code, value in pcapng.options(packet.options)
                        if code == pcapng.COMMENT]  # fmt: skip
            found.append((packet, comments))
    return names, found


def test_every_sighting_is_a_packet_on_its_device_in_order_of_time() -> None:
    journey = captured()
    names, found = read_back(packets.capture(journey))
    seen = journey.tracks[0].sightings
    assert [packet.data for packet, _ in found] == [one.frame for one in seen]
    assert [packet.time for packet, _ in found] == [one.time for one in seen]
    assert [names[packet.interface] for packet, _ in found] == [
        *("n1/default/web-1-1:eth0", "n1:veth1", "n1:docker0", "n1:flannel.1", "n1:eth0"),
        *("underlay:n1", "underlay:n2", "n2:eth0", "n2:flannel.1", "n2:docker0", "n2:veth3"),
        "n2/default/web-2-1:eth0",
    ]


def test_comments_tell_what_led_a_packet_there() -> None:
    found = read_back(packets.capture(captured()))[1]
    comments = [one for _, one in found]
    title = "default/web-1-1 -> Service default/web:http: SYN, request, hop"
    assert [one[0] for one in comments[:2]] == [
        f"{title} 1, pod default/web-1-1 on n1",
        f"{title} 2, n1",
    ]
    assert comments[2][1:] == [
        "DNAT: destination 10.96.0.10:80 => 10.244.2.2:80, conntrack 7 (default/web-2-1)"
    ]
    assert comments[4][1].startswith("into VXLAN 1 by flannel.1: 192.168.50.101:55555 -> ")
    assert comments[-1][-1] == "delivered: to default/web-2-1 80/tcp"
    assert len(ACROSS) == 25 and len(found) == 12


def test_directions_are_in_the_packets_flags() -> None:
    found = read_back(packets.capture(captured()))[1]
    flags = [dict(pcapng.options(packet.options))[pcapng.FLAGS][0] for packet, _ in found]
    assert flags[:4] == [pcapng.OUT, pcapng.IN, pcapng.IN, pcapng.OUT]


def test_a_packet_that_no_device_showed_is_in_no_file() -> None:
    empty = replace(captured(), tracks=(Track("SYN", Leg.REQUEST, ASKED, ()),))
    assert read_back(packets.capture(empty)) == ([], [])


def test_what_a_server_said_is_no_command_to_the_terminal() -> None:
    said = {"status": 200, "reason": "\x1b]0;mine\x07OK"}
    journey = replace(JOURNEYS["a drop"], answered=True, refused="", says=said)
    shown = "\n".join(text.lines(journey))
    assert "mine" in shown and "\x1b" not in shown and "\x07" not in shown
