"""Sightings against hops: what each difference is called; and the forms of a verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace
from test_paths import MACS, expected, state

from netlab import paths, verify
from netlab.cluster import PodState
from netlab.errors import UsageError
from netlab.packets import Direction, Expectation, Flow, Hop, Leg, Outcome, Outer, Sighting, Verdict
from netlab.packets import Protocol as P
from netlab.verify import catalogue
from netlab.verify.context import Listener
from netlab.verify.flat import NEIGHBOURS, neighbours, sampled

Sightings = list[Sighting]


def sighting(expectation: Expectation, leg: Leg, hop: Hop, time: int) -> Sighting:
    """What a sensor sees when the packet looks as it should."""
    flow = expectation.flow if leg is Leg.REQUEST else expectation.flow.reply
    return Sighting(
        time=time,
        netns=hop.netns,
        device=hop.device,
        direction=hop.direction,
        flow=replace(flow, source=hop.source, destination=hop.destination),
        ttl=hop.ttl or 64,
        length=60,
        source_mac=hop.source_mac or "02:00:00:00:aa:01",
        destination_mac=hop.destination_mac or "02:00:00:00:aa:02",
        outer=hop.outer,
    )


def as_it_should(expectation: Expectation) -> Sightings:
    hops = [(Leg.REQUEST, hop) for hop in expectation.request]
    hops += [(Leg.REPLY, hop) for hop in expectation.reply]
    return [sighting(expectation, leg, hop, time) for time, (leg, hop) in enumerate(hops, start=1)]


def test_a_way_seen_as_expected_passes_with_times_and_ttl() -> None:
    way = expected("a", "c")
    verdict = paths.compare(way, as_it_should(way), answered=True)
    assert verdict.outcome is Outcome.PASS
    assert "12 hops" in verdict.evidence[0]
    assert "TTL 64 -> 62" in verdict.evidence[0]


def test_the_order_sightings_are_handed_over_in_does_not_matter() -> None:
    way = expected("a", "c")
    assert paths.compare(way, as_it_should(way)[::-1], answered=True).outcome is Outcome.PASS


@pytest.mark.parametrize("missing", range(24))
def test_any_missing_hop_is_named_with_the_one_before(missing: int) -> None:
    way = expected("a", "c")
    hops = [*way.request, *way.reply]
    seen = as_it_should(way)
    del seen[missing]
    verdict = paths.compare(way, seen, answered=True)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.expected_next.startswith(f"{hops[missing].where} as ")
    assert verdict.last_seen == (hops[missing - 1].where if missing else "nowhere")
    if missing:
        assert hops[missing - 1].why in verdict.expected_next
    assert "answered all the same" in " ".join(verdict.evidence)


def changed(index: int, **fields: object) -> Callable[[Sightings], Sightings]:
    def change(seen: Sightings) -> Sightings:
        return [*seen[:index], replace(seen[index], **fields), *seen[index + 1 :]]

    return change


def extra(**fields: object) -> Callable[[Sightings], Sightings]:
    return lambda seen: [*seen, replace(seen[0], time=99, **fields)]


OTHER = Outer("192.168.50.11", "192.168.60.13", 1)
VNI = Outer("192.168.50.11", "192.168.50.12", 7)
LOOKS_WRONG = [
    pytest.param(4, {"outer": OTHER}, "VXLAN 192.168.50.11 -> 192.168.60.13, not", id="peer"),
    pytest.param(4, {"outer": VNI}, "VNI 7, not 1", id="vni"),
    pytest.param(
        4,
        {"outer": Outer("192.168.50.11", "192.168.50.12", 1, destination_port=4789)},
        "on UDP port 4789, not 8472",
        id="vxlan-port",
    ),
    pytest.param(4, {"outer": None}, "by itself, not inside VXLAN", id="bare"),
    pytest.param(3, {"destination_mac": "02:00:00:00:00:99"}, "not the VTEP's", id="vtep-mac"),
    pytest.param(3, {"outer": OTHER}, "inside VXLAN", id="tunnel-in-tunnel"),
    pytest.param(11, {"ttl": 61}, "TTL 61, not 62", id="ttl"),
    pytest.param(
        3,
        {"flow": Flow("192.168.50.11", "10.244.2.2", P.TCP, 40000, 80)},
        "seen there as 192.168.50.11 -> 10.244.2.2",
        id="masqueraded",
    ),
    pytest.param(11, {"foreign": True}, "addressed to another card", id="stale-neighbour"),
]


@pytest.mark.parametrize(("index", "fields", "words"), LOOKS_WRONG)
def test_a_packet_that_looks_wrong_says_how(
    index: int, fields: dict[str, object], words: str
) -> None:
    way = expected("a", "c")
    verdict = paths.compare(way, changed(index, **fields)(as_it_should(way)), answered=True)
    assert verdict.outcome is Outcome.FAIL
    assert words in verdict.evidence[0]
    assert verdict.last_seen == way.request[index - 1].where


def test_a_missing_masquerade_names_the_rule() -> None:
    way = expected("a", "internet")
    unchanged = Flow("10.244.1.2", "203.0.113.10", P.TCP, 40000, 80)
    verdict = paths.compare(way, changed(3, flow=unchanged)(as_it_should(way)), answered=False)
    assert verdict.last_seen == "t.n1 docker0 in"
    assert "FLANNEL-POSTRTG masquerades as 192.168.50.11" in verdict.expected_next


def test_a_device_it_must_not_show_on_fails_it() -> None:
    way = expected("a", "b")
    on_tunnel = extra(netns="t.n1", device="flannel.1")(as_it_should(way))
    verdict = paths.compare(way, on_tunnel, answered=True)
    assert (verdict.outcome, verdict.expected_next) == (Outcome.FAIL, "never there")
    assert verdict.last_seen == "t.n1 flannel.1 out"


def test_outside_the_tunnel_on_the_underlay_fails_it() -> None:
    way = expected("a", "c")
    bare = extra(netns="t.underlay", device="n2", outer=None)(as_it_should(way))
    verdict = paths.compare(way, bare, answered=True)
    assert verdict.outcome is Outcome.FAIL
    assert "outside VXLAN" in verdict.evidence[0]


def test_an_answer_without_sightings_is_no_pass() -> None:
    way = expected("a", "c")
    verdict = paths.compare(way, [], answered=True)
    assert verdict.outcome is Outcome.FAIL
    assert "without having been seen" in verdict.evidence[0]


def test_every_hop_without_an_answer_is_no_pass() -> None:
    way = expected("a", "c")
    verdict = paths.compare(way, as_it_should(way), answered=False, refused="connection refused")
    assert verdict.outcome is Outcome.FAIL
    assert "connection refused" in " ".join(verdict.evidence)


def test_a_stopped_flow_passes_only_if_nothing_went_on() -> None:
    way = expected("client", "node/n1", port=22)
    seen = as_it_should(way)
    assert paths.compare(way, seen, answered=False).outcome is Outcome.PASS
    leaked = extra(netns="t.gateway", device="eth0")(seen)
    assert paths.compare(way, leaked, answered=False).outcome is Outcome.FAIL
    elsewhere = extra(netns="t.n1", device="eth0")(seen)
    verdict = paths.compare(way, elsewhere, answered=False)
    assert (verdict.outcome, verdict.evidence) == (Outcome.FAIL, ("it went on to t.n1 eth0 out",))
    assert paths.compare(way, seen, answered=True).outcome is Outcome.FAIL


def test_a_stopped_flow_that_was_never_sent_fails() -> None:
    way = expected("client", "node/n1", port=22)
    assert paths.compare(way, [], answered=False).outcome is Outcome.FAIL


def test_who_refused_is_named() -> None:
    way = expected("a", "c")
    seen = as_it_should(way)[:12]
    error = replace(
        seen[-1], icmp="port-unreachable", flow=Flow("10.244.2.2", "10.244.1.2", P.ICMP)
    )
    verdict = paths.compare(way, [*seen, error], answered=False)
    assert "refused: port-unreachable from 10.244.2.2" in verdict.evidence
    assert verdict.last_seen == way.request[-1].where


def test_a_reply_seen_before_its_request_does_not_count() -> None:
    """Sightings are taken in order: the earlier one cannot stand for the later hop."""
    way = expected("a", "b")
    seen = as_it_should(way)
    seen[3] = replace(seen[3], time=0)
    verdict = paths.compare(way, seen, answered=True)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.last_seen == way.request[2].where


# -- forms


def verdicts() -> list[Verdict]:
    way = expected("a", "c")
    good = paths.compare(way, as_it_should(way), answered=True, path="pod-pod-cross-node")
    bad = paths.compare(way, as_it_should(way)[:4], answered=False, path="flat-no-nat", title="T")
    return [good, bad, Verdict("nodeport", Outcome.SKIP, "t", ("needs Services",))]


def test_json_has_the_documented_fields() -> None:
    document = json.loads(json.dumps(verify.as_json(verdicts())))
    assert set(document) == {"version", "passed", "failed", "skipped", "seconds", "paths"}
    assert [document[key] for key in ("passed", "failed", "skipped")] == [1, 1, 1]
    good, bad, skipped = document["paths"]
    assert set(good) == {
        "path", "title", "outcome", "seconds", "evidence", "lastSeen", "expectedNext", "flow",
        "hops",
    }  # fmt: skip
    assert set(good["flow"]) == {
        "protocol", "source", "sourcePort", "destination", "destinationPort",
    }  # fmt: skip
    hop = good["hops"][4]
    assert set(hop) == {
        "leg", "netns", "device", "direction", "expected", "seen", "problem", "why",
    }  # fmt: skip
    assert hop["expected"]["vxlan"] == {
        "source": "192.168.50.11", "destination": "192.168.50.12", "vni": 1,
    }  # fmt: skip
    assert hop["seen"]["microseconds"] == 0.004
    assert hop["seen"]["sourceMac"] == MACS["n1"]
    assert bad["hops"][4]["seen"] is None
    assert bad["lastSeen"] == "t.n1 flannel.1 out"
    assert (skipped["flow"], skipped["hops"]) == (None, [])


def test_junit_counts_failures_and_skips() -> None:
    suite = ElementTree.fromstring(verify.as_junit(verdicts()))
    assert suite.attrib["tests"] == "3"
    assert (suite.attrib["failures"], suite.attrib["skipped"]) == ("1", "1")
    failure = suite.find("testcase[@name='flat-no-nat']/failure")
    assert failure is not None
    assert failure.text is not None
    assert "last seen: t.n1 flannel.1 out" in failure.text


def test_junit_survives_what_xml_has_no_characters_for() -> None:
    odd = Verdict("same-pod-lo", Outcome.FAIL, "t", ("it answered \x00\x1b[31m",))
    ElementTree.fromstring(verify.as_junit([odd]))


# -- catalogue and sample


def test_ids_are_unique_and_an_unknown_one_names_the_nearest() -> None:
    assert len(catalogue.BY_ID) == len(catalogue.PATHS) == 32
    with pytest.raises(UsageError, match="did you mean pod-pod-cross-node"):
        catalogue.chosen(["pod-pod-crossnode"])
    assert [path.id for path in catalogue.chosen(["firewall", "same-pod-lo"])] == [
        "same-pod-lo",
        "firewall",
    ]


def crowd(count: int, *, nodes: int) -> list[PodState]:
    model = state().pods[0]
    return [
        replace(model, name=f"p{n}", netns=f"t.p{n}", node=f"n{n % nodes}") for n in range(count)
    ]


def ports(pods: list[PodState]) -> list[Listener]:
    return [Listener(pod, "c", 80, P.TCP) for pod in pods]


def test_a_small_lab_asks_every_pair() -> None:
    pods = crowd(14, nodes=3)
    assert len(sampled(pods, ports(pods[:13]))) == 13 * 13


@pytest.mark.parametrize(
    ("count", "servers", "nodes"), [(150, 150, 10), (250, 7, 3), (90, 90, 1), (30, 290, 10)]
)
def test_a_sample_covers_every_pod_as_sender_and_as_server(
    count: int, servers: int, nodes: int
) -> None:
    pods = crowd(max(count, servers), nodes=nodes)
    sources, targets = pods[:count], ports(pods[:servers])
    pairs = sampled(sources, targets)
    assert all(source.netns != target.pod.netns for source, target in pairs)
    assert {source.name for source, _ in pairs} == {source.name for source in sources}
    assert {target.pod.name for _, target in pairs} == {target.pod.name for target in targets}
    assert neighbours(pairs) <= NEIGHBOURS


def test_a_huge_lab_asks_fewer_pods_of_every_node() -> None:
    pods = crowd(3000, nodes=30)
    pairs = sampled(pods, ports(pods))
    assert 200 <= len(pairs) <= 300
    assert neighbours(pairs) <= NEIGHBOURS


ELSEWHERE = [
    pytest.param({"device": "flannel.1"}, "every hop seen, but also", id="third-node-tunnel"),
    pytest.param({"device": "eth0"}, "every hop seen, but also", id="third-node-card"),
    pytest.param({"device": "eth0", "foreign": True}, "", id="flooded-to-another-card"),
]


@pytest.mark.parametrize(("fields", "words"), ELSEWHERE)
def test_a_copy_that_no_flooding_bridge_explains_fails(
    fields: dict[str, object], words: str
) -> None:
    way = expected("a", "c")
    one = replace(as_it_should(way)[4], time=99, netns="notes.node9", direction=Direction.IN)
    verdict = paths.compare(way, [*as_it_should(way), replace(one, **fields)], answered=True)
    assert verdict.outcome is (Outcome.FAIL if words else Outcome.PASS)
    assert words in verdict.evidence[0]


def test_a_bare_copy_anywhere_on_the_underlay_fails() -> None:
    way = expected("a", "c")
    crossing = next(hop for hop in way.request if hop.netns.endswith(".underlay"))
    bare = replace(as_it_should(way)[0], time=99, netns=crossing.netns, device="master")
    verdict = paths.compare(way, [*as_it_should(way), bare], answered=True)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.expected_next == "only inside VXLAN there"
