"""Two watches over every test: nothing may be left behind, and no skip may be silent.

1. A test marked `kernel` or `lab` that leaves a namespace, a process, a mount, a file below
   /run/netlab or any change in the host's own network namespace fails, even if it passed.
2. A test that uses a fixture which outlives it (a lab for a whole module) is checked when that
   module ends.
3. Where others make namespaces meanwhile (pytest-xdist's other workers, another test session on
   this machine), only the host's own namespace is compared test by test; what the whole run left
   is compared by the run's own process at its end.
4. The reason of every skip is printed, and added to the file that NETLAB_SKIPS names. What passed
   is added to the one that NETLAB_PASSED names: what a capability's want has skipped here is to be
   among it elsewhere (`proven.py`).
5. A skip that names a capability which this machine has, as `netlab doctor` tries it, fails the
   run: on a kernel that has everything, nothing may hide behind a skip.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Collection, Generator, Iterator
from pathlib import Path

import pytest
from proven import capabilities_named

MARK = b"NETLAB_PROCESS="
LABS = "file below /run/netlab"  # each has the name of a lab
ENDING = 3.0  # seconds in which what was told to end may still be there
Traces = dict[str, frozenset[str]]  # what kind of thing, and which of them there are


def host_traces() -> Traces:
    """Return what is in the host's own network namespace, which nobody may change."""
    return {
        "link of the host": frozenset(name for _, name in socket.if_nameindex()),
        "route of the host": frozenset(Path("/proc/net/route").read_text().splitlines()),
        "rule of the host": frozenset(host_rules()),
    }


def host_rules() -> list[str]:
    """Return the host's rule set, without counters; legacy tables by name."""
    if shutil.which("nft") is None or os.geteuid() != 0:
        return []
    command = ["nft", "--stateless", "list", "ruleset"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    legacy = Path("/proc/net/ip_tables_names")
    return listed + (legacy.read_text().split() if legacy.exists() else [])


def shared_traces() -> Traces:
    """Return what is of netlab on this machine, whoever made it."""
    return {
        "namespace": frozenset(entries("/run/netns")),
        LABS: frozenset(entries("/run/netlab")),
        "mount": frozenset(mounts()),
        "process": frozenset(marked_processes()),
    }


def entries(directory: str) -> list[str]:
    return os.listdir(directory) if os.path.isdir(directory) else []


def mounts() -> Iterator[str]:
    """Yield the mount points below /run/netns and /run/netlab."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4]
        if point.startswith(("/run/netns/", "/run/netlab/")):
            yield point


def marked_processes() -> Iterator[str]:
    """Yield the processes that carry netlab's mark from birth, as `pid MARK`."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path("/proc", pid, "environ").read_bytes()
            state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        for word in environment.split(b"\0"):
            if word.startswith(MARK) and state != "Z":
                yield f"{pid} {word.decode()}"


def left_behind(before: Traces, now: Traces) -> list[str]:
    """Return what differs, in words. Others' things may go meanwhile; the host's may not.

    A lab that was up before, and is, lives on: its containers end and begin, its pods are replaced.
    """
    labs = before.get(LABS, frozenset()) & now.get(LABS, frozenset())
    differences = [
        f"{kind} left behind: {name}"
        for kind in before
        for name in sorted(now[kind] - before[kind])
        if not is_of(labs, name)
    ]
    gone = [
        f"{kind} gone: {name}"
        for kind in before
        if kind.endswith("of the host")
        for name in sorted(before[kind] - now[kind])
    ]
    return differences + gone


def is_of(labs: Collection[str], thing: str) -> bool:
    """Return whether a namespace, mount or process belongs to one of *labs*."""
    return any(
        thing.startswith((f"{lab}.", f"/run/netns/{lab}.", f"/run/netlab/{lab}/"))
        or f" NETLAB_PROCESS=/run/netlab/{lab}:" in thing
        for lab in labs
    )


def others_at_work() -> bool:
    """Return whether namespaces may come from elsewhere: another worker or test session.

    NETLAB_ALONE=1 says that they do not.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        return True
    if os.environ.get("NETLAB_ALONE"):
        return False
    mine = family()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) in mine:
            continue
        try:
            words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(re.fullmatch(rb"(.*/)?pytest", word) for word in words[:4]):
            return True
    return False


def family() -> set[int]:
    """Return this process and those it descends from."""
    pids, pid = set(), os.getpid()
    while pid > 1:
        pids.add(pid)
        stat = Path("/proc", str(pid), "stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return pids


def traces(*, alone: bool) -> Traces:
    return {**host_traces(), **(shared_traces() if alone else {})}


def settled_difference(before: Traces) -> list[str]:
    """Return what is left behind, once what was ending has had time to end.

    While others are at work, only what was done to the host counts.
    """
    deadline = time.monotonic() + ENDING
    alone = True
    while True:
        now = traces(alone=alone)
        found = left_behind({kind: before[kind] for kind in now}, now)
        if not found or time.monotonic() > deadline:
            return found
        alone = alone and not others_at_work()
        time.sleep(0.02)


def watched(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("kernel", "lab"))


def outlived(item: pytest.Item) -> bool:
    """Return whether a fixture of *item* lives longer than the test."""
    info = getattr(item, "_fixtureinfo", None)
    definitions = info.name2fixturedefs.values() if info else ()
    return any(
        definition[-1].scope in ("class", "module")
        for definition in definitions
        if getattr(definition[-1].func, "__module__", "").partition(".")[0] not in ("_pytest",)
    )


BEFORE: dict[str, Traces] = {}  # by test, and by module


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    if watched(item):
        now = traces(alone=True)
        BEFORE[item.nodeid] = now
        BEFORE.setdefault(str(item.path), now)
    yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    yield
    if not watched(item):
        return
    before = BEFORE.pop(item.nodeid)
    last = nextitem is None or nextitem.path != item.path
    if last:
        before = BEFORE.pop(str(item.path))
    elif outlived(item):
        return
    if found := settled_difference(before):
        pytest.fail("\n".join(found), pytrace=False)


def pytest_sessionstart(session: pytest.Session) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        BEFORE["session"] = traces(alone=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Compare what the whole run left, which is all that can be compared of a parallel one."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    found = false_skips([reason(r) for r in terminal.stats.get("skipped", [])]) if terminal else []
    if getattr(session.config.option, "numprocesses", None) and not others_at_work():
        found += settled_difference(BEFORE["session"])
    if found:
        print("\n" + "\n".join(found))
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def false_skips(reasons: Collection[str]) -> list[str]:
    """Return the reasons that say a capability is missing which this machine has, in words."""
    named = {(given, name) for given in reasons for name in capabilities_named(given)}
    if not named:
        return []
    from netlab import capabilities

    here = {one.name for one in capabilities.tried(*{name for _, name in named}) if one.ok}
    return sorted(
        f"skipped for want of {name}, which is there: {given}"
        for given, name in named
        if name in here
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    file = os.environ.get("NETLAB_SKIPS")
    reasons = [
        f"{report.nodeid}: {reason(report)}" for report in terminalreporter.stats.get("skipped", [])
    ]
    passed = [report.nodeid for report in terminalreporter.stats.get("passed", [])]
    for name, lines in ((file, reasons), (os.environ.get("NETLAB_PASSED"), passed)):
        if name and lines:
            with open(name, "a") as out:
                out.writelines(f"{line}\n" for line in lines)


def reason(report: pytest.TestReport) -> str:
    words = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return words.removeprefix("Skipped: ")
