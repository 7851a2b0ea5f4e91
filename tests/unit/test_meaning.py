"""What rules are for, in both modes' names; who is meant by addresses and namespaces."""

from __future__ import annotations

import pytest
from drawn_labs import drawn_lab, pod, service, slice_of
from service_objects import LOCAL, decide, endpoint, slice_
from service_objects import service as declared
from watched import hit

from netlab.cluster import cluster
from netlab.packets import Flow, Protocol
from netlab.proxy import ServicePort, names
from netlab.telling.meaning import Choice, Meanings
from netlab.telling.naming import Names

LAB = drawn_lab(2, 2)
NAMES = Names(LAB)
HERE, THERE = "10.244.1.2", "10.244.2.2"  # pods web-1-1 and web-2-1
TCP, UDP = Protocol.TCP, Protocol.UDP


def port(**spec: object) -> ServicePort:
    found = decide(
        [declared(**spec)],
        [slice_(endpoint(HERE), endpoint(THERE, "node2"), endpoint("10.244.9.9", "node2"))],
    )
    return found.frontends[0].service


def meant(words: str, of: ServicePort) -> str:
    return Meanings([of], NAMES).of(hit(words))


def in_mode(mode: str, of: ServicePort) -> dict[str, str]:
    """Return the names of chains in *mode*: by `service`, `local`, …, and by endpoint."""
    if mode == "iptables":
        kinds = {"service": "SVC", "local": "SVL", "external": "EXT", "firewall": "FW"}
        chains = {kind: names.iptables_chain(name, of) for kind, name in kinds.items()}
        ends = {one.address: names.iptables_endpoint_chain(of, one) for one in of.cluster}
    else:
        kinds = {kind: kind for kind in ("service", "local", "external", "firewall")}
        chains = {kind: names.nft_chain(name, of) for kind, name in kinds.items()}
        ends = {one.address: names.nft_endpoint("endpoint", of, one) for one in of.cluster}
    return chains | ends


MODES = pytest.mark.parametrize("mode", ["iptables", "nftables"])


@MODES
@pytest.mark.parametrize("kind", ["service", "local", "external", "firewall"])
@pytest.mark.parametrize("how", ["jump", "goto"])
def test_a_services_chains_are_its_own(mode: str, kind: str, how: str) -> None:
    of = port()
    chain = in_mode(mode, of)[kind]
    assert meant(f"KUBE-SERVICES: x -> {how} {chain}", of) == "Service default/web:http"
    assert Meanings([of], NAMES).service_of([hit(f"a: x -> {how} {chain}")]) == "default/web:http"


@MODES
def test_an_endpoint_is_one_of_so_many(mode: str) -> None:
    of = port()
    chains = in_mode(mode, of)
    said = [
        meant(f"{chains['service']}: x -> jump {chains[one.address]}", of) for one in of.cluster
    ]
    assert said == [
        "endpoint default/web-1-1 10.244.1.2:8080, 1 of 3, p 0.33",
        "endpoint default/web-2-1 10.244.2.2:8080, 2 of 3, p 0.33",
        "endpoint 10.244.9.9:8080, 3 of 3, p 0.33",
    ]


@MODES
def test_of_a_local_policy_the_nodes_own_endpoints_count(mode: str) -> None:
    of = port(**LOCAL, ports=[{"port": 80, "name": "http", "nodePort": 30080}])
    chains = in_mode(mode, of)
    local = meant(f"{chains['local']}: x -> goto {chains[HERE]}", of)
    assert local == "endpoint default/web-1-1 10.244.1.2:8080, the only one"
    whole = meant(f"{chains['service']}: x -> goto {chains[HERE]}", of)
    assert whole.endswith("1 of 3, p 0.33")


