"""Everything the iptables renderer writes: the kernel takes it, and lists the very text."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from msgspec.structs import replace
from rendered import all_decisions, blocks, parts
from service_objects import CIDR, NODE, decide, endpoint, service, slice_

from netlab.kernel import listing
from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.proxy import Frontend, Kind, Mode, Options, Situation, iptables
from netlab.proxy.addresses import Family
from netlab.proxy.iptables_words import one_in
from netlab.proxy.options import situations
from netlab.proxy.ruleset import Block, Key, Sort

pytestmark = pytest.mark.kernel

TOOL = {Family.IPV4: "iptables-nft", Family.IPV6: "ip6tables-nft"}
POLICY = ("INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING")


@pytest.fixture
def netns() -> Iterator[str]:
    name = f"nltest-{os.getpid()}-ipt"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=True)


def run(netns: str, *words: str, given: str = "") -> str:
    done = subprocess.run(
        ["ip", "netns", "exec", netns, *words], input=given, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def text(wanted: Mapping[Key, Block]) -> str:
    """Return what iptables-restore is to read."""
    lines = []
    for table in ("mangle", "filter", "nat"):
        here = [one for one in wanted.values() if one.table == table]
        lines.append(f"*{table}")
        lines += [f":{one.name} - [0:0]" for one in here if one.sort is Sort.CHAIN]
        lines += [f"-A {one.name} {line}" for one in here for line in one.lines]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def assert_lists_as_written(netns: str, wanted: Mapping[Key, Block], family: Family) -> None:
    """Load *wanted*, in place of all there was, and compare what is listed with what was given."""
    run(netns, f"{TOOL[family]}-restore", given=text(wanted))
    listed = dict(listing.chains(run(netns, f"{TOOL[family]}-save")))
    for block in wanted.values():
        assert listed.pop((block.table, block.name)) == block.lines
    assert {(name, lines) for (_, name), lines in listed.items()} <= {(one, ()) for one in POLICY}


BRIDGE = {"mode": "bridge-interface", "bridge": "cbr0"}
PREFIX = {"mode": "interface-name-prefix", "prefix": "cali"}
PROXIES: dict[str, dict[str, Any]] = {
    "as they are": {},
    "bridge": {"detect_local": BRIDGE},
    "interface prefix": {"detect_local": PREFIX},
    "longest prefix": {"detect_local": {**PREFIX, "prefix": "a-name-of-15-ch"}},
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
    decisions = list(all_decisions(Mode.IPTABLES, **proxy))
    situation = decisions[0].situations[family]
    shared = [*iptables.frame(situation), *iptables.hostport_frame(situation)]
    large = not proxy.get("masquerade_all")
    given = [part for one in decisions for part in parts(iptables, one, family, large=large)]
    wanted = blocks(shared, given)
    assert len(wanted) > 300
    assert_lists_as_written(netns, wanted, family)


NODE_PORTS: list[dict[str, Any]] = [
    {},
    {"localhost_node_ports": False},
    {"tcp_liberal": True},
    {"node_port_addresses": ("primary",)},
    {"node_port_addresses": ("192.168.50.0/24", "10.0.0.0/8", "fd00:50::/64", "fd00:51::1/128")},
    {"node_port_addresses": ("127.0.0.0/8", "192.168.50.11/32", "::1/128", "fd00:50::/64")},
    {"node_port_addresses": ("127.0.0.0/8", "10.0.0.0/8"), "localhost_node_ports": False},
    {"node_port_addresses": ("0.0.0.0/1", "::/64"), "localhost_node_ports": False},
]


def situation(family: Family, **options: Any) -> Situation:
    return situations(view(NODE, ProxyNode), Options(**options))[family]


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("options", NODE_PORTS, ids=str)
def test_every_frame_lists_as_written(netns: str, options: dict[str, Any], family: Family) -> None:
    here = situation(family, **options)
    assert_lists_as_written(netns, blocks(iptables.frame(here), []), family)


def test_chances_are_what_becomes_of_kube_proxys(netns: str) -> None:
    """Each is rounded thrice: to ten decimals, to 31 bits, to eleven decimals."""
    numbers = range(2, 1001)
    given = [f"-A FORWARD -m statistic --mode random --probability {1 / n:.10f}" for n in numbers]
    run(netns, "iptables-nft-restore", given="\n".join(["*filter", *given, "COMMIT", ""]))
    listed = listing.chains(run(netns, "iptables-nft-save"))["filter", "FORWARD"]
    assert listed == tuple(one_in(number).strip() for number in numbers)


def test_many_endpoints_list_as_written(netns: str) -> None:
    pods = [endpoint(f"10.244.{one >> 8}.{one & 255}") for one in range(1000)]
    found = decide([service(sessionAffinity="ClientIP")], [slice_(*pods)], **CIDR)
    here = found.situations[Family.IPV4]
    given = parts(iptables, found, Family.IPV4, large=False)
    wanted = blocks(iptables.frame(here), given)
    assert_lists_as_written(netns, wanted, Family.IPV4)


def test_the_longest_names_list_as_written(netns: str) -> None:
    """A comment has room for 255 characters; a longer one would refuse all rules."""
    ports = [{"port": 80, "name": "p" * 15, "protocol": "SCTP", "nodePort": 30080}]
    given = service("s" * 63, type="NodePort", externalTrafficPolicy="Local", ports=ports)
    given["metadata"]["namespace"] = "n" * 63
    pods = slice_(endpoint("10.244.1.5"), of="s" * 63, ports=[{**ports[0], "port": 65535}])
    pods["metadata"]["namespace"] = "n" * 63
    found = decide([given], [pods], **CIDR)
    long_pod = replace(
        found.frontends[0].service,
        name="p" * 253,
        local=(),
        cluster=found.frontends[0].service.known,
    )
    host_port = Frontend(long_pod, Kind.HOST_PORT, "", 9000, (), None)
    here = found.situations[Family.IPV4]
    shared = [*iptables.frame(here), *iptables.hostport_frame(here)]
    given_parts = parts(iptables, found, Family.IPV4, large=False)
    given_parts.append(iptables.part([host_port], [], here, large=False))
    assert_lists_as_written(netns, blocks(shared, given_parts), Family.IPV4)
