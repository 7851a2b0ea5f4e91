"""The lab of the notes on three machines with a distribution's kernel: its nodes, on a real wire,
beside a card as VirtualBox's NAT gives it. An agent that is killed, a machine that is switched off
and on, one that is cut off, and an etcd that ends are noticed, and mended; each time is printed.
After all that every path is proven across the machines.

In each proxy mode and by each back end they are proven where namespaces play the machines: an
emulated processor would take longer for that than for all else. Here, in the mode that those lack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any

import pytest
import yaml
from wired import ROOT, Vm, Wired, eventually, wired

from netlab.verify.catalogue import PATHS
from netlab.verify.manifold import VARIANTS

HERE = ROOT / "tests/vm/machines"
UNPROVEN = {"kubectl-way"}  # needs a kube-apiserver
PROVEN = [path.id for path in PATHS if path.id not in {*VARIANTS, *UNPROVEN}]
TRIES = 4  # of a path: on a busy computer an emulated machine stands still now and then
GRACE = 15  # seconds; an emulated node is slow, not lost
ETCD = "http://192.168.50.11:2379"
PATIENCE = 300.0  # seconds for what takes 60 on a quiet machine
VERIFIED = 1500.0  # seconds for all paths
CARD = """
ip link add nat0 type dummy
ip addr add 10.0.2.15/24 dev nat0
ip link set nat0 up
ip route add default via 10.0.2.2 dev nat0
"""  # the same address on each
OWN = "ip -o -4 addr; ip -4 route; ip -o link | cut -d: -f2; cat /proc/sys/net/ipv4/ip_forward"
KILL = """
kill -9 $(grep -laz '^NETLAB_PROCESS=/run/netlab/spread:%s$' /proc/[0-9]*/environ | cut -d/ -f3)
"""

pytestmark = pytest.mark.slow


def notes() -> tuple[str, str]:
    """Return topologies/notes.yaml for machines of their own, the first of them the master's, too:
    the lab, and its objects."""
    lab, *objects = yaml.safe_load_all((ROOT / "topologies/notes.yaml").read_text())
    lab["metadata"]["name"] = "spread"
    lab["master"] = {"address": "192.168.50.11"}
    lab["nodeLifecycle"]["gracePeriodSeconds"] = GRACE
    return yaml.safe_dump(lab), yaml.safe_dump_all(objects)


class Lab:
    """The lab of the three machines: who is heard from, and whose packets arrive."""

    def __init__(self, run: Wired) -> None:
        self.run = run
        self.first, self.second, self.third = run.machines
        self.before: dict[int, str] = {}
        self.status: dict[str, Any] = {}  # what the first machine told last

    def up(self) -> None:
        for vm in self.run.machines:
            vm.run(CARD)
            self.before[vm.number] = vm.run(OWN)
        lab, objects = (self.first.directory / name for name in ("lab.yaml", "objects.yaml"))
        for file, text in zip((lab, objects), notes(), strict=True):
            file.write_text(text)
        self.first.run(f"netlab up --master {lab}")
        for vm in (self.second, self.third):
            vm.begin("exec netlab join 192.168.50.11 --run")
        self.first.begin("exec netlab get nodes -w", ending="watch")
        self.ready(0.0, 1, 2, 3)
        self.first.run(f"netlab apply --no-wait -f {objects} -f {HERE}/steady.yaml")
        eventually(self.whole, PATIENCE, "the lab converges")
        where = self.leases()
        targets = " ".join(f"node{n}={where[n][:-1]}1" for n in (2, 3))
        pod = self.first.run("ls /run/netns | grep spread.node1.default.steady").strip()
        python = f"python3 -SE {HERE}/watching.py 10.96.7.7:80 {targets}"
        self.first.begin(f"exec ip netns exec {pod} {python}", ending="watch")
        self.told(0.0, "watching")

    def whole(self) -> bool:
        said = self.first.run("netlab status -o json", code=None)
        self.status = json.loads(said or '{"converged": false}')
        return bool(self.status["converged"])

    def leases(self) -> dict[int, str]:
        """Return the subnets by their machine's number."""
        rows = self.first.run(
            f"etcdctl --endpoints {ETCD} get --prefix /coreos.com/network/subnets/"
        )
        found = re.findall(r"subnets/([\d.]+)-24\n.*192\.168\.50\.1(\d)\"", rows)
        return {int(number): subnet for subnet, number in found}

    def told(self, since: float, pattern: str) -> float:
        """Return when the first machine said the first line since *since* that fits."""
        found: list[float] = []

        def look() -> bool:
            lines = self.run.lines(since, 1)
            found[:] = [one.at for one in lines if re.search(pattern, one.text)]
            return bool(found)

        eventually(look, PATIENCE, f"{pattern}: {self.run.lines(since)}")
        return found[0]

    def ready(self, since: float, *numbers: int) -> float:
        return max(self.told(since, rf"^node{number} +Ready\b") for number in numbers)

    def unready(self, since: float, number: int) -> float:
        return self.told(since, rf"^node{number} +NotReady\b")

    def lost(self, since: float) -> list[float]:
        """Return when flows to the Service began that were not answered."""
        lines = [(one.at, one.text.split()) for one in self.run.lines(since, 1)]
        begun = [at - float(words[1]) for at, words in lines if words[0] == "lost"]
        return [at for at in begun if at >= since]

    def silences(self, since: float) -> list[str]:
        return [one.text for one in self.run.lines(since, 1) if " silent " in one.text]


def vtep(vm: Vm) -> str:
    return vm.run("cat /sys/class/net/flannel.1/address")


