"""Containers with programs, in namespaces made by hand."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from podplaces import ROOT, SOON, made, populate

from netlab import processes
from netlab.kernel import netns
from netlab.pods import sandbox
from netlab.pods.containers import GRACE, Containers, Wanted
from netlab.pods.logs import logs
from netlab.pods.waiting import until

pytestmark = pytest.mark.kernel
pytest_plugins = ["podplaces"]  # the fixtures `rundir` and `place`


@pytest.fixture
def containers(rundir: Path) -> Iterator[Containers]:
    made = Containers(rundir)
    yield made
    made.reconcile([])
    made.close()


def wanted(name: str, script: str, *, container: str = "c", **other: Any) -> Wanted:
    return Wanted(
        namespace="shop",
        pod="web-0",
        container=container,
        netns=name,
        hostname="web-0",
        **{"argv": ["sh", "-c", script], **other},
    )


def settled(
    containers: Containers,
    each: Wanted,
    enough: Callable[[dict[str, Any]], object],
) -> dict[str, Any]:
    """Reconcile until the container's status is *enough*; return it."""
    deadline = time.monotonic() + SOON
    while True:
        status = containers.reconcile([each])[each.key]
        if enough(status):
            return status
        assert time.monotonic() < deadline, status
        time.sleep(0.01)


def text(rundir: Path, container: str = "c") -> str:
    return "".join(logs(rundir, "shop", "web-0", container))


