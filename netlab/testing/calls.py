"""A lab's keeper, as the tests' process sees it: a process to ask, one question at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from typing import IO, Any, TypeVar, cast

import msgspec

from netlab import errors
from netlab.errors import InputError, NetlabError
from netlab.testing.keeper import Failure, Reply, Request

T = TypeVar("T")
ENDING = 60.0  # seconds for a keeper to take its lab down
__tracebackhide__ = True  # pytest: a failure in here is shown where the test called


class Keeper:
    """The process; `close` has it take its lab down and end."""

    def __init__(self) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.asked = 0  # how often
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "netlab.testing.keeper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={k: v for k, v in os.environ.items() if k != "NETLAB_LAB"},
            start_new_session=True,  # ^C is for the tests; it ends when we have
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._log.closed and self._process.poll() is None

    def ask(self, do: str, kind: type[T], /, **given: object) -> T:
        """Return what the deed *do* gives, as a *kind*.

        Raises the NetlabError or OSError that it raised, NetlabError when the keeper has ended.
        """
        with self._turn:
            reply = self._reply(do, given)
        if reply.error is not None:
            raise raised(reply.error)
        return msgspec.json.decode(reply.result, type=kind)

    def do(self, what: str, /, **given: object) -> None:
        """Ask for a deed that gives nothing."""
        self.ask(what, type(None), **given)

    def _reply(self, do: str, given: dict[str, Any]) -> Reply:
        asking, telling = self._process.stdin, self._process.stdout
        assert asking is not None and telling is not None
        self.asked += 1
        try:
            asking.write(msgspec.json.encode(Request(self.asked, do, given)) + b"\n")
            asking.flush()
            # ^C may have left us without a reply that came all the same: pass it over.
            while line := telling.readline():
                reply = msgspec.json.decode(line, type=Reply)
                if reply.number == self.asked:
                    return reply
        except (BrokenPipeError, ValueError):
            pass
        raise NetlabError(f"the lab's keeper has ended: {self._last_words()}")

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.poll()}"

    def close(self) -> None:
        """Have it take its lab down; wait until it has. Raises NetlabError when it could not."""
        if self._log.closed:
            return
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:
                pass  # it has ended, with a question unread
        try:
            code = self._process.wait(ENDING)
            words = self._last_words()
        except subprocess.TimeoutExpired:
            raise NetlabError(f"the lab's keeper (pid {self.pid}) does not end") from None
        finally:
            self._log.close()
        if code:
            raise NetlabError(f"the lab's keeper failed: {words}")


def raised(failure: Failure) -> Exception:
    """Return the error that *failure* tells of."""
    if failure.kind == "OSError":
        return OSError(failure.number, failure.message)  # ConnectionRefusedError, by its number
    if failure.kind == "TimeoutError":
        return TimeoutError(failure.message)
    if failure.mistakes:
        return InputError(failure.mistakes)
    kind = cast(type[NetlabError], getattr(errors, failure.kind))
    return kind(failure.message, hint=failure.hint)