def tell(what: str, lost: Sequence[float] = (), **seconds: float) -> None:
    """Print times, in seconds, and how many flows were *lost*."""
    times = ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())
    print(f"{what}: {times}; {len(lost)} flows lost")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The lab, once it has converged: booted once for all that follows."""
    begun = monotonic()
    with wired(3, memory=1024, within=3400, patience=PATIENCE) as run:
        found = Lab(run)
        booted = monotonic() - begun
        found.up()
        tell("three machines", booted=booted, converged=monotonic() - begun)
        yield found


def test_all_are_nodes_of_one_lab(lab: Lab) -> None:
    nodes = lab.status["nodes"]
    assert [one["state"] for one in nodes] == ["Ready"] * 3
    assert {one["uplink"] for one in nodes} == {"eth0"}
    assert len(set(lab.leases().values())) == 3


def test_an_agent_that_is_killed_stops_no_packet(lab: Lab) -> None:
    begun = monotonic()
    lab.second.run(KILL % "agent")
    noticed = lab.unready(begun, 2)
    again = monotonic()
    lab.second.begin("exec netlab join 192.168.50.11 --run")
    back = lab.ready(again, 2)
    assert lab.silences(begun) == []
    tell("agent killed", lab.lost(begun), noticed=noticed - begun, ready=back - again)


def test_a_machine_that_was_off_has_its_lease_and_mac(lab: Lab) -> None:
    leases, mac = lab.leases(), vtep(lab.third)
    begun = monotonic()
    lab.third.reset()
    eventually(lambda: lab.third.boots() == 2, PATIENCE, "it boots")
    booted = monotonic()
    noticed = lab.unready(begun, 3)
    assert lab.told(begun, r"^node3 silent")
    started = monotonic()
    lab.third.run(CARD)
    lab.third.begin("exec netlab join 192.168.50.11 --run")
    answers = lab.told(begun, r"^node3 answers")
    back = lab.ready(started, 3)
    assert (lab.leases(), vtep(lab.third)) == (leases, mac)
    missed = lab.lost(begun)
    assert missed  # until the others' rules forget its pod
    tell(
        "machine switched off and on",
        missed,
        noticed=noticed - begun,
        last_flow_lost=max(missed) - begun,
        booted=booted - begun,
        packets=answers - started,
        ready=back - started,
    )


def test_a_machine_that_is_cut_off_is_a_node_again(lab: Lab) -> None:
    lease, mac = lab.leases(), vtep(lab.second)
    begun = monotonic()
    lab.run.plug(2, into=False)
    lab.told(begun, r"^node2 silent")
    noticed = lab.unready(begun, 2)
    healed = monotonic()
    missed = lab.lost(begun)
    lab.run.plug(2, into=True)
    answers = lab.told(healed, r"^node2 answers")
    back = lab.ready(healed, 2)
    assert (lab.leases(), vtep(lab.second)) == (lease, mac)
    assert missed
    tell(
        "machine cut off",
        missed,
        noticed=noticed - begun,
        last_flow_lost=max(missed) - begun,
        packets=answers - healed,
        ready=back - healed,
    )


def test_without_etcd_all_packets_flow(lab: Lab) -> None:
    begun = monotonic()
    lab.first.run(KILL % "agent" + KILL % "etcd")
    assert "refused" in lab.second.run("netlab join 192.168.50.11 2>&1", code=1)
    lab.first.begin("exec netlab agent --master")
    again = monotonic()
    eventually(lab.whole, PATIENCE, "the lab converges")
    tell("etcd ended", lab.lost(begun), away=again - begun, converged=monotonic() - again)
    assert lab.silences(begun) == []


def proven(lab: Lab, *words: str) -> dict[str, Any]:
    """Return what is found of each path that *words* end with; what fails is tried again."""
    begun = monotonic()
    found: dict[str, Any] = {}
    options, again = words[:-1], words[-1]
    for _ in range(TRIES):
        asked = f"netlab verify -o json {' '.join(options)} {again}"
        said = json.loads(lab.second.run(asked, code=None, within=VERIFIED))
        (told,) = said.get("modes", [said])
        found |= {one["path"]: one for one in told["paths"]}
        failed = {name: one for name, one in found.items() if one["outcome"] == "fail"}
        tell(f"verified {' '.join(options)}, {len(failed)} failing", paths=monotonic() - begun)
        for name, one in failed.items():
            print(name, one["evidence"], one["lastSeen"], one["expectedNext"])
        if not (again := " ".join(failed)):
            break
    return found


def test_every_path_is_proven_across_the_machines_after_all_that(lab: Lab) -> None:
    lab.first.run(f"netlab delete -f {HERE}/steady.yaml")
    found = proven(lab, " ".join(PROVEN))
    unproven = {name: one["evidence"] for name, one in found.items() if one["outcome"] != "pass"}
    assert unproven == {}
    assert set(found) == set(PROVEN)
    hops = found["pod-pod-cross-node"]["hops"]
    assert {hop["netns"].split(".")[1] for hop in hops} == {"node1", "node2", "node3"}
    assert all(hop["seen"] for hop in hops)


def test_virtual_servers_send_flows_across_the_machines(lab: Lab) -> None:
    found = proven(lab, "--proxy-mode", "ipvs", "node-clusterip nodeport")
    assert {name: one["outcome"] for name, one in found.items()} == {
        "node-clusterip": "pass",
        "nodeport": "pass",
    }
    assert any("ipvs" in line for line in found["nodeport"]["evidence"]), found["nodeport"]


def test_nothing_is_left_on_a_machine_that_has_left(lab: Lab) -> None:
    lab.second.run("netlab agent --leave")
    assert "10.0.2.15" in lab.before[2]
    assert lab.second.run(OWN) == lab.before[2]
