"""`netlab trace` of every path there is, in both modes of the proxy: devices, rules, rewrites with
their entries, envelopes, TTL and MTU, as JSON; beside other traffic, at once, and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labs import Cli, eventually, inside, namespaces, topology
from test_commands import completed

pytestmark = pytest.mark.lab

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: p2}
  ports:
    - {name: http, port: 8000, targetPort: 80, nodePort: 30080}
    - {name: talk, port: 53, targetPort: 5353, protocol: UDP, nodePort: 30053}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {only: n2}
  ports: [{port: 80, nodePort: 30081}]
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec:
  selector: {only: n2}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  selector: {only: n1}
  ports: [{name: http, port: 80}, {name: quic, port: 80, protocol: UDP, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  selector: {app: p2}
  sessionAffinity: ClientIP
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
kind: Pod
metadata: {name: n1-near, labels: {only: n1}}
spec:
  nodeName: n1
  containers:
    - {name: a, image: x, ports: [{containerPort: 80}, {containerPort: 8080, protocol: UDP}]}
    - {name: b, image: x, ports: [{containerPort: 9090}]}
---
apiVersion: v1
kind: Pod
metadata: {name: n2-far, labels: {only: n2}}
spec:
  nodeName: n2
  containers: [{name: a, image: x, ports: [{containerPort: 80}]}]
"""
MODES = ("iptables", "nftables")


@pytest.fixture(scope="module", params=MODES)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    command = Cli(f"w{request.param[0]}{os.getpid()}", tmp_path_factory.mktemp("lab"))
    text = topology(command.lab, extra=SERVICES, publish='["30000-32767/tcp", "30000-32767/udp"]')
    try:
        command("up", command.file(text), "--proxy-mode", request.param)
        yield command
    finally:
        command("down", code=None)
        assert namespaces(command.lab) == []


def mode(lab: Cli) -> str:
    return "iptables" if lab.lab[1] == "i" else "nftables"


def trace(lab: Cli, *words: str, code: int = 0) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(lab("trace", *words, "-o", "json", code=code).stdout)
    assert not said["lost"]
    return said


def ips(lab: Cli) -> dict[str, str]:
    return {p["metadata"]["name"]: p["status"]["podIP"] for p in lab.get("pods")["items"]}


def steps(packet: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [one for one in packet["steps"] if one["step"] == kind]


def way(packet: dict[str, Any]) -> str:
    """Return the devices, those of pods' cables without their numbers."""
    found = []
    for one in steps(packet, "device"):
        place = one["place"]["name"].removeprefix("default/")
        device = "veth" if one["device"].startswith("veth") else one["device"]
        found.append(f"{place}:{device}")
    return " ".join(found)


def rewrites(packet: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["kind"], one["place"]["name"]) for one in steps(packet, "rewrite")]


def end(packet: dict[str, Any]) -> str:
    (found,) = steps(packet, "end")
    return f"{found['fate']} {found['place']['name'].removeprefix('default/')}"


def ttls(packet: dict[str, Any]) -> tuple[int, int]:
    seen = steps(packet, "device")
    return seen[0]["ttl"], seen[-1]["ttl"]


def delivered(said: dict[str, Any]) -> None:
    assert said["answered"]
    assert {end(one).split()[0] for one in said["packets"]} == {"delivered"}


def tables(lab: Cli) -> str:
    return "".join(inside(name, "nft", "list", "tables") for name in namespaces(lab.lab))


