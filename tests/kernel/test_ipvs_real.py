"""Ipvs mode in a kernel: written, read back, repaired, left; connections meanwhile."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, NamedTuple

import pytest
from flows.capability import without_ipvs
from msgspec.structs import replace

from netlab import patience
from netlab.agent.kubeproxy import KubeProxy, Pass
from netlab.agent.leftovers import cleanup
from netlab.kernel import (
    ipset,
    ipvs,
    ipvs_timeouts,
    netns,
    nftables,
    settings,
    virtual_servers,
)
from netlab.kernel.ipvs_connections import connections
from netlab.kernel.netns import entered
from netlab.model.kubernetes import view
from netlab.model.modes import SCHEDULERS
from netlab.model.services import ProxyNode
from netlab.packets import Flow, Protocol
from netlab.proxy import DetectLocal, Mode, Options
from netlab.proxy.addresses import Family
from netlab.proxy.options import Timeouts
from netlab.proxy.ruleset import Sort, difference

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.stock,
    pytest.mark.skipif(bool(without_ipvs()), reason=f"capability missing: {without_ipvs()}"),
]

PREFIX = f"nltest{os.getpid()}ipvs"
VIP, PORT, NODE_PORT = "10.96.0.10", 80, 30080
WITHIN = patience.seconds(20.0)  # seconds; a deadline
NODE = view(
    {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.7.1"}]},
    },
    ProxyNode,
)


def options(mode: Mode = Mode.IPVS, **words: Any) -> Options:
    return Options(
        mode=mode, detect_local=DetectLocal.CLUSTER_CIDR, pod_cidrs=("10.1.0.0/16",), **words
    )


def objects(*pods: str, affinity: int = 0, port: int = PORT) -> list[dict[str, Any]]:
    """Return a Service and its slice, of new documents: pods are told by their last number."""
    spec: dict[str, Any] = {
        "type": "NodePort",
        "clusterIP": VIP,
        "ports": [{"name": "p", "port": port, "nodePort": NODE_PORT, "targetPort": 8080}],
    }
    if affinity:
        spec["sessionAffinity"] = "ClientIP"
        spec["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": affinity}}
    meta = {"name": "web", "namespace": "default"}
    ends = [{"addresses": [f"10.1.0.{one}"], "nodeName": "n"} for one in pods]
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**meta, "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}],
            "endpoints": ends,
        },
    ]


def shell(words: str) -> None:
    subprocess.run(words, shell=True, check=True, stdout=subprocess.DEVNULL)


class Node(NamedTuple):
    """A node's namespace, with pods whose servers say their number."""

    netns: str

    def agree(self, proxy: KubeProxy, *pods: str, **words: Any) -> Pass:
        with entered(self.netns):
            return proxy.agree(objects(*pods, **words), NODE)

    def connect(
        self, address: str = VIP, port: int = PORT, *, within: float = WITHIN
    ) -> socket.socket:
        """Return a connection from the node to the Service."""
        with entered(self.netns):
            return socket.create_connection((address, port), timeout=within)

    def ask(self, address: str = VIP, port: int = PORT, *, within: float = WITHIN) -> str:
        with closing(self.connect(address, port, within=within)) as sock:
            return answer(sock)


def answer(sock: socket.socket) -> str:
    sock.sendall(b"?")
    return sock.recv(16).decode()


def serve(name: str, stop: threading.Event, number: str) -> socket.socket:
    with entered(name):
        listening = socket.create_server(("0.0.0.0", 8080))

    def carry(sock: socket.socket) -> None:
        with closing(sock), suppress(OSError):
            while sock.recv(16):
                sock.sendall(number.encode())

    def accept() -> None:
        while not stop.is_set():
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=carry, args=(sock,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listening


@pytest.fixture
def node() -> Iterator[Node]:
    """A node with the pods 2 and 3, each behind a cable of its own."""
    names = [f"{PREFIX}{one}" for one in ("", "2", "3")]
    stop = threading.Event()
    listening = []
    for name in names:
        netns.create(name)
    here = names[0]
    try:
        shell(f"ip -n {here} link set lo up; ip -n {here} addr add 192.168.7.1/32 dev lo")
        shell(f"ip -n {here} route add {VIP} dev lo src 192.168.7.1")
        for number, name in zip("23", names[1:], strict=True):
            shell(
                f"ip -n {here} link add p{number} type veth peer name eth0 netns {name};"
                f"ip -n {here} link set p{number} up;"
                f"ip -n {here} route add 10.1.0.{number} dev p{number};"
                f"ip -n {name} link set lo up; ip -n {name} link set eth0 up;"
                f"ip -n {name} addr add 10.1.0.{number}/32 dev eth0;"
                f"ip -n {name} route add default dev eth0 onlink via 192.168.7.1"
            )
            listening.append(serve(name, stop, number))
        yield Node(here)
    finally:
        stop.set()
        for one in listening:
            one.close()
        for name in names:
            netns.delete(name)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def reals(node: Node) -> dict[str, int]:
    """Return the real servers of the Service's address with their weights."""
    with entered(node.netns):
        (found,) = (one for one in ipvs.servers() if one.address == VIP)
    return {one.text: one.weight for one in found.reals}


def test_what_is_written_is_read_back_and_a_second_pass_changes_nothing(node: Node) -> None:
    proxy = KubeProxy(options(scheduler="lc", strict_arp=True), answering=False)
    assert node.agree(proxy, "2", "3", affinity=600).steps
    assert node.agree(proxy, "2", "3", affinity=600).steps == []
    again = KubeProxy(options(scheduler="lc", strict_arp=True), answering=False)
    done = node.agree(again, "2", "3", affinity=600)
    assert (done.steps, done.settings) == ([], {})
    with entered(node.netns):
        listed = subprocess.run(("ipvsadm", "-Sn"), capture_output=True, text=True).stdout
    assert f"-A -t {VIP}:80 -s lc -p 600" in listed
    assert "-A -t 192.168.7.1:30080 -s lc -p 600" in listed


def test_links_are_as_strict_as_asked_and_no_stricter_afterwards(node: Node) -> None:
    def strict() -> str | None:
        with entered(node.netns):
            return settings.read("net.ipv4.conf.all.arp_ignore")

    for mode, asked, found in (
        (Mode.IPVS, True, "1"),
        (Mode.IPVS, None, "1"),
        (Mode.IPVS, False, "0"),
        (Mode.IPVS, True, "1"),
        (Mode.IPTABLES, True, "0"),
    ):
        node.agree(KubeProxy(options(mode, strict_arp=asked), answering=False), "2")
        assert strict() == found, (mode, asked)


def test_what_others_alter_is_put_right(node: Node) -> None:
    proxy = KubeProxy(options(), answering=False)
    node.agree(proxy, "2", "3")
    for words in (
        (f"ipvsadm -D -t {VIP}:80",),
        (
            f"ipvsadm -E -t {VIP}:80 -s wrr -p 3",
            f"ipvsadm -e -t {VIP}:80 -r 10.1.0.2:8080 -m -w 0",
            f"ipvsadm -d -t {VIP}:80 -r 10.1.0.3:8080",
            "ipvsadm -A -t 192.0.2.9:9 -s rr",
            f"ipset del KUBE-CLUSTER-IP {VIP},tcp:80",
            "ipset add KUBE-CLUSTER-IP 192.0.2.9,tcp:9",
            f"ip addr del {VIP}/32 dev kube-ipvs0",
            "ip addr add 192.0.2.9/32 dev kube-ipvs0",
        ),
        ("ip link del kube-ipvs0", "ipset flush", "iptables -t nat -F KUBE-SERVICES"),
    ):
        shell("; ".join(f"ip netns exec {node.netns} {one}" for one in words))
        until(lambda: bool(node.agree(proxy, "2", "3").repaired))
        node.agree(proxy, "2", "3")
        with entered(node.netns):
            left = list(difference(proxy.blocks, virtual_servers.read(Family)))
        assert left == [], words


def test_virtual_servers_in_excluded_prefixes_are_left_alone(node: Node) -> None:
    proxy = KubeProxy(options(exclude_cidrs=("192.0.2.0/24",)), answering=False)
    node.agree(proxy, "2", "3")
    for words in ("-A -t 192.0.2.9:9 -s rr", "-a -t 192.0.2.9:9 -r 10.1.0.2:9 -m"):
        shell(f"ip netns exec {node.netns} ipvsadm {words}")
    shell(f"ip netns exec {node.netns} ipvsadm -A -t 192.0.3.9:9 -s rr")

    def addresses() -> set[str]:
        with entered(node.netns):
            return {one.address for one in ipvs.servers()} - {VIP, "192.168.7.1"}

    until(lambda: bool(node.agree(proxy, "2", "3").repaired))
    assert addresses() == {"192.0.2.9"}
    node.agree(KubeProxy(replace(proxy.options, mode=Mode.IPTABLES), answering=False), "2", "3")
    assert addresses() == {"192.0.2.9"}
    with entered(node.netns):
        assert cleanup(("192.0.2.0/24",))
        ((one,),) = (server.reals for server in ipvs.servers())
    assert one.text == "10.1.0.2:9"


def test_what_ip_vs_remembers_is_kept_for_as_long_as_asked(node: Node) -> None:
    asked = Timeouts(tcp=600, udp=30)
    proxy = KubeProxy(options(timeouts=asked), answering=False)
    done = node.agree(proxy, "2", "3").settings
    assert {"ip_vs.timeout_tcp": "600", "ip_vs.timeout_udp": "30"}.items() <= done.items()
    shell(f"ip netns exec {node.netns} ipvsadm --set 5 60 0")
    assert node.agree(proxy, "2", "3").settings == {"ip_vs.timeout_tcp": "600"}
    with entered(node.netns):
        assert ipvs_timeouts.read() == Timeouts(tcp=600, tcp_fin=60, udp=30)


@pytest.mark.parametrize("scheduler", ["mh", "sh", "dh"])
def test_who_hashes_to_an_endpoint_that_is_ending_goes_to_another(
    node: Node, scheduler: str
) -> None:
    places = [f"192.168.7.{number}" for number in range(2, 10)]  # each is its own client, too
    shell("; ".join(f"ip -n {node.netns} addr add {one}/32 dev lo" for one in places))
    proxy = KubeProxy(options(scheduler=scheduler), answering=False)
    node.agree(proxy, "2")
    with ExitStack() as held:
        socks = [held.enter_context(closing(node.connect(one, NODE_PORT))) for one in places]
        assert {answer(one) for one in socks} == {"2"}
        node.agree(proxy, "3")
        assert {node.ask(one, NODE_PORT) for one in places} == {"3"}
        assert scheduler == "dh" or {answer(one) for one in socks} == {"2"}


def test_every_scheduler_sends_clients_to_endpoints_and_takes_over_from_another(node: Node) -> None:
    for scheduler in SCHEDULERS:
        proxy = KubeProxy(options(scheduler=scheduler), answering=False)
        assert node.agree(proxy, "2", "3").steps
        assert {node.ask(), node.ask()} <= {"2", "3"}
        with entered(node.netns):
            left = list(difference(proxy.blocks, virtual_servers.read(Family)))
        assert left == [], scheduler
        with entered(node.netns):
            saved = subprocess.run(("ipvsadm", "-Sn"), capture_output=True, text=True).stdout
        (head,) = proxy.blocks[Family.IPV4, Sort.SERVER, "ipvs", f"TCP {VIP}:{PORT}"].head
        assert f"-A -t {VIP}:{PORT} {head}\n" in saved


def test_an_endpoint_with_connections_is_left_when_they_end(node: Node) -> None:
    proxy = KubeProxy(options(), answering=False)
    node.agree(proxy, "2")
    with closing(node.connect()) as held:
        assert answer(held) == "2"
        node.agree(proxy, "3")
        assert reals(node) == {"10.1.0.2:8080": 0, "10.1.0.3:8080": 1}
        assert {node.ask() for _ in range(4)} == {"3"}
        assert answer(held) == "2"
        # Wanted again, it is one of them again.
        node.agree(proxy, "2", "3")
        assert reals(node) == {"10.1.0.2:8080": 1, "10.1.0.3:8080": 1}
        node.agree(proxy, "3")
        assert node.agree(proxy, "3").repaired == []
        source = held.getsockname()
        asked = Flow(source[0], VIP, Protocol.TCP, source[1], PORT)
        with entered(node.netns):
            (one,) = connections([asked])
        assert (one.server, one.scheduler, one.real) == (f"TCP {VIP}:80", "rr", "10.1.0.2:8080")
        assert one.state == "ESTABLISHED"
        # Reset, it is remembered for ten seconds; ended in peace, for two minutes.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def gone() -> bool:
        assert node.agree(proxy, "3").repaired == []
        return reals(node) == {"10.1.0.3:8080": 1}

    until(gone)


@contextmanager
def asking(node: Node) -> Iterator[list[tuple[float, OSError]]]:
    """Ask again and again meanwhile; gives the errors, each with when its connection began."""
    failed: list[tuple[float, OSError]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                node.ask(within=patience.seconds(1.0))
            except OSError as error:
                failed.append((began, error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield failed
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("other", [Mode.IPTABLES, Mode.NFTABLES])
def test_another_mode_leaves_nothing_of_it_and_it_leaves_nothing_of_another(
    node: Node, other: Mode
) -> None:
    node.agree(KubeProxy(options(other), answering=False), "2", "3")
    with closing(node.connect()) as held, asking(node) as failed:
        first = answer(held)
        node.agree(KubeProxy(options(), answering=False), "2", "3")
        with entered(node.netns):
            assert not nftables.read(Family)
            assert ipvs.device() is not None
        assert answer(held) == first, "what another mode translated goes on"
        node.agree(KubeProxy(options(other), answering=False), "2", "3")
        over = time.monotonic()
        with entered(node.netns):
            assert (ipvs.servers(), ipset.read(), ipvs.device()) == ([], {}, None)
            saved = subprocess.run(("iptables-nft-save",), capture_output=True, text=True).stdout
        assert "match-set" not in saved
        assert "IPVS" not in saved
        assert answer(held) == first
        assert {node.ask() for _ in range(8)} <= {"2", "3"}
    # A connection that is made while the mode changes may fail, as there is but one; and one
    # through ip_vs ends with its virtual server.
    assert len(failed) <= 2, failed
    assert all(began < over for began, _ in failed), failed


def test_no_virtual_server_is_overlooked_beside_those_of_other_namespaces(node: Node) -> None:
    beside = f"{PREFIX}2"
    for name in (node.netns, beside):
        lines = [f"-A -t 10.96.{one // 200}.{one % 200 + 1}:80 -s rr" for one in range(300)]
        lines += [
            f"{one.replace('-A', '-a').removesuffix(' -s rr')} -r 10.1.0.2:80 -m" for one in lines
        ]
        command = ("ip", "netns", "exec", name, "ipvsadm", "-R")
        subprocess.run(command, input="\n".join(lines) + "\n", text=True, check=True)
    with entered(node.netns):
        found = ipvs.servers()
    assert len(found) == 300
    assert all(len(one.reals) == 1 for one in found)
