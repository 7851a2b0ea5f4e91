"""One thing broken at a time in a live lab: `netlab why` names it, and where, within a second.

The agent is stopped meanwhile, so that nothing repairs what a row breaks.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from labs import Cli, eventually, inside, namespaces, topology

pytestmark = pytest.mark.lab

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: p2}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  selector: {app: none}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {only: n2}
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: v1
kind: Pod
metadata: {name: deaf, labels: {only: n2}}
spec:
  nodeName: n2
  containers:
    - name: c
      image: x
      command: [sh, -c, "exec sleep 100000"]
      ports: [{containerPort: 80}]
"""
TUNNEL = "flannel.1"
ADDRESS = {f"n{n}": f"192.168.50.10{n}" for n in (1, 2, 3)}


class Lab:
    """A lab whose agent is stopped, and ways to break it."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.mac = ""  # of a bridge, before a row changed it
        self.ips = {p["metadata"]["name"]: p["status"]["podIP"] for p in cli.get("pods")["items"]}

    def on(self, member: str, *scripts: str) -> str:
        return "".join(inside(self.cli.netns(member), "sh", "-c", each) for each in scripts)

    def pod(self, name: str, *scripts: str) -> str:
        netns = self.cli.netns("n2" if name == "deaf" else name[:2], "default", name)
        return "".join(inside(netns, "sh", "-c", each) for each in scripts)

    def subnet(self, node: str) -> str:
        return self.ips[f"{node}-p1"].rpartition(".")[0] + ".0/24"

    def veth(self, name: str) -> str:
        """Return the node's end of a pod's cable."""
        node = self.cli.netns(name[:2])
        number = self.pod(name, "cat /sys/class/net/eth0/iflink").strip()
        listed = inside(node, "ip", "-o", "link", "show").splitlines()
        return next(
            one.split()[1].partition("@")[0] for one in listed if one.startswith(f"{number}:")
        )

    def vtep(self, node: str) -> str:
        return self.on(node, f"cat /sys/class/net/{TUNNEL}/address").strip()

    def tunnel_address(self, node: str) -> str:
        return self.subnet(node).partition("/")[0]

    def etcd(self, *words: str) -> None:
        address = "http://192.168.50.10:2379"
        inside(
            self.cli.netns("master"),
            *("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={address}", *words),
        )


Action = Callable[[Lab], object]


class Row(NamedTuple):
    breaks: Action
    heals: Action | None  # None: the agent does it
    asks: str  # `netlab why` these words
    kind: str
    place: str
    words: str  # part of what is said


def on(member: str, *scripts: str) -> Action:
    return lambda lab: lab.on(member, *(one.format(lab=lab) for one in scripts))


def in_pod(name: str, *scripts: str) -> Action:
    return lambda lab: lab.pod(name, *(one.format(lab=lab) for one in scripts))


def nothing(_: Lab) -> None:
    """Break nothing: the lab is meant to be so."""


def nft(
    member: str, hook: str, rule: str, *, family: str = "ip", policy: str = "accept"
) -> tuple[Action, Action]:
    chain = f"{{ type filter hook {hook} priority -5; policy {policy}; }}"
    lines = [f"nft add table {family} x", f"nft 'add chain {family} x c {chain}'"]
    lines += [f"nft add rule {family} x c {rule}"] if rule else []

    def made(lab):
        return lab.on(member, *(one.replace("DST", lab.ips["n2-p1"]) for one in lines))

    return made, lambda lab: lab.on(member, f"nft delete table {family} x")


def iptables(member: str, table: str, rule: str) -> tuple[Action, Action]:
    return (
        lambda lab: lab.on(
            member, f"iptables-nft -t {table} -I {rule.replace('DST', lab.ips['n2-p1'])}"
        ),
        lambda lab: lab.on(
            member, f"iptables-nft -t {table} -D {rule.replace('DST', lab.ips['n2-p1'])}"
        ),
    )


def pod_rule(name: str, hook: str, rule: str) -> tuple[Action, Action]:
    chain = f"{{ type filter hook {hook} priority 0; }}"
    return (
        in_pod(
            name,
            "nft add table ip x",
            f"nft 'add chain ip x c {chain}'".replace("{", "{{").replace("}", "}}"),
            f"nft add rule ip x c {rule}",
        ),
        in_pod(name, "nft delete table ip x"),
    )


def made_anew(*, vni: int = 1, port: int = 8472) -> Action:
    """Return what makes the tunnel of n2 anew, by hand."""

    def make(lab: Lab) -> None:
        address, mac = lab.tunnel_address("n2"), lab.vtep("n2")
        lab.on(
            "n2",
            f"ip link del {TUNNEL}",
            f"ip link add {TUNNEL} address {mac} mtu 1450 type vxlan id {vni} "
            f"local {ADDRESS['n2']} dev eth0 dstport {port} nolearning",
            f"ip addr add {address}/32 dev {TUNNEL}",
            f"ip link set {TUNNEL} up",
        )

    return make


def asymmetric(lab: Lab) -> None:
    """The way back would be another one, and only the way there is taken."""
    lab.on(
        "n2",
        f"ip route add {lab.ips['n1-p1']} via {ADDRESS['n1']} dev eth0",
        f"sysctl -qw net.ipv4.conf.{TUNNEL.replace('.', '/')}.rp_filter=1",
    )


def symmetric(lab: Lab) -> None:
    lab.on(
        "n2",
        f"ip route del {lab.ips['n1-p1']}",
        f"sysctl -qw net.ipv4.conf.{TUNNEL.replace('.', '/')}.rp_filter=0",
    )


def in_a_circle(lab: Lab) -> None:
    """n1 sends to n3 what is n2's, n3 sends it back."""
    lab.on(
        "n1",
        f"ip route replace {lab.subnet('n2')} via {lab.tunnel_address('n3')} dev {TUNNEL} onlink",
    )
    lab.on(
        "n3",
        f"ip route replace {lab.subnet('n2')} via {lab.tunnel_address('n1')} dev {TUNNEL} onlink",
    )


