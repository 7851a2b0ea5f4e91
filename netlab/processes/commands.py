"""The one door for commands: what they print, why they failed, which package is missing."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from netlab.errors import CapabilityError, NetlabError
from netlab.kernel.netns import entered

MARK = "NETLAB_PROCESS"
START = "NETLAB_PROCESS_START"  # start time, clock ticks since boot: proc_pid_stat(5), field 22

_PATH = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"  # a user's may lack sbin
_PACKAGES = {  # Debian's package of a program, for hints
    "bridge": "iproute2",
    "conntrack": "conntrack",
    "etcd": "etcd-server",
    "getent": "libc-bin",
    "ip": "iproute2",
    "ipset": "ipset",
    "ipvsadm": "ipvsadm",
    "nft": "nftables",
    "nginx": "nginx",
    "openssl": "openssl",
    "nsenter": "util-linux",
    "sh": "dash",
    "sysctl": "procps",
    "tc": "iproute2",
    "unshare": "util-linux",
}

_log = logging.getLogger("netlab.commands")


@dataclass(frozen=True)
class Completed:
    """A command that has ended."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    input: str | None = None,
    netns: str | None = None,
    timeout: float = 30.0,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a command to its end, in the network namespace *netns*, and return what it printed.

    Raises CapabilityError when the program is missing (the hint names its package), KernelError
    for the namespace, NetlabError when it takes longer than *timeout* seconds or, unless *check*
    is false, exits with another code than 0. *env* replaces the environment.
    """
    log(argv, netns=netns, input=input)
    marked_env = env is not None and MARK in env
    with (
        _whole(input) as stdin,
        entered(netns) if netns else nullcontext(),
        program_errors(argv[0]),
    ):
        child = subprocess.Popen(
            list(argv),
            env=_environment() if env is None else dict(env),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            pass_fds=pass_fds,
            start_new_session=marked_env,
        )
    with child:
        try:
            stdout, stderr = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise NetlabError(f"{shlex.join(argv)}: not done after {timeout:g} s") from None
        finally:
            if child.poll() is None:
                child.kill()
    done = Completed(tuple(argv), child.returncode, stdout, stderr)
    if check and done.returncode != 0:
        where = f"{netns}: " if netns else ""
        raise NetlabError(f"{where}{shlex.join(argv)}: {_reason(done)}")
    return done


@contextmanager
def _whole(text: str | None) -> Iterator[int]:
    """Have *text* as a file to be a program's input: were we killed, it would still read all.

    Of a pipe it would read the beginning, which to nft may well be a transaction of its own.
    """
    if text is None:
        yield subprocess.DEVNULL
        return
    descriptor = os.memfd_create("input", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _reason(done: Completed) -> str:
    said = done.stderr.strip() or done.stdout.strip()
    return said or f"exit code {done.returncode}"


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in (MARK, START)}
    return {**kept, "PATH": _PATH, "LC_ALL": "C"}


@contextmanager
def program_errors(program: str) -> Iterator[None]:
    """A program that cannot be started raises CapabilityError here, with its package as hint."""
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        package = _PACKAGES.get(program) or ("iptables" if "tables" in program else program)
        raise CapabilityError(
            f"cannot run {program}: {error.strerror}",
            hint=f"install the package {package}",
        ) from error


def installed(program: str) -> bool:
    """Return whether `run` would find *program*."""
    return shutil.which(program, path=_PATH) is not None


def log(argv: Sequence[str], *, netns: str | None = None, input: str | None = None) -> None:
    """Log a command before it runs, at level DEBUG."""
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("%s", pasteable(argv, netns=netns, input=input))


def pasteable(argv: Sequence[str], *, netns: str | None, input: str | None = None) -> str:
    """Return one line that does the same when pasted into a shell."""
    line = shlex.join(argv)
    if netns:
        line = f"ip netns exec {shlex.quote(netns)} {line}"
    if input is None:
        return line
    escaped = input.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    return f"printf %b {shlex.quote(escaped)} | {line}"