# Devices of the first packet; `->` begins and ends in pods
WITHIN = "n1-p1:eth0 n1:veth n1:veth {to}:eth0"
ACROSS = (
    "n1-p1:eth0 n1:veth n1:docker0 n1:flannel.1 n1:eth0 underlay:n1 underlay:n2 "
    "n2:eth0 n2:flannel.1 n2:docker0 n2:veth {to}:eth0"
)
FROM_NODE = (
    "n1:flannel.1 n1:eth0 underlay:n1 underlay:n2 n2:eth0 n2:flannel.1 n2:docker0 n2:veth {to}:eth0"
)
IN = "client:eth0 gateway:client gateway:eth0 underlay:gateway"
PATHS = {
    # path of docs/verify.md: words, devices, TTLs, rewrites of the request, whom the server saw
    "same-pod-lo": ("n1-near 127.0.0.1:9090", "n1-near:lo n1-near:lo", (64, 64), [], "127.0.0.1"),
    "pod-pod-same-node": ("n1-p1 n1-p2:80", WITHIN, (64, 64), [], "n1-p1"),
    "pod-pod-cross-node": ("n1-p1 n2-p2:80", ACROSS, (64, 62), [], "n1-p1"),
    "pod-node, its own": ("n1-p1 node/n1", "n1-p1:eth0 n1:veth n1:docker0", (64, 64), [], ""),
    "pod-node, another": (
        *("n1-p1 node/n2", "n1-p1:eth0 n1:veth n1:docker0 n1:eth0 underlay:n1 underlay:n2 n2:eth0"),
        *((64, 63), [("snat", "n1")], ""),
    ),
    "node-pod": (
        *("node/n1 n1-p1:80", "n1:docker0 n1:veth n1-p1:eth0", (64, 64), [], "docker0"),
    ),
    "node-pod across": ("node/n1 n2-p2:80", FROM_NODE, (64, 63), [], "flannel.1"),
    "pod-clusterip, its node": ("n1-p1 svc/near:http", WITHIN, (64, 64), [("dnat", "n1")], "n1-p1"),
    "pod-clusterip, another": ("n1-p1 svc/far", ACROSS, (64, 62), [("dnat", "n1")], "n1-p1"),
    "pod-clusterip, itself": (
        *("n2-far svc/far", "n2-far:eth0 n2:veth n2:veth n2-far:eth0", (64, 64)),
        *([("dnat", "n2"), ("snat", "n2")], "docker0"),
    ),
    "node-clusterip": (
        *("node/n1 svc/far", FROM_NODE, (64, 63)),
        *([("dnat", "n1"), ("snat", "n1")], "flannel.1"),
    ),
    "nodeport": (
        *("client node/n1:30080", None, None, [("dnat", "n1"), ("snat", "n1")], None),
    ),
    "nodeport, Local": (
        *("client node/n2:30081", f"{IN} underlay:n2 n2:eth0 n2:docker0 n2:veth n2-far:eth0"),
        *((64, 62), [("dnat", "n2")], "client"),
    ),
    "egress-masquerade": (
        "n1-p1 internet:80",
        "n1-p1:eth0 n1:veth n1:docker0 n1:eth0 underlay:n1 underlay:gateway gateway:eth0 "
        "gateway:internet internet:eth0",
        *((64, 62), [("snat", "n1")], "eth0"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_told_device_by_device(lab: Cli, path: str) -> None:
    words, devices, ttl, changes, client = PATHS[path]
    said = trace(lab, *words.split())
    delivered(said)
    first, reply = said["packets"][:2]
    assert (first["leg"], reply["leg"]) == ("request", "reply")
    to = steps(first, "device")[-1]["place"]["name"].removeprefix("default/")
    if devices is not None:
        # A bridge device shows what goes to a neighbour it has not met before.
        seen = way(first).replace("n1:veth n1:docker0 n1:veth", "n1:veth n1:veth")
        seen = seen.replace("n2:veth n2:docker0 n2:veth", "n2:veth n2:veth")
        assert seen == devices.format(to=to)
        assert ttls(first) == ttl
    assert rewrites(first) == changes
    undone = [("un-" + kind, place) for kind, place in reversed(changes)]
    # What is undone behind the last device, before the sender's socket, nobody sees.
    own_node = words.startswith("node/")
    assert rewrites(reply) == [one for one in undone if not own_node or one[0] != "un-dnat"]
    ids = {one["conntrack"] for packet in (first, reply) for one in steps(packet, "rewrite")}
    assert len(ids) <= 1
    if None not in ids:
        remembered = {one["id"] for one in said["conntrack"]}
        assert ids <= remembered
    if client is not None:
        pods = ips(lab)
        near, far = (pods[one].rpartition(".")[0] for one in ("n1-p1", "n2-far"))
        own = {
            "client": "198.51.100.10",
            "docker0": (far if "n2-far" in words else near) + ".1",
            "flannel.1": near + ".0",
            "eth0": "192.168.50.101",
        }
        assert said["says"].get("client", "") == own.get(client, pods.get(client, client))


@pytest.mark.parametrize("protocol", ["", ":80", ":80/udp"], ids=["icmp", "tcp", "udp"])
def test_the_envelope_is_told_both_ways(lab: Cli, protocol: str) -> None:
    said = trace(lab, "n1-p1", f"n2-far{protocol}", code=1 if "udp" in protocol else 0)
    first = said["packets"][0]
    into, out = steps(first, "envelope")
    assert (into["place"]["name"], into["device"], into["opened"]) == ("n1", "flannel.1", False)
    assert (out["place"]["name"], out["device"], out["opened"]) == ("n2", "flannel.1", True)
    assert into["vxlan"] == out["vxlan"]
    outer = into["vxlan"]
    assert (outer["source"], outer["destination"]) == ("192.168.50.101", "192.168.50.102")
    assert (outer["destinationPort"], outer["vni"], outer["ttl"]) == (8472, 1, 64)
    wrapped = [one for one in steps(first, "device") if one["vxlan"]]
    assert [one["device"] for one in wrapped] == ["eth0", "n1", "n2", "eth0"]
    assert {one["mtu"] for one in wrapped} == {1500}
    assert {one["mtu"] for one in steps(first, "device") if not one["vxlan"]} == {1450}
    back = steps(said["packets"][1], "envelope")[0]["vxlan"]
    assert (back["source"], back["destination"]) == ("192.168.50.102", "192.168.50.101")


def test_what_sends_a_packet_on_is_what_the_kernel_holds(lab: Cli) -> None:
    """Route, neighbour and FDB entry at each node, against what ip(8) and bridge(8) read there."""
    first = trace(lab, "n1-p1", "n2-far")["packets"][0]
    pods = ips(lab)
    start, into, out = (one for one in steps(first, "next-hop") if one["by"] == "route")
    assert [(one["place"]["name"], one["device"]) for one in (start, into, out)] == [
        ("default/n1-p1", "eth0"), ("n1", "flannel.1"), ("n2", "docker0"),
    ]  # fmt: skip
    n1, n2 = (
        next(one for one in namespaces(lab.lab) if one.endswith(f".{n}")) for n in ("n1", "n2")
    )
    (far,) = json.loads(inside(n2, "ip", "-j", "addr", "show", "dev", "flannel.1"))
    via = far["addr_info"][0]["local"]
    assert (into["gateway"], into["mac"]) == (via, far["address"])
    assert into["tunnel"] == "192.168.50.102"
    fdb = json.loads(inside(n1, "bridge", "-j", "fdb", "show", "dev", "flannel.1"))
    assert (far["address"], "192.168.50.102") in {(one["mac"], one.get("dst")) for one in fdb}
    assert into["words"].split("; ") == [
        f"route {via}/24 via {via} dev flannel.1",
        f"neighbour {via} lladdr {far['address']} permanent",
        f"FDB {far['address']} dst 192.168.50.102",
    ]
    (own,) = json.loads(inside(n1, "ip", "-j", "addr", "show", "dev", "docker0"))
    gateway = own["addr_info"][0]["local"]
    assert (start["gateway"], start["mac"]) == (gateway, own["address"])
    assert start["words"].startswith(f"route default via {gateway} dev eth0; neighbour {gateway} ")
    assert out["words"].startswith(
        f"route {via}/24 dev docker0; neighbour {pods['n2-far']} lladdr "
    )


def test_the_rules_of_a_service_are_told_with_what_they_mean(lab: Cli) -> None:
    said = trace(lab, "n1-p1", "web:http")
    assert said["service"] == "default/web:http"
    assert said["destination"] == "Service default/web:http"
    server = f"default/{said['says']['pod']}"
    address = ips(lab)[said["says"]["pod"]]
    assert said["endpoint"] == f"{server} {address}:80"
    met = [one for one in steps(said["packets"][0], "rule") if one["fitted"]]
    meant = [one["means"] for one in met if one["means"]]
    assert "Service default/web:http" in meant
    (choice,) = [one for one in meant if one.startswith("endpoint ")]
    assert choice.startswith(f"endpoint {server} {address}:80, ")
    assert choice.endswith(" of 2, p 0.5")
    last = next(one for one in met if one["means"] == f"to {server}")
    assert {one["hook"] for one in met if one["means"]} == {"prerouting"}
    if mode(lab) == "iptables":
        assert (last["table"], last["chain"][:8]) == ("nat", "KUBE-SEP")
        assert last["rule"].endswith(f"-j DNAT --to-destination {address}:80")
    else:
        assert (last["table"], last["chain"][:9]) == ("kube-proxy", "endpoint-")
        assert last["rule"].endswith(f"dnat to {address}:80")
    (change,) = steps(said["packets"][0], "rewrite")
    assert change["after"]["destination"] == address and change["means"] == server


def test_udp_is_answered_through_a_service(lab: Cli) -> None:
    said = trace(lab, "n1-p1", "near:quic")
    delivered(said)
    assert [one["name"].split()[0] for one in said["packets"]] == ["datagram", "datagram"]
    assert said["says"]["pod"] == "n1-near" and said["flow"]["protocol"] == "udp"
    assert rewrites(said["packets"][0]) == [("dnat", "n1")]


def test_affinity_is_told(lab: Cli) -> None:
    first, again = (trace(lab, "n1-p1", "sticky") for _ in range(2))
    assert first["endpoint"] == again["endpoint"]
    meant = [one["means"] for one in steps(again["packets"][0], "rule")]
    assert any(one.endswith("where this client was before") for one in meant)


@pytest.mark.parametrize("source", ["n1-p1", "node/n1"])
def test_a_service_without_endpoints_refuses(lab: Cli, source: str) -> None:
    said = trace(lab, source, "nobody", code=1)
    assert said["refused"] and said["service"] == "default/nobody"
    first = said["packets"][0]
    assert end(first) == "refused n1"
    rule = steps(first, "rule")[-1]
    assert "reject" in rule["rule"].lower() and rule["verdict"] == "drop"
    assert rule["hook"] == ("forward" if source == "n1-p1" else "output")
    assert "underlay" not in way(first)


STOPPED = {
    "firewall": ("client node/n1:22", "dropped gateway", "not published"),
    "nodeport, Local elsewhere": ("client node/n1:30081", "dropped n1", ""),
    "clusterip-outside": ("client n1-p1:80", "refused gateway", None),
}


@pytest.mark.parametrize("path", STOPPED)
def test_what_may_not_arrive_is_told_where_it_ends(lab: Cli, path: str) -> None:
    words, fate, rule = STOPPED[path]
    began = time.monotonic()
    said = trace(lab, *words.split(), code=1)
    assert time.monotonic() - began < 5
    assert not said["answered"]
    assert end(said["packets"][0]) == fate
    if rule is not None:
        last = [one for one in steps(said["packets"][0], "rule") if one["fitted"]][-1]
        assert rule in last["rule"] and last["verdict"] == "drop"


def test_a_nodeport_on_loopback_is_what_the_mode_makes_of_it(lab: Cli) -> None:
    served = mode(lab) == "iptables"
    said = trace(lab, "node/n1", "127.0.0.1:30080", code=0 if served else 1)
    if served:
        delivered(said)
        assert said["service"] == "default/web:http"
        assert rewrites(said["packets"][0]) == [("dnat", "n1"), ("snat", "n1")]
    else:
        assert said["refused"] == "connection refused" and said["service"] is None


def test_http_is_spoken(lab: Cli) -> None:
    said = trace(lab, "n1-p1", "--http", "http://web:8000/a?b=c")
    delivered(said)
    assert (said["says"]["status"], said["says"]["pod"][3:]) == (200, "p2")


def test_a_packet_as_long_as_may_be_passes_and_a_longer_one_does_not(lab: Cli) -> None:
    said = trace(lab, "n1-p1", "n2-p2", "--size", "1450")
    assert {one["length"] for one in steps(said["packets"][0], "device")} == {1450}
    said = trace(lab, "n1-p1", "n2-p2", "--size", "1451", code=1)
    assert said["refused"] == "message too long" and said["packets"] == []


def test_all_rules_are_told(lab: Cli) -> None:
    said = trace(lab, "n1-p1", "far", "--all-rules")
    met = [
        one
        for one in steps(said["packets"][0], "rule")
        if one["hook"] == "prerouting" and one["flow"]["destination"] == said["flow"]["destination"]
    ]
    unfit = {(one["chain"], one["rule"]) for one in met if not one["fitted"]}
    assert unfit and not unfit & {(one["chain"], one["rule"]) for one in met if one["fitted"]}


def test_the_text_fits_a_projector(lab: Cli) -> None:
    for words in ("n1-p1 web:http --every", "client node/n1:30080 --all-rules", "n1-p1 nobody"):
        done = lab("trace", *words.split(), code=None)
        assert max(map(len, done.stdout.splitlines())) <= 100 or "--all-rules" in words
        assert done.stderr == ""


@pytest.mark.parametrize("form", ["pcapng", "html", "mermaid"])
def test_other_forms_are_written(lab: Cli, form: str, tmp_path: Path) -> None:
    file = tmp_path / "way"
    done = lab("trace", "n1-p1", "web:http", "-o", form, "-w", str(file))
    assert done.stdout == ""
    head = {"pcapng": b"\x0a\x0d\x0d\x0a", "html": b"<!", "mermaid": b""}[form]
    assert file.read_bytes().startswith(head) and file.stat().st_size > 500


# -- beside others


FLOOD = """
import socket, sys, threading
def send(to):
    while True:
        with socket.create_connection((to, 80)) as sock:
            for _ in range(200):
                sock.sendall(b"x" * 60000 + b"\\n")
                sock.recv(65536)
for _ in range(2):
    threading.Thread(target=send, args=(sys.argv[1],), daemon=True).start()
print("there", flush=True)
sys.stdin.read()
"""


def test_only_its_own_flow_shows_beside_a_flood(lab: Cli) -> None:
    """Of the same two pods, to the same port."""
    netns = lab.netns("n1", "default", "n1-p1")
    flood = subprocess.Popen(
        ["ip", "netns", "exec", netns, sys.executable, "-c", FLOOD, ips(lab)["n2-p2"]],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with flood:
        assert flood.stdin is not None and flood.stdout is not None
        assert flood.stdout.readline() == "there\n"
        try:
            said = [trace(lab, "n1-p1", f"n2-p2{port}") for port in (":80", "")]
        finally:
            flood.stdin.close()
    for one in said:
        delivered(one)
        assert len(one["packets"]) <= 8
        ports = {
            p["flow"][end] for p in one["packets"] for end in ("sourcePort", "destinationPort")
        }
        assert ports == {one["flow"]["sourcePort"], one["flow"]["destinationPort"]}
        assert way(one["packets"][0]) == ACROSS.format(to="n2-p2")


@pytest.mark.parametrize("words", ["n1-p1 web:http", "n1-p1 n2-p2", "n1-p1 near:quic"])
def test_eight_at_once_do_not_mix(lab: Cli, words: str) -> None:
    running = [lab.start("trace", *words.split(), "-o", "json") for _ in range(8)]
    said = [json.loads(one.communicate(timeout=60)[0]) for one in running]
    assert {one.returncode for one in running} == {0}
    for one in said:
        delivered(one)
        assert sum(p["name"] in ("SYN", "echo request") for p in one["packets"]) <= 1
        assert all(steps(p, "device") for p in one["packets"])
        places = [entry["place"]["name"] for entry in one["conntrack"]]
        assert len(places) == len(set(places))
    assert "netlab-trace" not in tables(lab)


SLOW = """
import sys, time
from netlab.tracing import shot
from netlab.cli.program import run
def fired(*_, **__):
    print("there", flush=True)
    time.sleep(60)
shot.fired = fired
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_one_that_was_stopped(lab: Cli, how: signal.Signals) -> None:
    words = ["-L", lab.lab, "trace", "n1-p1", "web:http"]
    stopped = subprocess.Popen(
        [sys.executable, "-c", SLOW, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with stopped:
        assert stopped.stdout is not None and stopped.stderr is not None
        assert stopped.stdout.readline() == "there\n"
        assert "netlab-trace" in tables(lab)
        stopped.send_signal(how)
        error = stopped.stderr.read()
    assert "Traceback" not in error
    assert stopped.returncode == (130 if how is signal.SIGINT else -how)
    trace(lab, "n1-p1", "web:http")
    eventually(lambda: "netlab-trace" not in tables(lab), within=3)


def test_services_are_completed_as_destinations_and_not_as_sources(lab: Cli) -> None:
    for command in ("trace", "why"):
        assert "svc/web" in completed(lab, command, "n1-p1", "svc/")
        assert completed(lab, command, "svc/") == []


@pytest.mark.parametrize(
    ("asks", "kind", "words"),
    [
        ("n1-p1 nobody", "no-endpoints", "Service default/nobody has no ready endpoint: "),
        ("client node/n1:30081", "no-endpoints", "on n1, and its policy is Local"),
        ("n1-p1 far:81", "no-such-port", "does not serve 81/tcp"),
        ("n1-p1 svc/far/icmp", "no-such-port", "does not serve an echo"),
    ],
)
def test_both_modes_give_the_same_reason_for_a_service_that_does_not_answer(
    lab: Cli, asks: str, kind: str, words: str
) -> None:
    done = lab("why", *asks.split(), "-o", "json", code=1)
    first = json.loads(done.stdout)["causes"][0]
    assert first["kind"] == kind
    assert words in first["what"]
