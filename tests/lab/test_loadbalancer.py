"""A load balancer outside the nodes: addresses given and taken back, flows that stay or end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from labs import Cli, asked, eventually, inside, namespaces, topology

pytestmark = pytest.mark.lab

SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}, annotations: {{netlab.io/ip-mode: {mode}}}}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: {policy}
  loadBalancerIP: {address}
  loadBalancerSourceRanges: [198.51.100.0/24]
  selector: {{tier: web}}
  ports: [{{name: http, port: 80}}, {{name: udp, port: 53, targetPort: 5353, protocol: UDP}}]
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {{name: web-{node}, labels: {{tier: web}}}}
spec:
  nodeName: {node}
  containers: [{{name: c, ports: [{{containerPort: 80}}, {{containerPort: 5353, protocol: UDP}}]}}]
"""
ADDRESS = {"VIP": "192.168.50.200", "Proxy": "192.168.50.201"}
POOL = "balancer: {address: 192.168.50.5, pool: [192.168.50.200-192.168.50.203]}\n"


def declared(lab: str, *services: str, balancer: str = POOL) -> str:
    first, *rest = topology(lab, pods=0).split("---\n")
    pods = [POD.format(node=node) for node in ("n1", "n2")]
    return "---\n".join([first + balancer, *rest, *pods, *services])


def service(name: str, *, mode: str = "VIP", policy: str = "Cluster", address: str = "") -> str:
    wanted = address or ADDRESS[mode]
    return SERVICE.format(name=name, mode=mode, policy=policy, address=wanted)


