"""Which remembered UDP flows are forgotten: tables of entries, before and after a change."""

from __future__ import annotations

from typing import Any

import pytest
from flow_cases import cases, decision
from service_objects import THERE, V4, V6, decide, endpoint, service, slice_
from test_frontends_hostport import decide as decide_pods
from test_frontends_hostport import pod

from netlab.packets import Entry, Flow, Protocol
from netlab.proxy import Decision, Mode, Situation
from netlab.proxy.staleness import judge, may_mislead, ports

NODE = {"192.168.50.11", "203.0.113.9", "fd00:50::11"}
UDP = [{"port": 53, "name": "dns", "protocol": "UDP", "nodePort": 30053}]
TO = [{"name": "dns", "port": 5353, "protocol": "UDP"}]  # of its slices
A, B, C = "10.244.1.5:5353", "10.244.1.6:5353", "10.244.2.7:5353"
CLUSTER_IP, NODE_PORT = "10.96.0.1:53", "192.168.50.11:30053"


def entry(to: str, by: str = "", *, protocol: str = "udp", zone: int = 0) -> Entry:
    """Return the memory of a flow sent *to* an address and port, answered *by* another, if any."""
    sent, answered = (_ends(one) for one in (to, by or to))
    client = "fd00:1::99" if ":" in sent[0] else "10.244.1.99"
    original = Flow(client, sent[0], Protocol(protocol), 40000, sent[1])
    reply = Flow(answered[0], client, Protocol(protocol), answered[1], 40000)
    return Entry(original, reply, zone=zone)


def _ends(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    return address.strip("[]"), int(port)


def dns(*endpoints: Any, name: str = "web", **spec: Any) -> Decision:
    """Return what a node does about a UDP Service; without endpoints it has no slice either."""
    slices = [slice_(*endpoints, of=name, ports=TO)] if endpoints else []
    return decide([service(name, **{"ports": UDP, **spec})], slices)


def stale(entries: list[Entry], *rest: Any, **more: Any) -> list[Entry]:
    return list(filter(judge(*rest, **more), entries))


def is_stale(one: Entry, now: Decision, before: Decision | None = None) -> bool:
    situation = now.situations[V6 if ":" in one.original.source else V4]
    gone = before.frontends if before else ()
    return stale([one], now.frontends, situation, gone=gone, local=NODE) == [one]


READY = endpoint("10.244.1.5")
LINGERING = endpoint("10.244.1.6", state="lingering")
UNREADY = endpoint("10.244.1.6", state="unready")
ODD = endpoint("10.244.1.6", conditions={"ready": True, "serving": False})
DEAD = endpoint("10.244.1.6", state="gone")
REMOTE = endpoint("10.244.2.7", THERE)


@pytest.mark.parametrize("to", [CLUSTER_IP, NODE_PORT, "127.0.0.1:30053", "192.0.2.5:53"])
@pytest.mark.parametrize(
    ("endpoints", "by", "expected"),
    [
        pytest.param([READY], A, False, id="to-a-ready-endpoint"),
        pytest.param([READY, LINGERING], B, False, id="to-one-that-ends-but-serves"),
        pytest.param([READY, UNREADY], B, False, id="to-one-not-ready-but-serving"),
        pytest.param([READY, ODD], B, False, id="to-one-that-is-ready-whatever-else"),
        pytest.param([READY, DEAD], B, True, id="to-one-that-does-not-serve"),
        pytest.param([READY], B, True, id="to-one-that-is-gone"),
        pytest.param([READY], "10.244.1.5:5300", True, id="to-another-port-of-an-endpoint"),
        pytest.param([READY], "", True, id="to-nowhere-since-it-began-too-early"),
        pytest.param([DEAD], B, False, id="to-one-that-does-not-serve-but-no-other-does"),
        pytest.param([DEAD], "", False, id="to-nowhere-and-nobody-serves"),
        pytest.param([], A, False, id="to-somebody-nobody-knew"),
        pytest.param([], "", False, id="to-nowhere-without-endpoints"),
    ],
)
def test_a_flow_to_a_service_is_forgotten_if_others_serve_it(
    to: str, endpoints: list[Any], by: str, expected: bool
) -> None:
    now = dns(*endpoints, externalIPs=["192.0.2.5"], type="NodePort")
    assert is_stale(entry(to, by), now) is expected


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(entry(CLUSTER_IP, B, protocol="tcp"), id="tcp"),
        pytest.param(entry(CLUSTER_IP, B, protocol="sctp"), id="sctp"),
        pytest.param(entry(CLUSTER_IP, B, zone=5), id="another-zone"),
        pytest.param(entry("10.96.0.1:54", B), id="another-port"),
        pytest.param(entry("10.96.0.2:53", B), id="another-address"),
        pytest.param(entry("8.8.8.8:53"), id="elsewhere"),
        pytest.param(entry(A), id="straight-to-an-endpoint"),
        pytest.param(entry("198.51.100.1:30053", B), id="node-port-of-another-machine"),
        pytest.param(entry("198.51.100.1:30053"), id="the-same-port-elsewhere"),
        pytest.param(entry("192.168.50.11:53", B), id="the-service-port-at-the-node"),
    ],
)
def test_what_is_not_the_services_is_left_alone(one: Entry) -> None:
    assert not is_stale(one, dns(READY, type="NodePort"))


