"""`netlab diff-modes` with real packets: what differs, what does not, what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from netlab.agent.kubeproxy import KubeProxy, Pass
from netlab.kernel import conntrack, netns
from netlab.model.kubernetes import Document
from netlab.model.services import ProxyNode
from netlab.proxy import Mode, Options
from netlab.sensors.calls import Calls, Came, Reply
from netlab.topology.stored import stored
from netlab.verify import trial
from netlab.verify.modes import compared
from netlab.verify.stage import Host, Stage, built
from netlab.verify.waysin import Caller

pytestmark = pytest.mark.kernel

OBJECTS = """
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:1::/64"]}
status:
  addresses:
  - {type: InternalIP, address: 192.168.50.11}
  - {type: InternalIP, address: "fd00:50::11"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilies: [IPv4, IPv6]
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, "fd00:96::10"]
  externalIPs: [203.0.113.5]
  ports: [{name: http, port: 80, nodePort: 30080}, {name: dns, port: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.20
  externalTrafficPolicy: Local
  healthCheckNodePort: 31070
  sessionAffinity: ClientIP
  loadBalancerSourceRanges: [192.0.2.0/24]
  ports: [{name: http, port: 80}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.20}]}}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: 10.96.0.30, ports: [{port: 80}]}
"""
SLICE = """
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %(name)s, labels: {kubernetes.io/service-name: %(of)s}}
addressType: %(family)s
endpoints:
- {addresses: ["%(here)s"], nodeName: n1}
- {addresses: ["%(there)s"], nodeName: n2}
ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}]
"""
FOUR = {"family": "IPv4", "here": "10.244.1.11", "there": "10.244.2.11"}
SIX = {"family": "IPv6", "here": "fd00:10:1::11", "there": "fd00:10:2::11"}
SLICES = [
    SLICE % {"name": "web-4", "of": "web", **FOUR},
    SLICE % {"name": "web-6", "of": "web", **SIX},
    SLICE % {"name": "near-4", "of": "near", **FOUR},
]


def netlab(*words: str, code: int, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "netlab", "diff-modes", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All that differs, as JSON."""
    return differing(tmp_path_factory.mktemp("modes"))


