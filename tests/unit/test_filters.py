"""Filters: which frames they take, by the code the kernel would run; what is wrong in them."""

from __future__ import annotations

import pytest
from bpf import taken
from fake_lab import DOCUMENTS, FakeLive
from frames import arp, ether, ip4, ip6, vxlan

from netlab import filters
from netlab.errors import UsageError
from netlab.filters import machine, names

PAIR, WEB, CART = "10.244.1.2", "10.244.2.2", "10.244.1.3"  # as tests/unit/fake_lab.py has them
NODE1, NODE2 = "192.168.50.11", "192.168.50.12"
EXTRA = [
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "served", "namespace": "default"},
        "spec": {
            "clusterIP": "10.96.0.7",
            "ports": [
                {"port": 80, "protocol": "TCP", "nodePort": 30080},
                {"port": 53, "protocol": "UDP"},
            ],
        },
    },
    {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "served-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "served"},
        },
        "endpoints": [{"addresses": [WEB]}],
        "ports": [{"port": 8080, "protocol": "TCP"}, {"port": 5353, "protocol": "UDP"}],
    },
]
CLUSTER = FakeLive(documents=[*DOCUMENTS, *EXTRA]).cluster()
NAMES = names.names(CLUSTER)

FRAMES = {
    "pair-web-80": ether(ip4(PAIR, WEB)),
    "web-pair-80": ether(ip4(WEB, PAIR, ports=(80, 40000))),
    "pair-cart-dns": ether(ip4(PAIR, CART, "udp", (4000, 53))),
    "wrapped": vxlan(ether(ip4(PAIR, WEB)), NODE1, NODE2),
    "wrapped-arp": vxlan(arp(PAIR, WEB), NODE1, NODE2, vni=7),
    "node-ssh": ether(ip4(NODE1, NODE2, ports=(50000, 22))),
    "ping": ether(ip4(PAIR, WEB, "icmp", (8, 0))),
    "arp": arp(PAIR, "10.244.1.1"),
    "options": ether(ip4(PAIR, WEB, options=b"\1\1\1\0")),
    "fragment": ether(ip4(PAIR, WEB, ports=(80, 80), fragment=100)),
    "ip6": ether(ip6("fd00::1", "fd00::2")),
    "sctp": ether(ip4(CART, WEB, "sctp", (1000, 80))),
    "service": ether(ip4(PAIR, "10.96.0.7")),
    "service-dns": ether(ip4(PAIR, "10.96.0.7", "udp", (4000, 53))),
    "node-port": ether(ip4("203.0.113.9", NODE2, ports=(5000, 30080))),
    "endpoint": ether(ip4(NODE2, WEB, ports=(5000, 8080))),
}
TCP80 = {"pair-web-80", "web-pair-80", "wrapped", "options", "service", "ip6"}
TABLE = [
    ("tcp port 80", TCP80),
    ("port 80", TCP80 | {"sctp"}),
    ("tcp dst port 80", TCP80 - {"web-pair-80"}),
    ("dst port 22", {"node-ssh"}),
    ("portrange 20-60 and udp", {"pair-cart-dns", "service-dns"}),
    ("udp and port 53", {"pair-cart-dns", "service-dns"}),
    ("icmp", {"ping"}),
    ("icmp host web-1", {"ping"}),
    ("sctp", {"sctp"}),
    ("arp", {"arp", "wrapped-arp"}),
    ("ip6", {"ip6"}),
    ("ip6 and port 80", {"ip6"}),
    ("host fd00::2", {"ip6"}),
    ("net fd00::/64", {"ip6"}),
    ("vxlan", {"wrapped", "wrapped-arp"}),
    ("vxlan 7", {"wrapped-arp"}),
    ("udp port 8472", {"wrapped", "wrapped-arp"}),
    ("host web-1 and not tcp", {"ping", "wrapped-arp", "sctp"}),
    ("pod shop/cart-1", {"pair-cart-dns", "sctp"}),
    ("src pod pair and dst pod web-1", {
        "pair-web-80", "wrapped", "wrapped-arp", "ping", "options", "fragment",
    }),
    ("node node1", {"wrapped", "wrapped-arp", "node-ssh", "arp"}),
    ("host node/node1 and tcp port 22", {"node-ssh"}),
    ("net 192.168.50.0/24 and not vxlan", {"node-ssh", "node-port", "endpoint"}),
    ("svc served", {"service", "service-dns", "node-port", "endpoint"}),
    ("udp svc served", {"service-dns"}),
    ("dst svc/served or arp", {"service", "service-dns", "node-port", "endpoint", "arp",
                               "wrapped-arp"}),
    ("not (tcp or udp or arp) && !sctp", {"ping"}),
    ("src host pair and (port 53 or icmp)", {"pair-cart-dns", "service-dns", "ping"}),
    ("host 10.244.1.1", {"arp"}),
    ("src 10.244.1.2 and arp", {"arp", "wrapped-arp"}),
    ("dst 10.244.1.2 and arp", set()),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), TABLE, ids=[text for text, _ in TABLE])
def test_a_filter_takes_what_it_says(text: str, wanted: set[str]) -> None:
    code = filters.program(filters.parsed(text, NAMES))
    found = {name for name, frame in FRAMES.items() if taken(code, frame)}
    assert found == wanted


@pytest.mark.parametrize("text", [text for text, _ in TABLE])
def test_a_device_without_ethernet_headers_is_filtered_alike(text: str) -> None:
    code = filters.program(filters.parsed(text, NAMES))
    for name, frame in FRAMES.items():
        if name not in ("arp", "wrapped", "wrapped-arp"):
            assert bool(taken(code, frame[14:], hardware=65534)) == bool(taken(code, frame)), name


def test_frames_are_cut_to_the_length_asked_for() -> None:
    tree = filters.parsed("tcp", NAMES)
    assert taken(filters.program(tree, 96), FRAMES["pair-web-80"]) == 96
    assert taken(filters.everything(96), FRAMES["arp"]) == 96
    assert taken(filters.everything(), FRAMES["arp"]) > 65535


def test_many_ends_are_further_apart_than_an_instruction_jumps() -> None:
    hosts = " or ".join(f"tcp port {port} and host 10.0.0.{port}" for port in range(1, 30))
    code = filters.program(filters.parsed(hosts, NAMES))
    assert len(code) // 8 > 600
    assert taken(code, ether(ip4("10.0.0.1", "1.2.3.4", ports=(1, 5))))
    assert taken(code, ether(ip4("10.0.0.29", "1.2.3.4", ports=(29, 5))))
    assert not taken(code, ether(ip4("10.0.0.29", "1.2.3.4", ports=(28, 5))))


def test_too_many_ends_are_refused() -> None:
    hosts = " or ".join(f"host 10.0.{n // 250}.{n % 250}" for n in range(700))
    with pytest.raises(UsageError, match="filter: too long"):
        filters.program(filters.parsed(hosts, NAMES))


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("port eighty", "filter: at 'eighty', column 6: a port is a number from 0 to 65535", None),
        ("port 70000", "at '70000', column 6: a port is a number", None),
        ("host", "filter: at its end: what host is missing", None),
        ("tcp and", "at its end: what to look for is missing", "such as: port 80"),
        ("tcp port", "at its end: what port is missing", None),
        ("(tcp", "at '(', column 1: it is never closed", None),
        ("tcp)", "at ')', column 4: `and` or `or` is missing", None),
        ("tcp udp", "at 'udp', column 5: `and` or `or` is missing", None),
        ("hots web-1", "at 'hots', column 1: nothing a filter knows", "did you mean 'host'?"),
        ("port 80 or 443", "at '443', column 12: a number alone says nothing", "port 443?"),
        ("pod wbe-1", "at 'wbe-1', column 5: no pod default/wbe-1", "web-1"),
        ("node node9", "at 'node9', column 6: no node node9", "node1, node2"),
        ("svc nope", "at 'nope', column 5: no Service default/nope", "default/served"),
        ("net 10.0.0.1/8", "at '10.0.0.1/8', column 5: no network", "10.244.1.0/24"),
        ("portrange 9-1", "at '9-1', column 11: no range of ports", "30000-32767"),
        ("icmp port 5", "at '5', column 11: icmp has no ports", None),
        ("vxlan 99999999", "at '99999999', column 7: a VNI is a number", None),
        ("sctp svc served", "at 'served', column 10: it has no sctp port", None),
        ("tcp & udp", "at '&', column 5: `and` or `or` is missing", None),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, said: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        filters.parsed(text, NAMES)
    assert said in caught.value.message
    assert "\n" not in caught.value.message
    if hint:
        assert hint in (caught.value.hint or "")


def test_jumps_in_both_directions_of_a_step_may_be_far() -> None:
    filler: machine.Program = [machine.plain(machine.IMMEDIATE, 0) for _ in range(300)]
    code = machine.assembled(
        [
            *(machine.plain(machine.LENGTH, 0), (machine.EQUAL, 5, "yes", "no")),
            *filler,
            *("yes", machine.plain(machine.RETURN, 1), "no", machine.plain(machine.RETURN, 2)),
        ]
    )
    assert (taken(code, b"12345"), taken(code, b"1234")) == (1, 2)
