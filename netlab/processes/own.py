"""Netlab's own processes: started with a mark, found again by it, ended.

1. *Found by what they are.* A process of netlab's carries `NETLAB_PROCESS=<rundir>:<role>` as the
   first variable of its environment since exec. /proc says who lives; no pid file can lie.
2. *Children do not count.* They inherit the mark, but not its truth: a marked process leads its
   own session, and where it runs a user's program (which may make sessions of its own) a second
   variable holds its start time, which no child shares.
3. *No signal hits a stranger.* A pidfd is opened first, the mark read again after that.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

from netlab.errors import NetlabError
from netlab.kernel.netns import entered
from netlab.processes import commands
from netlab.processes.commands import MARK, START

STDERR = Path("/dev/stderr")  # as the output of a process: our own

_children: set[subprocess.Popen[bytes]] = set()
_children_lock = threading.Lock()


def marked(rundir: Path | str) -> dict[str, list[int]]:
    """Return the pids of the living processes of *rundir* by role, the oldest first.

    Only processes of our own user count: another's mark is not to be believed.
    """
    _reap()
    prefix = f"{MARK}={rundir}:".encode()
    me = os.geteuid()
    found: dict[str, list[tuple[int, int]]] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            role, start = _mark(int(name), prefix)
            if role is not None and os.stat(f"/proc/{name}").st_uid == me:
                found.setdefault(role, []).append((start, int(name)))
        except OSError:  # it has ended, or is another user's
            continue
    return {role: [pid for _, pid in sorted(pids)] for role, pids in found.items()}


def strays(rundir: Path | str, role: str) -> list[int]:
    """Return every process with this mark in its environment: the one that has it, and whatever
    inherited it."""
    mark = f"\0{MARK}={rundir}:{role}\0".encode()
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark in b"\0" + file.read():
                    found.append(int(name))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def _mark(pid: int, prefix: bytes) -> tuple[str | None, int]:
    """Return the role that process *pid* is marked with (None: not ours) and its start time."""
    fd = os.open(f"/proc/{pid}/environ", os.O_RDONLY)
    try:
        environ = os.read(fd, 4096)  # the mark is the first variable
    finally:
        os.close(fd)
    if not environ.startswith(prefix):
        return None, 0
    first, _, rest = environ.partition(b"\0")
    state, session, start = _stat(pid)
    own_start = f"{START}=".encode()
    if rest.startswith(own_start):
        genuine = rest[len(own_start) :].partition(b"\0")[0] == b"%d" % start
    else:
        genuine = session == pid
    if not genuine or state in "ZX":
        return None, 0
    return first[len(prefix) :].decode(), start


def _stat(pid: int | str) -> tuple[str, int, int]:
    """Return state, session and start time (ticks since boot) of a process. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
    return fields[0].decode(), int(fields[3]), int(fields[19])


def start_time(pid: int) -> int | None:
    """Return when *pid* started, in clock ticks since boot; None when there is no such process."""
    try:
        return _stat(pid)[2]
    except OSError:
        return None


def alive(pid: int, start: int) -> bool:
    """Return whether the process that had this pid and start time still runs (a zombie not)."""
    _reap()
    try:
        state, _, now = _stat(pid)
    except OSError:
        return False
    return now == start and state not in "ZX"


def pidfd(pid: int) -> int:
    """Return a descriptor of the process, readable once it has ended. Raises OSError."""
    return os.pidfd_open(pid)


