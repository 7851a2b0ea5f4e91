"""Whatever is broken behind the agent's back is whole again within two seconds."""

from __future__ import annotations

import subprocess
import time

import pytest
from labs import Cli, eventually, ip

pytestmark = pytest.mark.lab

# (id, what breaks it in node n1, what shows that it is whole)
DRIFTS = [
    ("overlay route", "ip route del {peer}", "ip route show {peer}"),
    (
        "overlay fdb entry",
        "bridge fdb del {peer_mac} dev flannel.1 dst 192.168.50.102",
        "bridge fdb show dev flannel.1 | grep {peer_mac}",
    ),
    (
        "overlay neighbor",
        "ip neigh del {peer_first} dev flannel.1",
        "ip neigh show dev flannel.1 | grep {peer_first}",
    ),
    ("vxlan device", "ip link del flannel.1", "ip route show {peer} | grep flannel.1"),
    (
        "vxlan down",
        "ip link set flannel.1 down",
        "ip -br link show flannel.1 | grep -w UP,LOWER_UP",
    ),
    ("bridge", "ip link del docker0", "ip -br addr show docker0 | grep 10.244"),
    ("bridge down", "ip link set docker0 down", "ip -br link show docker0 | grep -w UP"),
    ("bridge address", "ip addr flush dev docker0", "ip -br addr show docker0 | grep 10.244"),
    ("veth", "ip link del {veth}", "ip -br link show {veth} | grep UP"),
    (
        "veth out of the bridge",
        "ip link set {veth} nomaster",
        "ip link show master docker0 | grep {veth}",
    ),
    (
        "hairpin",
        "bridge link set dev {veth} hairpin off",
        "bridge -d link show dev {veth} | grep 'hairpin on'",
    ),
    ("mtu", "ip link set {veth} mtu 1000", "ip link show {veth} | grep 'mtu 1450'"),
    (
        "forwarding rule",
        "iptables-nft -F FLANNEL-FWD",
        "iptables-nft -S FLANNEL-FWD | grep -c ACCEPT | grep 2",
    ),
    (
        "masquerade rules",
        "iptables-nft -t nat -F FLANNEL-POSTRTG",
        "iptables-nft -t nat -S FLANNEL-POSTRTG | grep MASQUERADE",
    ),
    (
        "masquerade jump",
        "iptables-nft -t nat -D POSTROUTING 2",
        "iptables-nft -t nat -S POSTROUTING | grep FLANNEL-POSTRTG",
    ),
    ("all rules", "nft flush ruleset", "iptables-nft -t nat -S POSTROUTING | grep FLANNEL-POSTRTG"),
    ("uplink address", "ip addr flush dev eth0", "ip -br addr show eth0 | grep 192.168.50.101"),
    ("default route", "ip route del default", "ip route show default | grep 192.168.50.1"),
    ("uplink", "ip link del eth0", "ip route show {peer} | grep flannel.1"),
    (
        "pod address",
        "ip netns exec {pod} ip addr flush dev eth0",
        "ip netns exec {pod} ip route show default | grep eth0",
    ),
    (
        "pod route",
        "ip netns exec {pod} ip route del default",
        "ip netns exec {pod} ip route show default | grep eth0",
    ),
    (
        "pod link",
        "ip netns exec {pod} ip link del eth0",
        "ip netns exec {pod} ip route show default | grep eth0",
    ),
    (
        "pod namespace",
        "ip netns del {pod}",
        "ip netns exec {pod} ip route show default | grep eth0",
    ),
]


def shell(netns: str, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ip", "netns", "exec", netns, "sh", "-c", line], capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("breaks", "whole"),
    [pytest.param(b, w, id=i) for i, b, w in DRIFTS],
)
def test_drift_is_repaired_within_two_seconds(small: Cli, breaks: str, whole: str) -> None:
    node = small.netns("n1")
    eventually(lambda: small.status()["converged"], what="converged before")
    peer = next(n for n in small.status()["nodes"] if n["name"] == "n2")["subnet"]
    peer_first = peer.split("/")[0]
    mac = next(
        n["lladdr"] for n in ip(node, "neigh", "show", "dev", "flannel.1") if n["dst"] == peer_first
    )
    veth = next(link["ifname"] for link in ip(node, "link") if link["ifname"].startswith("veth"))
    words = {
        "peer": peer,
        "peer_first": peer_first,
        "peer_mac": mac,
        "veth": veth,
        "pod": small.netns("n1", "default", "n1-p1"),
    }
    check = whole.format(**words)
    assert shell(node, check).returncode == 0, f"not whole before: {check}"
    marks = small.log().count("repaired: ")
    done = shell(node, breaks.format(**words))
    assert done.returncode == 0, done.stderr
    seconds = eventually(lambda: shell(node, check).returncode == 0, what=check)
    assert seconds < 2.0
    if "pod namespace" not in breaks:
        eventually(lambda: small.log().count("repaired: ") > marks, what="the log says so")


def test_the_lab_still_answers_after_all_that(small: Cli) -> None:
    eventually(lambda: small.status()["converged"])
    pods = {p["metadata"]["name"]: p["status"]["podIP"] for p in small.get("pods")["items"]}
    done = small("probe", "n1-p1", f"{pods['n2-p1']}:80/tcp", code=None)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_ours_is_left_alone(small: Cli) -> None:
    node = small.netns("n1")
    for line in (
        "ip link add foreign0 type bridge",
        "ip route add 198.18.0.0/24 via 192.168.50.1",
        "iptables-nft -A FORWARD -s 198.18.0.0/24 -j DROP",
    ):
        assert shell(node, line).returncode == 0
    shell(node, "iptables-nft -F FLANNEL-FWD")
    eventually(lambda: "ACCEPT" in shell(node, "iptables-nft -S FLANNEL-FWD").stdout)
    time.sleep(1.2)  # a full comparison follows a repair within a second
    assert shell(node, "ip link show foreign0").returncode == 0
    assert "198.18.0.0/24" in shell(node, "ip route").stdout
    assert "198.18.0.0/24" in shell(node, "iptables-nft -S FORWARD").stdout
    shell(
        node,
        "ip link del foreign0; ip route del 198.18.0.0/24; "
        "iptables-nft -D FORWARD -s 198.18.0.0/24 -j DROP",
    )