def test_services_of_other_protocols_and_families_are_left_alone() -> None:
    tcp = [{**UDP[0], "protocol": "TCP"}]
    now = decide(
        [service(ports=tcp)],
        [slice_(READY, ports=[{"name": "dns", "port": 5353, "protocol": "TCP"}])],
    )
    assert not is_stale(entry(CLUSTER_IP, B), now)
    four = dns(READY, type="NodePort")
    assert stale([entry(NODE_PORT, B)], four.frontends, four.situations[V6], local=NODE) == []


@pytest.mark.parametrize(
    ("was", "has", "by", "expected"),
    [
        pytest.param([READY], [], A, True, id="the-last-endpoint-went"),
        pytest.param([READY, DEAD], [DEAD], A, True, id="the-last-that-served-went"),
        pytest.param([DEAD], [DEAD], B, False, id="nobody-went"),
        pytest.param([READY], [], C, False, id="never-an-endpoint"),
        pytest.param([READY], [], "", False, id="to-nowhere"),
        pytest.param([READY], [REMOTE], A, True, id="another-took-over"),
        pytest.param([READY], [REMOTE], C, False, id="to-the-one-that-took-over"),
        pytest.param([READY], [READY, REMOTE], A, False, id="another-came"),
    ],
)
def test_when_the_endpoints_changed(
    was: list[Any], has: list[Any], by: str, expected: bool
) -> None:
    before, now = dns(*was, type="NodePort"), dns(*has, type="NodePort")
    assert is_stale(entry(CLUSTER_IP, by), now, before) is expected
    assert is_stale(entry(NODE_PORT, by), now, before) is expected


def test_what_was_before_may_have_been_several_states() -> None:
    former = [*dns(READY).frontends, *dns(LINGERING).frontends]
    now = dns()
    for by in (A, B):
        one = entry(CLUSTER_IP, by)
        assert stale([one], now.frontends, now.situations[V4], gone=former, local=()) == [one]
        assert stale([one], [], now.situations[V4], gone=former, local=()) == [one]


@pytest.mark.parametrize(("by", "expected"), [(A, True), (B, True), (C, False), ("", False)])
def test_flows_to_the_endpoints_of_a_service_end_with_it(by: str, expected: bool) -> None:
    now = dns(ports=[{**UDP[0], "port": 54, "nodePort": 30054}], type="NodePort")
    before = dns(READY, DEAD, type="NodePort")
    for to in (CLUSTER_IP, NODE_PORT):
        assert is_stale(entry(to, by), now, before) is expected
    nothing = decide([])
    assert is_stale(entry(CLUSTER_IP, by), nothing, before) is expected