def marked_environment(
    rundir: Path | str, role: str, env: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return *env* (default: our own) with the mark in front."""
    rest = {k: v for k, v in (os.environ if env is None else env).items() if k not in (MARK, START)}
    return {MARK: f"{rundir}:{role}", **rest}


def own_environment(rundir: Path | str, role: str) -> dict[str, str]:
    """Return our environment with the mark, for a program that takes our place by exec.

    It need not lead a session: its start time, which exec does not change, proves that it is meant.
    """
    started = {START: str(start_time(os.getpid()))}
    marked_ = marked_environment(rundir, role)
    return {MARK: marked_.pop(MARK), **started, **marked_}


def spawn(
    rundir: Path | str,
    role: str,
    argv: Sequence[str],
    *,
    netns: str | None = None,
    env: Mapping[str, str] | None = None,
    stdout: Path,
    cwd: str = "/",
) -> int:
    """Start a marked process in a session of its own, appending its output to *stdout*; its pid.

    The calling thread is inside *netns* while the child is made, so nothing needs to run between
    fork and exec: safe with any number of threads. Raises KernelError for the namespace,
    CapabilityError for the program.
    """
    _reap()
    full = marked_environment(rundir, role, env)
    commands.log(argv, netns=netns)
    with (
        _appended(stdout) as out,
        entered(netns) if netns else nullcontext(),
        commands.program_errors(argv[0]),
    ):
        child = subprocess.Popen(
            list(argv),
            env=full,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    with _children_lock:
        _children.add(child)
    return child.pid


def _appended(path: Path) -> BinaryIO:
    """Return *path*, open at its end; of our own stderr a copy: some consoles are open but once."""
    return os.fdopen(os.dup(2), "ab") if path == STDERR else open(path, "ab")


def _reap() -> None:
    """Collect the children that have ended, so that none stays a zombie."""
    with _children_lock:
        for child in [child for child in _children if child.poll() is not None]:
            _children.remove(child)


def end(pid: int, *, grace: float, start: int | None = None) -> None:
    """End a process: SIGTERM, and after *grace* seconds SIGKILL. Returns once it is gone.

    With *start*, only the process that started then. No error when it is gone already.
    """
    try:
        fd = pidfd(pid)
    except ProcessLookupError:
        return
    try:
        if start is None or start_time(pid) == start:
            _end_all([fd], grace=grace)
    finally:
        os.close(fd)
    _reap()


def wait(pid: int, *, seconds: float) -> bool:
    """Wait until a process has ended, at most *seconds*; return whether it has."""
    try:
        fd = pidfd(pid)
    except ProcessLookupError:
        return True
    try:
        return _all_ended([fd], seconds)
    finally:
        os.close(fd)


def end_all(rundir: Path | str, *, grace: float = 2.0, spare: Collection[str] = ()) -> list[str]:
    """End every marked process of *rundir* but the roles in *spare*; return the roles ended.

    Repeats until a scan finds none, since one of them may have started another meanwhile.
    """
    ended: list[str] = []
    while True:
        fds: list[int] = []
        try:
            for role, pids in marked(rundir).items():
                if role in spare:
                    continue
                held = [fd for pid in pids if (fd := _held(pid, rundir)) is not None]
                fds += held
                ended += [role] * bool(held)
            if not fds:
                return sorted(set(ended))
            _end_all(fds, grace=grace)
        finally:
            for fd in fds:
                os.close(fd)


def _held(pid: int, rundir: Path | str) -> int | None:
    """Return a pidfd of *pid* if it is still a process of *rundir*: the mark is read after."""
    try:
        fd = pidfd(pid)
    except OSError:
        return None
    try:
        if _mark(pid, f"{MARK}={rundir}:".encode())[0] is not None:
            return fd
    except OSError:
        pass
    os.close(fd)
    return None


def _end_all(fds: Sequence[int], *, grace: float) -> None:
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 10.0)):
        for fd in fds:
            try:
                signal.pidfd_send_signal(fd, number)
            except ProcessLookupError:
                pass
        if _all_ended(fds, seconds):
            return
    raise NetlabError("a process does not end, even by SIGKILL", hint="see `ps` for state D")


def _all_ended(fds: Sequence[int], seconds: float) -> bool:
    """Wait until every process has ended (its pidfd is readable), at most *seconds*."""
    deadline = time.monotonic() + seconds
    waiting = select.poll()
    for fd in fds:
        waiting.register(fd, select.POLLIN)
    left = len(fds)
    while left:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        for fd, _ in waiting.poll(remaining * 1000):
            waiting.unregister(fd)
            left -= 1
    return True
