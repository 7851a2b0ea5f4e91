"""Why the kernel gave up packets: its own drop reasons, as far as it tells them to us.

    with Drops() as drops:
        ...  # send it
        reasons = drops.told(since=time)

1. The tracepoint skb:kfree_skb tells each packet that is dropped, where and why, of the whole
   machine and without its contents. A packet that this process sends moves on, from namespace to
   namespace, while its system call is still at work: so a drop in the name of one of our threads
   is of a packet of ours. What the kernel put off to a thread of its own is not told.
2. tracefs is mounted for this process alone and to no place: nothing of the machine is changed. The
   tracing instance is our own, has its own buffer, and goes with the `with`; what an ended process
   left is removed by the next.

Source: include/trace/events/skb.h, include/net/dropreason-core.h; Documentation/trace/ftrace.rst.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from netlab.errors import CapabilityError
from netlab.processes.own import alive, start_time

PREFIX = "netlab-drops-"
SOON = 5_000_000  # ns: what a packet does, it does in microseconds
ROOM = 128  # KiB per CPU
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # asm-generic/unistd.h
_CLOEXEC, _CREATE = 1, 6  # FSOPEN_CLOEXEC, FSCONFIG_CMD_CREATE
_NAME = re.compile(PREFIX + r"(\d+)-(\d+)-\d+-(\d+)")  # pid, start time, number, PID namespace
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_LINE = re.compile(
    r"-(?P<thread>\d+) +\[\d+\] \S+ +(?P<seconds>\d+)\.(?P<micro>\d+): kfree_skb: .*"
    r"location=(?P<function>\w+)\S* reason: (?P<reason>\w+)"
)
# Not drops of anybody's: a socket closed, a copy for whom nobody waited.
_HARMLESS = frozenset(("NOT_DROPPED_YET", "CONSUMED", "SOCKET_CLOSE", "TCP_OLD_SEQUENCE"))
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


class Drop(msgspec.Struct, frozen=True):
    """A packet that was given up: when (ns since the epoch, to a microsecond), in which function
    of the kernel, why: `IP_RPFILTER`, `NEIGH_FAILED`, …"""

    time: int
    function: str
    reason: str

    def __str__(self) -> str:
        """`IP_RPFILTER in ip_rcv_finish_core`."""
        return f"{self.reason} in {self.function}"


class Drops:
    """A context manager: from its start to its end the kernel notes the packets it gives up.

    Raises CapabilityError where it does not let us: without root, or without tracefs.
    """

    def __init__(self) -> None:
        self._mount = -1
        self._instance: Path | None = None

    def __enter__(self) -> Drops:
        self._mount = _mounted()
        try:
            instances = Path(f"/proc/self/fd/{self._mount}/instances")
            _remove_left_over(instances)
            who = f"{os.getpid()}-{start_time(os.getpid())}-{next(_numbers)}"
            own = instances / f"{PREFIX}{who}-{_pid_namespace()}"
            own.mkdir()
            self._instance = own
            (own / "trace_clock").write_text("mono")
            (own / "buffer_size_kb").write_text(str(ROOM))
            (own / "events/skb/kfree_skb/enable").write_text("1")
        except OSError as error:
            self.close()
            raise _without(error.errno or 0) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop noting, and leave nothing."""
        if self._instance is not None:
            _remove(self._instance)
            self._instance = None
        if self._mount >= 0:
            os.close(self._mount)
            self._mount = -1

    def told(self, *, since: int, within: int = SOON) -> list[Drop]:
        """Return the drops of this process's packets from *since* on (ns), for *within* ns, oldest
        first."""
        if self._instance is None:
            return []
        offset = time.time_ns() - time.monotonic_ns()
        text = (self._instance / "trace").read_text(errors="replace")
        return [drop for drop in _drops(text, offset) if -1000 <= drop.time - since <= within]


def _drops(text: str, offset: int) -> Iterator[Drop]:
    mine = set(os.listdir("/proc/self/task"))
    for line in text.splitlines():
        found = _LINE.search(line)
        if found and found["thread"] in mine and found["reason"] not in _HARMLESS:
            nanoseconds = (int(found["seconds"]) * 1_000_000 + int(found["micro"])) * 1000
            yield Drop(nanoseconds + offset, found["function"], found["reason"])


def _mounted() -> int:
    """Return a descriptor of tracefs, mounted to no place: nobody else sees it."""
    opened = _libc.syscall(_FSOPEN, b"tracefs", _CLOEXEC)
    if opened < 0:
        raise _without(ctypes.get_errno())
    try:
        if _libc.syscall(_FSCONFIG, opened, _CREATE, None, None, 0) < 0:
            raise _without(ctypes.get_errno())
        mount = _libc.syscall(_FSMOUNT, opened, _CLOEXEC, 0)
        if mount < 0:
            raise _without(ctypes.get_errno())
        return int(mount)
    finally:
        os.close(opened)


def _without(number: int) -> CapabilityError:
    words = os.strerror(number).lower()
    return CapabilityError(f"the kernel tells no drop reasons: {words}", hint="run it as root")


def _remove(instance: Path) -> None:
    try:
        (instance / "events/skb/kfree_skb/enable").write_text("0")
        instance.rmdir()
    except OSError:
        pass  # somebody reads it: the next one removes it


def _pid_namespace(pid: str = "self") -> int:
    """Return the identity of the PID namespace of *pid*, 0 if it has ended or is hidden."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0


def _remove_left_over(instances: Path) -> None:
    """Remove what ended processes left.

    tracefs is the whole machine's, but a pid means something to its namespace only. That nobody is
    in another any more can be told from the first one alone, which sees all processes.
    """
    own, peopled = _pid_namespace(), None
    for name in os.listdir(instances):
        named = _NAME.fullmatch(name)
        if named is None:
            continue
        pid, start, space = int(named[1]), int(named[2]), int(named[3])
        if space == own:
            ended = not alive(pid, start)
        elif own == _FIRST_PID_NAMESPACE:
            peopled = peopled or {_pid_namespace(one) for one in os.listdir("/proc")}
            ended = space not in peopled
        else:
            ended = False
        if ended:
            _remove(instances / name)
