"""The system calls for namespaces and mounts that Python 3.11's os module lacks.

Nothing else of netlab is imported here: the pod server and the pause program start in a few
milliseconds because they need only this. setns and unshare act on the calling *thread*, except
for mount and user namespaces, which the kernel refuses to a process with several threads.
"""

from __future__ import annotations

import ctypes
import os

NETNS_DIR = "/run/netns"  # where ip-netns(8) keeps the names

CLONE_NEWNS = 0x00020000  # clone flags: include/uapi/linux/sched.h
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1  # mount flags: include/uapi/linux/mount.h
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def setns(fd: int, flags: int) -> None:
    """Move the calling thread into the namespaces of *fd*: a namespace file or a pidfd.

    Raises OSError. A PID namespace takes effect for the children only: setns(2).
    """
    _checked(_libc.setns(fd, flags), "setns")


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces of the kinds in *flags*. Raises OSError."""
    _checked(_libc.unshare(flags), "unshare")


def mount(
    source: str, target: str, kind: str | None = None, *, flags: int = 0, data: str = ""
) -> None:
    """mount(2); *data*: options of the file system. Raises OSError naming *target*."""
    _checked(
        _libc.mount(
            source.encode(),
            target.encode(),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        ),
        target,
    )


def detach(target: str) -> None:
    """Unmount *target* lazily, with everything below it. Raises OSError."""
    _checked(_libc.umount2(target.encode(), MNT_DETACH), target)


def sethostname(name: str) -> None:
    """Set the host name of the calling process's UTS namespace. Raises OSError."""
    raw = name.encode()
    _checked(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), "sethostname")


def netns_path(name: str) -> str:
    """Return the file that stands for the network namespace called *name*."""
    return f"{NETNS_DIR}/{name}"


def join_netns(name: str) -> None:
    """Move the calling thread into the network namespace called *name*. Raises OSError."""
    fd = os.open(netns_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(fd, CLONE_NEWNET)
    finally:
        os.close(fd)