def deaf_to_arp(lab: Lab) -> None:
    chain = "{ type filter hook input priority 0; policy drop; }"
    lab.pod("n2-p1", "nft add table arp x", f"nft 'add chain arp x c {chain}'")
    lab.on("n2", "ip neigh flush dev docker0")


def another_mac(lab: Lab) -> None:
    """Once the pod has learned the old one."""
    lab.pod("n1-p1", f"ping -qc 1 {lab.tunnel_address('n1')[:-1]}1")
    lab.mac = lab.on("n1", "cat /sys/class/net/docker0/address").strip()
    lab.on("n1", "ip link set docker0 address 02:42:aa:bb:cc:dd")


def its_own_mac(lab: Lab) -> None:
    """What the pods have learned of the other one would mislead them until it is asked again."""
    lab.on("n1", f"ip link set docker0 address {lab.mac}")
    for name in ("n1-p1", "n1-p2"):
        lab.pod(name, "ip neigh flush dev eth0")


FULL = """
import socket, struct, sys
most = int(open("/proc/sys/net/netfilter/nf_conntrack_max").read()) + 1000
def attribute(kind, value):
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)
def nested(kind, *parts):
    return attribute(kind | 0x8000, b"".join(parts))
def tuple_of(kind, source, destination, sport, dport):
    ip = nested(1, attribute(1, source), attribute(2, destination))
    ports = attribute(2, struct.pack("!H", sport)) + attribute(3, struct.pack("!H", dport))
    return nested(kind, ip, nested(2, attribute(1, bytes([17])), ports))
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
sock.setsockopt(socket.SOL_SOCKET, 32, 1 << 22)  # SO_SNDBUFFORCE
made, batch = 0, b""
while made < most:
    source = struct.pack("!I", 0x0A800000 + (made >> 14))
    here, there = source, bytes([10, 129, 0, 1])
    sport = 1024 + (made & 0x3FFF)
    body = struct.pack("=BBH", 2, 0, 0) + tuple_of(1, here, there, sport, 9)
    body += tuple_of(2, there, here, 9, sport)
    body += attribute(3, struct.pack("!I", 0x0E)) + attribute(7, struct.pack("!I", 600))
    batch += struct.pack("=IHHII", 16 + len(body), 1 << 8, 0x401, made, 0) + body
    made += 1
    if not made % 200:
        sock.send(batch)
        batch = b""
"""  # CTA_STATUS: confirmed, assured, seen reply: such entries are never dropped early


