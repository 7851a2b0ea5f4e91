"""A real flanneld, which NETLAB_FLANNELD names: beside the nodes, and in the place of one's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flanneld import PROGRAM, Behind, Flanneld, meet, pods
from labs import Cli, asked, eventually, inside, ip, topology
from member import PREFIX, Member

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not PROGRAM, reason="NETLAB_FLANNELD names no flanneld"),
]
ADDRESS, ADDRESS6 = "192.168.50.60", "fd00:192:168:50::60"
NETWORKS = {
    "vxlan": "Backend: {Type: vxlan}",
    "DirectRouting": "Backend: {Type: vxlan, DirectRouting: true}",
    "host-gw": "Backend: {Type: host-gw}",
    "udp": "Backend: {Type: udp}",
    "vxlan, two stacks": "EnableIPv6: true, Backend: {Type: vxlan}",
    "host-gw, two stacks": "EnableIPv6: true, Backend: {Type: host-gw}",
}


def declared(lab: str, network: str, *, none: bool = False) -> str:
    """Two nodes of a pod each; *none*: n2 is `flannel: none`."""
    text = topology(lab, pods=1).replace("{Network: 10.244.0.0/16}", f"{{{network}}}")
    return text.replace("50.102}", "50.102, flannel: none}") if none else text


class Joined:
    """A lab of *network*, and a flanneld with a pod behind it in a namespace attached to it."""

    def __init__(self, cli: Cli, network: str) -> None:
        self.cli, self.network = cli, network
        self.netns = f"{cli.lab}box"
        within = ["ip", "netns", "exec", self.netns]
        self.flanneld = Flanneld(within, cli.directory, self.netns)
        self.behind = Behind(self.netns)

    def attach(self) -> None:
        of_ipv6 = ["--address6", ADDRESS6] if "IPv6" in self.network else []
        self.cli("attach", self.netns, "--address", ADDRESS, *of_ipv6)

    def exchange(self) -> None:
        """Its pod and one of each node ask each other, and see the other's own address."""
        own = self.behind.addresses
        for name, addresses in sorted(pods(self.cli).items()):
            netns = self.cli.netns(name.partition("-")[0], "default", name)
            eventually(lambda n=netns: reaches(n, own[0]), what=f"{name} reaches it")
            meet((netns, addresses), (self.behind.pod, own))

    def remove(self) -> None:
        self.flanneld.remove()
        self.behind.remove()
        self.cli("down", code=None)  # it may be down already
        subprocess.run(["ip", "netns", "del", self.netns], check=True)


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def joined(request: pytest.FixtureRequest, cli: Cli) -> Iterator[Joined]:
    cli("up", cli.file(declared(cli.lab, request.param)))
    made = Joined(cli, request.param)
    subprocess.run(["ip", "netns", "add", made.netns], check=True)
    try:
        made.attach()
        yield made
    finally:
        made.remove()


def reaches(netns: str, address: str) -> bool:
    words = ["ip", "netns", "exec", netns, "ping", "-qc1", "-W1", address]
    return not subprocess.run(words, capture_output=True).returncode


def ways(netns: str) -> set[str]:
    """The subnets of the overlay to which *netns* has a route by another machine."""
    found = [*ip(netns, "route"), *ip(netns, "-6", "route")]
    overlay = ("10.244.", "fd00:10:244:")
    return {one["dst"] for one in found if one["dst"].startswith(overlay) and "gateway" in one}


def leases(cli: Cli) -> dict[str, dict[str, Any]]:
    """The leases in etcd, by the member's address."""
    found = [one["spec"] for one in cli.get("leases")["items"]]
    return {one["publicIP"]: one for one in found}


def subnets(cli: Cli, *, but: str) -> set[str]:
    """All subnets in etcd but those of the member at *but*."""
    rest = [one for address, one in leases(cli).items() if address != but]
    return {one[key] for one in rest for key in ("subnet", "subnetV6") if one.get(key)}


def entries(netns: str, device: str) -> tuple[dict[str, str], dict[str, str]]:
    """The permanent neighbours of a vxlan device by address, and its FDB by MAC."""
    neighbours = ip(netns, "neigh", "show", "dev", device, "nud", "permanent")
    fdb = json.loads(inside(netns, "bridge", "-j", "fdb", "show", "dev", device))
    return (
        {one["dst"]: one["lladdr"] for one in neighbours if not one["dst"].startswith("ff")},
        {one["mac"]: one["dst"] for one in fdb if "dst" in one},
    )


