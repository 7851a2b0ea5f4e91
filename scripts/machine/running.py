"""A run: machines started together, their output passed on as it comes, all ended together."""

from __future__ import annotations

import ctypes
import os
import re
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import qemu

BOOTING = 90.0  # seconds; it takes 5, and five times that on a busy computer
CONSOLE_LINES = 15
TROUBLE = re.compile(r"Kernel panic|Oops|BUG:|sysrq:|\bvm: ")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
CHUNK = 65536
TERMINAL = "terminal"


class Failed(Exception):
    """A machine did not start, or ended before its command."""

    def __init__(self, reason: str, *, booted: bool, hung: bool = False) -> None:
        super().__init__(reason)
        self.booted = booted
        self.hung = hung  # rather than dead


class TimeUp(Exception):
    """The caller's --timeout is over."""


@dataclass
class Stream:
    """One channel of a machine that comes to one of our own files, until the mark."""

    target: int
    mark: bytes
    prefix: bytes = b""  # of each line
    code: int | None = None  # the command's, once it has ended
    held: bytes = b""  # may be the mark's beginning, or a line that is not whole yet

    def take(self, data: bytes) -> None:
        """Pass on what of *data* is the command's; see its end."""
        data = self.held + data
        self.held = b""
        if self.code is not None:
            return
        begin = data.find(self.mark)
        if begin >= 0 and (end := data.find(b"\0", begin + len(self.mark))) >= 0:
            self.code = int(data[begin + len(self.mark) : end])
            self.put(data[:begin], last=True)
            return
        safe = begin if begin >= 0 else len(data) - overlap(data, self.mark)
        self.held = self.put(data[:safe]) + data[safe:]

    def put(self, data: bytes, *, last: bool = False) -> bytes:
        """Write, with several machines whole lines with their machine's name; return the rest."""
        rest = b""
        if self.prefix and data:
            lines = data.splitlines(keepends=True)
            if not lines[-1].endswith(b"\n"):
                if last:
                    lines[-1] += b"\n"
                else:
                    rest = lines.pop()
            data = b"".join(self.prefix + line for line in lines)
        while data:
            data = data[os.write(self.target, data) :]
        return rest


def overlap(data: bytes, mark: bytes) -> int:
    """Return how many of *data*'s last bytes may be the beginning of *mark*."""
    return next((n for n in range(len(mark) - 1, 0, -1) if data.endswith(mark[:n])), 0)


