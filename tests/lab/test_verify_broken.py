"""Every path's claim made false on a live lab that nothing repairs: the verdict, its hop, its time.

Each row breaks one thing while the agent is stopped, and undoes what the agent would not repair.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface
from typing import Any, NamedTuple

import pytest
from labs import ROOT, Cli, eventually, inside, namespaces

pytestmark = pytest.mark.lab

SLOWEST = 60.0  # seconds for all paths of a lab that is broken badly: no wait is without end
NODES = ("node1", "node2", "node3")
PREFIX = "/coreos.com/network/subnets/"


class Broken:
    """A lab whose agent is stopped, and ways to break it."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.pods = cli.get("pods", "-A")["items"]

    def on(self, member: str, *scripts: str) -> str:
        return "".join(inside(self.cli.netns(member), "sh", "-c", each) for each in scripts)

    def nodes(self, *scripts: str) -> None:
        for node in NODES:
            self.on(node, *scripts)

    def in_pods(self, script: str) -> None:
        for pod in self.pods:
            inside(self.netns_of(pod), "sh", "-c", script)

    def netns_of(self, pod: dict[str, Any]) -> str:
        meta = pod["metadata"]
        return self.cli.netns(pod["spec"]["nodeName"], meta["namespace"], meta["name"])

    def on_node(self, node: str) -> list[dict[str, Any]]:
        return [pod for pod in self.pods if pod["spec"]["nodeName"] == node]

    def subnet(self, node: str) -> str:
        words = self.on(node, "ip -4 -br addr show docker0").split()
        return str(IPv4Interface(words[2]).network)

    def etcd(self, *words: str) -> str:
        address = "http://192.168.50.10:2379"
        return inside(
            self.cli.netns("master"),
            *("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={address}", *words),
        )

    def key(self, node: str) -> str:
        return PREFIX + self.subnet(node).replace("/", "-")

    def rewrite(self, node: str, old: str, new: str, *, lease: bool = True) -> None:
        """Change the value of a node's lease in etcd, and drop its TTL if not *lease*."""
        found = json.loads(self.etcd("get", self.key(node), "-w", "json"))["kvs"][0]
        value = base64.b64decode(found["value"]).decode()
        start = value.index(old) + len(old)
        value = value[:start] + new + value[start + len(new) :]
        kept = [f"--lease={found['lease']:x}"] if lease else []
        self.etcd("put", self.key(node), value, *kept)


# -- what is broken


def each_line(listing: str, command: str) -> str:
    return f"{listing} | while read first second rest; do {command}; done"


def second_address(lab: Broken) -> None:
    one, other = lab.on_node("node1")[:2]
    inside(lab.netns_of(one), *f"ip addr add {other['status']['podIP']}/24 dev eth0".split())


def other_address(lab: Broken) -> None:
    one, other = lab.on_node("node1")[:2]
    inside(lab.netns_of(one), "ip", "addr", "flush", "dev", "eth0")
    inside(lab.netns_of(one), *f"ip addr add {other['status']['podIP']}/24 dev eth0".split())


def no_second_address(lab: Broken) -> None:
    one, other = lab.on_node("node1")[:2]
    inside(lab.netns_of(one), *f"ip addr del {other['status']['podIP']}/24 dev eth0".split())


def extra_lease(lab: Broken) -> None:
    value = {
        "PublicIP": "192.168.50.77", "PublicIPv6": None, "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": "2a:88:25:c9:35:2a"},
    }  # fmt: skip
    network = lab.subnet("node1").partition("/")[0]
    lab.etcd("put", f"{PREFIX}{network}-25", json.dumps(value))


def no_extra_lease(lab: Broken) -> None:
    lab.etcd("del", f"{PREFIX}{lab.subnet('node1').partition('/')[0]}-25")


def gateway_routes(lab: Broken) -> None:
    for number, node in enumerate(NODES, start=11):
        lab.on("gateway", f"ip route add {lab.subnet(node)} via 192.168.50.{number}")


def no_gateway_routes(lab: Broken) -> None:
    for node in NODES:
        lab.on("gateway", f"ip route del {lab.subnet(node)}")


def wide_open(lab: Broken) -> None:
    gateway_routes(lab)
    lab.on("gateway", "nft flush chain ip firewall forward")
    lab.on("gateway", "nft 'add chain ip firewall forward { policy accept; }'")