def fill_the_table(lab: Lab) -> None:
    subprocess.run(
        ["ip", "netns", "exec", lab.cli.netns("n1"), "python3", "-c", FULL], check=True, timeout=60
    )


FLUSH = """
import socket, struct
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
sock.send(struct.pack("=IHHII", 20, 1 << 8 | 2, 0x5, 1, 0) + struct.pack("=BBH", 0, 0, 0))
sock.recv(4096)
"""  # IPCTNL_MSG_CT_DELETE without a tuple: all of this namespace


def empty_the_table(lab: Lab) -> None:
    subprocess.run(["ip", "netns", "exec", lab.cli.netns("n1"), "python3", "-c", FLUSH], check=True)


def wrong_gateway(lab: Lab) -> None:
    lab.pod("n1-p1", "ip neigh replace $(ip route show default | cut -d' ' -f3) "
            "lladdr 02:00:00:00:00:09 dev eth0 nud permanent")  # fmt: skip


def right_gateway(lab: Lab) -> None:
    lab.pod("n1-p1", "ip neigh del $(ip route show default | cut -d' ' -f3) dev eth0")


def two_of_one_address(lab: Lab) -> None:
    """n1-p2 answers for the address of n1-p1."""
    mac = lab.pod("n1-p2", "cat /sys/class/net/eth0/address").strip()
    lab.pod("n1-p2", f"ip addr add {lab.ips['n1-p1']}/32 dev lo")
    lab.on("n1", f"ip neigh replace {lab.ips['n1-p1']} lladdr {mac} dev docker0 nud permanent")


def one_of_one_address(lab: Lab) -> None:
    lab.pod("n1-p2", f"ip addr del {lab.ips['n1-p1']}/32 dev lo")
    lab.on("n1", f"ip neigh del {lab.ips['n1-p1']} dev docker0")


def bridge_deaf_to_arp(lab: Lab) -> None:
    chain = "{ type filter hook input priority 0; policy drop; }"
    lab.on("n1", "nft add table arp x", f"nft 'add chain arp x c {chain}'")
    lab.pod("n1-p1", "ip neigh flush dev eth0")


def netdev(member: str, hook: str, device: str, rule: str) -> tuple[Action, Action]:
    chain = f"{{{{ type filter hook {hook} device {device} priority 0; }}}}"
    lines = ("nft add table netdev x", f"nft 'add chain netdev x c {chain}'")
    return (
        on(member, *lines, f"nft add rule netdev x c {rule}"),
        on(member, "nft delete table netdev x"),
    )


def behind_two_chains(lab: Lab) -> None:
    lab.on(
        "n1",
        "iptables-nft -N LOGDROP",
        "iptables-nft -A LOGDROP -j DROP",
        f"iptables-nft -I FORWARD -d {lab.ips['n2-p1']} -j LOGDROP",
    )


def one_chain_again(lab: Lab) -> None:
    lab.on("n1", "iptables-nft -D FORWARD 1", "iptables-nft -F LOGDROP", "iptables-nft -X LOGDROP")


