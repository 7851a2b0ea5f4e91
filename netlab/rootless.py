"""A lab without root: one user, mount and network namespace per user that holds all of it.

1. The first command that builds makes the namespaces and leaves a small holder process in them.
2. Every later command of the same user finds the holder by its mark and enters.
3. Inside, the user is mapped to root, /run is a tmpfs of its own, and everything else is the same
   program: nothing below knows whether it runs as root or rootless.
4. The holder ends when the user's last lab goes down; the kernel then frees everything.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from netlab.errors import CapabilityError, NotFoundError
from netlab.pods.namespaces import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    mount,
    setns,
    unshare,
)

MARK = "NETLAB_ROOTLESS"  # environment variable of the holder; its value is the user's id
CLONE_NEWUSER = 0x10000000  # linux/sched.h
FOR_EVER = "2147483647"  # seconds
START_DEADLINE = 5.0  # seconds for the holder to be ready


def holder(uid: int) -> int | None:
    """Return the pid of the user's holder process, None when there is none."""
    wanted = f"{MARK}={uid}".encode()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid not in (uid, 0):
                continue
            environment = Path(entry.path, "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in environment:
            return int(entry.name)
    return None


def enter(*, create: bool) -> None:
    """Put this process into the user's namespaces; with *create*, make them first.

    Must be called while the process has one thread. As root it does nothing. Raises
    CapabilityError when the kernel refuses user namespaces, NotFoundError when there are none
    and *create* is false.
    """
    uid = os.geteuid()
    if uid == 0:
        return
    pid = holder(uid)
    if pid is None:
        if not create:
            raise NotFoundError("no lab is running", hint="start one: netlab up FILE")
        pid = _start_holder(uid)
    directory = os.getcwd()
    descriptors = [
        os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in ("user", "mnt", "net")
    ]
    for descriptor in descriptors:
        setns(descriptor, 0)
        os.close(descriptor)
    try:
        os.chdir(directory)
    except OSError:
        os.chdir("/")


def leave_if_empty(run: Path) -> None:
    """End the holder when no lab is left below *run*. Called inside the namespaces."""
    if not inside():
        return
    if run.is_dir() and any(run.iterdir()):
        return
    pid = holder(_outer_uid())
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def inside() -> bool:
    """Return whether this process lives in a rootless lab's user namespace."""
    return os.geteuid() == 0 and _outer_uid() != 0


def _outer_uid() -> int:
    """Return the user id that our root is outside: the second number of the identity map."""
    fields = Path("/proc/self/uid_map").read_text().split()
    return int(fields[1]) if len(fields) >= 3 and int(fields[2]) == 1 else 0


def _start_holder(uid: int) -> int:
    ready, told = os.pipe()
    gid = os.getegid()
    child = os.fork()
    if child == 0:
        os.close(ready)
        try:
            _become_holder(uid, gid, told)
        except OSError as error:
            os.write(told, f"{error.strerror}".encode())
        finally:
            os._exit(1)
    os.close(told)
    problem = os.read(ready, 4096).decode()
    os.close(ready)
    if problem:
        os.waitpid(child, 0)
        raise CapabilityError(
            f"cannot make a user namespace: {problem}",
            hint="run with sudo, or allow unprivileged user namespaces; see `netlab doctor`",
        )
    deadline = time.monotonic() + START_DEADLINE
    while holder(uid) != child:
        if time.monotonic() > deadline:
            raise CapabilityError("the holder of the user namespace did not start")
        time.sleep(0.002)
    return child


def _become_holder(uid: int, gid: int, told: int) -> None:
    os.setsid()
    unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("tmpfs", "/run", "tmpfs", flags=MS_NOSUID | MS_NODEV)
    os.chmod("/run", 0o755)
    os.makedirs("/run/netns")
    os.makedirs("/run/netlab")
    null = os.open("/dev/null", os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.set_inheritable(told, False)
    os.chdir("/")
    os.execve("/bin/sleep", ["netlab-rootless", FOR_EVER], {MARK: str(uid), "PATH": os.defpath})


if __name__ == "__main__":
    enter(create=True)
    os.execvp(sys.argv[1], sys.argv[1:])
