"""userspace mode in a namespace: rules and process together, repaired, changed, replaced."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from netlab.agent.kubeproxy import KubeProxy
from netlab.agent.leftovers import cleanup
from netlab.kernel import iptables, netns, nftables
from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.portals import control
from netlab.portals.control import Home
from netlab.proxy import Mode, Options
from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import difference
from netlab.topology.stored import stored

pytestmark = pytest.mark.kernel

PLACE = f"nltestuser{os.getpid()}"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "services.yaml"
NODE_IP, ENDS = "192.168.50.11", ("10.244.1.2", "10.244.1.3")
CLUSTER_IP, NODE_PORT, PORT, DNS = "10.96.0.10", 30080, 8080, 5353
PATIENCE = 20.0  # seconds, for what takes one
WITHIN = 2.0  # seconds until what somebody broke is whole again
NODE = {
    "kind": "Node",
    "metadata": {"name": "n1"},
    "status": {"addresses": [{"type": "InternalIP", "address": NODE_IP}]},
}


@cache
def objects(*endpoints: str) -> list[dict[str, Any]]:
    """Return a Service and its slice, the same ones each time, as a watch of etcd gives them."""
    meta = {"name": "web", "namespace": "default"}
    ports = [
        {"name": "http", "port": 80, "nodePort": NODE_PORT, "protocol": "TCP"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ]
    spec = {"type": "NodePort", "clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP]}
    return [
        {"kind": "Service", "metadata": meta, "spec": {**spec, "ports": ports}},
        {
            "kind": "EndpointSlice",
            "metadata": {**meta, "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [one]} for one in endpoints],
            "ports": [
                {"name": "http", "port": PORT, "protocol": "TCP"},
                {"name": "dns", "port": DNS, "protocol": "UDP"},
            ],
        },
    ]


@pytest.fixture
def place() -> Iterator[str]:
    """A node whose loopback has the endpoints too, each telling its address over TCP and UDP."""
    netns.create(PLACE)
    try:
        with netns.entered(PLACE):
            for address in (NODE_IP, *ENDS):
                run("ip", "addr", "add", f"{address}/32", "dev", "lo")
            run("ip", "link", "set", "lo", "up")
            run("ip", "route", "add", "default", "dev", "lo", "src", NODE_IP)
            with answering():
                yield PLACE
            cleanup()
            assert not control.portals()
    finally:
        netns.delete(PLACE)


@contextmanager
def answering() -> Iterator[None]:
    opened = []
    for address in ENDS:
        opened.append((address, socket.create_server((address, PORT), backlog=200)))
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((address, DNS))
        opened.append((address, datagrams))
    ended = threading.Event()
    serving = {socket.SOCK_STREAM: _serve, socket.SOCK_DGRAM: _serve_datagrams}
    threads = [
        threading.Thread(target=serving[sock.type], args=(sock, address, ended), daemon=True)
        for address, sock in opened
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)
        for _, sock in opened:
            sock.close()


def _serve(listener: socket.socket, address: str, ended: threading.Event) -> None:
    listener.settimeout(0.1)
    while not ended.is_set():
        try:
            sock, _ = listener.accept()
        except TimeoutError:
            continue
        sock.sendall(address.encode())
        sock.close()


def _serve_datagrams(sock: socket.socket, address: str, ended: threading.Event) -> None:
    sock.settimeout(0.1)
    while not ended.is_set():
        try:
            _, peer = sock.recvfrom(100)
        except TimeoutError:
            continue
        sock.sendto(address.encode(), peer)


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def eventually(true: Callable[[], object], what: str, *, within: float = PATIENCE) -> float:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within, what
        time.sleep(0.01)
    return time.monotonic() - began


def ask(address: str = CLUSTER_IP, port: int = 80) -> str:
    """Return who answered, "" for nobody."""
    try:
        with socket.create_connection((address, port), 0.3) as sock:
            return sock.recv(100).decode()
    except OSError:
        return ""


def ask_dns() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        sock.connect((CLUSTER_IP, 53))
        sock.send(b"who?")
        return sock.recv(100).decode()


def proxy(mode: Mode = Mode.USERSPACE, *, home: Home | None = None) -> KubeProxy:
    return KubeProxy(Options(mode=mode), answering=False, home=home)


def agree(found: KubeProxy, *endpoints: str) -> list[Any]:
    return found.agree(objects(*endpoints), view(NODE, ProxyNode)).steps


def pid() -> int:
    """Return the pid of the process in this namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.connect(control.NAME)
        return int.from_bytes(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), "little")


def test_every_address_leads_to_every_endpoint(place: str) -> None:
    found = proxy()
    agree(found, *ENDS)
    for to in ((CLUSTER_IP, 80), (NODE_IP, NODE_PORT), ("127.0.0.1", NODE_PORT)):
        assert {ask(*to) for _ in range(4)} == set(ENDS)
    assert {ask_dns() for _ in range(4)} == set(ENDS)
    found.close()


def test_what_is_written_is_what_is_listed(place: str) -> None:
    """So nothing is to be repaired when somebody else wrote rules of his own."""
    documents, _ = stored([str(GOLDEN)])
    found = proxy()
    assert found.agree(documents, view(NODE, ProxyNode)).steps
    run("nft", "add table ip mine")
    assert found.agree(documents, view(NODE, ProxyNode)).steps == []
    assert iptables.read(Family) == found.blocks
    found.close()


def test_a_change_of_endpoints_writes_no_rule(place: str) -> None:
    found = proxy()
    agree(found, ENDS[0])
    assert ask() == ENDS[0]
    assert agree(found, ENDS[1]) == []
    assert ask() == ENDS[1]
    assert agree(found) == []
    assert ask() == ""
    found.close()