def test_flows_of_an_address_follow_whoever_has_it_now() -> None:
    before, now = dns(READY), dns(REMOTE, name="another")
    assert is_stale(entry(CLUSTER_IP, A), now, before)
    assert not is_stale(entry(CLUSTER_IP, C), now, before)


@pytest.mark.parametrize("spec", ["internalTrafficPolicy", "externalTrafficPolicy"])
def test_a_policy_moves_no_flow_that_works(spec: str) -> None:
    now = dns(READY, REMOTE, type="NodePort", **{spec: "Local"})
    for to in (CLUSTER_IP, NODE_PORT):
        assert not is_stale(entry(to, C), now)
        assert is_stale(entry(to, B), now)


@pytest.mark.parametrize(
    ("to", "by", "expected"),
    [
        ("192.168.50.11:30053", "", True),
        ("192.168.50.11:30053", B, True),
        ("203.0.113.9:30053", "", False),  # the node's own business
        ("203.0.113.9:30053", B, True),  # NodePorts were there once
        ("203.0.113.9:30053", "203.0.113.9:5353", True),
        ("127.0.0.1:30053", "", False),
    ],
)
def test_node_ports_that_are_not_on_all_addresses(to: str, by: str, expected: bool) -> None:
    now = decide(
        [service(ports=UDP, type="NodePort")], [slice_(READY, ports=TO)], mode=Mode.NFTABLES
    )
    assert is_stale(entry(to, by), now) is expected


def test_an_address_of_its_own_goes_before_the_nodes() -> None:
    """An external IP that is the node's, at the number of another Service's NodePort."""
    own = [{"port": 30053, "name": "dns", "protocol": "UDP"}]
    now = decide(
        [
            service("a", ports=own, externalIPs=["192.168.50.11"]),
            service("b", ip="10.96.0.2", ports=UDP, type="NodePort"),
        ],
        [
            slice_(READY, of="a", name="a-1", ports=TO),
            slice_(REMOTE, of="b", name="b-1", ports=TO),
        ],
    )
    assert not is_stale(entry(NODE_PORT, A), now)
    assert is_stale(entry(NODE_PORT, C), now)
    assert is_stale(entry("203.0.113.9:30053", A), now)


def host_port(ip: str, **port: Any) -> dict[str, Any]:
    return pod(podIP=ip, port={"protocol": "UDP", "containerPort": 5353, **port})


@pytest.mark.parametrize("host_ip", ["", "192.168.50.11"])
def test_flows_to_a_host_port_follow_the_pod_that_has_it(host_ip: str) -> None:
    before = decide_pods(host_port("10.244.1.5", hostIP=host_ip))
    now = decide_pods(host_port("10.244.1.6", hostIP=host_ip))
    to = "192.168.50.11:9000"
    assert is_stale(entry(to, A), now, before)
    assert is_stale(entry(to), now)
    assert not is_stale(entry(to, B), now, before)
    assert is_stale(entry(to, A), decide_pods(), before)
    assert is_stale(entry("203.0.113.9:9000", A), now, before) is (host_ip == "")


def test_host_ports_are_on_all_addresses_wherever_node_ports_are() -> None:
    now, primary = decide_pods(host_port("10.244.1.5")), decide([], mode=Mode.NFTABLES)
    one = entry("203.0.113.9:9000")
    assert stale([one], now.frontends, primary.situations[V4], local=NODE) == [one]


def test_ipv6_flows() -> None:
    now = decide(
        [service(ip="fd00:96::1", ports=UDP, type="NodePort")],
        [slice_(endpoint("fd00:1::5"), addressType="IPv6", ports=TO)],
    )
    for to in ("[fd00:96::1]:53", "[fd00:50::11]:30053"):
        assert not is_stale(entry(to, "[fd00:1::5]:5353"), now)
        assert is_stale(entry(to, "[fd00:1::6]:5353"), now)
        assert is_stale(entry(to), now)


