"""One run of a container's program: started in the sandbox, watched, its end put into words."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import netlab
from netlab import processes
from netlab.pods.apart import apart
from netlab.pods.namespaces import CLONE_NEWNET, CLONE_NEWPID, setns
from netlab.pods.waiting import until

UNKNOWN_CODE = 137  # kubelet's exit code of a container whose own is lost
NOT_STARTED_CODE = 128  # and of one that could not be started (StartError)
END_SECONDS = 2.0  # that a killed process may take to be gone

_UNKNOWN = {
    "exitCode": UNKNOWN_CODE,
    "reason": "ContainerStatusUnknown",
    "message": "the exit code is lost: the agent was restarted while this ran",
}
_ROOT = str(Path(netlab.__file__).parent.parent)
_BECOME = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    "from netlab.pods.program import main; sys.exit(main())"
)


@dataclass
class Run:
    """A program that runs, or has ended and not been released yet."""

    pid: int
    start: int  # clock ticks since boot
    began: float  # seconds since the epoch
    pidfd: int
    netns: int  # the network namespace's identity
    child: subprocess.Popen[bytes] | None = None  # None: adopted
    failure: int = -1  # descriptor that tells why it could not be started


def started(
    sandbox: int, argv: Sequence[str], *, env: Mapping[str, str], cwd: str, output: int
) -> Run:
    """Start a program in the sandbox whose first process is *sandbox*, writing to *output*.

    *env* is its whole environment, with its mark. Its PID namespace, and the network namespace it
    is known by, are chosen here, by the thread that spawns it; the others are for `program`, after
    exec, so any number of threads is fine. A program that cannot be executed is a run that ends at
    once. Raises OSError.
    """
    pause = os.pidfd_open(sandbox)
    failure, fail = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    command = [sys.executable, "-I", "-S", "-c", _BECOME, _ROOT, str(pause), str(fail), cwd, *argv]

    def child() -> subprocess.Popen[bytes]:
        setns(pause, CLONE_NEWNET | CLONE_NEWPID)
        return subprocess.Popen(
            command,
            env=dict(env),
            pass_fds=(pause, fail),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    try:
        process = apart(child)
    except BaseException:
        os.close(failure)
        raise
    finally:
        os.close(pause)
        os.close(fail)
    return Run(
        pid=process.pid,
        start=processes.start_time(process.pid) or 0,
        began=time.time(),
        pidfd=os.pidfd_open(process.pid),
        netns=os.stat(f"/proc/{sandbox}/ns/net").st_ino,
        child=process,
        failure=failure,
    )


def adopted(pid: int) -> Run | None:
    """Return the run of a program that an agent before us has started; None: it has ended."""
    start = processes.start_time(pid)
    try:
        if start is None:
            return None
        netns = os.stat(f"/proc/{pid}/ns/net").st_ino
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    began = time.time() - since_boot + start / os.sysconf("SC_CLK_TCK")
    return Run(pid=pid, start=start, began=began, pidfd=pidfd, netns=netns)


def over(run: Run) -> bool:
    """Return whether the program has ended."""
    if run.child is not None:
        return run.child.poll() is not None
    return not processes.alive(run.pid, run.start)


def send(run: Run, number: signal.Signals) -> None:
    """Send a signal to the program; no error when it has ended."""
    try:
        signal.pidfd_send_signal(run.pidfd, number)
    except ProcessLookupError:
        pass


def never_ran() -> dict[str, Any]:
    """Return the `terminated` of a container that was told to end before it was started."""
    return {**_UNKNOWN, "message": "it was told to end before it was started"}


def kill(run: Run, rundir: Path, role: str) -> None:
    """Kill the program and whatever it left behind: the next run would find its ports taken.

    Its children are known by the mark they inherited, and by being in its network namespace.
    """
    send(run, signal.SIGKILL)
    until(lambda: over(run), within=END_SECONDS)
    for pid in processes.strays(rundir, role):
        try:
            if os.stat(f"/proc/{pid}/ns/net").st_ino == run.netns:
                os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass


def release(run: Run) -> None:
    """Close what watches the program."""
    os.close(run.pidfd)
    if run.failure >= 0:
        os.close(run.failure)


def executing(begun: Sequence[Run], *, within: float) -> bool:
    """Wait until each program is executed, or known not to be; return whether one is not.

    The descriptor of a failure tells: it is closed by exec(2), or holds the reason. Waits at most
    *within* seconds.
    """
    waiting = select.poll()
    for run in begun:
        waiting.register(run.failure, select.POLLIN)
    failed, left = [], {run.failure: run for run in begun}
    deadline = time.monotonic() + within
    while left and (remaining := deadline - time.monotonic()) > 0:
        for descriptor, event in waiting.poll(remaining * 1000):
            waiting.unregister(descriptor)
            run = left.pop(descriptor)
            if event & select.POLLIN:
                failed.append(run)
    until(lambda: all(over(run) for run in failed), within=within)
    return bool(failed)


def why_not_started(run: Run) -> str:
    """Return why the program of an ended run could not be executed; nothing when it was."""
    return os.read(run.failure, 4096).decode() if run.failure >= 0 else ""


def terminated(run: Run) -> dict[str, Any]:
    """Return the end of a run as the `terminated` of Kubernetes' ContainerState."""
    state: dict[str, Any] = {"exitCode": 0, "reason": "Completed"}
    if run.child is None:
        state = dict(_UNKNOWN)
    elif run.child.returncode < 0:
        number = -run.child.returncode
        state = {"exitCode": 128 + number, "signal": number, "reason": "Error"}
    elif run.child.returncode > 0:
        state = {"exitCode": run.child.returncode, "reason": "Error"}
    return {**state, "startedAt": rfc3339(run.began), "finishedAt": rfc3339(time.time())}


def unknown_end(running: Mapping[str, Any]) -> dict[str, Any]:
    """Return the end of a run that no agent saw; *running* is what its status last said."""
    return {**_UNKNOWN, **running, "finishedAt": rfc3339(time.time())}


def not_started(run: Run, reason: str) -> dict[str, Any]:
    """Return the `terminated` of a program that could not be executed."""
    return {
        **terminated(run),
        "exitCode": NOT_STARTED_CODE,
        "reason": "StartError",
        "message": reason,
    }


def rfc3339(seconds: float) -> str:
    """Return a time, in seconds since the epoch, as Kubernetes writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
