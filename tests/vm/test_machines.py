"""Two machines with a distribution's kernel are two nodes of one lab, and are so again when they
were switched off and on: over a real wire, beside a card as VirtualBox's NAT gives it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MACHINE = ROOT / "tests/vm/machines/machine.sh"
PROVEN = {
    *("pod-pod-cross-node", "pod-node", "flat-no-nat", "lease-in-etcd", "unique-pod-ip"),
    *("pod-clusterip", "node-clusterip", "nodeport"),
}
PATIENCE = 600.0  # seconds for what takes 40 on a quiet machine

pytestmark = pytest.mark.slow


def switched_on(out: Path, boot: str) -> dict[str, Any]:
    """Have both machines on until they have done their part; return what they left, by name."""
    for old in ("up", "ready1", "ready2", "asked1", "asked2", "proven", "saved", "left"):
        (out / old).unlink(missing_ok=True)
    words = ["--count", "2", "--memory", "1024", "--timeout", str(int(PATIENCE)), "--out", str(out)]
    done = subprocess.run(
        [str(ROOT / "scripts/vm"), *words, "--", "sh", str(MACHINE), str(out), boot],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE + 60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        "leases": [word for word in (out / "leases").read_text().split() if "/24" in word],
        "macs": [(out / f"mac{n}").read_text() for n in (1, 2)],
        "status": [json.loads((out / f"node{n}.json").read_text()) for n in (1, 2)],
        "answers": [
            [json.loads(line) for line in (out / f"answers{n}").read_text().splitlines()]
            for n in (1, 2)
        ],
    }


@pytest.fixture(scope="module")
def boots() -> Iterator[tuple[Path, Any, Any]]:
    """What both left when they were switched on for the first time, and again."""
    # Not pytest's own: after three other runs of pytest those are taken away.
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        yield out, switched_on(out, "first"), switched_on(out, "again")


def test_both_machines_are_nodes_of_one_lab(boots: tuple[Path, Any, Any]) -> None:
    for boot in boots[1:]:
        for status in boot["status"]:
            assert status["converged"]
            assert [node["state"] for node in status["nodes"]] == ["Ready", "Ready"]
            assert {node["uplink"] for node in status["nodes"]} == {"eth0"}


def test_pods_and_services_are_reached_over_the_wire(boots: tuple[Path, Any, Any]) -> None:
    for boot in boots[1:]:
        for number, (pod, service, port) in enumerate(boot["answers"], start=1):
            assert pod["node"] == f"node{3 - number}"
            assert {service["node"], port["node"]} <= {"node1", "node2"}
            assert pod["client"].startswith("10.244.")  # a pod's own address, not the machine's


def test_all_paths_are_proven_across_the_machines(boots: tuple[Path, Any, Any]) -> None:
    found = {one["path"]: one for one in json.loads((boots[0] / "verified").read_text())["paths"]}
    failed = [one for one in found.values() if one["outcome"] == "fail"]
    assert not failed, "\n".join([*failed[0]["evidence"], str(failed[0]["lastSeen"])])
    assert {name for name, one in found.items() if one["outcome"] == "pass"} >= PROVEN
    hops = found["pod-pod-cross-node"]["hops"]
    assert {hop["netns"].split(".")[1] for hop in hops} == {"node1", "node2"}
    assert all(hop["seen"] for hop in hops)


def test_machines_that_were_off_have_their_leases_and_macs(boots: tuple[Path, Any, Any]) -> None:
    _, first, again = boots
    assert len(first["leases"]) == 2
    assert (again["leases"], again["macs"]) == (first["leases"], first["macs"])


@pytest.mark.parametrize("number", [1, 2])
def test_nothing_is_left_on_a_machine_that_has_left(
    boots: tuple[Path, Any, Any], number: int
) -> None:
    before, after = ((boots[0] / f"{name}{number}").read_text() for name in ("before", "after"))
    assert "10.0.2.15" in before and after == before
