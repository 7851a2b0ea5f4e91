"""doctor's tries, really made: what is there is found, what is taken away is missed."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from netlab import capabilities
from netlab.capabilities import Capability, trial
from netlab.errors import CapabilityError

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).parents[2]
NOBODY = 65534
PR_SET_DUMPABLE = 4  # linux/prctl.h


def named(found: list[Capability]) -> dict[str, Capability]:
    return {capability.name: capability for capability in found}


@pytest.fixture(scope="module")
def here() -> dict[str, Capability]:
    """What this machine can do, tried once."""
    return named(capabilities.tried())


def test_a_machine_that_runs_the_tests_can_run_labs(here: dict[str, Capability]) -> None:
    assert [c for c in here.values() if c.required and not c.ok] == []


def test_tries_agree_with_ip_about_dummy_devices(here: dict[str, Capability]) -> None:
    """Somebody else's word: `ip link add` in a namespace of its own."""
    command = ["unshare", "-n", "ip", "link", "add", "nltest0", "type", "dummy"]
    made = subprocess.run(command, capture_output=True).returncode == 0
    assert here["dummy"].ok == made


def test_missing_programs_are_named_with_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netlab.processes.commands._PATH", "/nonexistent")
    found = named(capabilities.tried())
    for name, package in (
        ("etcd", "etcd-server"),
        ("nft", "nftables"),
        ("iptables-nft", "iptables"),
    ):
        assert not found[name].ok
        assert package in found[name].remedy
    assert found["veth"].ok and not found["IPv6"].ok
    with pytest.raises(CapabilityError, match="EnableIPv6 needs IPv6"):
        capabilities.require_ipv6()


def test_a_required_gap_makes_doctor_exit_with_3(tmp_path: Path) -> None:
    program = (
        "from netlab.processes import commands\n"
        "commands._PATH = '/nonexistent'\n"
        "from netlab.cli.program import run\n"
        "raise SystemExit(run(['doctor']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3
    assert "etcd: apt install etcd-server" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("missing: no lab can run here")


def in_child(action: Callable[[], bool]) -> bool:
    """Return what *action* found in a process that may give up its privileges."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if action() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_without_root_everything_is_tried_in_a_user_namespace(
    here: dict[str, Capability],
) -> None:
    if not here["user namespace"].ok:
        pytest.skip("user namespace")

    def action() -> bool:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        # A process that changed its user does not own its /proc files; a user's process does.
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)
        found = named(capabilities.tried())
        return found["veth"].ok and found["nft"].ok and found["AF_PACKET ring"].ok

    assert in_child(action)


def test_a_try_that_hangs_fails_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "DEADLINE", 2.0)

    def hang() -> str:
        time.sleep(60)
        return ""

    began = time.monotonic()
    found = trial.outcomes([lambda: "fine", hang, lambda: "never"])
    assert time.monotonic() - began < 20
    assert found == [(True, "fine")] + [(False, "the try did not come to an end")] * 2


def test_tries_do_not_see_the_hosts_devices() -> None:
    def devices() -> str:
        return " ".join(sorted(os.listdir("/proc/self/net/dev_snmp6")))

    ((ok, seen),) = trial.outcomes([devices])
    assert ok
    assert set(seen.split()) <= {"lo"}