CROSS = "n1-p1 n2-p1:80"  # pod to pod through the tunnel
SAME = "n1-p1 n1-p2:80"  # over the bridge
ROWS = {
    # rules
    "iptables drop": Row(
        *iptables("n1", "filter", "FORWARD -d DST -j DROP"), CROSS, "rule", "n1", "-j DROP"
    ),
    "iptables reject": Row(
        *iptables("n2", "filter", "FORWARD -d DST -p tcp -j REJECT"),
        CROSS,
        "rule",
        "n2",
        "-j REJECT",
    ),
    "iptables drop of what a node sends": Row(
        *iptables("n1", "filter", "OUTPUT -d DST -j DROP"),
        "node/n1 n2-p1:80",
        "rule",
        "n1",
        "-j DROP",
    ),
    "nft drop": Row(
        *nft("n2", "forward", "ip daddr DST drop"), CROSS, "rule", "n2", "x c: ip daddr"
    ),
    "nft policy": Row(
        *nft("n1", "forward", "", policy="drop"), SAME, "rule", "n1", "policy of x c is drop"
    ),
    "nft drop in the server's pod": Row(
        *pod_rule("n2-p1", "input", "tcp dport 80 drop"),
        CROSS,
        "rule",
        "default/n2-p1",
        "tcp dport 80 drop",
    ),
    "nft drop in the client's pod": Row(
        *pod_rule("n1-p1", "output", "tcp dport 80 drop"),
        CROSS,
        "rule",
        "default/n1-p1",
        "tcp dport 80 drop",
    ),
    "a reply is dropped": Row(
        *iptables("n1", "filter", "FORWARD -s DST -j DROP"), CROSS, "rule", "n1", "-j DROP"
    ),
    "a node drops VXLAN": Row(
        *iptables("n2", "filter", "INPUT -p udp --dport 8472 -j DROP"),
        CROSS,
        "rule",
        "n2",
        "--dport 8472",
    ),
    "a node sends no VXLAN": Row(
        *iptables("n1", "filter", "OUTPUT -p udp --dport 8472 -j DROP"),
        CROSS,
        "rule",
        "n1",
        "--dport 8472",
    ),
    "the underlay drops VXLAN": Row(
        *nft("underlay", "forward", "udp dport 8472 drop", family="bridge"),
        CROSS,
        "rule",
        "underlay",
        "udp dport 8472 drop",
    ),
    "firewall": Row(nothing, None, "client node/n1:22", "rule", "gateway", "not published"),
    "no endpoints": Row(
        nothing, None, "n1-p1 nobody", "no-endpoints", "n1", "default/nobody has no ready endpoint"
    ),
    "no local endpoint": Row(
        nothing, None, "client node/n1:30080", "no-endpoints", "n1", "default/local"
    ),
    "notrack": Row(
        *iptables("n1", "raw", "PREROUTING -d DST -j CT --notrack"),
        CROSS,
        "conntrack-invalid",
        "n1",
        "INVALID",
    ),
    "connection table full": Row(
        fill_the_table, empty_the_table, CROSS, "conntrack-full", "n1", "is full"
    ),
    "Service's chains gone": Row(
        on("n1", "iptables-nft -t nat -F KUBE-SERVICES"),
        None,
        "n1-p1 web",
        "rule-missing",
        "n1",
        "no rule sent it",
    ),
    "masquerade gone": Row(
        on("n1", "iptables-nft -t nat -F FLANNEL-POSTRTG"),
        None,
        "n1-p1 internet:80",
        "rule-missing",
        "n1",
        "FLANNEL-POSTRTG",
    ),
    # routes
    "route": Row(
        lambda lab: lab.on("n1", f"ip route del {lab.subnet('n2')}"),
        None,
        CROSS,
        "route",
        "n1",
        "route 10.244.",
    ),
    "route back": Row(
        lambda lab: lab.on("n2", f"ip route del {lab.subnet('n1')}"),
        None,
        CROSS,
        "route",
        "n2",
        "route 10.244.",
    ),
    "blackhole": Row(
        lambda lab: lab.on("n1", f"ip route add blackhole {lab.ips['n2-p1']}"),
        lambda lab: lab.on("n1", f"ip route del blackhole {lab.ips['n2-p1']}"),
        CROSS,
        "route",
        "n1",
        "blackhole route",
    ),
    "prohibited": Row(
        lambda lab: lab.on("n1", f"ip route add prohibit {lab.ips['n2-p1']}"),
        lambda lab: lab.on("n1", f"ip route del prohibit {lab.ips['n2-p1']}"),
        CROSS,
        "route",
        "n1",
        "prohibit route",
    ),
    "default route of a pod": Row(
        in_pod("n1-p1", "ip route del default"),
        None,
        CROSS,
        "route",
        "default/n1-p1",
        "route default",
    ),
    "a pod's address from outside": Row(
        nothing, None, "client n2-p1:80", "route", "gateway", "no route to 10.244."
    ),
    "forwarding off": Row(
        on("n2", "sysctl -qw net.ipv4.ip_forward=0"),
        None,
        CROSS,
        "forwarding-off",
        "n2",
        "ip_forward",
    ),
    "rp_filter": Row(asymmetric, symmetric, CROSS, "rp-filter", "n2", "rp_filter"),
    "circle": Row(in_a_circle, None, CROSS, "route", "n1", "route 10.244."),
    # neighbours and the tunnel
    "neighbour": Row(
        lambda lab: lab.on("n1", f"ip neigh del {lab.tunnel_address('n2')} dev {TUNNEL}"),
        None,
        CROSS,
        "neighbour",
        "n1",
        "neighbour 10.244.",
    ),
    "neighbour's MAC": Row(
        lambda lab: lab.on(
            "n1",
            f"ip neigh replace {lab.tunnel_address('n2')} lladdr 02:00:00:00:00:01 "
            f"dev {TUNNEL} nud permanent",
        ),
        None,
        CROSS,
        "neighbour",
        "n1",
        "02:00:00:00:00:01",
    ),
    "FDB": Row(
        lambda lab: lab.on("n1", f"bridge fdb del {lab.vtep('n2')} dev {TUNNEL}"),
        None,
        CROSS,
        "fdb",
        "n1",
        "FDB entry",
    ),
    "FDB of another node": Row(
        lambda lab: lab.on(
            "n1", f"bridge fdb replace {lab.vtep('n2')} dev {TUNNEL} dst {ADDRESS['n3']}"
        ),
        None,
        CROSS,
        "fdb",
        "n1",
        ADDRESS["n3"],
    ),
    "VNI": Row(made_anew(vni=7), on("n2", f"ip link del {TUNNEL}"), CROSS, "tunnel", "n2", "VNI"),
    "port of the tunnel": Row(
        made_anew(port=4789), on("n2", f"ip link del {TUNNEL}"), CROSS, "tunnel", "n2", "4789"
    ),
    "tunnel down": Row(
        on("n1", f"ip link set {TUNNEL} down"), None, CROSS, "interface-down", "n1", TUNNEL
    ),
    "tunnel down at the other end": Row(
        on("n2", f"ip link set {TUNNEL} down"), None, CROSS, "interface-down", "n2", TUNNEL
    ),
    "tunnel gone": Row(
        on("n1", f"ip link del {TUNNEL}"), None, CROSS, "interface-missing", "n1", TUNNEL
    ),
    "lease": Row(
        lambda lab: (
            lab.etcd("del", "/coreos.com/network/subnets/" + lab.subnet("n2").replace("/", "-")),
            lab.on("n1", f"ip route del {lab.subnet('n2')}"),
        ),
        None,
        CROSS,
        "lease",
        "n2",
        "no lease in etcd",
    ),
    # interfaces
    "bridge down": Row(
        on("n2", "ip link set docker0 down"), None, CROSS, "interface-down", "n2", "docker0"
    ),
    "cable down at the node": Row(
        lambda lab: lab.on("n1", f"ip link set {lab.veth('n1-p2')} down"),
        None,
        SAME,
        "interface-down",
        "n1",
        "veth",
    ),
    "cable out of the bridge": Row(
        lambda lab: lab.on("n1", f"ip link set {lab.veth('n1-p1')} nomaster"),
        None,
        SAME,
        "bridge-port",
        "n1",
        "veth",
    ),
    "eth0 of a pod down": Row(
        in_pod("n1-p1", "ip link set eth0 down"),
        None,
        SAME,
        "interface-down",
        "default/n1-p1",
        "eth0",
    ),
    "eth0 of the server down": Row(
        in_pod("n2-p1", "ip link set eth0 down"),
        None,
        CROSS,
        "interface-down",
        "default/n2-p1",
        "eth0",
    ),
    "eth0 of a node down": Row(
        on("n2", "ip link set eth0 down"), None, CROSS, "interface-down", "n2", "eth0"
    ),
    "port of the underlay down": Row(
        on("underlay", "ip link set n2 down"), None, CROSS, "interface-down", "underlay", "n2"
    ),
    "server's address gone": Row(
        in_pod("n2-p1", "ip addr flush dev eth0"),
        None,
        CROSS,
        "address",
        "default/n2-p1",
        "address 10.244.",
    ),
    "MTU on the way": Row(
        on("n2", "ip link set docker0 mtu 1300"),
        None,
        "n1-p1 n2-p1 --size 1400",
        "mtu",
        "n2",
        "1300",
    ),
    "longer than the first device takes": Row(
        nothing, None, "n1-p1 n2-p1 --size 1480", "mtu", "default/n1-p1", "1450"
    ),
    "ARP not answered": Row(
        deaf_to_arp,
        in_pod("n2-p1", "nft delete table arp x"),
        CROSS,
        "neighbour",
        "n2",
        "does not know the MAC",
    ),
    # addresses that nobody has, ports that no Service serves
    "nobody's pod address": Row(
        nothing, None, "n1-p1 10.244.255.250", "address", "default/n1-p1", "nobody has 10.244."
    ),
    "nobody's cluster IP": Row(
        nothing, None, "n1-p1 10.96.255.250:80", "address", "default/n1-p1", "the Services' range"
    ),
    "a port that the Service has not": Row(
        nothing, None, "n1-p1 web:81", "no-such-port", "default/n1-p1", "it serves 80/tcp"
    ),
    # what others did: policy routing, MACs, rewrites, rules that no trace shows
    "policy routing refuses": Row(
        lambda lab: lab.on("n1", f"ip rule add from {lab.ips['n1-p1']} blackhole prio 100"),
        on("n1", "ip rule del prio 100"),
        CROSS,
        "route",
        "n1",
        "ip rule del prio 100",
    ),
    "policy routing refuses the answer": Row(
        lambda lab: lab.on("n2", f"ip rule add to {lab.ips['n1-p1']} prohibit prio 100"),
        on("n2", "ip rule del prio 100"),
        CROSS,
        "route",
        "n2",
        "100: from all to 10.244.",
    ),
    "no way back from the server's pod": Row(
        lambda lab: lab.pod("n2-p1", f"ip route add blackhole {lab.ips['n1-p1']}"),
        lambda lab: lab.pod("n2-p1", f"ip route del blackhole {lab.ips['n1-p1']}"),
        CROSS,
        "route",
        "default/n2-p1",
        "a blackhole route",
    ),
    "a TTL set by a rule": Row(
        *iptables("n1", "mangle", "PREROUTING -d DST -j TTL --ttl-set 1"),
        CROSS,
        "ttl",
        "n1",
        "--ttl-set 1",
    ),
    "MAC of the bridge": Row(
        wrong_gateway, right_gateway, CROSS, "neighbour", "default/n1-p1", "02:00:00:00:00:09"
    ),
    "another pod's MAC": Row(
        two_of_one_address,
        one_of_one_address,
        CROSS,
        "neighbour",
        "n1",
        "which default/n1-p1 has not",
    ),
    "the bridge has another MAC": Row(
        another_mac,
        its_own_mac,
        CROSS,
        "neighbour",
        "n1",
        "mac 02:42:aa:bb:cc:dd",
    ),
    "netdev ingress": Row(
        *netdev("n2", "ingress", TUNNEL, "tcp dport 80 drop"),
        CROSS,
        "rule",
        "n2",
        "x c: tcp dport 80 drop",
    ),
    "a queue that nobody reads": Row(
        *iptables("n1", "filter", "FORWARD -d DST -j NFQUEUE --queue-num 9"),
        CROSS,
        "rule",
        "n1",
        "hands it to a queue",
    ),
    "the node has the sender's address": Row(
        lambda lab: lab.on("n2", f"ip addr add {lab.ips['n1-p1']}/32 dev lo"),
        lambda lab: lab.on("n2", f"ip addr del {lab.ips['n1-p1']}/32 dev lo"),
        CROSS,
        "address",
        "n2",
        "it has that address itself",
    ),
    "a node answers no ARP": Row(
        lambda lab: (
            lab.on("n2", "sysctl -qw net.ipv4.conf.all.arp_ignore=8"),
            lab.on("n1", "ip neigh flush dev eth0"),
        ),
        on("n2", "sysctl -qw net.ipv4.conf.all.arp_ignore=0"),
        CROSS,
        "neighbour",
        "n1",
        "does not know the MAC of 192.168.50.102",
    ),
    "the bridge answers no ARP": Row(
        bridge_deaf_to_arp,
        on("n1", "nft delete table arp x"),
        CROSS,
        "neighbour",
        "default/n1-p1",
        "does not know the MAC",
    ),
    "broadcast": Row(nothing, None, "n1-p1 192.168.50.255", "address", "n1", "broadcast address"),
    "outside, nobody's": Row(
        nothing, None, "n1-p1 8.8.8.8", "route", "gateway", "nobody in the lab has that address"
    ),
    # servers
    "nobody listens": Row(
        nothing, None, "n1-p1 n2-p1:81", "no-listener", "default/n2-p1", "listens on 80/tcp"
    ),
    "nobody listens to UDP": Row(
        nothing, None, "n1-p1 n2-p1:81/udp", "no-listener", "default/n2-p1", "81/udp"
    ),
    "a command that does not listen": Row(
        nothing, None, "n1-p1 deaf:80", "no-listener", "default/deaf", "80/tcp"
    ),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    command = Cli(f"y{os.getpid()}", tmp_path_factory.mktemp("lab"))
    text = topology(command.lab, nodes=3, extra=SERVICES, publish='["30000-32767/tcp"]')
    try:
        command("up", command.file(text))
        yield command
    finally:
        command("down", code=None)
        assert namespaces(command.lab) == []


def why(cli: Cli, words: str) -> tuple[dict[str, Any], float]:
    began = time.monotonic()
    done = cli("why", *words.split(), "-o", "json", code=None)
    took = time.monotonic() - began
    assert done.stdout, done.stderr
    return json.loads(done.stdout), took


PROOFS = {
    "the rule that called the chain": (
        behind_two_chains,
        one_chain_again,
        CROSS,
        "LOGDROP was called by filter FORWARD: ",
    ),
    "a rewrite of somebody's": (
        *iptables("n1", "nat", "PREROUTING -d DST -p tcp -j DNAT --to-destination DST:7999"),
        CROSS,
        ":80 => ",
    ),
}


@pytest.mark.parametrize("name", PROOFS)
def test_what_led_there_is_among_the_proofs(broken: Cli, name: str) -> None:
    breaks, heals, asks, words = PROOFS[name]
    lab = Lab(broken)
    breaks(lab)
    try:
        said, _ = why(broken, asks)
    finally:
        heals(lab)
    assert words in " ".join(said["causes"][0]["proof"]), said["causes"]


def test_a_route_that_somebody_else_made_the_same_is_none_that_is_missing(broken: Cli) -> None:
    """The agent leaves it alone; packets take it."""
    pid, lab = broken.agent_pid(), Lab(broken)
    os.kill(pid, signal.SIGSTOP)
    try:
        lab.pod("n2-p1", "ip route replace $(ip route show default | sed 's/proto.*//') proto boot")
        assert lab.pod("n2-p1", "ip route show default | grep -c proto || true").strip() == "0"
        said, _ = why(broken, "n1-p1 n2-p1:81")
    finally:
        lab.pod("n2-p1", "ip route del default")
        os.kill(pid, signal.SIGCONT)
        broken("up", str(broken.directory / "lab.yaml"))
    assert [one["kind"] for one in said["causes"]] == ["no-listener"], said["causes"]


@pytest.mark.parametrize("name", ROWS)
def test_a_breakage_is_named(broken: Cli, name: str) -> None:
    row, pid, lab = ROWS[name], broken.agent_pid(), Lab(broken)
    os.kill(pid, signal.SIGSTOP)
    try:
        row.breaks(lab)
        said, _ = why(broken, row.asks)
    finally:
        if row.heals:
            row.heals(lab)
        os.kill(pid, signal.SIGCONT)
        broken("up", str(broken.directory / "lab.yaml"))

        def as_before():
            return broken("plan", str(broken.directory / "lab.yaml"), code=None).returncode == 0

        eventually(as_before, what="nothing left to repair")
    found = [(one["kind"], one["place"]["name"], one["what"]) for one in said["causes"]]
    shown = json.dumps(found, indent=1)
    assert not said["works"]
    first = said["causes"][0]
    assert (first["kind"], first["place"]["name"]) == (row.kind, row.place), shown
    assert row.words in first["what"] + " ".join(first["repair"]), shown
    assert first["proof"] and first["repair"]
