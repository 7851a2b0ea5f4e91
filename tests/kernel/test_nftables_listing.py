"""Everything the nftables renderer writes: the kernel takes it, and lists the very text."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from typing import Any

import pytest
from msgspec.structs import replace
from rendered import all_decisions, blocks, parts
from service_objects import CIDR, NODE, decide, endpoint, service, slice_

from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.proxy import Decision, Frontend, Kind, Mode, Options, Situation, nftables
from netlab.proxy.addresses import Family
from netlab.proxy.nft_text import blocks as listed_blocks
from netlab.proxy.nft_text import transaction
from netlab.proxy.nftables_words import IP, any_of, chain
from netlab.proxy.options import situations
from netlab.proxy.ruleset import Block, Key, Step, difference

pytestmark = pytest.mark.kernel

FIRST = {Family.IPV4: IPv4Address("172.20.0.1"), Family.IPV6: IPv6Address("fd20::1")}


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"nltest-{os.getpid()}-nft"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=True)


def nft(netns: str, *words: str, given: str = "") -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", netns, "nft", *words], input=given, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_lists_as_written(netns: str, wanted: Mapping[Key, Block]) -> None:
    """Load *wanted* into an empty namespace and compare what is listed with what was given."""
    nft(netns, "-f", "-", given=transaction([Step(block, None) for block in wanted.values()]))
    listed = listed_blocks(nft(netns, "-s", "list", "ruleset"))
    assert list(difference(wanted, listed)) == []


def at_own_addresses(decisions: Iterable[Decision], family: Family) -> Iterator[Decision]:
    """Yield *decisions* with other addresses and node ports: cases have the same, maps cannot."""
    addresses = map(FIRST[family].__add__, count())
    ports = count(20000)
    for one in decisions:
        at: dict[tuple[str, int], str | int] = {}

        def moved(frontend: Frontend, at: dict[tuple[str, int], str | int] = at) -> Frontend:
            if frontend.service.family is not family or frontend.kind is Kind.HOST_PORT:
                return frontend
            if frontend.kind is Kind.NODE_PORT:
                key = (frontend.service.protocol, frontend.port)
                return replace(frontend, port=at.setdefault(key, next(ports)))
            return replace(
                frontend, address=at.setdefault((frontend.address, 0), str(next(addresses)))
            )

        yield replace(one, frontends=tuple(map(moved, one.frontends)))


PROXIES: dict[str, dict[str, Any]] = {
    "as they are": {},
    "bridge": {"detect_local": {"mode": "bridge-interface", "bridge": "cbr0"}},
    "interface prefix": {"detect_local": {"mode": "interface-name-prefix", "prefix": "cali"}},
    "longest prefix": {
        "detect_local": {"mode": "interface-name-prefix", "prefix": "a-name-of-15-ch"}
    },
    "every address is a pod's": {
        "detect_local": {"mode": "cluster-cidr", "cidrs": ["0.0.0.0/0", "::/0"]}
    },
    "none": {"detect_local": {"mode": "none"}},
    "masquerade all": {"masquerade_all": True},
}


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("proxy", PROXIES.values(), ids=PROXIES)
def test_the_objects_of_all_cases_list_as_written(
    netns: str, proxy: dict[str, Any], family: Family
) -> None:
    decisions = list(at_own_addresses(all_decisions(Mode.NFTABLES, **proxy), family))
    situation = decisions[0].situations[family]
    shared = [*nftables.frame(situation), *nftables.hostport_frame(situation)]
    given = [part for one in decisions for part in parts(nftables, one, family, large=False)]
    wanted = blocks(shared, given)
    assert len(wanted) > 300
    assert_lists_as_written(netns, wanted)


FRAMES: list[dict[str, Any]] = [
    {},
    {"service_cidrs": ("10.96.0.0/16", "fd00:96::/112")},
    {"service_cidrs": ("10.96.0.0/16", "10.9.0.0/24", "10.9.1.0/25", "fd01::/64", "fd00::/112")},
    {"node_port_addresses": ("primary",)},
    {"node_port_addresses": ("192.168.50.0/24", "10.0.0.0/8", "fd00:50::/64", "fd00:51::1/128")},
    {"node_port_addresses": ("127.0.0.0/8", "192.168.50.11/32", "::1/128", "fd00:50::/64")},
    {
        "node_port_addresses": (
            "10.0.0.0/24",
            "10.0.1.0/25",
            "10.0.0.7/32",
            "fd00::/64",
            "fd00::/96",
        )
    },
    {"node_port_addresses": ("0.0.0.0/1", "::/1")},
    {"node_port_addresses": ("0.0.0.0/0", "::/0")},
]


def situation(family: Family, **options: Any) -> Situation:
    return situations(view(NODE, ProxyNode), Options(mode=Mode.NFTABLES, **options))[family]


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("options", FRAMES, ids=str)
def test_every_frame_lists_as_written(netns: str, options: dict[str, Any], family: Family) -> None:
    assert_lists_as_written(netns, blocks(nftables.frame(situation(family, **options)), []))


def test_many_endpoints_list_as_written(netns: str) -> None:
    pods = [endpoint(f"10.244.{one >> 8}.{one & 255}") for one in range(300)]
    long = {"ports": [{"name": "p" * 63, "port": 8080, "protocol": "TCP"}]}
    services = [
        service("many", sessionAffinity="ClientIP"),
        service("n" * 63, ip="10.96.0.2", ports=[{"port": 80, "name": "p" * 63}]),
        service("e" * 63, ip="10.96.0.3", ports=[{"port": 80, "name": "p" * 63}]),
    ]
    slices = [slice_(*pods, of="many"), slice_(pods[0], of="n" * 63, name="n", **long)]
    found = decide(services, slices, mode=Mode.NFTABLES, **CIDR)
    given = parts(nftables, found, Family.IPV4, large=True)
    assert_lists_as_written(netns, blocks(nftables.frame(found.situations[Family.IPV4]), given))


@pytest.mark.parametrize("family", Family)
def test_source_ranges_list_as_written(netns: str, family: Family) -> None:
    """They overlap, touch and contain each other, near the ends of the address space too."""
    chosen = random.Random(7)
    bits = 32 if family is Family.IPV4 else 128
    number = IPv4Address if family is Family.IPV4 else IPv6Address

    def prefix() -> str:
        length = chosen.choices([0, 1, bits - 2, bits - 1, bits], [1, 3, 20, 20, 40])[0]
        base = (chosen.choice([0, 1, 2, 3]) << bits - 2) + chosen.randrange(16)
        return f"{number(base >> bits - length << bits - length)}/{length}"

    rules = [
        f"{IP[family]} saddr != {any_of(prefix() for _ in range(chosen.randrange(1, 6)))} drop"
        for _ in range(200)
    ]
    assert sum("-" in rule for rule in rules) > 10
    block = chain(family, "kube-proxy", "firewall", tuple(rules))
    assert_lists_as_written(netns, {block.key: block})
