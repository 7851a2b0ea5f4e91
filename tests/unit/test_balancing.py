"""What the balancer listens on, which nodes are behind it, and the rules that come of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from test_loadbalancers import service

from netlab import world
from netlab.balancing import rules
from netlab.balancing.listeners import (
    HEALTHZ_PORT,
    PROXY,
    VIP,
    Listener,
    backends,
    listeners,
    published,
)
from netlab.cli.status import balancer_words
from netlab.firewall import Published
from netlab.model.kubernetes import Document
from netlab.model.lab import Lab
from netlab.plan import difference, words
from netlab.topology import labdoc

DOCUMENT: dict[str, Any] = {
    "metadata": {"name": "t"},
    "underlay": {
        "segments": [
            {"name": "a", "cidr": "192.168.50.0/24", "router": "192.168.50.254"},
            {"name": "b", "cidr": "192.168.60.0/24", "router": "192.168.60.254"},
        ]
    },
    "balancer": {"address": "192.168.50.5", "pool": ["192.168.50.200-192.168.50.206"]},
    "nodes": [
        {"name": "n1", "address": "192.168.50.11"},
        {"name": "n2", "address": "192.168.50.12"},
        {"name": "far", "address": "192.168.60.11"},
    ],
}
LAB = labdoc.lab_from(DOCUMENT)


def node(name: str, *, labels: dict[str, str] | None = None, taint: str = "") -> Document:
    taints = [{"key": taint, "effect": "NoSchedule"}] if taint else []
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": taints},
    }


def listener(**fields: Any) -> Listener:
    known = {
        "service": "default/web",
        "address": "192.168.50.200",
        "protocol": "tcp",
        "port": 80,
        "mode": VIP,
        "node_port": 30080,
        "check_port": HEALTHZ_PORT,
    }
    return Listener(**{**known, **fields})


def test_a_service_has_a_listener_for_each_port() -> None:
    ports = [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]
    found = listeners(LAB, [service("a", held="192.168.50.201", ports=ports)])
    assert [(one.service, one.address, one.protocol, one.port) for one in found] == [
        ("default/a", "192.168.50.201", "tcp", 80),
        ("default/a", "192.168.50.201", "udp", 53),
    ]


NONE = {
    "without an address": service("a"),
    "an address that is not of the pool": service("a", held="192.168.50.207"),
    "another class": service("a", held="192.168.50.201", loadBalancerClass="example.org/lb"),
    "another type": service("a", held="192.168.50.201", type="NodePort"),
    "a port that is none": service("a", held="192.168.50.201", ports=[{"port": 0}]),
    "a name that no rule can hold": service('a" drop', held="192.168.50.201"),
    "what cannot be read": service("a", held="192.168.50.201", ports="80"),
}


@pytest.mark.parametrize("document", NONE.values(), ids=NONE)
def test_no_listener_for_a_service(document: Document) -> None:
    assert listeners(LAB, [document]) == []


def test_nodes_are_asked_where_their_policy_says() -> None:
    local = service(
        "a", held="192.168.50.201", externalTrafficPolicy="Local", healthCheckNodePort=32000
    )
    (one,) = listeners(LAB, [local])
    (other,) = listeners(LAB, [service("b", held="192.168.50.202")])
    assert (one.check_port, other.check_port) == (32000, HEALTHZ_PORT)


def test_proxy_checks_the_sources_and_vip_leaves_it_to_the_nodes() -> None:
    ranges = ["10.1.0.0/16", "10.0.0.0/8", "fd00::/8", "192.0.2.0/24"]
    document = service("a", held="192.168.50.201", loadBalancerSourceRanges=ranges)
    (vip,) = listeners(LAB, [document])
    document["status"]["loadBalancer"]["ingress"][0]["ipMode"] = PROXY
    (proxy,) = listeners(LAB, [document])
    assert vip.sources == ()
    assert proxy.sources == ("10.0.0.0/8", "192.0.2.0/24")


def test_the_first_of_two_claims_on_one_port_has_it() -> None:
    both = [service("a", held="192.168.50.201"), service("b", held="192.168.50.201")]
    assert [one.service for one in listeners(LAB, both)] == ["default/a"]


def test_direct_routing_reaches_the_nodes_of_its_own_segment_only() -> None:
    nodes = [node("n1"), node("n2"), node("far")]
    assert [one.name for one in backends(LAB, nodes, ip_mode=VIP)] == ["n1", "n2"]
    assert [one.name for one in backends(LAB, nodes, ip_mode=PROXY)] == ["n1", "n2", "far"]


def test_a_node_that_is_declared_unfit_is_not_asked() -> None:
    label = {"node.kubernetes.io/exclude-from-external-load-balancers": ""}
    nodes = [node("n1", labels=label), node("n2", taint="ToBeDeletedByClusterAutoscaler")]
    assert backends(LAB, nodes, ip_mode=PROXY) == []


def test_the_gateway_is_opened_for_the_services_ports_only() -> None:
    documents = [service("a", held="192.168.50.201")]
    assert published(LAB, documents) == (Published("192.168.50.201", "tcp", 80),)
    body = world.firewall(LAB, published(LAB, documents)).body
    assert "ip daddr 192.168.50.201 tcp dport 80 accept" in body
    assert "192.168.50.20" not in world.firewall(LAB).body


def test_every_machine_routes_the_pool_to_the_balancer() -> None:
    by_netns = world.objects(LAB)
    ways = {
        (thing.netns, thing.destination, thing.via)  # type: ignore[attr-defined]
        for things in by_netns.values()
        for thing in things
        if getattr(thing, "destination", "").startswith("192.168.50.20")
    }
    prefixes = ("192.168.50.200/30", "192.168.50.204/31", "192.168.50.206/32")
    assert ways == {
        (f"t.{machine}", prefix, "192.168.50.5")
        for machine in ("gateway", "master", "underlay")
        for prefix in prefixes
    }
    far = world.machine_addressing(LAB, "t.far", "192.168.60.11")
    assert {one.via for one in far if getattr(one, "destination", "") == prefixes[0]} == {  # type: ignore[attr-defined]
        "192.168.60.254"
    }


def test_the_balancer_gets_no_address_of_its_pool() -> None:
    document = {**DOCUMENT, "balancer": {"pool": ["192.168.50.1-192.168.50.9"]}}
    lab: Lab = labdoc.lab_from(document)
    assert lab.balancer is not None
    assert not lab.balancer.holds(lab.balancer.address)
    assert not lab.balancer.holds(lab.gateway.address)


def chain(healthy: dict[Listener, tuple[str, ...]], one: Listener) -> list[str]:
    return rules.chains(healthy)[one.chain]


def test_the_mark_of_a_node_is_its_address() -> None:
    assert f"{world.mark_of('192.168.50.11'):#x}" == "0xc0a8320b"


def test_vip_chooses_among_the_nodes_that_are_well_and_remembers() -> None:
    one = listener()
    found = chain({one: ("192.168.50.11", "192.168.50.12")}, one)
    assert found[0] == "notrack"
    assert "numgen random mod 2 map { 0 : 0xc0a8320b, 1 : 0xc0a8320c }" in found[-1]
    assert "add @flows-tcp" in found[-1]
    assert found[2].startswith("meta mark { 0xc0a8320b, 0xc0a8320c } update @flows-tcp")
    assert found[3].startswith("delete @flows-tcp")


def test_proxy_rewrites_to_the_node_port() -> None:
    one = listener(mode=PROXY, sources=("198.51.100.0/24",))
    found = chain({one: ("192.168.50.11",)}, one)
    assert found[0].startswith("ip saddr != { 198.51.100.0/24 } counter drop")
    assert (
        "dnat ip addr . port to numgen random mod 1 map { 0 : 192.168.50.11 . 30080 }" in found[1]
    )


def test_a_sticky_client_is_known_by_its_address() -> None:
    one = listener(sticky=True)
    assert "jhash ip saddr mod 1" in chain({one: ("192.168.50.11",)}, one)[-1]


@pytest.mark.parametrize("mode", [VIP, PROXY])
def test_without_a_node_that_is_well_packets_are_dropped(mode: str) -> None:
    one = listener(mode=mode)
    assert chain({one: ()}, one) == [f'counter drop comment "{rules.NO_NODE}: default/web"']


def test_a_comment_fits_what_nft_takes() -> None:
    one = listener(service=f"{'n' * 63}/{'s' * 63}")
    text = rules.transaction({one: ("192.168.50.11",)}, ())
    comments = re.findall(r'comment "([^"]*)"', text)
    assert comments
    assert max(map(len, comments)) <= rules.COMMENT_MAX


def test_chains_of_services_that_went_are_deleted_and_flows_stay() -> None:
    one = listener()
    text = rules.transaction({one: ()}, ["vip", one.chain, "vip-default/gone/tcp/80"])
    assert text.splitlines()[:3] == [
        "add table ip balancer",
        "flush table ip balancer",
        "delete chain ip balancer vip-default/gone/tcp/80",
    ]
    assert "delete map" not in text


def test_a_way_to_each_node_in_the_words_of_ip() -> None:
    made = difference(world.balancer_objects(LAB), [])
    lines = [line for op in made for line in words(op)]
    ways = [line for line in lines if "rule" in line or "table" in line]
    assert ways == [
        "ip -n t.balancer route add default via 192.168.50.11 dev eth0 proto 110 table 3232248331",
        "ip -n t.balancer route add default via 192.168.50.12 dev eth0 proto 110 table 3232248332",
        "ip -n t.balancer rule add priority 110 fwmark 0xc0a8320b lookup 3232248331 protocol 110",
        "ip -n t.balancer rule add priority 110 fwmark 0xc0a8320c lookup 3232248332 protocol 110",
    ]
    assert difference(world.balancer_objects(LAB), world.balancer_objects(LAB)) == []


USED = {
    "all": ({"a:80/tcp": ["1", "2"]}, "address x, 1 listener, 2 of 2 nodes used by all"),
    "one by none": (
        {"a:80/tcp": ["1"], "b:80/tcp": ["1"]},
        "address x, 2 listeners, 1 of 2 nodes used by all, n2 by 0",
    ),
    "nothing to use": ({}, "address x, 0 listeners"),
}


@pytest.mark.parametrize(("used", "words"), USED.values(), ids=USED)
def test_status_tells_how_many_listeners_use_a_node(used: dict[str, list[str]], words: str) -> None:
    nodes = [{"name": "n1", "address": "1"}, {"name": "n2", "address": "2"}]
    assert balancer_words({"address": "x", "listeners": used, "lastError": ""}, nodes) == words