def test_program_runs_in_its_pod_with_its_environment(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    script = 'hostname; pwd; echo "$A|$B|$1"; echo wrong >&2; readlink /proc/self/ns/net; sleep 60'
    name = place()
    each = wanted(
        name,
        script,
        argv=["sh", "-c", script, "sh", "$(A)!"],
        env={"A": "1", "B": "$(A)2"},
        cwd="/usr",
    )
    status = containers.reconcile([each])[each.key]
    assert set(status["state"]) == {"running"}
    assert status["restartCount"] == 0
    assert until(lambda: text(rundir).count("\n") == 5, within=SOON)
    inode = netns.identity(name)
    assert text(rundir) == f"web-0\n/usr\n1|12|1!\nwrong\nnet:[{inode}]\n"


def test_containers_of_a_pod_share_its_namespaces(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    name = place()
    script = (
        "readlink /proc/self/ns/net /proc/self/ns/uts /proc/self/ns/ipc /proc/self/ns/pid; sleep 60"
    )
    containers.reconcile([wanted(name, script, container=c) for c in ("a", "b")])
    assert until(
        lambda: text(rundir, "a") == text(rundir, "b") and text(rundir, "a").count("\n") == 4,
        within=SOON,
    )


@pytest.mark.parametrize(
    ("policy", "code", "state"),
    [
        ("Always", 0, "waiting"),
        ("Always", 3, "waiting"),
        ("OnFailure", 3, "waiting"),
        ("OnFailure", 0, "terminated"),
        ("Never", 0, "terminated"),
        ("Never", 3, "terminated"),
    ],
)
def test_end_of_a_program_is_followed_by_what_the_policy_says(
    containers: Containers, place: Callable[[], str], policy: str, code: int, state: str
) -> None:
    each = wanted(place(), f"exit {code}", restart=policy)
    status = settled(containers, each, lambda s: state in s["state"])
    ended = (status["lastState"] if state == "waiting" else status["state"])["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (code, "Error" if code else "Completed")
    if state == "waiting":
        assert status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        again = settled(containers, each, lambda s: s["restartCount"] >= 1)
        assert again["lastState"]["terminated"]["exitCode"] == code
    else:
        assert containers.due() is None


def test_back_off_doubles_up_to_its_most(rundir: Path, place: Callable[[], str]) -> None:
    now = [1000.0]
    containers = Containers(rundir, clock=lambda: now[0])
    each = wanted(place(), "exit 1")
    waits = []
    for _ in range(8):
        settled(containers, each, lambda s: "waiting" in s["state"])
        waits.append(containers.due())
        now[0] += waits[-1] or 0
        containers.reconcile([each])
    containers.reconcile([])
    containers.close()
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_signal_that_killed_a_program_is_in_its_status(
    containers: Containers, place: Callable[[], str]
) -> None:
    status = settled(
        containers,
        wanted(place(), "kill -SEGV $$$$", restart="Never"),  # $$ is a dollar here
        lambda s: "terminated" in s["state"],
    )
    ended = status["state"]["terminated"]
    assert (ended["exitCode"], ended["signal"]) == (139, 11)


def test_program_that_is_not_there_waits_with_a_clear_reason(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    each = wanted(place(), "", argv=["foo", "bar"])
    status = settled(containers, each, lambda s: "waiting" in s["state"])
    assert status["state"]["waiting"] == {
        "reason": "RunContainerError",
        "message": 'exec: "foo": not found',
    }
    assert until(lambda: 'exec: "foo": not found\n' in text(rundir), within=SOON)


def test_missing_namespace_is_a_reason_to_wait(
    containers: Containers, place: Callable[[], str]
) -> None:
    name = place()
    netns.delete(name)
    each = wanted(name, "sleep 60")
    status = containers.reconcile([each])[each.key]
    assert status["state"]["waiting"]["message"] == f"no network namespace {name}"
    populate(name)
    settled(containers, each, lambda s: "running" in s["state"])


def test_end_of_a_program_is_seen_at_once(containers: Containers, place: Callable[[], str]) -> None:
    each = wanted(place(), "read x < /nowhere; sleep 0.1", restart="Never")
    containers.reconcile([each])
    assert select.select([containers.fileno()], [], [], SOON)[0]
    settled(containers, each, lambda s: "terminated" in s["state"])
    assert not select.select([containers.fileno()], [], [], 0)[0]


_DYING_AGENT = """if True:
    import os, signal, sys
    from pathlib import Path
    from netlab.pods.containers import GRACE, Containers, Wanted
    containers = Containers(Path(sys.argv[1]))
    containers.reconcile([Wanted('shop', 'web-0', 'c', sys.argv[2], 'web-0',
                                 ['sh', '-c', sys.argv[3]])])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_agent(rundir: Path, name: str, script: str) -> None:
    """Have an agent start a container and be killed."""
    argv = [sys.executable, "-c", _DYING_AGENT, str(rundir), name, script]
    assert subprocess.run(argv, cwd=ROOT, check=False).returncode == -signal.SIGKILL


def test_program_outlives_its_agent_and_is_adopted_by_the_next(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    name, flag = place(), rundir / "flag"
    script = f"echo one; until test -e {flag}; do sleep 0.01; done; echo two; exit 5"
    killed_agent(rundir, name, script)
    before = processes.marked(rundir)["container/shop/web-0/c"]
    each = wanted(name, script, restart="Never")
    assert "running" in containers.reconcile([each])[each.key]["state"]
    assert processes.marked(rundir)["container/shop/web-0/c"] == before
    flag.touch()
    status = settled(containers, each, lambda s: "terminated" in s["state"])
    assert status["state"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert "exit code is lost" in status["state"]["terminated"]["message"]
    assert until(lambda: text(rundir) == "one\ntwo\n", within=SOON)


def test_session_that_a_program_makes_is_not_taken_for_the_program(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    script = textwrap.dedent("""
        import os, time
        if os.fork() == 0:
            os.setsid()
            print("session", flush=True)
        time.sleep(60)
    """)
    containers.reconcile([wanted(place(), "", argv=[sys.executable, "-c", script])])
    assert until(lambda: text(rundir) == "session\n", within=SOON)
    assert len(processes.strays(rundir, "container/shop/web-0/c")) == 2
    assert len(processes.marked(rundir)["container/shop/web-0/c"]) == 1


def test_program_that_completed_before_this_agent_is_not_run_again(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    past = {"restartCount": 2, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    each = wanted(place(), "touch flag", cwd=str(rundir), restart="OnFailure", past=past)
    assert containers.reconcile([each])[each.key] == past
    assert not (rundir / "flag").exists()


def test_changed_container_is_run_anew(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    name = place()
    containers.reconcile([wanted(name, "echo old; sleep 60")])
    assert until(lambda: text(rundir) == "old\n", within=SOON)
    containers.reconcile([wanted(name, "echo new; sleep 60")])
    assert until(lambda: text(rundir) == "old\nnew\n", within=SOON)
    # sh and sleep
    assert until(lambda: len(processes.strays(rundir, "container/shop/web-0/c")) == 2, within=SOON)


def test_unwanted_pod_is_ended_with_all_it_started(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    script = "trap '' TERM; setsid sleep 60 & echo ready; wait; sleep 60"
    containers.reconcile([wanted(place(), script)])
    assert until(lambda: text(rundir) == "ready\n", within=SOON)
    assert containers.reconcile([]) == {}
    assert processes.marked(rundir) == {}
    assert processes.strays(rundir, "container/shop/web-0/c") == []
    assert [path for path in rundir.rglob("*") if not path.is_dir()] == []


def test_children_of_an_ended_program_do_not_keep_its_port(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    holder = textwrap.dedent("""
        import os, socket, time
        server = socket.create_server(("127.0.0.1", 80))
        print("bound", flush=True)
        if os.fork() == 0:
            os.setsid()
            time.sleep(60)
        os._exit(1)
    """)
    each = wanted(place(), "", argv=[sys.executable, "-c", holder])
    settled(containers, each, lambda s: s["restartCount"] >= 1)
    assert until(lambda: text(rundir).startswith("bound\nbound\n"), within=SOON)


def test_sandbox_of_a_pod_without_namespace_is_removed(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    name = place()
    made(rundir, name)  # as `netlab exec` does, for a pod without programs
    containers.reconcile([])
    assert sandbox.find(rundir, "shop", "web-0") is not None
    netns.delete(name)
    containers.reconcile([])
    assert processes.marked(rundir) == {}


def test_namespace_made_again_gets_its_program_again(
    rundir: Path, containers: Containers, place: Callable[[], str]
) -> None:
    name = place()
    each = wanted(name, "readlink /proc/self/ns/net; sleep 60")
    containers.reconcile([each])
    assert until(lambda: text(rundir).count("\n") == 1, within=SOON)
    netns.delete(name)
    populate(name)
    settled(containers, each, lambda s: s["restartCount"] == 1 and "running" in s["state"])
    assert until(lambda: f"net:[{netns.identity(name)}]" in text(rundir), within=SOON)


def test_log_of_a_talkative_program_is_bounded(
    rundir: Path,
    containers: Containers,
    place: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("netlab.pods.logs.LOG_BYTES", 100_000)
    containers.reconcile([wanted(place(), "exec yes")])
    rotated = rundir / "logs/shop/web-0/c.log.1"
    assert until(rotated.exists, within=SOON)
    for _ in range(200):
        assert sum(size(path) for path in rotated.parent.glob("c.log*")) <= 3 * 100_000


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # just renamed
        return 0


def test_a_program_that_is_to_end_is_told_once_and_not_started_again(
    containers: Containers, place: Callable[[], str], rundir: Path
) -> None:
    script = "trap 'echo told; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    one = wanted(place(), script)
    settled(containers, one, lambda status: "running" in status["state"])
    going = wanted(one.netns, script, ending=True)
    log = rundir / "logs/shop/web-0/c.log"
    assert until(lambda: log.exists() and "up" in log.read_text(), within=SOON)
    ended = settled(containers, going, lambda status: "terminated" in status["state"])
    assert ended["state"]["terminated"]["exitCode"] == 7
    assert ended["restartCount"] == 0
    assert containers.due() is None
    assert containers.reconcile([going])[going.key] == ended


def test_a_restart_waits_for_nobody_and_ends_who_does_not(
    rundir: Path, place: Callable[[], str]
) -> None:
    now = 1000.0
    containers = Containers(rundir, clock=lambda: now)
    stubborn = wanted(place(), "trap 'echo told' TERM; echo up; while :; do sleep 0.05; done")
    log = rundir / "logs/shop/web-0/c.log"
    try:
        settled(containers, stubborn, lambda status: "running" in status["state"])
        assert until(lambda: log.exists() and "up" in log.read_text(), within=SOON)
        assert containers.due() is None
        containers.restart(stubborn.key)
        containers.restart(stubborn.key)
        assert containers.due() == GRACE
        assert until(lambda: "told" in log.read_text(), within=SOON)
        assert "running" in containers.reconcile([stubborn])[stubborn.key]["state"]
        now += GRACE
        ended = settled(containers, stubborn, lambda status: "waiting" in status["state"])
        assert ended["lastState"]["terminated"]["signal"] == signal.SIGKILL
        now += 1
        again = settled(containers, stubborn, lambda status: "running" in status["state"])
        assert again["restartCount"] == 1
        assert log.read_text().count("told") == 1
        assert containers.due() is None
    finally:
        containers.reconcile([])
        containers.close()