@MODES
def test_affinity_is_no_chance(mode: str) -> None:
    of = port(sessionAffinity="ClientIP")
    chains = in_mode(mode, of)
    end = chains[THERE]
    rule = {
        "iptables": f"-m recent --rcheck --seconds 10800 --reap --name {end} -j {end}",
        "nftables": f"ip saddr @affinity-X goto {end}",
    }[mode]
    assert meant(f"{chains['service']}: {rule} -> goto {end}", of) == (
        "endpoint default/web-2-1 10.244.2.2:8080, where this client was before"
    )


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ("a: -j KUBE-MARK-MASQ -> jump KUBE-MARK-MASQ", "mark it: its source is to be replaced"),
        ("a: x -> jump mark-for-masquerade", "mark it: its source is to be replaced"),
        ("a: vmap @x -> goto reject-chain", "refuse it"),
        ("a: -j DNAT --to-destination 10.244.1.2:8080 -> accept", "to default/web-1-1"),
        ("a: meta l4proto tcp dnat to 10.244.2.2:8080 -> accept", "to default/web-2-1"),
        ("a: -j DNAT --to-destination 10.9.9.9:8080 -> accept", ""),
        ("a: -j MASQUERADE --random-fully -> accept",
         "its source becomes the address it leaves from"),
        ("a: masquerade fully-random -> accept", "its source becomes the address it leaves from"),
        ("a: -j REJECT --reject-with tcp-reset -> drop", "refuse it"),
        ("a: counter reject -> drop", "refuse it"),
        ("a: -j DROP -> drop", ""),
        ("a: x -> jump KUBE-SVC-ANOTHER", ""),
        ("a: goto elsewhere to me -> accept", ""),
    ],
)  # fmt: skip
def test_rules_that_all_share_are_known(words: str, meaning: str) -> None:
    assert meant(words, port()) == meaning


def test_a_choice_of_one_needs_no_chance() -> None:
    assert str(Choice("a 1.2.3.4:80", 1, 1)) == "endpoint a 1.2.3.4:80, the only one"
    assert str(Choice("a", 7, 7)) == "endpoint a, 7 of 7, p 0.14"


# -- names


def named_lab() -> Names:
    shop = service("web", "10.96.7.7", "shop", type="NodePort")
    shop["spec"]["ports"] = [
        {"name": "http", "port": 80, "nodePort": 30080},
        {"port": 53, "protocol": "UDP", "nodePort": 30053},
    ]
    shop["spec"]["externalIPs"] = ["198.51.100.77"]
    shop["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.78"}, {"hostname": "x"}]}}
    headless = service("none", "None")
    webs = [pod("web-1", "n1", "10.244.1.2"), pod("new", "n1", "")]
    host = pod("host", "n2", "192.168.50.102")
    host["spec"]["hostNetwork"] = True
    documents = [shop, headless, *webs, host, slice_of("web", webs[:1], "shop")]
    leases = {"192.168.50.101": ("10.244.1.0/24", "02:00:00:00:00:01")}
    return Names(cluster(LAB.lab, documents, leases=leases))


@pytest.mark.parametrize(
    ("address", "port_", "protocol", "who"),
    [
        ("10.96.7.7", 80, TCP, "Service shop/web:http"),
        ("10.96.7.7", 53, UDP, "Service shop/web"),
        ("10.96.7.7", 80, UDP, ""),
        ("10.96.7.7", 81, TCP, ""),
        ("198.51.100.77", 80, TCP, "Service shop/web:http"),
        ("198.51.100.78", 80, TCP, "Service shop/web:http"),
        ("192.168.50.101", 30080, TCP, "Service shop/web:http"),
        ("192.168.50.102", 30053, UDP, "Service shop/web"),
        ("192.168.50.102", 30053, TCP, "n2"),
        ("10.244.1.1", 30080, TCP, "n1"),
        ("10.244.1.0", 0, TCP, "n1"),
        ("10.244.1.2", 80, TCP, "default/web-1"),
        ("192.168.50.1", 0, TCP, "gateway"),
        ("10.9.9.9", 80, TCP, ""),
    ],
)
def test_an_address_is_somebodys(address: str, port_: int, protocol: Protocol, who: str) -> None:
    assert named_lab().who(address, port_, protocol) == who


@pytest.mark.parametrize(
    ("address", "is_nodes"),
    [
        ("192.168.50.101", True),
        ("10.244.1.1", True),
        ("10.244.1.0", True),
        ("10.244.1.2", False),
        ("192.168.50.1", False),
        ("10.9.9.9", False),
    ],
)
def test_a_nodes_addresses_are_known(address: str, is_nodes: bool) -> None:
    assert named_lab().is_node(address) is is_nodes


def test_a_namespace_is_a_place_of_the_lab() -> None:
    found = named_lab()
    assert [str(found.place(f"t.{one}")) for one in ("n1.default.web-1", "n2", "gateway", "x")] == [
        *("pod default/web-1 on n1", "n2", "gateway", "t.x"),
    ]
    assert (found.bridge("t.n1"), found.bridge("t.gateway")) == ("docker0", "")
    assert found.home("192.168.50.102") == "t.n2"
    flow = Flow("10.244.1.2", "10.96.7.7", TCP, 40001, 80)
    assert found.destination(flow) == "Service shop/web:http"
    assert found.destination(flow.reply) == "default/web-1"