def cluster_ips_from_outside(lab: Broken) -> None:
    lab.on("gateway", "ip route add 10.96.0.0/12 via 192.168.50.11")
    lab.on("gateway", "nft flush chain ip firewall forward")
    lab.on("gateway", "nft 'add chain ip firewall forward { policy accept; }'")


def swallowed(lab: Broken) -> None:
    """A route to the pods, and something that stops the packets and is no rule of the firewall."""
    gateway_routes(lab)
    lab.on(
        "gateway",
        "nft add table ip early",
        "nft 'add chain ip early c { type filter hook prerouting priority -300; }'",
        "nft add rule ip early c ip daddr 10.244.0.0/16 drop",
    )


def not_swallowed(lab: Broken) -> None:
    no_gateway_routes(lab)
    lab.on("gateway", "nft delete table ip early")


def wrong_server(lab: Broken) -> None:
    """Whoever asks a pod of web, on any node, is sent to one and the same."""
    web = [p["status"]["podIP"] for p in lab.pods if p["metadata"]["name"].startswith("web-")]
    for address in web[1:]:
        lab.nodes(
            f"iptables-nft -t nat -A PREROUTING -d {address} -j DNAT --to {web[0]}",
        )


def controllers(script: str) -> Callable[[Broken], object]:
    """Do *script* in the namespace of each pod of the ingress controller."""

    def do(lab: Broken) -> None:
        for pod in lab.pods:
            if pod["metadata"]["namespace"] == "ingress-nginx":
                inside(lab.netns_of(pod), "sh", "-c", script)

    return do


BACKENDS = "http://127.0.0.1:10246/configuration/backends"


def others_endpoints(lab: Broken) -> None:
    """Who asks for the shop is sent to the web pods."""
    web = [p["status"]["podIP"] for p in lab.pods if p["metadata"]["name"].startswith("web-")]
    ends = " ".join(f"{address}:80" for address in web)
    text = f"default/web:http {ends}\\nshop/web:80 {ends}\\n"
    controllers(f"printf '{text}' | curl -s --data-binary @- {BACKENDS}")(lab)


def own_endpoints(lab: Broken) -> None:
    """As the controllers do within half a minute."""
    of = {
        name: [
            f"{p['status']['podIP']}:{port}"
            for p in lab.pods
            if p["metadata"]["name"].startswith(f"{prefix}-")
        ]
        for name, prefix, port in (("default/web:http", "web", 80), ("shop/web:80", "cart", 8000))
    }
    text = "".join(f"{name} {' '.join(ends)}\\n" for name, ends in of.items())
    controllers(f"printf '{text}' | curl -s --data-binary @- {BACKENDS}")(lab)


class Row(NamedTuple):
    breaks: Callable[[Broken], object]
    heals: Callable[[Broken], object] | None
    fails: dict[str, tuple[str, str]]  # path: (end of lastSeen, part of expectedNext)


def scripts(*lines: str, member: str = "") -> Callable[[Broken], object]:
    return lambda lab: lab.on(member, *lines) if member else lab.nodes(*lines)


def rule(words: str) -> tuple[Callable[[Broken], object], Callable[[Broken], object]]:
    """An iptables rule on every node, put first, and its removal."""
    table, _, rest = words.partition(" ")
    return (
        scripts(f"iptables-nft -t {table} -I {rest}"),
        scripts(f"iptables-nft -t {table} -D {rest}"),
    )


