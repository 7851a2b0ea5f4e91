"""A child process with namespaces of its own, in which things are tried; all of it ends with it.

Without root the child first becomes root of a new user namespace, exactly as a rootless lab does;
where even that is refused, every try says so by failing.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from netlab import patience
from netlab.errors import NetlabError
from netlab.pods import namespaces

CLONE_NEWUSER = 0x10000000  # linux/sched.h
DEADLINE = patience.seconds(30.0)  # for one try

Outcome = tuple[bool, str]  # whether it worked, and what was seen


def outcomes(attempts: Sequence[Callable[[], str]]) -> list[Outcome]:
    """Return what became of each attempt, made in order in one throw-away network namespace.

    An attempt that hangs is a failure, and so is every one after it.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _try_all(attempts, writing)
        finally:
            os._exit(0)
    os.close(writing)
    lines = _lines(reading)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found: list[Outcome] = [(ok, detail) for ok, detail in map(json.loads, lines)]
    missing = len(attempts) - len(found)
    return found + [(False, "the try did not come to an end")] * missing


def apart(attempt: Callable[[], None]) -> None:
    """Run *attempt* in a process of its own, for what cannot be undone. Raises OSError."""
    child = os.fork()
    if child == 0:
        try:
            attempt()
        except OSError as error:
            os._exit(error.errno or 255)
        except BaseException:
            os._exit(255)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        raise OSError(code, os.strerror(code)) if 0 < code < 255 else OSError("failed")


def become_root() -> None:
    """Make this process root of a new user namespace. Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    namespaces.unshare(CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _try_all(attempts: Sequence[Callable[[], str]], writing: int) -> None:
    # ^C reaches the whole process group: the parent tells of it, the child just ends.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        if os.geteuid() != 0:
            become_root()
        namespaces.unshare(namespaces.CLONE_NEWNET | namespaces.CLONE_NEWNS)
    except OSError as error:
        refusal = f"no namespace to try it in: {error.strerror}"
        for _ in attempts:
            _tell(writing, (False, refusal))
        return
    for attempt in attempts:
        _tell(writing, _outcome(attempt))


def _outcome(attempt: Callable[[], str]) -> Outcome:
    try:
        return True, attempt()
    except NetlabError as error:
        return False, " ".join(error.message.split())
    except OSError as error:
        words = error.strerror or str(error)
        return False, words[:1].lower() + words[1:]


def _tell(writing: int, outcome: Outcome) -> None:
    os.write(writing, json.dumps(outcome).encode() + b"\n")


def _lines(reading: int) -> list[bytes]:
    """Return the lines that arrive on *reading* until it ends or none has come for too long."""
    data = b""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], DEADLINE)[0]:
            piece = pipe.read(65536)
            if not piece:
                break
            data += piece
    return data.splitlines()
