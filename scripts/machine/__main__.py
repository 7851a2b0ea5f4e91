"""What scripts/vm runs: throw-away machines. Its help is the comment at the top of scripts/vm.

fetched   packages of the distribution, unpacked into the cache
kernels   a kernel, its modules and initramfs
qemu      the command line of one machine
running   a run of machines: output, exit codes, the end
init      the initramfs' script; guest: the machine's own
"""

from __future__ import annotations

import argparse
import fcntl
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import fetched
import kernels
import qemu
from fetched import Missing, say
from running import Failed, Run, TimeUp

CHECKOUT = Path(__file__).resolve().parents[2]
USAGE, MISSING, LATE, DIED, INTERRUPTED = 2, 3, 124, 125, 130
MOST = 200  # machines on a wire: their addresses end in 11 to 210
EMULATED = "10"  # NETLAB_PATIENCE: how much longer things take than on this computer
LEFT_OUT = ("LD_LIBRARY_PATH", "TMPDIR", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
# In the guest, which is root already.
SUDO = """#!/bin/sh
while :; do
    case "${1:-}" in
    --) shift; break ;;
    -u | -g | -C | -D) shift 2 ;;
    -*) shift ;;
    *) break ;;
    esac
done
exec env "$@"
"""


class Arguments(argparse.ArgumentParser):
    """One line for what is wrong, in the words of the other scripts."""

    def error(self, message: str) -> NoReturn:
        say(f"error: {message}\nhint: scripts/vm --help")
        raise SystemExit(USAGE)


def parsed(words: list[str]) -> argparse.Namespace:
    parser = Arguments(prog="scripts/vm", add_help=False, allow_abbrev=False)
    parser.add_argument("--check", action="store_true")  # scripts/vm's own: only this
    parser.add_argument("--count", type=at_least(1), default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shell", action="store_true")
    parser.add_argument("--monitors", type=Path)
    parser.add_argument("--memory", type=at_least(64), default=2048)
    parser.add_argument("--cpus", type=at_least(1))
    parser.add_argument("--timeout", type=float)
    parser.add_argument("--kernel")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("-v", dest="verbose", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(words)
    if chosen.command[:1] == ["--"]:
        del chosen.command[0]
    ways = [bool(chosen.command), chosen.shell, chosen.prepare]
    if sum(ways) != 1:
        parser.error("one of COMMAND, --shell and --prepare is needed")
    if chosen.count > MOST:
        parser.error(f"argument --count: at most {MOST}")
    if chosen.shell and (chosen.count > 1 or not sys.stdin.isatty()):
        parser.error("--shell takes a terminal, and one machine")
    for name in ("out", "monitors"):
        directory = getattr(chosen, name)
        if directory and directory.exists() and not directory.is_dir():
            parser.error(f"argument --{name}: {directory} is not a directory")
    return chosen


def at_least(least: int):  # type: ignore[no-untyped-def]
    def number(word: str) -> int:
        if not word.isdigit() or int(word) < least:
            raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from {least} on")
        return int(word)

    return number


def cache_directory() -> Path:
    """Return the cache, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("NETLAB_VM_CACHE") or Path(base, "netlab/vm")).absolute()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Missing(f"no cache at {cache}: {error.strerror}; see NETLAB_VM_CACHE") from error
    return cache


def prepared(cache: Path, package: str | None) -> kernels.Kernel:
    """Return the kernel to boot, once everything is in the cache. One process at a time."""
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for unfinished in [*cache.glob("*/unfinished.*"), *cache.glob("tmp*")]:
            shutil.rmtree(unfinished, ignore_errors=True)
        if missing := fetched.missing(cache, CHECKOUT):
            fetched.add_layer(cache, missing)
        return kernels.kernel(cache, package)


def command_text(words: list[str], *, kvm: bool) -> str:
    """Return the shell script that the guest runs: the caller's environment, directory, words."""
    left_out = (*LEFT_OUT, "PATH", "PWD", "OLDPWD", "_")
    exported = {name: value for name, value in os.environ.items() if name not in left_out}
    # A version manager's stand-ins for Python take seconds under emulation.
    inherited = [d for d in os.environ.get("PATH", "").split(":") if not d.endswith("/shims")]
    system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
    path = [str(CHECKOUT / ".venv/bin"), "/run/vm/bin", *inherited, *system]
    exported["PATH"] = ":".join(dict.fromkeys(path))
    exported["NETLAB_VM"] = "1"
    if not kvm:
        exported.setdefault("NETLAB_PATIENCE", EMULATED)
    lines = [f"export {n}={shlex.quote(v)}" for n, v in exported.items() if n.isidentifier()]
    return "\n".join([*lines, f"cd {shlex.quote(os.getcwd())}", f"exec {shlex.join(words)}", ""])


def fill(
    share: Path, chosen: argparse.Namespace, *, cache: Path, kernel: kernels.Kernel, kvm: bool
) -> None:
    """Write what the guest reads in /run/vm."""
    (share / "bin").mkdir(parents=True)
    layers = [kernel.layer, *fetched.layers(cache)]
    (share / "layers").write_text("".join(f"{layer.relative_to(cache)}\n" for layer in layers))
    (share / "out").write_text(f"{chosen.out}\n" if chosen.out else "")
    words = chosen.command
    if chosen.shell:
        words = [os.environ.get("SHELL", "/bin/sh")]
        size = shutil.get_terminal_size()
        (share / "shell").write_text(f"rows {size.lines} columns {size.columns}\n")
    (share / "command").write_text(command_text(words, kvm=kvm))
    shutil.copy(Path(__file__).parent / "guest", share / "guest")
    (share / "bin/sudo").write_text(SUDO)
    (share / "bin/sudo").chmod(0o755)


@contextmanager
def raw_terminal(wanted: bool) -> Iterator[None]:
    """Every key goes to the guest, ^C too."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def ran(chosen: argparse.Namespace, cache: Path, kernel: kernels.Kernel, *, kvm: bool) -> int:
    """Run the command in machines, and return the first exit code that is not 0."""
    for directory in filter(None, (chosen.out, chosen.monitors)):
        directory.mkdir(parents=True, exist_ok=True)
    if chosen.out:
        chosen.out = chosen.out.absolute()
    shape = qemu.Shape(
        chosen.count, chosen.memory, chosen.cpus, chosen.out, chosen.shell, chosen.monitors
    )
    mark = secrets.token_hex(8)
    with tempfile.TemporaryDirectory(prefix="netlab-vm.") as name:
        directory = Path(name)
        fill(directory / "share", chosen, cache=cache, kernel=kernel, kvm=kvm)
        deadline = time.monotonic() + chosen.timeout if chosen.timeout else None
        run = Run(directory, shape, mark, fetched.environment(cache), deadline)

        def words(node: int) -> list[str]:
            found = qemu.command(cache, kernel, shape, node=node, run=directory, kvm=kvm, mark=mark)
            if chosen.verbose:
                say(shlex.join(found))
            return found

        with raw_terminal(chosen.shell):
            codes = run.codes(words)
    if chosen.verbose:
        say(f"booted in {run.booted:.1f} s, all ended after {run.lasted:.1f} s")
    return next((code for code in codes if code), 0)


def interrupted(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


def main(words: list[str]) -> int:
    chosen = parsed(words)
    if chosen.check:
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupted)
    try:
        cache = cache_directory()
        kernel = prepared(cache, chosen.kernel)
        if chosen.prepare:
            return 0
        kvm = qemu.kvm_works()
        try:
            return ran(chosen, cache, kernel, kvm=kvm)
        except Failed as failed:
            # KVM may be there and not work; an emulated machine hangs in one of a hundred starts.
            if failed.booted or not (kvm or failed.hung):
                raise
            say(f"note: {failed}\nnote: once more{', without KVM' if kvm else ''}")
            return ran(chosen, cache, kernel, kvm=False)
    except Missing as error:
        say(f"error: {error}")
        return MISSING
    except Failed as error:
        say(f"error: {error}")
        return DIED
    except TimeUp:
        say(f"error: the time was up after {chosen.timeout:g} s")
        return LATE
    except KeyboardInterrupt as signalled:
        return 128 + (signalled.args[0] if signalled.args else signal.SIGINT)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
