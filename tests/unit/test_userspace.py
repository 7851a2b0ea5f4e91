"""userspace mode without a kernel: what its rules are, who gets where, which ports there are."""

from __future__ import annotations

from typing import Any

import pytest
from service_objects import HERE, THERE, V4, V6, decide, endpoint, service, slice_
from test_staleness import NODE, entry, stale

from netlab.agent.kubeproxy import KubeProxy
from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.proxy import Decision, Mode, Options, Packet, Verdict, outcome
from netlab.proxy.claims import Owner
from netlab.proxy.portals import PORTS, Portals, key, usual
from netlab.proxy.service import Served

BOTH = [
    {"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"},
    {"name": "dns", "port": 53, "protocol": "UDP"},
]
TO = [{"name": "http", "port": 8080}, {"name": "dns", "port": 5353, "protocol": "UDP"}]
OUTER = {
    "type": "LoadBalancer",
    "externalIPs": ["198.51.100.7"],
    "externalTrafficPolicy": "Local",
    "loadBalancerSourceRanges": ["203.0.113.0/24"],
}
INGRESS = {"loadBalancer": {"ingress": [{"ip": "192.0.2.5"}]}}
AT = {"kind": "Node", "metadata": {"name": HERE}}
ADDRESSES = {"status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.11"}]}}
WEB = Owner(False, "default", "web")


def decided(*endpoints: Any, ports: Any = BOTH, **spec: Any) -> Decision:
    slices = [slice_(*endpoints, ports=TO)] if endpoints else []
    made = service(ports=ports, **spec) | ({"status": INGRESS} if spec else {})
    return decide([made], slices, mode=Mode.USERSPACE)


def proxy(*documents: Any, node: Any = AT | ADDRESSES) -> KubeProxy:
    made = KubeProxy(Options(mode=Mode.USERSPACE), answering=False)
    made.wanted(stored(*documents), view(node, ProxyNode))
    return made


def stored(*documents: Any) -> list[Any]:
    return [
        {**one, "kind": "EndpointSlice" if "addressType" in one else "Service"} for one in documents
    ]


def lines(made: KubeProxy, name: str) -> list[str]:
    return [line for one in made.blocks.values() if one.name == name for line in one.lines]


READY = endpoint("10.244.1.5")
REMOTE = endpoint("10.244.2.7", THERE)


def test_every_address_leads_to_one_port_in_upstreams_words() -> None:
    made = service(ports=BOTH[:1], **OUTER) | {"status": INGRESS}
    found = proxy(made, slice_(READY, ports=TO))
    port = usual("default/web:http/tcp")
    to = '-p tcp -m comment --comment "default/web:http" -m tcp --dport'
    here, out = f"REDIRECT --to-ports {port}", f"DNAT --to-destination 192.168.50.11:{port}"
    assert lines(found, "KUBE-PORTALS-CONTAINER") == [
        f"-d 10.96.0.1/32 {to} 80 -j {here}",
        f"-d 198.51.100.7/32 {to} 80 -m physdev ! --physdev-is-in -j {here}",
        f"-d 198.51.100.7/32 {to} 80 -m addrtype --dst-type LOCAL -j {here}",
        f"-d 192.0.2.5/32 {to} 80 -j {here}",
    ]
    assert lines(found, "KUBE-PORTALS-HOST") == [
        f"-d 10.96.0.1/32 {to} 80 -j {out}",
        f"-d 198.51.100.7/32 {to} 80 -m addrtype --dst-type LOCAL -j {out}",
        f"-d 192.0.2.5/32 {to} 80 -j {out}",
    ]
    assert lines(found, "KUBE-NODEPORT-CONTAINER") == [f"{to} 30080 -j {here}"]
    assert lines(found, "KUBE-NODEPORT-HOST") == [f"{to} 30080 -j {out}"]
    said = '-m comment --comment "default/web:http" -m state --state NEW -j ACCEPT'
    assert lines(found, "KUBE-NODEPORT-NON-LOCAL") == [f"{to} {port} {said}"]
    assert [line.rpartition(" ")[2] for line in lines(found, "PREROUTING")] == [
        "KUBE-PORTALS-CONTAINER",
        "KUBE-NODEPORT-CONTAINER",
    ]


def test_a_node_without_an_address_redirects_its_own_too() -> None:
    found = proxy(service(ports=BOTH[:1]), node=AT)
    (line,) = lines(found, "KUBE-PORTALS-HOST")
    assert line.endswith(f"-j REDIRECT --to-ports {usual('default/web:http/tcp')}")


def test_a_change_of_endpoints_changes_no_rule() -> None:
    node = view(AT | ADDRESSES, ProxyNode)
    made = KubeProxy(Options(mode=Mode.USERSPACE), answering=False)
    web = service(ports=BOTH)
    assert made.wanted(stored(web, slice_(READY, ports=TO)), node)
    (first, _) = sorted(made.portals, key=lambda one: one.protocol)
    assert first.endpoints == (("10.244.1.5", 8080),)
    for endpoints in ([REMOTE], []):
        assert made.wanted(stored(web, slice_(*endpoints, ports=TO)), node) == []
    assert [one.endpoints for one in made.portals] == [(), ()]


POD = Packet("10.244.1.99", "", 0, "TCP", "docker0", bridged=True)
OTHER_POD = Packet("10.244.2.99", "", 0, "TCP", "flannel.1")
CLIENT = Packet("203.0.113.9", "", 0, "TCP", "eth0")
PROCESS = Packet("192.168.50.11", "", 0)
EVERYBODY = {"pod": POD, "other-pod": OTHER_POD, "client": CLIENT, "node": PROCESS}
STRANGER = {"stranger": Packet("198.18.0.1", "", 0, "TCP", "eth0")}
LOOPBACK = {"loopback": Packet("127.0.0.1", "", 0)}