# -- the table of packets


def selective(mode: Mode) -> Decision:
    (case,) = [one for one in cases() if one["id"] == "conntrack-selective"]
    return decision(case["given"], mode, "test-node")


ADDRESSES = ("172.30.1.1:8000", "192.168.99.100:8000", "1.2.3.4:8000", "192.168.0.2:32000")
SERVES, DOES_NOT, LEFT = "10.240.0.4:9090", "10.240.1.5:9090", "10.240.2.6:9090"


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("to", ADDRESSES)
@pytest.mark.parametrize(
    ("by", "protocol", "expected"),
    [
        (SERVES, "udp", False),
        (DOES_NOT, "udp", True),
        (LEFT, "udp", True),
        ("10.240.0.4:8080", "udp", True),
        ("", "udp", True),
        (LEFT, "tcp", False),
        (LEFT, "sctp", False),
    ],
)
def test_facts_of_the_table(mode: Mode, to: str, by: str, protocol: str, expected: bool) -> None:
    now = selective(mode)
    one = entry(to, by, protocol=protocol)
    local = {"192.168.0.2", "192.168.1.2", "192.168.99.11"}
    found = stale([one], now.frontends, now.situations[V4], local=local)
    assert found == ([one] if expected else [])
    other = entry(f"{to.partition(':')[0]}:3000", by, protocol=protocol)
    assert stale([other], now.frontends, now.situations[V4], local=local) == []


# -- what need not be looked at


def test_the_ports_to_look_at_are_those_of_udp_frontends() -> None:
    now = selective(Mode.IPTABLES)
    assert ports(now.frontends) == {8000, 32000}
    assert ports(one for one in now.frontends if one.service.protocol != "UDP") == set()


def test_without_udp_frontends_no_entry_is_stale() -> None:
    assert not stale([entry(CLUSTER_IP, A), entry(CLUSTER_IP, B)], [], _situation(), local=())


def _situation() -> Situation:
    return decide([]).situations[V4]


THIRD = endpoint("10.244.1.7")


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        pytest.param(dns(READY), dns(READY), False, id="nothing-changed"),
        pytest.param(dns(READY), dns(READY, REMOTE), False, id="one-more"),
        pytest.param(dns(READY, REMOTE), dns(READY), True, id="one-less"),
        pytest.param(dns(READY), dns(REMOTE), True, id="another"),
        pytest.param(dns(READY, THIRD), dns(READY, REMOTE), True, id="one-for-another"),
        pytest.param(dns(), dns(READY), True, id="the-first"),
        pytest.param(dns(READY), dns(), True, id="the-last"),
        pytest.param(dns(DEAD), dns(DEAD, READY), True, id="the-first-that-serves"),
        pytest.param(dns(READY, LINGERING), dns(READY, DEAD), True, id="one-stops-serving"),
        pytest.param(dns(READY, DEAD), dns(READY, LINGERING), False, id="one-begins-to-serve"),
        pytest.param(dns(DEAD), dns(), True, id="one-that-did-not-serve-is-gone"),
        pytest.param(
            dns(READY), dns(READY, externalIPs=["192.0.2.5"]), True, id="another-frontend"
        ),
        pytest.param(
            dns(READY, externalIPs=["192.0.2.5"]), dns(READY), True, id="one-frontend-less"
        ),
    ],
)
def test_only_a_change_that_takes_something_away_may_mislead(
    before: Decision, now: Decision, expected: bool
) -> None:
    assert may_mislead(before.frontends, now.frontends) is expected
    flows = [entry(to, by) for to in (CLUSTER_IP, NODE_PORT) for by in (A, B, C, "")]
    lost = {one for one in flows if is_stale(one, now, before)}
    assert expected or lost <= {one for one in flows if is_stale(one, before)}