def test_the_process_is_told_only_what_changes(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = proxy()
    agree(found, *ENDS)
    asked: list[dict[str, Any]] = []
    exchanged = control._exchanged
    monkeypatch.setattr(
        control, "_exchanged", lambda to, said: (asked.append(said), exchanged(to, said))[1]
    )
    agree(found, *ENDS)
    assert asked == []
    agree(found, ENDS[0])
    assert [len(one["set"]) for one in asked] == [2]
    found.close()


def test_a_killed_process_is_missed_and_replaced(place: str) -> None:
    found = proxy()
    agree(found, *ENDS)
    (descriptor,) = found.watched()
    before = control.ports()
    os.kill(pid(), 9)
    eventually(lambda: not _is_quiet(descriptor), "somebody is woken", within=WITHIN)
    assert agree(found, *ENDS) == []
    assert control.ports() == before
    assert ask() in ENDS
    found.close()


def _is_quiet(descriptor: int) -> bool:
    import select

    return not select.select([descriptor], [], [], 0)[0]


def test_a_port_that_somebody_else_has_is_written_as_another(place: str) -> None:
    usual = KubeProxy(Options(mode=Mode.USERSPACE), answering=False)
    usual.wanted(objects(*ENDS), view(NODE, ProxyNode))
    (port,) = (one.port for one in usual.portals if one.protocol == "tcp")
    with socket.create_server(("", port)):
        found = proxy()
        agree(found, *ENDS)
        assert ask() in ENDS
        assert f"--to-ports {port}\n" not in run("iptables-save")
        home = Home(attached=False, log=Path("/dev/null"))
        assert agree(proxy(home=home), *ENDS) == []  # another that takes over finds the same
        found.close()


def test_a_port_that_somebody_took_meanwhile_is_left_to_him(place: str) -> None:
    found = proxy()
    agree(found, *ENDS)
    os.kill(pid(), 9)
    port = control.ports().get("default/web:http/tcp") or found.portals[0].port
    eventually(lambda: not control.portals(), "it is gone")
    with socket.create_server(("", port)):
        assert agree(found, *ENDS)
        assert ask() in ENDS
        assert f"--to-ports {port}\n" not in run("iptables-save")
        assert agree(found, *ENDS) == []
    found.close()


def test_another_proxy_keeps_the_process_and_its_ports(place: str) -> None:
    home = Home(attached=False, log=Path("/dev/null"))
    first = proxy(home=home)
    agree(first, *ENDS)
    running, rules = pid(), run("iptables-save")
    first.close()
    second = proxy(home=home)
    assert agree(second, *ENDS) == []
    assert pid() == running
    assert _without_counts(run("iptables-save")) == _without_counts(rules)
    second.close()


def _without_counts(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if not line.startswith(("#", ":"))]


@pytest.mark.parametrize("other", [Mode.IPTABLES, Mode.NFTABLES])
def test_of_the_mode_before_nothing_is_left(place: str, other: Mode) -> None:
    home = Home(attached=False, log=Path("/dev/null"))
    for mode in (other, Mode.USERSPACE, other):
        found = proxy(mode, home=home)
        agree(found, *ENDS)
        found.close()
        assert ask() in ENDS
        there = {**iptables.read(Family), **nftables.read(Family)}
        assert list(difference(found.blocks, there)) == []
        assert bool(control.portals()) == (mode is Mode.USERSPACE)


def test_a_udp_client_that_never_stops_follows_a_change_of_mode(place: str) -> None:
    home = Home(attached=False, log=Path("/dev/null"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.1)
        for mode in (Mode.IPTABLES, Mode.USERSPACE, Mode.NFTABLES, Mode.USERSPACE):
            found = proxy(mode, home=home)
            agree(found, *ENDS)
            found.close()
            sock.connect((CLUSTER_IP, 53))
            eventually(lambda: _answered(sock), f"answers in {mode} mode", within=WITHIN)


def _answered(sock: socket.socket) -> bool:
    try:
        sock.send(b"who?")
        return bool(sock.recv(100))
    except OSError:
        return False


# -- the command

SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
endpoints: [{{addresses: [{endpoint}]}}]
ports: [{{name: "", port: 8080}}]
"""


def netlab(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "netlab", "proxy", "--proxy-mode", "userspace", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_command_serves_and_repairs_while_it_watches(place: str, tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(SERVICE.format(ip=CLUSTER_IP, endpoint=ENDS[0]))
    watching = netlab("-f", str(file), "--netns", place, "--watch")
    try:
        eventually(ask, "the first answer")
        os.kill(pid(), 9)
        assert eventually(ask, "another process") < WITHIN
        run("iptables", "-t", "nat", "-F", "KUBE-PORTALS-HOST")
        assert eventually(ask, "the rules") < WITHIN
        file.write_text(SERVICE.format(ip=CLUSTER_IP, endpoint=ENDS[1]))
        eventually(lambda: ask() == ENDS[1], "the other endpoint")
    finally:
        watching.terminate()
        watching.communicate(timeout=PATIENCE)
    eventually(lambda: not control.portals(), "the process ends with the command")
    assert ask() == ""


def test_without_watching_it_would_be_gone_at_once(tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(SERVICE.format(ip=CLUSTER_IP, endpoint=ENDS[0]))
    once = netlab("-f", str(file))
    said = once.communicate(timeout=PATIENCE)[0]
    assert once.returncode == 2
    assert "is a process" in said and "add --watch" in said