@dataclass
class Machine:
    """One machine: its process, and its channels as they get connected."""

    node: int
    process: subprocess.Popen[bytes]
    console: Path
    streams: list[Stream] = field(default_factory=list)
    channels: dict[str, socket.socket] = field(default_factory=dict)
    ready: bool = False

    def ended(self) -> bool:
        return all(stream.code is not None for stream in self.streams)

    def last_words(self) -> str:
        """Return what a dead machine's console said last, from the first sign of trouble on."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        trouble = next((i for i, line in enumerate(lines) if TROUBLE.search(line)), len(lines))
        shown = lines[min(trouble, max(0, len(lines) - CONSOLE_LINES)) :][:CONSOLE_LINES]
        return "".join(f"\n  console: {line}" for line in shown)


@dataclass
class Run:
    """Machines that run one command; `codes()` does all of it."""

    directory: Path
    shape: qemu.Shape
    mark: str
    environment: dict[str, str]
    deadline: float | None  # of time.monotonic()
    booted: float = 0.0  # seconds until all were ready
    lasted: float = 0.0  # seconds until all had ended
    machines: list[Machine] = field(default_factory=list)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def codes(self, command: Callable[[int], list[str]]) -> list[int]:
        """Start the machines, let their commands begin together, and return the exit codes.

        *command* gives the QEMU command line of a machine. Whatever happens, all have ended then.
        """
        began = time.monotonic()
        try:
            for node in range(1, self.shape.count + 1):
                self.start(node, command(node))
            while not all(machine.ready for machine in self.machines):
                self.turn()
                if time.monotonic() > began + BOOTING:
                    late = next(machine for machine in self.machines if not machine.ready)
                    raise self.failure(late, f"did not start in {BOOTING:.0f} s")
            self.booted = time.monotonic() - began
            if self.shape.shell:
                self.selector.register(0, selectors.EVENT_READ, (self.machines[0], TERMINAL, None))
            for machine in self.machines:
                machine.channels["control"].sendall(b"go\n")
            while not all(machine.ended() for machine in self.machines):
                self.turn()
            self.lasted = time.monotonic() - began
            return [machine.streams[0].code or 0 for machine in self.machines]
        finally:
            for machine in self.machines:
                machine.process.kill()
                machine.process.wait()
            for key in list(self.selector.get_map().values()):
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()
            self.selector.close()

    def start(self, node: int, words: list[str]) -> None:
        """Start one machine; its channels call us."""
        listeners = {name: self.listener(f"{name}.{node}") for name in qemu.names(self.shape)}
        # The others call the first, which is their hub.
        deadline = time.monotonic() + 20
        while node > 1 and not (self.directory / f"wire.{node}").exists():
            if self.machines[0].process.poll() is not None or time.monotonic() > deadline:
                raise self.failure(self.machines[0], "did not start")
            time.sleep(0.01)
        with open(self.directory / f"qemu.{node}", "wb") as errors:
            process = subprocess.Popen(
                words,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,  # the terminal's ^C is for us, and we end all
                preexec_fn=ends_with_us,
            )
        machine = Machine(node, process, self.directory / f"serial.{node}")
        self.machines.append(machine)
        prefix = f"vm{node}| ".encode() if self.shape.count > 1 else b""
        mark = f"\0{self.mark} ".encode()
        for name, listener in listeners.items():
            stream = None
            if name != "control":
                stream = Stream(2 if name == "stderr" else 1, mark, prefix)
                machine.streams.append(stream)
            self.selector.register(listener, selectors.EVENT_READ, (machine, name, stream))

    def listener(self, name: str) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.directory / name))
        listening.listen(1)
        return listening

    def turn(self) -> None:
        """Wait a moment for something to come, and take it."""
        for key, _ in self.selector.select(0.2):
            machine, name, stream = key.data
            if not isinstance(key.fileobj, socket.socket):  # what is typed on the terminal
                machine.channels["console"].sendall(os.read(0, CHUNK))
            elif key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                self.connected(key.fileobj, machine, name, stream)
            elif not (data := key.fileobj.recv(CHUNK)):
                self.selector.unregister(key.fileobj)
                key.fileobj.close()
            elif stream is None:
                if machine.ready and b"ready" in data:  # it was reset
                    key.fileobj.sendall(b"go\n")
                machine.ready = machine.ready or b"ready" in data
            else:
                stream.take(data)
        for machine in self.machines:
            if machine.process.poll() is not None and not machine.ended():
                reason = "ended before its command did" if machine.ready else "did not start"
                raise self.failure(machine, reason)
        if self.deadline and time.monotonic() > self.deadline:
            raise TimeUp

    def connected(
        self, listener: socket.socket, machine: Machine, name: str, stream: Stream | None
    ) -> None:
        """One channel called: from now on it is read instead of listened for."""
        channel, _ = listener.accept()
        self.selector.unregister(listener)
        listener.close()
        self.selector.register(channel, selectors.EVENT_READ, (machine, name, stream))
        machine.channels[name] = channel

    def failure(self, machine: Machine, reason: str) -> Failed:
        said = (self.directory / f"qemu.{machine.node}").read_text(errors="replace").splitlines()
        words = "".join(f"\n  qemu: {line}" for line in said[-5:]) + machine.last_words()
        if not words:
            words = f"\n  qemu: ended with {machine.process.poll()}, its console is empty"
        hung = machine.process.poll() is None
        return Failed(f"vm{machine.node} {reason}{words}", booted=machine.ready, hung=hung)


def ends_with_us() -> None:
    """In the child: be killed when the parent dies, even of SIGKILL."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