def rows() -> Any:
    endpoints = {"10.244.1.5:8080": True, "10.244.2.7:8080": True}
    for to, who, expected in (
        ("10.96.0.1:80", EVERYBODY, endpoints),
        ("192.0.2.5:80", EVERYBODY | STRANGER, endpoints),  # no source ranges, no policy
        ("192.168.50.11:30080", EVERYBODY, endpoints),
        ("127.0.0.1:30080", LOOPBACK, endpoints),
        ("198.51.100.7:80", {"client": CLIENT, "other-pod": OTHER_POD}, endpoints),
        ("198.51.100.7:80", {"pod": POD, "node": PROCESS}, Verdict.NO_MATCH),
        ("10.96.0.1:81", EVERYBODY, Verdict.NO_MATCH),
    ):
        for name, packet in who.items():
            yield pytest.param(to, packet, expected, id=f"{name}-{to}")


@pytest.mark.parametrize(("to", "packet", "expected"), list(rows()))
def test_who_gets_where(to: str, packet: Packet, expected: Any) -> None:
    address, _, port = to.rpartition(":")
    sent = Packet(packet.source, address, int(port), "TCP", packet.interface, packet.bridged)
    local = ["192.168.50.11", "10.244.1.1"]
    found = outcome(decided(READY, REMOTE, **OUTER), sent, local=local)
    assert (found.endpoints or found.verdict) == expected


@pytest.mark.parametrize("state", ["unready", "lingering", "gone"])
def test_only_what_is_ready_serves_whatever_the_policies(state: str) -> None:
    policies = {"internalTrafficPolicy": "Local", **OUTER}
    sent = Packet("10.244.1.99", "10.96.0.1", 80, "TCP", "docker0", bridged=True)
    one = endpoint("10.244.1.6", state=state)
    assert outcome(decided(one, **policies), sent, local=[]).verdict is Verdict.CLOSED
    found = outcome(decided(one, REMOTE, **policies), sent, local=[])
    assert found.endpoints == {"10.244.2.7:8080": True}


def test_sctp_is_left_out_with_a_warning() -> None:
    ports = [{"name": "s", "port": 9, "protocol": "SCTP"}]
    found = decided(READY, ports=ports)
    assert found.frontends == ()
    assert found.warnings == (
        "Service default/web: port 9/SCTP: left out: userspace mode serves TCP and UDP",
    )


# -- ports


def services(*names: str) -> dict[Owner, Served]:
    found = {}
    for name in names:
        (one,) = decide([service(name, ports=BOTH[:1])], mode=Mode.USERSPACE).frontends[:1]
        found[Owner(False, "default", name)] = Served([one], [])
    return found


def test_a_portal_keeps_its_port_and_no_two_have_one() -> None:
    names = [f"web{number}" for number in range(3000)]
    table = Portals()
    table.take(services(*names))
    ports = {one.key: one.port for one in table.all()}
    assert len(set(ports.values())) == len(names)
    assert sum(ports[name] == usual(name) for name in ports) > 2500
    assert set(ports.values()) <= set(PORTS)
    table.take(services("new", *names[1000:]))
    assert {one.key: one.port for one in table.all()}.items() > ports.items()


def test_a_portal_whose_port_was_taken_has_the_one_the_process_found() -> None:
    table = Portals()
    table.take(services("web", "shop"))
    (web, _) = table.all()
    assert table.moved({one.key: one.port for one in table.all()}) == set()
    assert table.moved({web.key: 33333}) == {WEB}
    assert table.port(services("web")[WEB].frontends[0].service) == 33333


def test_the_ports_of_a_running_process_are_kept() -> None:
    table = Portals({"default/web:http/tcp": 12345})
    change = table.take(services("web"))
    assert [one.port for one in change.portals] == [12345]


def test_a_service_that_goes_takes_its_portal_along() -> None:
    table = Portals()
    table.take(services("web", "shop"))
    change = table.take({WEB: Served([], [])})
    assert change == ((), ("default/web:http/tcp",))
    assert [one.key for one in table.all()] == ["default/shop:http/tcp"]


def test_both_families_and_protocols_have_their_own() -> None:
    spec = {"clusterIPs": ["10.96.0.1", "fd00:96::1"], "ports": BOTH}
    found = decide([service(**spec)], mode=Mode.USERSPACE).frontends
    assert len({key(one.service) for one in found}) == 4


# -- UDP flows that are remembered


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        pytest.param("192.168.50.11:12345", False, id="into-the-portal"),
        pytest.param("192.168.50.11:12346", True, id="into-another-port"),
        pytest.param("10.244.1.5:5353", False, id="to-an-endpoint-as-in-another-mode"),
        pytest.param("10.244.1.9:5353", True, id="to-what-is-gone"),
        pytest.param("", True, id="to-nowhere-since-it-began-too-early"),
    ],
)
def test_a_udp_flow_is_forgotten_if_it_leads_nowhere(by: str, expected: bool) -> None:
    made = decided(READY, REMOTE)
    one = entry("10.96.0.1:53", by)
    situation = made.situations[V4]
    found = stale([one], made.frontends, situation, local=NODE, portal=lambda _: 12345)
    assert (found == [one]) == expected


def test_ipv6_leads_to_a_portal_of_its_own() -> None:
    made = decide([service(ip="fd00:96::1", ports=BOTH)], mode=Mode.USERSPACE)
    assert {one.service.family for one in made.frontends} == {V6}