def test_a_flanneld_and_netlabs_nodes_are_one_overlay(joined: Joined) -> None:
    cli, flanneld, netns = joined.cli, joined.flanneld, joined.netns
    udp = "udp" in joined.network
    flanneld.start()
    if not udp:  # its device leads everything to its daemon
        mine = subnets(cli, but="192.168.50.101") & subnets(cli, but="192.168.50.102")
        for node in ("n1", "n2"):
            assert eventually(lambda n=node: mine <= ways(cli.netns(n))) < 2.0
        assert eventually(lambda: ways(netns) == subnets(cli, but=ADDRESS)) < 2.0
    joined.behind.make(flanneld.environment())
    joined.exchange()
    [told] = cli.status()["foreign"]
    assert (told["publicIP"], told["attached"], told["lastError"]) == (ADDRESS, netns, "")
    assert cli.status()["converged"]
    if "{Type: vxlan}" in joined.network:
        peers = [one for address, one in leases(cli).items() if address != ADDRESS]
        assert entries(netns, "flannel.1") == (
            {one["subnet"].partition("/")[0]: one["vtepMAC"] for one in peers},
            {one["vtepMAC"]: one["publicIP"] for one in peers},
        )
    assert asked(joined.behind.pod, "203.0.113.10")["client"] == ADDRESS
    if "IPv6" in joined.network:
        assert asked(joined.behind.pod, "2001:db8:1::10")["client"] == ADDRESS6

    cli("node", "add", "n3")
    eventually(lambda: udp or ways(netns) == subnets(cli, but=ADDRESS), what="n3 is seen")
    for address in joined.behind.addresses:
        assert eventually(lambda a=address: reaches(cli.netns("n3"), a)) < 5.0
    cli("node", "remove", "n3")
    assert eventually(lambda: udp or ways(netns) == subnets(cli, but=ADDRESS)) < 2.0
    assert flanneld.complaints() == []

    before = leases(cli)[ADDRESS]["subnet"]
    for how, keep in ((signal.SIGTERM, True), (signal.SIGKILL, True), (signal.SIGTERM, False)):
        flanneld.end(how)
        if not udp:  # whose device goes with the daemon
            joined.exchange()
        if not keep:
            flanneld.file.unlink()
        flanneld.start()
        assert leases(cli)[ADDRESS]["subnet"] == before
        joined.exchange()
    assert flanneld.complaints() == []

    os.kill(cli.agent_pid(), signal.SIGKILL)
    cli("up", cli.file(declared(cli.lab, joined.network)))
    joined.exchange()
    os.kill(cli.etcd_pid(), signal.SIGKILL)
    eventually(lambda: cli.status()["converged"], what="etcd is back")
    cli("node", "add", "n3")
    seen = eventually(lambda: udp or ways(netns) == subnets(cli, but=ADDRESS), what="n3 is seen")
    assert seen < 10.0
    assert eventually(lambda: reaches(cli.netns("n3"), joined.behind.addresses[0])) < 10.0
    cli("node", "remove", "n3")
    joined.exchange()
    assert flanneld.complaints() == []

    cli("detach", netns)  # with the card goes what flanneld had on it
    joined.attach()
    flanneld.end()
    flanneld.start()
    joined.exchange()
    assert flanneld.complaints() == []

    Member(netns, ADDRESS, before).etcdctl("del", "--prefix", f"{PREFIX}/subnets/{before[:-3]}-")
    flanneld.ended()  # as it does when its lease is revoked
    assert eventually(lambda: cli.status()["foreign"] == []) < 2.0
    assert eventually(lambda: before not in ways(cli.netns("n1"))) < 2.0
    assert "Lease has been revoked" in flanneld.complaints()[0]
    flanneld.start()
    joined.exchange()

    cli("down")
    time.sleep(3)
    assert flanneld.process is not None and flanneld.process.poll() is None
    assert flanneld.complaints() == []


