"""The kernel asked what it would do, beside `ip route get`, `ip neigh` and `bridge fdb`."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import handmade
import pytest

from netlab.cluster import Cluster
from netlab.kernel import links, lookup
from netlab.kernel.netns import entered

pytestmark = pytest.mark.kernel

NAME = f"nltest{os.getpid()}k"
NODE = f"{NAME}.node1"
A, C = "10.244.1.2", "10.244.2.2"


def ip(*words: str, tool: str = "ip") -> Any:
    done = subprocess.run([tool, "-n", NODE, "-j", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or "[]")


def run(*scripts: str) -> None:
    for one in scripts:
        subprocess.run(["ip", "netns", "exec", NODE, "sh", "-ec", one], check=True)


@pytest.fixture(scope="module")
def state() -> Iterator[Cluster]:
    with handmade.two_nodes(NAME) as found:
        yield found


@pytest.fixture
def here(state: Cluster) -> Iterator[Cluster]:
    """The calling thread is on node1."""
    with entered(NODE):
        yield state


def device(index: int) -> str:
    return next((n for n, one in lookup.interfaces().items() if one.ifindex == index), "")


@pytest.mark.parametrize(
    "destination",
    [
        *(A, C, "10.244.2.0", "10.244.1.1", "10.244.1.255", "192.168.50.11", "192.168.50.12"),
        *("192.168.50.1", "203.0.113.10", "127.0.0.1", "10.96.0.1"),
    ],
)
def test_a_route_is_what_ip_says(here: Cluster, destination: str) -> None:
    found = lookup.route(destination)
    (said,) = ip("route", "get", destination)
    assert found.kind == said.get("type", "unicast")
    assert device(found.device) == said["dev"]
    assert found.gateway == said.get("gateway", "")
    assert found.refused == 0
    (matched,) = ip("route", "get", "fibmatch", destination)
    prefix = matched["dst"]
    assert found.prefix == (prefix if "/" in prefix or prefix == "default" else f"{prefix}/32")


@pytest.mark.parametrize(
    ("destination", "source", "by"),
    [
        (C, A, "docker0"),
        ("203.0.113.10", A, "docker0"),
        ("192.168.50.11", A, "docker0"),
        (A, C, "flannel.1"),
        (A, "203.0.113.10", "eth0"),
    ],
)
def test_a_route_of_what_came_in_is_what_ip_says(
    here: Cluster, destination: str, source: str, by: str
) -> None:
    index = lookup.interfaces()[by].ifindex
    found = lookup.route(destination, source=source, arriving=index)
    (said,) = ip("route", "get", destination, "from", source, "iif", by)
    assert (found.kind, found.refused) == (said.get("type", "unicast"), 0)
    assert found.kind == "local" or device(found.device) == said["dev"]


def test_a_mark_chooses_among_tables(here: Cluster) -> None:
    run("ip rule add fwmark 7 table 77", "ip route add 198.18.0.0/15 dev docker0 table 77")
    try:
        assert device(lookup.route("198.18.0.1").device) == "eth0"
        assert device(lookup.route("198.18.0.1", mark=7).device) == "docker0"
    finally:
        run("ip rule del fwmark 7 table 77", "ip route flush table 77")


@pytest.mark.parametrize(
    ("kind", "number"),
    [("blackhole", errno.EINVAL), ("unreachable", errno.EHOSTUNREACH), ("prohibit", errno.EACCES)],
)
def test_a_route_that_refuses_is_told_with_its_prefix(
    here: Cluster, kind: str, number: int
) -> None:
    run(f"ip route add {kind} 10.77.0.0/16", "ip route add 10.77.9.0/24 dev docker0")
    try:
        found = lookup.route("10.77.1.1")
        assert (found.kind, found.prefix, found.refused) == (kind, "10.77.0.0/16", number)
        assert lookup.route("10.77.9.1").kind == "unicast"
        index = lookup.interfaces()["docker0"].ifindex
        coming = lookup.route("10.77.1.1", source=A, arriving=index)
        assert (coming.kind, coming.refused) == (kind, number)
    finally:
        run(f"ip route del {kind} 10.77.0.0/16", "ip route del 10.77.9.0/24 dev docker0")


def test_no_route_is_an_error_that_is_told(here: Cluster) -> None:
    run("ip route del default")
    try:
        found = lookup.route("203.0.113.10")
        assert (found.kind, found.refused) == ("", errno.ENETUNREACH)
    finally:
        run("ip route add default via 192.168.50.1")


@pytest.mark.parametrize(("mode", "refused"), [("0", False), ("1", True), ("2", False)])
def test_the_reverse_path_filter_refuses(here: Cluster, mode: str, refused: bool) -> None:
    """What comes by docker0 with a source that is behind flannel.1."""
    run(f"sysctl -qw net.ipv4.conf.docker0.rp_filter={mode}")
    try:
        index = lookup.interfaces()["docker0"].ifindex
        found = lookup.route("203.0.113.10", source=C, arriving=index)
        assert (found.refused in (errno.EXDEV, errno.EINVAL)) == refused
        assert lookup.route("203.0.113.10", source=A, arriving=index).refused == 0
    finally:
        run("sysctl -qw net.ipv4.conf.docker0.rp_filter=0")


def test_without_forwarding_what_came_in_has_no_route(here: Cluster) -> None:
    run("sysctl -qw net.ipv4.ip_forward=0")
    try:
        index = lookup.interfaces()["docker0"].ifindex
        assert lookup.route(C, source=A, arriving=index).refused == errno.EHOSTUNREACH
        assert lookup.route(C).refused == 0
    finally:
        run("sysctl -qw net.ipv4.ip_forward=1")


def test_interfaces_are_what_ip_says(here: Cluster) -> None:
    said = {one["ifname"]: one for one in ip("-d", "link", "show")}
    found = lookup.interfaces()
    assert set(found) == set(said)
    for name, one in found.items():
        assert one.ifindex == said[name]["ifindex"]
        assert one.mac == said[name]["address"]
        assert one.mtu == said[name]["mtu"]
        assert one.up == ("UP" in said[name]["flags"])
        assert one.kind == said[name].get("linkinfo", {}).get("info_kind", "")
        master = found[said[name]["master"]].ifindex if "master" in said[name] else 0
        assert one.master == master
    tunnel = links.tunnel(found["flannel.1"].data)
    assert (tunnel.vni, tunnel.port) == (1, 8472)


def test_neighbours_and_forwarding_entries_are_what_the_tools_say(here: Cluster) -> None:
    run("ip neigh replace 10.244.1.77 lladdr 02:00:00:00:00:77 dev docker0 nud stale")
    found = lookup.interfaces()
    for name in ("docker0", "flannel.1", "eth0"):
        said = {one["dst"]: one for one in ip("-4", "neigh", "show", "dev", name, "nud", "all")}
        known = {one.address: one for one in lookup.neighbours(found[name].ifindex)}
        known = {to: one for to, one in known.items() if one.state != "noarp"}
        said = {to: one for to, one in said.items() if one["state"] != ["NOARP"]}
        assert set(known) == set(said)
        for to, one in known.items():
            assert one.mac == said[to].get("lladdr", "")
            assert [one.state.upper()] == said[to]["state"]
    entries = ip("fdb", "show", "dev", "flannel.1", tool="bridge")
    assert {
        (one.mac, one.destination) for one in lookup.forwarding(found["flannel.1"].ifindex)
    } == {(one["mac"], one["dst"]) for one in entries}


def test_rules_of_policy_routing_are_those_that_ip_lists(here: Cluster) -> None:
    assert lookup.policies() == [], "those that every namespace begins with are none of them"
    run(
        f"ip rule add from {A} blackhole prio 100",
        "ip rule add to 10.244.9.0/24 lookup 77 prio 90",
        "ip rule add fwmark 7 prohibit prio 95",
    )
    try:
        assert [*map(str, lookup.policies())] == [
            "90: from all to 10.244.9.0/24 lookup 77",
            "95: from all prohibit",
            f"100: from {A} blackhole",
        ]
        assert [one.fits(A, C) for one in lookup.policies()] == [False, False, True]
    finally:
        run(*(f"ip rule del prio {one}" for one in (90, 95, 100)))