ROWS = {
    "fdb entry": Row(
        scripts(each_line("bridge fdb show dev flannel.1", "bridge fdb del $first dev flannel.1")),
        None,
        {
            "pod-pod-cross-node": ("flannel.1 out", "FDB entry of flannel.1"),
            "flat-no-nat": ("flannel.1 out", "FDB entry of flannel.1"),
            "lease-in-etcd": (PREFIX[:-1], "holds FdbEntry link flannel.1"),
        },
    ),
    "route": Row(
        scripts(each_line("ip route show dev flannel.1", "ip route del $first")),
        None,
        {
            "pod-pod-cross-node": ("docker0 in", "flannel.1 out"),
            "lease-in-etcd": (PREFIX[:-1], "holds Route"),
            "pod-node": ("nowhere", "flannel.1 out"),
        },
    ),
    "neighbour's MAC": Row(
        scripts(
            each_line(
                "ip neigh show dev flannel.1",
                "ip neigh replace $first lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent",
            )
        ),
        None,
        {
            "pod-pod-cross-node": ("docker0 in", "neighbour 10.244."),
            "lease-in-etcd": (PREFIX[:-1], "holds Neighbor"),
        },
    ),
    "no masquerade": Row(
        scripts("iptables-nft -t nat -F FLANNEL-POSTRTG"),
        None,
        {"egress-masquerade": ("docker0 in", "FLANNEL-POSTRTG masquerades")},
    ),
    "another masquerade": Row(
        *rule("nat POSTROUTING -s 10.244.0.0/16 -o eth0 -j MASQUERADE"),
        {"egress-masquerade": ("docker0 in", "a rule of FLANNEL-POSTRTG")},
    ),
    "underlay drops vxlan": Row(
        scripts(
            "nft add table bridge x",
            "nft 'add chain bridge x f { type filter hook forward priority 0; }'",
            "nft add rule bridge x f udp dport 8472 drop",
            member="underlay",
        ),
        scripts("nft delete table bridge x", member="underlay"),
        {"pod-pod-cross-node": ("in", "bridge br-lan switches it")},
    ),
    "peer drops vxlan": Row(
        *rule("filter INPUT -p udp --dport 8472 -j DROP"),
        {"pod-pod-cross-node": ("eth0 in", "takes VNI 1 off its UDP port")},
    ),
    "forward drops": Row(
        *rule("filter FORWARD -j DROP"),
        {
            "pod-pod-cross-node": ("docker0 in", "flannel.1 out"),
            "pod-pod-same-node": ("in", "docker0 switches it to its port"),
        },
    ),
    "no port of docker0": Row(
        scripts(each_line("ls /sys/class/net | grep veth", "ip link set $first nomaster")),
        None,
        {
            "pod-pod-same-node": ("in", "docker0 switches it to its port"),
            "pod-node": ("in", "is a port of docker0"),
            "egress-masquerade": ("in", "is a port of docker0"),
        },
    ),
    "veth down": Row(
        scripts(each_line("ls /sys/class/net | grep veth", "ip link set $first down")),
        None,
        {"pod-pod-same-node": ("nowhere", "eth0 out"), "pod-node": ("nowhere", "eth0 out")},
    ),
    "pod route": Row(
        lambda lab: lab.in_pods("ip route del default"),
        None,
        {
            "pod-pod-cross-node": ("nowhere", "eth0 out"),
            "flat-no-nat": ("nowhere", "eth0 out"),
            "egress-masquerade": ("nowhere", "eth0 out"),
        },
    ),
    "lo down": Row(
        lambda lab: lab.in_pods("ip link set lo down"),
        lambda lab: lab.in_pods("ip link set lo up"),
        {"same-pod-lo": ("nowhere", "lo out")},
    ),
    "lo drops": Row(
        lambda lab: lab.in_pods("iptables-nft -I INPUT -i lo -j DROP"),
        lambda lab: lab.in_pods("iptables-nft -D INPUT -i lo -j DROP"),
        {"same-pod-lo": ("lo in", "lo out as 127.0.0.1")},
    ),
    "second address": Row(
        second_address,
        no_second_address,
        {"unique-pod-ip": ("eth0", "alone")},
    ),
    "another's address": Row(
        other_address,
        no_second_address,
        {"unique-pod-ip": ("status.podIP of default/", "eth0")},
    ),
    "overlapping lease": Row(
        extra_lease, no_extra_lease, {"unique-pod-ip": (PREFIX[:-1], "do not overlap")}
    ),
    "lease of another VTEP": Row(
        lambda lab: lab.rewrite("node1", 'VtepMAC":"', "02:00:00:00:00:09"),
        None,
        {
            "lease-in-etcd": (PREFIX[:-1], "node1 holds Vxlan name flannel.1, mac 02:00"),
            "pod-pod-cross-node": ("", "flannel.1"),  # to it or from it, whoever is asked first
        },
    ),
    "lease of another VNI": Row(
        lambda lab: lab.rewrite("node1", 'VNI":', "2"), None, {"lease-in-etcd": ("-24", "VNI 1")}
    ),
    "lease without TTL": Row(
        lambda lab: lab.rewrite("node1", "{", "", lease=False),
        None,
        {"lease-in-etcd": ("-24", "an etcd lease")},
    ),
    "no lease": Row(
        lambda lab: lab.etcd("del", lab.key("node1")),
        None,
        {"lease-in-etcd": (PREFIX[:-1], "a lease with PublicIP 192.168.50.11")},
    ),
    "no firewall": Row(
        scripts("nft delete table ip firewall", member="gateway"),
        None,
        {"firewall": ("client in", "drops it")},
    ),
    "a hole in the firewall": Row(
        scripts("nft insert rule ip firewall forward tcp dport 22 accept", member="gateway"),
        None,
        {"firewall": ("gateway eth0 out", "never there")},
    ),
    "pods reached from outside": Row(
        wide_open,
        no_gateway_routes,
        {"clusterip-outside": ("gateway eth0 out", "never there")},
    ),
    "cluster IPs reached from outside": Row(
        cluster_ips_from_outside,
        lambda lab: lab.on("gateway", "ip route del 10.96.0.0/12"),
        {"clusterip-outside": ("gateway eth0 out", "never there")},
    ),
    "stopped by nobody known": Row(
        swallowed, not_swallowed, {"clusterip-outside": ("client in", "has no route")}
    ),
    "snat to docker0": Row(
        *rule("nat POSTROUTING -o docker0 -j MASQUERADE"),
        {
            "flat-no-nat": ("flannel.1 in", "docker0 out"),
            "pod-node": ("flannel.1 in", "docker0 out"),
            "pod-pod-same-node": ("in", "docker0 switches it"),
        },
    ),
    "snat into the tunnel": Row(
        *rule("nat POSTROUTING -o flannel.1 -j MASQUERADE"),
        {
            "flat-no-nat": ("docker0 in", "flannel.1 out"),
            "pod-pod-cross-node": ("docker0 in", "flannel.1 out"),
        },
    ),
    "ttl": Row(
        *rule("mangle FORWARD -j TTL --ttl-set 40"),
        {"pod-pod-cross-node": ("docker0 in", "flannel.1 out"), "pod-pod-same-node": ("in", "out")},
    ),
    "type of service": Row(
        *rule("mangle FORWARD -j TOS --set-tos 0x10"),
        {
            "pod-pod-cross-node": ("eth0 in", "the packet as it was sent"),
            "pod-pod-same-node": ("eth0 in", "the packet as it was sent"),
        },
    ),
    "wrong server": Row(
        wrong_server,
        scripts("iptables-nft -t nat -F PREROUTING"),
        {"flat-no-nat": ("", "")},
    ),
    "a copy on the underlay": Row(
        scripts(
            "nft add table netdev t",
            "nft 'add chain netdev t c { type filter hook ingress device docker0 priority 0; }'",
            "nft add rule netdev t c dup to eth0",
        ),
        scripts("nft delete table netdev t"),
        {"pod-pod-cross-node": ("", "only inside VXLAN there")},
    ),
    "ingress refused by the shop's pods": Row(
        controllers(
            "iptables-nft -I OUTPUT -p tcp --dport 8000 -j REJECT --reject-with tcp-reset"
        ),
        controllers("iptables-nft -F OUTPUT"),
        {"ingress": ("", "200 from a pod of ['shop/web:80']")},
    ),
    "ingress sends to others": Row(
        others_endpoints,
        own_endpoints,
        {"ingress": ("", "200 from a pod of ['shop/web:80']")},
    ),
    "ingress behind another proxy": Row(
        *rule("nat PREROUTING -p tcp --dport 8000 -j DNAT --to-destination 203.0.113.10:80"),
        {"ingress": ("", "200 from a pod of ['shop/web:80']")},
    ),
    "packets to the ingress": Row(
        *rule("filter FORWARD -p tcp --dport 443 -j DROP"),
        {"ingress": ("", "eth0")},
    ),
    "agent stopped": Row(
        lambda lab: None,
        None,
        {
            "lease-in-etcd": ("1800 s to live", "renewed by node1 within 2 s"),
            "node-join": (PREFIX[:-1], "holds"),
            "replicas": ("", "an agent that runs the controllers"),
            "endpoints-follow": ("", "an agent that runs the controllers"),
            "selectors": ("rules of its proxy", "gone from the rules of every node"),
            "proxy-modes": ("", "an agent that writes each mode's rules"),
            "backends": ("", "an agent that makes each back end's"),
        },
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    command = Cli(f"w{os.getpid()}", tmp_path_factory.mktemp("lab"))
    text = (ROOT / "topologies/notes.yaml").read_text()
    try:
        command("up", command.file(text.replace("name: notes ", f"name: {command.lab} ")))
        yield command
    finally:
        command("down", code=None)
        assert namespaces(command.lab) == []


def proven(cli: Cli, *ids: str) -> dict[str, dict[str, Any]]:
    document = json.loads(cli("verify", *ids, "-o", "json", code=None).stdout)
    return {path["path"]: path for path in document["paths"]}


def _heals(cli: Cli, *ids: str) -> None:
    """All is well again, soon: an agent stopped for long has its nodes taken for lost at first."""
    said: list[dict[str, Any]] = []

    def healed() -> bool:
        said[:] = [one for one in proven(cli, *ids).values() if one["outcome"] != "pass"]
        return not said

    try:
        eventually(healed)
    except BaseException:
        print(said)
        raise


@pytest.mark.parametrize("name", ROWS)
def test_a_false_claim_fails_at_its_hop(notes: Cli, name: str) -> None:
    row, pid, lab = ROWS[name], notes.agent_pid(), Broken(notes)
    os.kill(pid, signal.SIGSTOP)
    try:
        row.breaks(lab)
        found = proven(notes, *row.fails)
    finally:
        if row.heals:
            row.heals(lab)
        os.kill(pid, signal.SIGCONT)
    notes("up", str(notes.directory / "lab.yaml"))
    for path, (last, following) in row.fails.items():
        said = found[path]
        assert said["outcome"] == "fail", said
        shown = json.dumps({key: said[key] for key in ("evidence", "lastSeen", "expectedNext")})
        assert last in said["lastSeen"], shown
        assert following in said["expectedNext"], shown
    _heals(notes, *row.fails)


EXPLAINED = {
    "fdb entry": ("pod-pod-cross-node", "FDB entry of flannel.1", "(fdb)", "repair: bridge -n"),
    "peer drops vxlan": ("pod-pod-cross-node", "--dport 8472 -j DROP", "(rule)", "iptables-nft -t"),
    "no masquerade": ("egress-masquerade", "FLANNEL-POSTRTG", "(rule-missing)", "repair: "),
    "pod route": ("pod-pod-cross-node", "route default", "(route)", "ip -n"),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_a_failure_is_explained_as_why_does(notes: Cli, name: str) -> None:
    path, *words = EXPLAINED[name]
    row, pid, lab = ROWS[name], notes.agent_pid(), Broken(notes)
    os.kill(pid, signal.SIGSTOP)
    try:
        row.breaks(lab)
        said = proven(notes, path)[path]
    finally:
        if row.heals:
            row.heals(lab)
        os.kill(pid, signal.SIGCONT)
    notes("up", str(notes.directory / "lab.yaml"))
    lines = [line for line in said["evidence"] if line.startswith(("cause: ", "repair: "))]
    assert said["outcome"] == "fail"
    assert all(any(word in line for line in lines) for word in words), said["evidence"]


def test_a_pass_names_the_rules_that_fired(notes: Cli) -> None:
    found = proven(notes, "pod-pod-cross-node", "firewall", "egress-masquerade")
    rules = {
        "pod-pod-cross-node": "filter FLANNEL-FWD at forward: -s 10.244.0.0/16",
        "firewall": 'gateway firewall forward at forward: counter drop comment "not published"',
        "egress-masquerade": "nat FLANNEL-POSTRTG at postrouting: ",
    }
    for path, rule in rules.items():
        said = found[path]
        assert said["outcome"] == "pass"
        assert any(rule in line for line in said["evidence"]), said["evidence"]


def test_a_lab_broken_badly_is_told_in_bounded_time(notes: Cli) -> None:
    pid, lab = notes.agent_pid(), Broken(notes)
    os.kill(pid, signal.SIGSTOP)
    try:
        ROWS["veth down"].breaks(lab)
        ROWS["fdb entry"].breaks(lab)
        began = time.monotonic()
        found = proven(notes)
        took = time.monotonic() - began
    finally:
        os.kill(pid, signal.SIGCONT)
    notes("up", str(notes.directory / "lab.yaml"))
    assert took < SLOWEST
    assert {path for path, said in found.items() if said["outcome"] == "fail"} >= {
        "pod-pod-same-node", "pod-pod-cross-node", "pod-node", "flat-no-nat", "egress-masquerade",
        "lease-in-etcd", "node-join", "replicas",
    }  # fmt: skip


def test_a_stopped_agent_costs_no_pod(notes: Cli) -> None:
    before = {pod["metadata"]["uid"] for pod in notes.get("pods", "-A")["items"]}
    pid = notes.agent_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert proven(notes, "replicas")["replicas"]["outcome"] == "fail"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {pod["metadata"]["uid"] for pod in notes.get("pods", "-A")["items"]} == before


def test_two_verifications_at_once_are_both_right(notes: Cli) -> None:
    running = [notes.start("verify", "-o", "json") for _ in range(2)]
    said = [process.communicate(timeout=180)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said


FLOOD = """
import socket, sys, time
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for _ in range(100):
        try:
            sink.sendto(b"x" * 200, (sys.argv[1], 5201))
        except OSError:  # ICMP says that nobody listens
            pass
"""


def test_other_traffic_changes_no_verdict(notes: Cli) -> None:
    """More datagrams a second between two pods of two nodes than the sensors could hold.

    By the udp back end a process has to carry them all: where it could not, that is what is told.
    """
    lab = Broken(notes)
    address = lab.on_node("node3")[0]["status"]["podIP"]
    words = ["ip", "netns", "exec", lab.netns_of(lab.on_node("node1")[0])]
    listening = "import socket, time; s = socket.socket(2, 2); s.bind(('', 5201)); time.sleep(60)"
    sink = ["ip", "netns", "exec", lab.netns_of(lab.on_node("node3")[0])]
    running = [
        subprocess.Popen([*sink, "python3", "-c", listening]),
        subprocess.Popen([*words, "python3", "-c", FLOOD, address, "60"]),
    ]
    try:
        began = time.monotonic()
        found = proven(notes)
        took = time.monotonic() - began
    finally:
        for process in running:
            process.kill()
            process.wait()
    wrong = {path: said for path, said in found.items() if said["outcome"] == "fail"}
    if any(
        "its process was too slow" in line for line in wrong.get("backends", {}).get("evidence", ())
    ):
        del wrong["backends"]
    assert wrong == {}
    assert took < SLOWEST


def test_a_server_that_repeats_no_token_is_followed_by_its_handshake(notes: Cli) -> None:
    said = json.loads(notes("probe", "pair", "master:2379", "-o", "json").stdout)["paths"][0]
    assert said["outcome"] == "pass"
    assert all(hop["seen"] for hop in said["hops"])
    assert {hop["leg"] for hop in said["hops"]} == {"request", "reply"}


@pytest.mark.parametrize("address", ["224.0.0.1", "0.0.0.0", "255.255.255.255"])
def test_what_is_no_machines_address_is_wrong_usage(notes: Cli, address: str) -> None:
    assert address in notes("probe", "pair", address, code=2).stderr


def test_a_program_outside_its_pods_namespaces_fails(notes: Cli) -> None:
    """A process that claims to be a container's, and shares nothing with its pod."""
    mark = f"/run/netlab/{notes.lab}:container/default/pair/app"
    stray = subprocess.Popen(["sleep", "60"], env={"NETLAB_PROCESS": mark}, start_new_session=True)
    try:
        said = proven(notes, "same-pod-ports")["same-pod-ports"]
    finally:
        stray.kill()
        stray.wait()
    assert said["outcome"] == "fail"
    assert "net, uts, ipc, pid namespace" in said["evidence"][0]
    healed = proven(notes, "same-pod-ports")["same-pod-ports"]
    assert healed["outcome"] == "pass"
    # The clock's, and those of two DNS pods and two ingress controllers.
    assert "5 programs of containers" in healed["evidence"][-1]
