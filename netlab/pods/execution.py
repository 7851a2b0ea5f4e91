"""Doing something in a pod, a node or another place of the lab: `netlab exec`, and questions.

Both fork, so both belong in a process with one thread. The child enters the namespaces; only the
PID namespace has to be set before the fork, since it counts for children: by a thread that does
nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar, cast

from netlab.errors import NetlabError, NotFoundError
from netlab.pods import etc
from netlab.pods.apart import apart
from netlab.pods.namespaces import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    netns_path,
    sethostname,
    setns,
    unshare,
)
from netlab.processes import MARK, START

CANNOT_EXECUTE, NOT_FOUND = 126, 127  # as a shell exits: sh(1)
KILLED = 128  # plus the signal's number
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOOK = 0.1  # seconds
_SI_KERNEL = 0x80  # siginfo's code of a signal from the terminal: sigaction(2)
_PASSED_ON = frozenset(
    {
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """A place to execute in. *sandbox*: the first process of the pod's; None: not a pod, where
    only the network namespace, the host name and the *files* shown in /etc are its own."""

    netns: str
    hostname: str
    sandbox: int | None = None
    files: str = ""  # the directory they are in


def run_in(
    target: Target,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> int:
    """Execute *argv* in *target* with our input, output and terminal; return its exit code.

    128 + n when signal n killed it, 127 when there is no such program, 126 when it cannot be
    executed. Signals sent to us are passed on; those of the terminal reach it by themselves.
    *env* is added to our environment; *cwd* is used where it exists. Raises NotFoundError.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON | {signal.SIGCHLD})
    try:
        child = _forked(target, lambda: _execute(target, argv, env=env or {}, cwd=cwd, mask=mask))
        return _exit_code(child)
    finally:
        _take_terminal_back()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def inside(target: Target | int | str, question: Callable[[], T]) -> T:
    """Return what *question* returns (JSON's types) when asked inside *target*.

    *target*: a Target, the first process of a sandbox, or the name of a network namespace.
    Raises NetlabError with the reason when the question raised.
    """
    if isinstance(target, int):
        target = Target(netns="", hostname="", sandbox=target)
    elif isinstance(target, str):
        target = Target(netns=target, hostname="")
    reading, writing = os.pipe()
    try:
        child = _forked(target, lambda: _reply(question, writing))
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    reply = json.loads(data or b'{"error": "it ended without an answer"}')
    if "error" in reply:
        raise NetlabError(f"{target.netns or target.sandbox}: {reply['error']}")
    return cast(T, reply["answer"])


def _forked(target: Target, work: Callable[[], NoReturn]) -> int:
    """Return the pid of a child that does *work* inside *target*. Raises NotFoundError."""
    try:
        if target.sandbox is None:
            place = os.open(netns_path(target.netns), os.O_RDONLY | os.O_CLOEXEC)
        else:
            place = os.pidfd_open(target.sandbox)
    except OSError as error:
        what = target.netns or f"sandbox {target.sandbox}"
        raise NotFoundError(f"{what} is not there: {error.strerror}") from error

    def forked() -> int:
        if target.sandbox is not None:
            setns(place, CLONE_NEWPID)
        child = os.fork()
        if child == 0:
            _enter(target, place)
            work()
        return child

    try:
        return forked() if target.sandbox is None else apart(forked)
    finally:
        os.close(place)


def _enter(target: Target, place: int) -> None:
    """Move this process, a forked child, into *target*; its PID namespace is set already."""
    try:
        if target.sandbox is not None:
            setns(place, CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNS)
            return
        setns(place, CLONE_NEWNET)
        if target.hostname:
            unshare(CLONE_NEWUTS)
            sethostname(target.hostname)
        if target.files:
            unshare(CLONE_NEWNS)
            etc.private()
            etc.show(target.files)
    except OSError as error:
        _complain(f"cannot enter {target.netns or target.sandbox}: {error.strerror}")
        os._exit(CANNOT_EXECUTE)


def _execute(
    target: Target,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None,
    mask: set[int | signal.Signals],
) -> NoReturn:
    """Become the program, or exit as a shell would; *mask*: the signals it has blocked."""
    code = CANNOT_EXECUTE
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if cwd or target.sandbox is not None:
            os.chdir(cwd if cwd and os.path.isdir(cwd) else "/")
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python ignores them, and children inherit it
        kept = {k: v for k, v in os.environ.items() if k not in (MARK, START)}
        os.execvpe(argv[0], list(argv), {"PATH": _PATH, **kept, "HOSTNAME": target.hostname, **env})
    except FileNotFoundError:
        code = NOT_FOUND
        _complain(f"{argv[0]}: not found")
    except BaseException as error:
        reason = error.strerror if isinstance(error, OSError) else repr(error)
        _complain(f"{argv[0]}: {str(reason).lower()}")
    finally:
        os._exit(code)


def _complain(text: str) -> None:
    os.write(2, f"netlab exec: {text}\n".encode())


def _exit_code(child: int) -> int:
    """Wait for *child*, passing signals on; return its exit code as a shell gives it."""
    while True:
        # Not for ever: another thread of ours may be the one that gets the signal.
        info = signal.sigtimedwait(_PASSED_ON | {signal.SIGCHLD}, _LOOK)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else KILLED - code
        if info and info.si_signo != signal.SIGCHLD and info.si_code != _SI_KERNEL:
            os.kill(child, info.si_signo)


def _take_terminal_back() -> None:
    """Be in the terminal's foreground again: an interactive shell has taken it for itself."""
    if sys.stdin is None or sys.stdin.closed or not os.isatty(0):
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        os.tcsetpgrp(0, os.getpgrp())
    except OSError:  # not our terminal
        pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reply(question: Callable[[], T], writing: int) -> NoReturn:
    """Write the answer, or why there is none."""
    try:
        try:
            reply: dict[str, object] = {"answer": question()}
            data = json.dumps(reply).encode()
        except Exception as error:
            reason = traceback.format_exception_only(error)[-1].strip()
            data = json.dumps({"error": reason}).encode()
        with os.fdopen(writing, "wb") as answer:
            answer.write(data)
    finally:
        os._exit(0)