@pytest.mark.parametrize("joined", [NETWORKS["vxlan"]], indirect=True)
def test_leases_are_renewed_without_a_word_and_run_out(joined: Joined) -> None:
    cli, flanneld, netns = joined.cli, joined.flanneld, joined.netns
    flanneld.start("--subnet-lease-renew-margin=1439")  # after a minute
    mine = leases(cli)[ADDRESS]
    member = Member(netns, ADDRESS, mine["subnet"])
    other = leases(cli)["192.168.50.101"]
    eventually(lambda: len(ways(netns)) == 2 and mine["subnet"] in ways(cli.netns("n1")))
    held = [entries(one, "flannel.1") for one in (netns, cli.netns("n1"))]

    key = f"{PREFIX}/subnets/{other['subnet'].replace('/', '-')}"
    value = member.etcdctl("get", "--print-value-only", key).strip()
    short = member.etcdctl("lease", "grant", "600").split()[1]
    member.etcdctl("put", key, value, f"--lease={short}")  # which its node renews at once
    eventually(lambda: len(member.etcdctl("lease", "timetolive", short, "--keys").split("[")) > 1)
    eventually(
        lambda: key not in member.etcdctl("lease", "timetolive", short, "--keys"), what="renewed"
    )
    eventually(lambda: "Lease renewed" in flanneld.log(), within=90, what="its own is renewed")
    eventually(lambda: cli.status()["foreign"][0]["ttl"] > 86_390, what="the new time is told")
    assert [entries(one, "flannel.1") for one in (netns, cli.netns("n1"))] == held
    assert flanneld.complaints() == []

    flanneld.end(signal.SIGKILL)
    value = member.etcdctl("get", "--print-value-only", member.key).strip()
    short = member.etcdctl("lease", "grant", "5").split()[1]
    member.etcdctl("put", member.key, value, f"--lease={short}")
    eventually(lambda: mine["subnet"] not in ways(cli.netns("n1")), what="it has run out")
    assert cli.status()["foreign"] == [] and cli.status()["converged"]
    flanneld.start()
    assert leases(cli)[ADDRESS]["subnet"] == mine["subnet"]  # by its subnet file
    assert eventually(lambda: mine["subnet"] in ways(cli.netns("n1"))) < 2.0


@pytest.fixture
def on_n2(cli: Cli) -> Iterator[Flanneld]:
    made = Flanneld.on_node(cli, "n2")
    yield made
    made.remove()


def mesh(cli: Cli) -> None:
    """The pods of n1 and n2 ask each other, and see the other's own address."""
    every = pods(cli)
    here, there = (
        (cli.netns(node, "default", f"{node}-p1"), every[f"{node}-p1"]) for node in ("n1", "n2")
    )
    eventually(lambda: reaches(here[0], there[1][0]), what="n2's pod is reached")
    meet(here, there)


PATHS = ("pod-pod-cross-node", "pod-node", "flat-no-nat", "lease-in-etcd", "unique-pod-ip")


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_node_is_handed_over_to_a_flanneld_and_back(
    cli: Cli, on_n2: Flanneld, network: str
) -> None:
    own = cli.file(declared(cli.lab, network), "own.yaml")
    theirs = cli.file(declared(cli.lab, network, none=True), "theirs.yaml")
    cli("up", own)
    before = pods(cli)
    cli("up", theirs)
    on_n2.start()
    mesh(cli)
    assert pods(cli) == before and cli.status()["converged"]
    assert "nothing to change" in cli("plan", theirs).stderr
    assert f"{len(PATHS)} passed" in cli("verify", *PATHS).stdout
    for how in (signal.SIGTERM, signal.SIGKILL):
        on_n2.end(how)
        on_n2.start()
        mesh(cli)
    assert asked(cli.netns("n2", "default", "n2-p1"), "203.0.113.10")["client"] == "192.168.50.102"
    assert on_n2.complaints() == []

    on_n2.end()
    for command in BACK:  # of docs/foreign.md
        cli("exec", "node/n2", "--", *command.split(), code=None)
    cli("up", own)
    mesh(cli)
    assert pods(cli) == before and cli.status()["converged"]
    assert "nothing to change" in cli("plan", own).stderr


BACK = (
    "ip link del flannel.1",
    "ip link del flannel-v6.1",
    "ip -4 route flush root 10.244.0.0/16 proto boot",
    "ip -6 route flush root fd00:10:244::/56 proto boot",
)


def test_a_flanneld_is_started_anew_after_each_change_of_the_net_conf(
    cli: Cli, on_n2: Flanneld
) -> None:
    def up(network: str, *, code: int | None = 0) -> str:
        return cli("up", cli.file(declared(cli.lab, network, none=True)), code=code).stderr

    waits = "waits for the lease of a foreign flanneld"
    assert waits in up(NETWORKS["vxlan"], code=1)
    on_n2.start()
    eventually(lambda: cli.status()["converged"], what="the node has its lease")
    for old, new in (("vxlan", "host-gw"), ("host-gw", "udp"), ("udp", "vxlan")):
        said = up(NETWORKS[new], code=1)
        assert f"its back end is {old}, the lab's is {new}: start its foreign" in said
        on_n2.end()
        on_n2.start()
        eventually(lambda: cli.status()["converged"], what=f"it is of {new}")
        mesh(cli)
    # Its own words on peers of other back ends; never that it could not read one.
    expected = ("ignoring non-", "Ignoring non-", "Replacing existing route")
    assert [one for one in on_n2.complaints() if not any(w in one for w in expected)] == []
    said = up(NETWORKS["vxlan, two stacks"], code=1)
    assert "its lease is of IPv4 alone, the lab has two stacks: start its foreign" in said