SERVICES = (service("vip", policy="Local"), service("proxy", mode="Proxy", policy="Local"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Cli]:
    directory = tmp_path_factory.mktemp("lab")
    command = Cli(f"b{worker_id.removeprefix('gw')}x{os.getpid()}", directory)
    command("up", command.file(declared(command.lab, *SERVICES)))
    yield command
    command("down")


def addresses(lab: Cli) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in lab.get("services")["items"]:
        ingress = one.get("status", {}).get("loadBalancer", {}).get("ingress", [])
        found[one["metadata"]["name"]] = ",".join(each["ip"] for each in ingress)
    return found


def nodes_of(lab: Cli, address: str) -> list[str]:
    return list(lab.status()["balancer"]["listeners"].get(f"{address}:80/tcp", []))


def test_every_hop_is_as_it_should_be_in_both_modes(lab: Cli) -> None:
    done = lab("verify", "loadbalancer", "-v")
    for words in ("ipMode VIP", "ipMode Proxy", "got none of", "dropped by balancer"):
        assert words in " ".join(done.stdout.split()), words


def test_a_well_node_that_is_not_used_is_no_pass(lab: Cli) -> None:
    """Its probes are lost, but nothing says that it is not well."""
    n2 = lab.netns("n2")
    hook = "type filter hook input priority 0;"
    inside(n2, "nft", "add table ip unheard")
    inside(n2, "nft", f"add chain ip unheard input {{ {hook} ip saddr 192.168.50.5 drop; }}")
    try:
        eventually(lambda: nodes_of(lab, ADDRESS["VIP"]) == ["192.168.50.101"], what="n1 alone")
        done = lab("verify", "loadbalancer", code=1)
    finally:
        inside(n2, "nft", "delete table ip unheard")
    assert "the balancer uses n1 after 5 s" in done.stdout
    assert "it uses n1, n2, which answer its probes" in " ".join(done.stdout.split())
    eventually(lambda: len(nodes_of(lab, ADDRESS["VIP"])) == 2, what="n2 is used again")


def test_the_pod_sees_the_client_where_packets_come_unchanged(lab: Cli) -> None:
    assert asked(lab.netns("client"), ADDRESS["VIP"])["client"] == "198.51.100.10"
    assert asked(lab.netns("client"), ADDRESS["Proxy"])["client"] != "198.51.100.10"


STREAMS = """
import json, socket, sys, time
address, count = sys.argv[1], int(sys.argv[2])
found = []
for _ in range(count):
    one = socket.create_connection((address, 80), 5)
    one.settimeout(10)
    one.sendall(b"hello\\n")
    file = one.makefile()
    found.append((one, file, json.loads(file.readline())["node"]))
print(json.dumps([node for _, _, node in found]), flush=True)
while sys.stdin.readline():
    told = []
    for one, file, node in found:
        try:
            one.sendall(b"again\\n")
            told.append(json.loads(file.readline() or "{}").get("node", "closed"))
        except OSError as error:
            told.append(type(error).__name__)
    print(json.dumps(told), flush=True)
"""


class Streams:
    """Connections from the client that stay open, asked again and again."""

    def __init__(self, lab: Cli, address: str, count: int) -> None:
        argv = ["ip", "netns", "exec", lab.netns("client"), sys.executable, "-c", STREAMS]
        self.child = subprocess.Popen(
            [*argv, address, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.at = self._line()

    def _line(self) -> Any:
        assert self.child.stdout is not None
        return json.loads(self.child.stdout.readline())

    def again(self) -> list[str]:
        assert self.child.stdin is not None
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return list(self._line())

    def close(self) -> None:
        self.child.kill()
        self.child.communicate()


DEAF = (
    "add table ip deaf; "
    "add chain ip deaf everything { type filter hook prerouting priority -400; }; "
    "add rule ip deaf everything drop"
)


@pytest.mark.parametrize("mode", ["VIP", "Proxy"])
def test_flows_stay_while_rules_change_and_end_with_their_node(lab: Cli, mode: str) -> None:
    streams = Streams(lab, ADDRESS[mode], 12)
    try:
        assert set(streams.at) == {"n1", "n2"}
        other = lab.file(service("other", address="192.168.50.202"), "other.yaml")
        lab("apply", "-f", other)
        eventually(lambda: nodes_of(lab, "192.168.50.202"), what="its listener")
        assert streams.again() == streams.at
        lab("delete", "-f", other)
        eventually(lambda: not nodes_of(lab, "192.168.50.202"), what="no listener")
        assert streams.again() == streams.at
        inside(lab.netns("n2"), "nft", DEAF)
        try:
            took = eventually(
                lambda: nodes_of(lab, ADDRESS[mode]) == ["192.168.50.101"], what="n2 is given up"
            )
            told = streams.again()
        finally:
            inside(lab.netns("n2"), "nft", "delete", "table", "ip", "deaf")
        assert took < 5.0
        reset = ["n1" if node == "n1" else "ConnectionResetError" for node in streams.at]
        assert told == reset
        eventually(lambda: len(nodes_of(lab, ADDRESS[mode])) == 2, what="n2 is used again")
    finally:
        streams.close()


@pytest.mark.parametrize("mode", ["VIP", "Proxy"])
def test_a_crash_of_the_agent_neither_ends_flows_nor_moves_addresses(lab: Cli, mode: str) -> None:
    before = addresses(lab)
    streams = Streams(lab, ADDRESS[mode], 6)
    try:
        os.kill(lab.agent_pid(), signal.SIGKILL)
        assert streams.again() == streams.at
        lab("up", lab.file(declared(lab.lab, *SERVICES)))
        assert streams.again() == streams.at
    finally:
        streams.close()
    assert addresses(lab) == before


BREAKAGES = {
    "the rules": ("nft", "flush table ip balancer"),
    "the table": ("nft", "delete table ip balancer"),
    "a rule of its own": ("nft", "insert rule ip balancer forward drop"),
    "a routing rule": ("ip", "rule del priority 110"),
    "a route": ("ip", "route flush table 3232248421"),  # 192.168.50.101
}


@pytest.mark.parametrize("command", BREAKAGES.values(), ids=BREAKAGES)
def test_what_somebody_breaks_is_repaired(lab: Cli, command: tuple[str, str]) -> None:
    netns = lab.netns("balancer")

    def state() -> tuple[str, ...]:
        rules = subprocess.run(
            ["ip", "netns", "exec", netns, "nft", "-s", "-t", "list", "ruleset"],
            capture_output=True,
            text=True,
        ).stdout
        routes = inside(netns, "ip", "route", "show", "table", "all")
        lines = (rules + routes + inside(netns, "ip", "rule")).splitlines()
        return tuple(sorted(lines))  # what was made anew is listed last

    before = state()
    inside(netns, command[0], *command[1].split())
    eventually(lambda: state() == before, what=f"{command} is undone")
    assert asked(lab.netns("client"), ADDRESS["VIP"])["node"] in ("n1", "n2")


def test_addresses_are_given_while_they_are_wanted(cli: Cli) -> None:
    first, second = service("first"), service("second")  # both ask for the same address
    cli("up", cli.file(declared(cli.lab, first, balancer="")))
    assert addresses(cli)["first"] == ""
    assert "SyncLoadBalancerFailed" in cli("get", "events").stdout
    assert cli.netns("balancer") not in namespaces(cli.lab)
    cli("up", cli.file(declared(cli.lab, first, second)))
    assert addresses(cli) == {"first": "192.168.50.200", "second": ""}
    assert "belongs to Service default/first" in cli("get", "events").stdout
    plain = first.replace("type: LoadBalancer", "type: NodePort")
    plain = "\n".join(
        line
        for line in plain.splitlines()
        if "loadBalancer" not in line and "externalTrafficPolicy" not in line
    )
    plain += "\n"
    cli("up", cli.file(declared(cli.lab, plain, second)))
    assert addresses(cli) == {"first": "", "second": "192.168.50.200"}
    gateway = inside(cli.netns("gateway"), "nft", "list", "table", "ip", "firewall")
    assert "ip daddr 192.168.50.200 tcp dport 80 accept" in gateway
