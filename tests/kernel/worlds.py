"""A small lab of every kind of object: one node, one pod, the underlay between node and nothing."""

from __future__ import annotations

import subprocess

from netlab.kernel import Kernel
from netlab.objects import (
    Address,
    Bridge,
    FdbEntry,
    IptablesChain,
    IptablesJump,
    Neighbor,
    Netns,
    NftTable,
    Object,
    Route,
    Sysctl,
    Tun,
    Veth,
    Vxlan,
)
from netlab.plan import Op, difference

NO_IPV6 = "net.ipv6.conf.all.disable_ipv6"
FORWARD = '-m comment --comment "flanneld forward" -j FLANNEL-FWD'
ACCEPTS = (
    '-s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
    '-d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
)
FIREWALL = """
\tchain forward {
\t\ttype filter hook forward priority filter; policy accept;
\t\tct state established,related accept
\t\tip daddr { 192.168.50.11, 192.168.50.12 } tcp dport 30000-32767 accept
\t\tcounter drop comment "not published"
\t}
"""


def world(lab: str) -> dict[str, list[Object]]:
    """Return everything wanted, by namespace."""
    node, underlay, pod = f"{lab}.node1", f"{lab}.underlay", f"{lab}.node1.default.web"
    return {
        node: [
            Netns(node),
            Sysctl(node, NO_IPV6, "1"),
            Sysctl(node, "net.ipv4.ip_forward", "1"),
            Address(node, "eth0", "192.168.50.11/24"),
            Route(node, "default", "eth0", "192.168.50.1"),
            Bridge(node, "docker0", "02:00:00:00:00:01", 1450),
            Address(node, "docker0", "10.244.1.1/24"),
            Veth(
                *(node, "veth1", "02:00:00:00:01:01", pod, "eth0", "02:00:00:00:01:02"),
                *(1450, "docker0", True),
            ),
            Vxlan(node, "flannel.1", "02:00:00:00:02:01", 1, "192.168.50.11", "eth0", 1450),
            Address(node, "flannel.1", "10.244.1.0/32"),
            Sysctl(node, "net.ipv4.conf.flannel/1.log_martians", "1"),
            Neighbor(node, "flannel.1", "10.244.2.0", "02:00:00:00:02:02"),
            Neighbor(node, "eth0", "192.168.50.12"),
            Neighbor(node, "eth0", "192.168.50.13"),
            FdbEntry(node, "flannel.1", "02:00:00:00:02:02", "192.168.50.12"),
            Tun(node, "flannel0", 1472),
            Address(node, "flannel0", "10.245.1.0/32"),
            Sysctl(node, "net.ipv4.conf.flannel0.accept_local", "1"),
            Route(node, "10.245.0.0/16", "flannel0"),
            Route(node, "10.244.2.0/24", "flannel.1", "10.244.2.0", True, 3),
            IptablesChain(node, "filter", "FLANNEL-FWD", ACCEPTS),
            IptablesJump(node, "filter", "FORWARD", FORWARD),
            NftTable(node, "ip", "firewall", FIREWALL),
        ],
        pod: [
            Netns(pod),
            Sysctl(pod, NO_IPV6, "1"),
            Address(pod, "eth0", "10.244.1.2/24"),
            Route(pod, "default", "eth0", "10.244.1.1"),
        ],
        underlay: [
            Netns(underlay),
            Sysctl(underlay, NO_IPV6, "1"),
            Bridge(underlay, "br0", "02:00:00:00:03:01"),
            Veth(
                *(underlay, "node1", "02:00:00:00:03:02"),
                *(node, "eth0", "02:00:00:00:03:03", 1500, "br0"),
            ),
        ],
    }


def plan(kernel: Kernel, wanted: dict[str, list[Object]]) -> list[Op]:
    """Return what is to be done to have *wanted*."""
    observed = [thing for name, things in wanted.items() for thing in kernel.observe(name, things)]
    return difference([thing for things in wanted.values() for thing in things], observed)


def words_of(thing: Object) -> str:
    """Return a readable test id: `node1-Veth-veth1`."""
    key = [
        str(part).rpartition(".")[2] if i == 1 else str(part) for i, part in enumerate(thing.key)
    ]
    return "-".join([key[1], type(thing).__name__, *key[2:]])[:60]


def sh(command: str) -> str:
    """Run a shell command and return what it printed. Raises CalledProcessError."""
    done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout
