"""A two-node VXLAN cluster made with ip(8), iptables(8) and nft(8) alone.

An independent world for the sensors, probes and verdicts: no code of netlab's makes any of its
kernel objects, so a mistake in netlab's own cannot hide itself here. Its pods answer by the
twenty lines of server below.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from netlab import world
from netlab.cluster import Cluster, cluster
from netlab.kernel.netns import entered
from netlab.model.kubernetes import Meta
from netlab.model.lab import Gateway, Lab, LabNode, Master, Network, Segment, Underlay

NODES = {"node1": "192.168.50.11", "node2": "192.168.50.12"}
PODS = {"a": ("node1", "10.244.1.2"), "b": ("node1", "10.244.1.3"), "c": ("node2", "10.244.2.2")}
MACS = {"node1": "02:6e:6c:00:01:01", "node2": "02:6e:6c:00:01:02"}
PORT = 80


def lab(name: str) -> Lab:
    return Lab(
        metadata=Meta(name=name),
        underlay=Underlay(segments=[Segment("lan", "192.168.50.0/24")]),
        master=Master("192.168.50.10"),
        nodes=[LabNode(node, address) for node, address in NODES.items()],
        network=Network("10.244.0.0/16"),
        gateway=Gateway("192.168.50.1", publish=["30000-32767/tcp", "30000-32767/udp"]),
    )


def described(name: str) -> Cluster:
    """The world as netlab would know it from etcd."""
    documents = tuple(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod, "namespace": "default"},
            "spec": {
                "nodeName": node,
                "containers": [
                    {
                        "name": "web",
                        "ports": [
                            {"containerPort": PORT, "protocol": "TCP"},
                            {"containerPort": PORT, "protocol": "UDP"},
                        ],
                    }
                ],
            },
            "status": {"podIP": address, "phase": "Running"},
        }
        for pod, (node, address) in PODS.items()
    )
    leases = {
        address: (f"10.244.{number}.0/24", MACS[node])
        for number, (node, address) in enumerate(NODES.items(), start=1)
    }
    return cluster(lab(name), documents, leases=leases)


def run(script: str) -> str:
    """Run a shell script, all of it or an error with what it said."""
    done = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{script}\n{done.stderr}"
    return done.stdout


def recipe(state: Cluster) -> str:
    """The commands that make the world."""
    name = state.lab.name
    lines = []
    for short in ("underlay", "gateway", "internet", "client", *NODES):
        lines += [f"ip netns add {name}.{short}", f"ip -n {name}.{short} link set lo up"]
        quiet = "net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
        loose = "net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0"
        lines.append(f"ip netns exec {name}.{short} sysctl -qw {quiet} {loose}")
    lines.append(f"ip -n {name}.underlay link add br-lan up type bridge")
    for short, address in {"gateway": "192.168.50.1", **NODES}.items():
        lines.append(
            f"ip -n {name}.underlay link add {short} master br-lan up type veth "
            f"peer name eth0 netns {name}.{short}"
        )
        lines.append(f"ip -n {name}.{short} address add {address}/24 dev eth0")
        lines.append(f"ip -n {name}.{short} link set eth0 up")
    for short, net in {"internet": "203.0.113", "client": "198.51.100"}.items():
        lines += [
            f"ip -n {name}.gateway link add {short} up type veth peer name eth0 "
            f"netns {name}.{short}",
            f"ip -n {name}.gateway address add {net}.1/24 dev {short}",
            f"ip -n {name}.{short} address add {net}.10/24 dev eth0",
            f"ip -n {name}.{short} link set eth0 up",
            f"ip -n {name}.{short} route add default via {net}.1",
        ]
    lines.append(f"ip netns exec {name}.gateway sysctl -qw net.ipv4.ip_forward=1")
    body = world.firewall(state.lab).body
    rules = f"table ip firewall {{\n{body}}}\n"
    lines.append(f"ip netns exec {name}.gateway nft -f - <<'RULES'\n{rules}RULES")
    for node in state.nodes:
        lines += node_recipe(state, node.name)
    return "\n".join(lines)


def node_recipe(state: Cluster, short: str) -> list[str]:
    """The commands that make one node: docker0, flannel.1, the masquerade, its pods."""
    node = state.node(short)
    netns = node.netns
    length = node.subnet.partition("/")[2]
    sysctls = "net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1"
    lines = [
        f"ip netns exec {netns} sysctl -qw {sysctls}",
        f"ip -n {netns} route add default via 192.168.50.1",
        f"ip -n {netns} link add docker0 up type bridge",
        f"ip -n {netns} address add {node.bridge_address}/{length} dev docker0",
        f"ip -n {netns} link add flannel.1 address {node.vtep_mac} mtu 1450 type vxlan id 1 "
        f"local {node.address} dev eth0 dstport 8472 nolearning",
        f"ip -n {netns} address add {node.tunnel_address}/32 dev flannel.1",
        f"ip -n {netns} link set flannel.1 up",
    ]
    for peer in state.nodes:
        if peer != node:
            lines += [
                f"ip -n {netns} neighbour add {peer.tunnel_address} lladdr {peer.vtep_mac} "
                "dev flannel.1 nud permanent",
                f"bridge -n {netns} fdb add {peer.vtep_mac} dev flannel.1 dst {peer.address}",
                f"ip -n {netns} route add {peer.subnet} via {peer.tunnel_address} "
                "dev flannel.1 onlink",
            ]
    network = state.lab.network.Network
    rules = [
        "-N FLANNEL-POSTRTG",
        "-A POSTROUTING -j FLANNEL-POSTRTG",
        f"-A FLANNEL-POSTRTG -s {node.subnet} -d {network} -j RETURN",
        f"-A FLANNEL-POSTRTG -s {network} -d {node.subnet} -j RETURN",
        f"-A FLANNEL-POSTRTG ! -s {network} -d {node.subnet} -j RETURN",
        f"-A FLANNEL-POSTRTG -s {network} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
    ]
    lines += [f"ip netns exec {netns} iptables-nft -t nat {rule}" for rule in rules]
    for pod in state.pods_on(short):
        lines += [
            f"ip netns add {pod.netns}",
            f"ip -n {pod.netns} link set lo up",
            f"ip -n {netns} link add {pod.veth} mtu 1450 master docker0 up type veth "
            f"peer name eth0 netns {pod.netns}",
            f"ip -n {pod.netns} address add {pod.ip}/{length} dev eth0",
            f"ip -n {pod.netns} link set eth0 up",
            f"ip -n {pod.netns} route add default via {node.bridge_address}",
        ]
    return lines


class Servers:
    """TCP and UDP servers in many namespaces that say whom they see, in one thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._serve)
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)

    def listen(self, netns: str, pod: str) -> None:
        with entered(netns):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        for sock in (udp, tcp):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", PORT))
            self._selector.register(sock, selectors.EVENT_READ, pod)
        tcp.listen()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._wake.send(b"x")
        if self._thread.is_alive():
            self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._wake.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._woken:
                    return
                with suppress(OSError):  # the way back is broken: that is what is being tested
                    answer(sock, key.data)


def answer(sock: socket.socket, pod: str) -> None:
    if sock.type == socket.SOCK_DGRAM:
        data, client = sock.recvfrom(2048)
        sock.sendto(said(pod, client, data), client)
        return
    connection, client = sock.accept()
    with connection:
        connection.settimeout(1)
        connection.sendall(said(pod, client, connection.recv(2048)))


def said(pod: str, client: tuple[str, int], data: bytes) -> bytes:
    words = {"pod": pod, "client": client[0], "clientPort": client[1]}
    document = {"request": data[:128].decode("latin-1"), **words}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def remove(name: str) -> None:
    """Remove every namespace of the world, also a half-made one."""
    for found in os.listdir("/run/netns") if os.path.isdir("/run/netns") else []:
        if found.split(".")[0] == name:
            subprocess.run(["ip", "netns", "delete", found], check=False)


@contextmanager
def two_nodes(name: str) -> Iterator[Cluster]:
    """The world called *name*, with its servers answering, for the duration."""
    state = described(name)
    servers = Servers()
    try:
        run(recipe(state))
        for pod in state.pods:
            servers.listen(pod.netns, pod.name)
        servers.listen(state.lab.netns(world.INTERNET), "internet")
        servers.start()
        yield state
    finally:
        servers.stop()
        remove(name)
