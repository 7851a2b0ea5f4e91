"""Asking probes: one thread per node that has any, asleep in poll(2) between questions.

1. The thread is in the node's namespace, as a kubelet is: its packets come from the node.
2. Nothing in it waits for one answer: a connection that hangs delays no other probe.
3. The first question comes at once, and again a few times within the first period, so that what is
   up within moments is known to be; these early failures do not count.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from netlab import processes
from netlab.pods import runs, sandbox
from netlab.pods.namespaces import CLONE_NEWNET, netns_path, setns
from netlab.probes import Gauge, Probe

EARLY = (0.05, 0.1, 0.2, 0.4)  # seconds between the first questions
OUTPUT_MAX = 10 * 1024  # bytes of what a program says
STATUS_OK = range(200, 400)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Probing:
    """The probes of one node. `fileno` becomes readable when a decision or a failure is new."""

    def __init__(self, rundir: Path, netns: str) -> None:
        self._rundir = rundir
        self._netns = netns
        self._lock = threading.Lock()
        self._asked: dict[Probe, _Asked] = {}
        self._dropped: list[_Asked] = []  # whose questions may still be open
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="probing", daemon=True)
        self._thread.start()

    def set(self, probes: Iterable[Probe]) -> None:
        """Ask *probes* from now on, and no others; those that were asked before go on."""
        wanted = set(probes)
        with self._lock:
            if wanted == self._asked.keys():
                return
            for probe in wanted - self._asked.keys():
                self._asked[probe] = _Asked(probe)
            for probe in self._asked.keys() - wanted:
                self._dropped.append(self._asked.pop(probe))
        os.eventfd_write(self._wakeup, 1)

    def gauges(self) -> dict[Probe, tuple[bool | None, str]]:
        """Return what has been decided of each probe, and what was wrong the last time."""
        with self._lock:
            return {
                probe: (one.gauge.passed, one.gauge.trouble) for probe, one in self._asked.items()
            }

    def fileno(self) -> int:
        return self._news

    def heard(self) -> None:
        """Take note of the news."""
        try:
            os.eventfd_read(self._news)
        except BlockingIOError:  # none
            pass

    def close(self) -> None:
        self._ending = True
        os.eventfd_write(self._wakeup, 1)
        self._thread.join(timeout=2.0)
        for descriptor in (self._news, self._wakeup):
            os.close(descriptor)

    # -- the thread

    def _run(self) -> None:
        home = os.open(netns_path(self._netns), os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(home, CLONE_NEWNET)
        finally:
            os.close(home)
        while not self._ending:
            self._sleep()
            with self._lock:
                asked = list(self._asked.values())
                dropped, self._dropped = self._dropped, []
            for one in dropped:
                one.end()
            now = time.monotonic()
            for one in asked:
                if one.step(now, self._rundir):
                    os.eventfd_write(self._news, 1)
        with self._lock:
            for one in (*self._asked.values(), *self._dropped):
                one.end()

    def _sleep(self) -> None:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        with self._lock:
            asked = list(self._asked.values())
        due = min((one.due for one in asked), default=None)
        for one in asked:
            for descriptor, events in one.waits_for():
                poll.register(descriptor, events)
        wait = None if due is None else max(0.0, due - time.monotonic()) * 1000 + 1
        if any(descriptor == self._wakeup for descriptor, _ in poll.poll(wait)):
            os.eventfd_read(self._wakeup)


class _Asked:
    """One probe: when it is to be asked, and the question that is open."""

    def __init__(self, probe: Probe) -> None:
        now = time.monotonic()
        self.gauge = Gauge(probe)
        self._question: _Connection | _Program | None = None
        self._ask_at = now + probe.delay
        self._counts_from = self._ask_at + min(1.0, probe.period)
        self._early = list(EARLY)
        self._told = ""

    @property
    def due(self) -> float:
        """When something is to be done though nothing happens."""
        return self._question.deadline if self._question else self._ask_at

    def waits_for(self) -> list[tuple[int, int]]:
        return [self._question.waits_for()] if self._question else []

    def step(self, now: float, rundir: Path) -> bool:
        """Ask, or see whether there is an answer; return whether there is news."""
        if self._question is None:
            if now < self._ask_at:
                return False
            try:
                self._question = _asked(self.gauge.probe, rundir)
            except OSError as error:  # no descriptor is left; the others are asked all the same
                return self._take(f"cannot ask: {error.strerror}", now)
        trouble = self._question.answer(now)
        if trouble is None:
            return False
        self.end()
        return self._take(trouble, now)

    def _take(self, trouble: str, now: float) -> bool:
        """Take the answer, "" or what is wrong; return whether that is news."""
        early = trouble and now < self._counts_from and self._early
        wait = self._early.pop(0) if early else float(self.gauge.probe.period)
        self._ask_at = now + wait
        if early:
            return False
        news = self.gauge.take(trouble)
        news, self._told = news or trouble != self._told, trouble
        return news

    def end(self) -> None:
        """Leave the question that is open."""
        if self._question is not None:
            self._question.close()
            self._question = None


def _asked(probe: Probe, rundir: Path) -> _Connection | _Program:
    return _Program(probe, rundir) if probe.argv else _Connection(probe)


class _Connection:
    """A connection to a port, and what comes of asking for a page."""

    def __init__(self, probe: Probe) -> None:
        self.deadline = time.monotonic() + probe.timeout
        self._probe = probe
        self._request = _request(probe)
        self._reply = b""
        self._connected = False
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._refusal = ""
        try:
            code = self._sock.connect_ex((probe.address, probe.port))
        except (OSError, OverflowError) as error:
            self._refusal = str(error)
        else:
            if code not in (0, errno.EINPROGRESS):
                self._refusal = os.strerror(code).lower()

    def waits_for(self) -> tuple[int, int]:
        asked = self._connected and not self._request
        return self._sock.fileno(), select.POLLIN if asked else select.POLLOUT

    def answer(self, now: float) -> str | None:
        """Return "" for a good answer, else what is wrong; None: there is none yet."""
        try:
            return self._answer(now)
        except OSError as error:
            return self._words(os.strerror(error.errno or 0).lower())

    def _answer(self, now: float) -> str | None:
        if self._refusal:
            return self._words(f"connect: {self._refusal}")
        if not self._connected and not self._connects():
            return self._late(now)
        if self._refusal:
            return self._words(f"connect: {self._refusal}")
        if not self._probe.page:
            return ""
        if self._request:
            self._request = self._request[self._sock.send(self._request) :]
        try:
            data = self._sock.recv(4096)
        except BlockingIOError:
            return self._late(now)
        self._reply += data
        line, end, _ = self._reply.partition(b"\r\n")
        if not end and data:
            return self._late(now)
        words = line.split()
        code = int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
        if not words or not words[0].startswith(b"HTTP/"):
            return f"{self._url()}: malformed HTTP response"
        return "" if code in STATUS_OK else f"HTTP probe failed with statuscode: {code}"

    def _connects(self) -> bool:
        """Return whether the connection is there, or will never be."""
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        if not poll.poll(0):
            return False
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._refusal = os.strerror(code).lower() if code else ""
        self._connected = True
        return True

    def _late(self, now: float) -> str | None:
        if now < self.deadline:
            return None
        if self._probe.page:
            return f"{self._url()}: context deadline exceeded"
        return self._words("i/o timeout")

    def _url(self) -> str:
        return f'Get "http://{self._probe.address}:{self._probe.port}{self._probe.page}"'

    def _words(self, why: str) -> str:
        dial = f"dial tcp {self._probe.address}:{self._probe.port}: {why}"
        return f"{self._url()}: {dial}" if self._probe.page else dial

    def close(self) -> None:
        self._sock.close()


def _request(probe: Probe) -> bytes:
    fields = {name.lower(): f"{name}: {value}" for name, value in probe.headers}
    fields.setdefault("host", f"Host: {probe.address}:{probe.port}")
    fields.setdefault("user-agent", "User-Agent: kube-probe/netlab")
    fields.setdefault("accept", "Accept: */*")
    lines = [f"GET {probe.page} HTTP/1.1", *fields.values(), "Connection: close", "", ""]
    return "\r\n".join(lines).encode()


class _Program:
    """A program that is executed in the pod, and its exit code."""

    def __init__(self, probe: Probe, rundir: Path) -> None:
        self._probe, self._rundir = probe, rundir
        self._role = "/".join(("probe", *probe.sandbox, probe.container))
        self._run: runs.Run | None = None
        self._problem = ""
        self._output, output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            pid = sandbox.find(rundir, *probe.sandbox)
            if pid is None:
                raise OSError(0, "the pod has no sandbox")
            environment = {"PATH": _PATH, "HOSTNAME": probe.sandbox[1]}
            marked = processes.marked_environment(rundir, self._role, environment)
            self._run = runs.started(pid, list(probe.argv), env=marked, cwd="", output=output)
        except OSError as error:
            self._problem = error.strerror or str(error)
        finally:
            os.close(output)
        self.deadline = time.monotonic() + probe.timeout

    def waits_for(self) -> tuple[int, int]:
        descriptor = self._run.pidfd if self._run else self._output
        return descriptor, select.POLLIN

    def answer(self, now: float) -> str | None:
        """Return "" for exit code 0, else what the program said; None: it has not ended."""
        if self._run is None:
            return self._problem
        if runs.over(self._run):
            if problem := runs.why_not_started(self._run):
                return problem
            end = runs.terminated(self._run)
            said = self._said()
            return (said or f"exit code {end['exitCode']}") if end["exitCode"] else ""
        if now < self.deadline:
            return None
        command = " ".join(self._probe.argv)
        return f'command "{command}" timed out after {self._probe.timeout}s'

    def _said(self) -> str:
        try:
            return os.read(self._output, OUTPUT_MAX).decode(errors="replace").strip()
        except BlockingIOError:
            return ""

    def close(self) -> None:
        os.close(self._output)
        if self._run is not None:
            if not runs.over(self._run):
                runs.send(self._run, signal.SIGKILL)
                runs.kill(self._run, self._rundir, self._role)
            runs.release(self._run)
