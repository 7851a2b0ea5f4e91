"""A program that runs here for somebody elsewhere, who fetches its output piece by piece.

The pipes are all that is kept: whoever does not fetch has the program wait, as any slow reader has.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from netlab.processes import commands

PIECE = 1 << 18  # bytes of output in a piece, at most
FED = 1 << 16  # bytes that are taken at once as input, at most
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
SETTLES = 0.01  # seconds in which more may come, so that a line is no piece of its own


class Piece(NamedTuple):
    """What a program wrote since the last piece; *code* once it has ended and all was fetched:
    its exit code, 128 + n when signal n killed it."""

    out: bytes
    err: bytes
    code: int | None


class Errand:
    """One such program, in a session of its own. For several threads, each method in one."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], fed: bool) -> None:
        """*fed*: it gets input by `feed`, else it has none. Raises CapabilityError."""
        with commands.program_errors(argv[0]):
            self._child = subprocess.Popen(
                list(argv),
                env=dict(env),
                cwd="/",
                stdin=subprocess.PIPE if fed else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        self.written = 0  # bytes that were fetched
        self._reading = threading.Lock()
        self._pidfd = os.pidfd_open(self._child.pid)
        assert self._child.stdout is not None and self._child.stderr is not None
        self._streams = [self._child.stdout.fileno(), self._child.stderr.fileno()]
        for descriptor in self._streams:
            os.set_blocking(descriptor, False)
        if self._child.stdin is not None:
            os.set_blocking(self._child.stdin.fileno(), False)

    def more(self, seconds: float) -> Piece:
        """Return what was written since the last call, waiting for it at most *seconds*."""
        with self._reading:
            poll = select.poll()
            for descriptor in (*self._streams, self._pidfd):
                if descriptor >= 0:
                    poll.register(descriptor, select.POLLIN)
            poll.poll(seconds * 1000)
            time.sleep(SETTLES)
            ended = self._child.poll()  # before reading: what it wrote is in the pipes by now
            out, err = map(self._rest, (0, 1))
            self.written += len(out) + len(err)
        if ended is None or len(out) >= PIECE or len(err) >= PIECE:
            return Piece(out, err, None)
        return Piece(out, err, ended if ended >= 0 else 128 - ended)

    def _rest(self, index: int) -> bytes:
        found = bytearray()
        descriptor = self._streams[index]
        while descriptor >= 0 and len(found) < PIECE:
            try:
                data = os.read(descriptor, PIECE - len(found))
            except BlockingIOError:
                break
            if not data:  # closed
                self._streams[index] = -1
                break
            found += data
        return bytes(found)

    def feed(self, data: bytes, *, last: bool) -> int:
        """Have *data* be input, then its end if it is the *last*; return how many bytes were taken,
        -1 when the program reads no more. Waits a while for room."""
        stdin = self._child.stdin
        if stdin is None or stdin.closed:
            return -1
        taken = 0
        try:
            if data:
                poll = select.poll()
                poll.register(stdin.fileno(), select.POLLOUT)
                taken = os.write(stdin.fileno(), data) if poll.poll(1000) else 0
        except BlockingIOError:
            pass
        except BrokenPipeError:
            taken, last = -1, True
        if last and taken in (-1, len(data)):
            stdin.close()
        return taken

    def stop(self) -> None:
        """Ask it to end; what it still writes can be fetched."""
        self._child.terminate()

    def close(self) -> None:
        """End it, and what it has started in its session, if it still runs."""
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(GRACE)
            except subprocess.TimeoutExpired:
                pass
            with suppress(ProcessLookupError):  # nothing else is left of it
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        with self._reading:  # which goes on no longer than the program
            for stream in (self._child.stdin, self._child.stdout, self._child.stderr):
                if stream is not None:
                    stream.close()
            self._streams = [-1, -1]
            os.close(self._pidfd)
            self._pidfd = -1
