"""A pod's UTS, IPC, PID and mount namespaces: made when something is first executed in it.

They live as long as their first process (`pause`), which is found by its mark,
`sandbox/<namespace>/<pod>`; there is nothing to remember. The agent and `netlab exec` may both ask
for one at the same time: the pod's directory is the lock, and the program that sets a sandbox up
holds it too, so that whoever has the lock sees sandboxes only whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import netlab
from netlab import processes
from netlab.errors import NetlabError
from netlab.pods import etc
from netlab.pods.namespaces import netns_path

SETUP_SECONDS = 20.0
_ROOT = str(Path(netlab.__file__).parent.parent)  # where `netlab` is imported from


def role(namespace: str, pod: str) -> str:
    return f"sandbox/{namespace}/{pod}"


def find(rundir: Path | str, namespace: str, pod: str) -> int | None:
    """Return the process that holds the pod's sandbox, None when there is none."""
    return next(iter(processes.marked(rundir).get(role(namespace, pod), [])), None)


def ensure(
    rundir: Path | str,
    *,
    netns: str,
    namespace: str,
    pod: str,
    hostname: str,
    files: Mapping[str, str],
) -> int:
    """Return the first process of the pod's sandbox, made now if there is none.

    *files*: what its /etc shows, by name. A sandbox around a namespace that has since been made
    again under the same name is replaced, with all that runs in it. Raises NetlabError.
    """
    directory = _directory(rundir, namespace, pod)
    with _locked(directory) as lock:
        etc.write(directory, files)
        _point(directory / "netns", netns_path(netns))
        pid = find(rundir, namespace, pod)
        if pid is not None:
            if is_in(pid, netns):
                return pid
            processes.end(pid, grace=1.0)
        made = processes.run(
            [sys.executable, "-S", "-m", "netlab.pods.pause", hostname, str(directory)],
            netns=netns,
            env=processes.marked_environment(
                rundir, role(namespace, pod), {**os.environ, "PYTHONPATH": _ROOT}
            ),
            pass_fds=(lock,),
            timeout=SETUP_SECONDS,
            check=False,
        )
    if made.returncode != 0:
        raise NetlabError(
            f"{netns}: cannot make the sandbox of pod {namespace}/{pod}: {made.stderr.strip()}"
        )
    return int(made.stdout)


def remove(rundir: Path | str, namespace: str, pod: str, *, netns: str | None = None) -> bool:
    """End the pod's sandbox and with it everything that runs in the pod. No error without one.

    With *netns*, only if the sandbox is around that network namespace; returns False otherwise.
    """
    directory = _directory(rundir, namespace, pod)
    if not directory.exists():
        return True
    with _locked(directory):
        link = directory / "netns"
        if netns and link.is_symlink() and os.readlink(link) != netns_path(netns):
            return False
        pid = find(rundir, namespace, pod)
        if pid is not None:
            processes.end(pid, grace=1.0)
        shutil.rmtree(directory, ignore_errors=True)
    try:
        directory.parent.rmdir()
    except OSError:  # another pod of that namespace has one
        pass
    return True


def orphans(rundir: Path | str) -> list[tuple[str, str]]:
    """Return (namespace, pod) of the sandboxes whose network namespace has no name any more."""
    return [
        (link.parent.parent.name, link.parent.name)
        for directory in Path(rundir, "sandbox").glob("*/*")  # glob itself skips broken links
        if (link := directory / "netns").is_symlink() and not link.exists()
    ]


def is_in(pid: int, netns: str) -> bool:
    """Return whether process *pid* is in the network namespace that is now called *netns*."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(netns_path(netns)).st_ino
    except OSError:
        return False


def _directory(rundir: Path | str, namespace: str, pod: str) -> Path:
    return Path(rundir, "sandbox", namespace, pod)


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    """Hold the directory's lock, as a descriptor; the directory is made if need be."""
    while True:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # removed just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                current = os.stat(directory).st_ino == os.fstat(lock).st_ino
            except FileNotFoundError:
                current = False
            if current:
                yield lock
                return
        finally:
            os.close(lock)


def _point(link: Path, target: str) -> None:
    """Make *link* point at *target*, so that it shows whether the namespace still has its name."""
    if not link.is_symlink() or os.readlink(link) != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)
