"""`vagrant up`, as far as it goes without Vagrant: scripts/vm-provision makes machines with systemd
the nodes of a lab, with no network but the one between them; and the agent is a service there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
from booted import DISKS, Booted
from boxes import boxes, converged, subnets, vtep
from labs import ROOT, eventually

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not shutil.which("systemd-nspawn"), reason="no systemd-nspawn"),
]
# A virtual environment from before, as on a machine whose network is gone: pip could make none.
VENV = f"""
mkdir -p /opt/netlab
cp {ROOT}/pyproject.toml /opt/netlab
ln -s {ROOT}/.venv /opt/netlab/.venv
cd /opt/netlab
{{ cat pyproject.toml; echo /opt/netlab; python3 -V; }} | sha256sum >.venv/netlab.stamp
"""
SERVICE = "netlab-agent"


def provisioned(box: Booted, *, count: int = 2, mode: str = "iptables") -> str:
    """Run the script on *box*; return what it said."""
    begun = time.monotonic()
    done = box.run("sh", f"{ROOT}/scripts/vm-provision", str(box.number), str(count), mode)
    print(f"{box.name} provisioned in {time.monotonic() - begun:.1f} s")
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Booted, Booted]]:
    """Both machines, as after `vagrant up`."""
    with boxes(2, Booted, disks=DISKS) as (first, second):
        for box in (first, second):
            box.run("sh", "-ec", VENV)
            assert f"{box.name} of 2 is ready" in provisioned(box)
        yield first, second


def until_converged(box: Booted) -> None:
    """Wait for it; a machine that is not in time tells what is open, and what its agent said."""
    try:
        eventually(lambda: converged(box), what=f"{box.name} converges")
    except pytest.fail.Exception:
        print(box.netlab("status", code=None).stdout)
        print(box.out("journalctl", "-b", "-u", SERVICE, "--no-pager"))
        raise


def main_pid(box: Booted) -> str:
    return box.out("systemctl", "show", "--property=MainPID", "--value", SERVICE).strip()


def state(box: Booted) -> dict[str, Any]:
    """Return what of a machine a second run of the script might change."""
    pods = json.loads(box.netlab("get", "pods", "-A", "-o", "json").stdout)["items"]
    return {
        "agent": main_pid(box),
        "links": box.out("sh", "-c", "ip -o link | sed 's/ state.*//'"),
        "routes": box.out("ip", "-4", "route"),
        "rules": box.out("sh", "-c", r"iptables-save | grep -v '^#' | sed 's/\[.*\]//'"),
        "pods": {one["metadata"]["uid"]: one["status"]["podIP"] for one in pods},
        "leases": subnets(box.netlab("get", "leases").stdout),
        "files": box.out("sh", "-c", "cat /etc/netlab/* /etc/systemd/system/*; true"),
        "checkout": box.out("find", "/opt/netlab", "-newer", "/run/before"),
    }


def test_both_are_nodes_and_all_paths_across_them_are_proven(two: tuple[Booted, Booted]) -> None:
    for box in two:
        until_converged(box)
    found = json.loads(two[0].netlab("verify", "-o", "json").stdout)["paths"]
    passed = {one["path"] for one in found if one["outcome"] == "pass"}
    assert passed >= {"pod-pod-cross-node", "pod-clusterip", "nodeport", "namespaces"}


def test_a_second_run_changes_nothing(two: tuple[Booted, Booted]) -> None:
    for box in two:
        until_converged(box)
        box.run("touch", "/run/before")
        before = state(box)
        said = provisioned(box)
        assert "installing" not in said and "making" not in said
        assert state(box) == before


def test_a_changed_checkout_is_what_runs_afterwards(two: tuple[Booted, Booted]) -> None:
    _, second = two
    before = main_pid(second)
    second.run("sh", "-c", "echo >>/opt/netlab/netlab/__init__.py")
    provisioned(second)
    assert main_pid(second) != before
    second.run("cmp", f"{ROOT}/netlab/__init__.py", "/opt/netlab/netlab/__init__.py")


def test_a_stopped_service_ends_the_agent_and_nothing_else(two: tuple[Booted, Booted]) -> None:
    for box in two:
        until_converged(box)
        ours = "pgrep -f '[e]tcd --name|netlab[.]pods[.]server|netlab[.]nameserver'"
        kept = [*("ip -o link | sed 's/ state.*//'", "ls /run/netns", "ip -4 route", ours)]
        before = [box.out("sh", "-c", words) for words in kept]
        agent = main_pid(box)
        box.run("systemctl", "stop", SERVICE)
        assert box.run("test", "-e", f"/proc/{agent}", code=None).returncode
        assert [box.out("sh", "-c", words) for words in kept] == before
        assert before[-1]
        box.run("systemctl", "start", SERVICE)
        until_converged(box)


def test_an_agent_that_is_killed_is_started_again(two: tuple[Booted, Booted]) -> None:
    _, second = two
    agent = main_pid(second)
    second.run("kill", "-9", agent)
    eventually(lambda: main_pid(second) not in ("0", agent), what="systemd starts it again")
    until_converged(second)


def test_machines_that_boot_again_are_the_same_nodes(two: tuple[Booted, Booted]) -> None:
    first, second = two
    was = subnets(first.netlab("get", "leases").stdout), vtep(first), vtep(second)
    for box in two:
        box.power_off()
    begun = time.monotonic()
    for box in two:
        box.boot()
    for box in two:
        until_converged(box)
    print(f"both converged {time.monotonic() - begun:.1f} s after they were switched on")
    assert (subnets(first.netlab("get", "leases").stdout), vtep(first), vtep(second)) == was
    assert "nothing to change" in provisioned(first)


def test_another_mode_and_fewer_nodes_are_a_matter_of_another_run(
    two: tuple[Booted, Booted],
) -> None:
    first, second = two
    assert "nothing to change" not in provisioned(first, mode="nftables")
    eventually(lambda: "table ip kube-proxy" in second.out("nft", "list", "tables"))
    second.netlab("agent", "--leave")
    assert second.run("systemctl", "cat", SERVICE, code=None).returncode
    provisioned(first, count=1)
    assert subnets(first.netlab("get", "leases").stdout).__len__() == 1
    until_converged(first)
