"""Pods with an address of each family: packets between nodes, out of the cluster, and drift."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import Cli, asked, eventually, inside, ip, namespaces, topology

pytestmark = pytest.mark.lab


def dual(lab: str, backend: str = "vxlan") -> str:
    network = f"{{Network: 10.244.0.0/16, EnableIPv6: true, Backend: {{Type: {backend}}}}}"
    return topology(lab).replace("{Network: 10.244.0.0/16}", network)


@pytest.fixture(scope="module", params=["vxlan", "host-gw"])
def two(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[Cli]:
    lab = f"d{worker_id.removeprefix('gw')}x{request.param[0]}"
    command = Cli(lab, tmp_path_factory.mktemp("lab"))
    command("up", command.file(dual(lab, request.param)))
    yield command
    command("down")
    assert namespaces(lab) == [] and not Path("/run/netlab", lab).exists()


def ips(cli: Cli) -> dict[str, list[str]]:
    """Return the addresses of each pod, IPv4 first."""
    return {
        pod["metadata"]["name"]: [one["ip"] for one in pod["status"]["podIPs"]]
        for pod in cli.get("pods")["items"]
    }


def test_pods_have_an_address_of_each_family_of_their_nodes_lease(two: Cli) -> None:
    leases = {one["spec"]["node"]: one["spec"] for one in two.get("leases")["items"]}
    for name, (ipv4, ipv6) in ips(two).items():
        lease = leases[name.split("-")[0]]
        assert ipv4.rpartition(".")[0] == lease["subnet"].rpartition(".")[0]
        assert ipv6.rpartition("::")[0] == lease["subnetV6"].rpartition("::")[0]
        assert f"{ipv4},{ipv6}" in two("get", "pod", name, "-o", "wide").stdout


def test_a_second_up_has_nothing_to_do(two: Cli) -> None:
    backend = "host-gw" if two.lab.endswith("h") else "vxlan"
    eventually(lambda: two.status()["converged"])
    assert two("plan", two.file(dual(two.lab, backend))).stdout == ""


@pytest.mark.parametrize("to", ["n1-p2", "n2-p1"])
def test_pods_reach_each_other_by_ipv6(two: Cli, to: str) -> None:
    address = ips(two)[to][1]
    two("exec", "n1-p1", "--", "ping", "-6", "-c1", "-W2", address)
    told = asked(two.netns("n1", "default", "n1-p1"), address)
    assert told["pod"] == to and told["client"] == ips(two)["n1-p1"][1]


def test_a_packet_between_nodes_is_in_an_envelope_of_ipv6_or_bare(two: Cli) -> None:
    own, peer = two.netns("n1"), ips(two)["n2-p1"][1]
    route = inside(own, "ip", "-6", "route", "get", peer)
    if two.lab.endswith("h"):
        assert "via fd00:192:168:50::102 dev eth0" in route
        return
    assert "dev flannel-v6.1" in route
    (link,) = ip(own, "link", "show", "flannel-v6.1")
    assert link["linkinfo"]["info_data"]["local6"] == "fd00:192:168:50::101"

    def sent() -> int:
        (link,) = ip(own, "-s", "link", "show", "flannel-v6.1")
        return int(link["stats64"]["tx"]["packets"])

    before = sent()
    two("exec", "n1-p1", "--", "ping", "-6", "-c2", "-i0.2", "-W2", peer)
    assert sent() - before >= 2


def test_large_packets_find_the_size_that_fits(two: Cli) -> None:
    peer = ips(two)["n2-p1"][1]
    two("exec", "n1-p1", "--", "ping", "-6", "-c4", "-i0.2", "-W2", "-s1390", peer)


def test_a_pod_leaves_the_cluster_with_its_nodes_address(two: Cli) -> None:
    told = asked(two.netns("n1", "default", "n1-p1"), "2001:db8:1::10")
    assert told["client"] == "fd00:192:168:50::101"


def test_between_pods_nothing_is_masqueraded_and_nodes_come_as_themselves(two: Cli) -> None:
    told = asked(two.netns("n1"), ips(two)["n1-p1"][1])
    assert told["client"].startswith("fd00:10:244:")
    closed = two(
        "exec", "client", "--", "ping", "-6", "-c1", "-W1", ips(two)["n1-p1"][1], code=None
    )
    assert closed.returncode != 0  # not published


def test_an_attached_namespace_is_a_machine_of_both_families(two: Cli) -> None:
    box, address = f"{two.lab}box", "fd00:192:168:50::60"
    subprocess.run(["ip", "netns", "add", box], check=True)
    attach = ("attach", box, "--address", "192.168.50.60", "--address6", address)
    try:
        inside(box, "ip", "link", "add", "own0", "up", "type", "bridge")
        inside(box, "ip", "-6", "route", "add", "default", "via", "fe80::1", "dev", "own0")
        said = two(*attach, code=2).stderr
        assert f"{box} has a default route already: via fe80::1 dev own0" in said
        assert not two.status()["attached"]
        inside(box, "ip", "link", "del", "own0")
        assert f"attached as 192.168.50.60 and {address}" in two(*attach).stdout
        [told] = two.status()["attached"]
        assert (told["address"], told["address6"]) == ("192.168.50.60", address)
        two("exec", "node/n1", "--", "ping", "-6", "-c1", "-W2", address)
        assert asked(box, "2001:db8:1::10")["client"] == address
        said = two("probe", "n1-p1", address, code=2).stderr
        assert "is a foreign machine's" in said
        inside(box, "ip", "-6", "addr", "del", f"{address}/64", "dev", "eth0")
        ping = ("exec", "node/n1", "--", "ping", "-6", "-c1", "-W1", address)
        eventually(lambda: two(*ping, code=None).returncode == 0, what="it is repaired")
        two("detach", box)
    finally:
        subprocess.run(["ip", "netns", "del", box], check=True)


def test_what_etcd_holds_is_flannels(two: Cli) -> None:
    lease = next(one for one in two.get("leases")["items"] if one["spec"]["node"] == "n1")
    key = f"/coreos.com/network/subnets/{lease['metadata']['name']}"
    done = two(
        *("exec", "master", "--", "env", "ETCDCTL_API=3", "etcdctl"),
        *("--endpoints", "192.168.50.10:2379", "get", "--print-value-only", key),
    )
    value = json.loads(done.stdout)
    assert "&" in key and value["PublicIPv6"] == "fd00:192:168:50::101"
    assert ("BackendV6Data" in value) == (not two.lab.endswith("h"))


@pytest.mark.parametrize(
    "breaks",
    [
        "ip -6 route del {peer}",
        "ip addr flush dev docker0 scope global",
        "ip6tables-nft -t nat -F FLANNEL-POSTRTG; ip6tables-nft -F FLANNEL-FWD",
        "sysctl -q -w net.ipv6.conf.all.forwarding=0",
        "sysctl -q -w net.ipv6.conf.all.disable_ipv6=1",
    ],
)
def test_drift_is_put_right_within_two_seconds(two: Cli, breaks: str) -> None:
    node = two.netns("n1")
    eventually(lambda: two.status()["converged"])
    leases = {one["spec"]["node"]: one["spec"] for one in two.get("leases")["items"]}
    marks = two.log().count("repaired: ")
    inside(node, "sh", "-ec", breaks.format(peer=leases["n2"]["subnetV6"]))
    eventually(lambda: two.log().count("repaired: ") > marks, what=f"{breaks}: repaired")
    ping = ("exec", "n1-p1", "--", "ping", "-6", "-c1", "-W1", ips(two)["n2-p1"][1])
    eventually(lambda: two(*ping, code=None).returncode == 0, what=f"{breaks}: pods meet")