@pytest.fixture(scope="module")
def in_userspace(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What differs between iptables and userspace mode."""
    return differing(tmp_path_factory.mktemp("modes"), "--modes", "iptables,userspace")


def differing(directory: Path, *words: str) -> dict[str, Any]:
    file = directory / "objects.yaml"
    file.write_text(OBJECTS + "".join(SLICES))
    before = set(os.listdir("/run/netns"))
    document = json.loads(netlab(str(file), *words, "-o", "json", code=1).stdout)
    left = set(os.listdir("/run/netns")) - before
    assert not [name for name in left if name.startswith("modes")]
    return dict(document)


def seen(found: dict[str, Any], way: str, caller: Caller) -> list[tuple[str, ...]]:
    """Return what each mode does to those who come by *way*, if it differs."""
    return [
        tuple(one["seen"][mode]["words"] for mode in found["modes"])
        for one in found["differences"]
        if one["way"].startswith(way) and one["from"] == caller
    ]


def test_packets_do_as_the_decision_says_in_both_modes(found: dict[str, Any]) -> None:
    assert found["surprises"] == []
    assert found["modes"] == ["iptables", "nftables"]
    assert found["tried"] > 80


@pytest.mark.parametrize(
    ("way", "caller", "modes"),
    [
        ("NodePort 30080/TCP on 127.0.0.1", Caller.NODE, ("answers", "refuses")),
        ("NodePort 30080/TCP on docker0's 172", Caller.OUTSIDE, ("answers", "refuses")),
        ("NodePort 30080/TCP on docker0's fd00", Caller.POD, ("answers", "refuses")),
        ("ping of ClusterIP 10.96.0.10", Caller.POD, ("leaves it alone", "refuses")),
        ("ping of ClusterIP fd00:96::10", Caller.NODE, ("leaves it alone", "refuses")),
        ("unused port 10.96.0.20:9", Caller.OUTSIDE, ("leaves it alone", "refuses")),
        ("ClusterIP 10.96.0.10:80", Caller.LOOPBACK, ("answers", "cannot be sent")),
    ],
)
def test_known_differences_are_found(
    found: dict[str, Any], way: str, caller: Caller, modes: tuple[str, ...]
) -> None:
    assert seen(found, way, caller) == [modes]


@pytest.mark.parametrize(
    "way",
    [
        *("ClusterIP 10.96.0", "ClusterIP [fd00", "ExternalIP", "LoadBalancer"),
        "NodePort 30080/TCP on the node's",
    ],
)
def test_what_services_are_for_is_the_same(found: dict[str, Any], way: str) -> None:
    for caller in (Caller.POD, Caller.OTHER_POD, Caller.NODE, Caller.OUTSIDE):
        assert seen(found, way, caller) == []


def test_packets_do_as_the_decision_says_in_userspace_mode(in_userspace: dict[str, Any]) -> None:
    assert in_userspace["surprises"] == []
    assert in_userspace["modes"] == ["iptables", "userspace"]
    assert in_userspace["tried"] > 80


def test_endpoints_see_the_node_in_userspace_mode(in_userspace: dict[str, Any]) -> None:
    (one,) = (
        one["seen"]
        for one in in_userspace["differences"]
        if (one["way"], one["from"]) == ("ClusterIP 10.96.0.10:80/TCP", Caller.POD)
    )
    found = {mode: {it["seenAs"] for it in one[mode]["outcomes"]} for mode in one}
    assert found == {"iptables": {"client"}, "userspace": {"node"}}


@pytest.mark.parametrize(
    ("way", "caller", "modes"),
    [
        ("ClusterIP 10.96.0.30:80", Caller.POD, ("refuses", "accepts and closes")),
        ("ClusterIP 10.96.0.10:80", Caller.LOOPBACK, ("answers", "cannot be sent")),
        ("ExternalIP 203.0.113.5:80", Caller.POD, ("answers", "leaves it alone")),
        ("ExternalIP 203.0.113.5:80", Caller.NODE, ("answers", "leaves it alone")),
        ("LoadBalancer 203.0.113.20:80", Caller.OUTSIDE, ("is silent", "answers")),
    ],
)
def test_known_differences_of_userspace_mode_are_found(
    in_userspace: dict[str, Any], way: str, caller: Caller, modes: tuple[str, ...]
) -> None:
    assert seen(in_userspace, way, caller) == [modes]


@pytest.mark.parametrize("way", ["NodePort 30080/TCP on", "ExternalIP 203.0.113.5:80"])
def test_whom_userspace_mode_serves_as_well(in_userspace: dict[str, Any], way: str) -> None:
    assert seen(in_userspace, way, Caller.OUTSIDE) == []


def test_modes_that_cannot_be_compared_are_a_mistake() -> None:
    for modes in ("iptables", "iptables,iptables", "iptables,fast"):
        assert "hint: two or more of" in netlab("-", "--modes", modes, code=2, stdin=OBJECTS).stderr


def test_the_table_has_a_line_for_a_difference_and_a_sum() -> None:
    done = netlab("-", code=1, stdin=OBJECTS)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["WAY", "IN", "SERVICE", "FROM", "IPTABLES", "NFTABLES"]
    assert lines[-1].startswith("seen from n1: ") and " differ, in " in lines[-1]
    pinged = {line.split("   ")[-1] for line in lines if line.startswith("ping of a ClusterIP ")}
    assert pinged == {"refuses"}
    assert len(lines) < 40


def test_nothing_to_try_is_no_difference() -> None:
    nodes = OBJECTS.split("---")[0]
    assert "0 ways tried, 0 differ" in netlab("-", code=0, stdin=nodes).stdout
    assert "no Node n9" in netlab("-", "--node", "n9", code=2, stdin=nodes).stderr


def test_a_mode_that_does_not_do_as_decided_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Somebody's nftables rules are not there at all."""
    file = tmp_path / "objects.yaml"
    file.write_text(OBJECTS + SLICES[0])
    documents, _ = stored([str(file)])
    given = trial.given(documents, Options(), node=None, prefix=f"nltestmodes{os.getpid()}")
    agree = KubeProxy.agree

    def but_nftables(self: KubeProxy, found: Iterable[Document], node: ProxyNode) -> Pass:
        if self.options.mode is Mode.NFTABLES:
            nothing: list[conntrack.Entry] = []
            return Pass([], [], nothing, {}, [])
        return agree(self, found, node)

    monkeypatch.setattr(KubeProxy, "agree", but_nftables)
    monkeypatch.setattr("netlab.verify.modes.PATIENT", 0.1)
    rows = compared(given)
    wrong = {row.way.title for row in rows if row.surprises == [Mode.NFTABLES]}
    assert {"ClusterIP 10.96.0.10:80/TCP", "ping of ClusterIP 10.96.0.10"} <= wrong
    assert not [row for row in rows if Mode.IPTABLES in row.surprises]


def test_a_refusal_is_heard_although_it_comes_before_connect_returns() -> None:
    here = Host("n1", ("192.168.50.11",), ("10.244.1.254",), ())
    there = Host("n2", ("192.168.50.12",), ("10.244.2.254",), ())
    client = ("198.51.100.254",)
    stage = Stage(f"nltestmodes{os.getpid()}", here, there, ("10.96.0.9",), client, "docker0")
    calls = Calls()
    with built(stage):
        try:
            with netns.entered(stage.netns("here")):
                words = ("iptables", "-A", "FORWARD", "-d", "10.96.0.9", "-j", "REJECT")
                subprocess.run(words, check=True)
            with netns.entered(stage.netns("here-pod")):
                for _ in range(5):
                    calls.call("refused", "TCP", "10.96.0.9", 80)
            assert calls.replies(quiet=0.3) == {"refused": [Reply(Came.REFUSAL)] * 5}
        finally:
            calls.close()
