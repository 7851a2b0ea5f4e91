"""Network namespaces with names: files below /run/netns, each with a namespace mounted on it.

The same files that ip-netns(8) makes and shows.

Namespaces belong to threads, and so do these functions: what they change holds for the calling
thread alone. Go back to where the thread came from, not to the process's first namespace: a node's
thread lives in its node. Opening a namespace never makes one.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from netlab.errors import CapabilityError, KernelError

DIRECTORY = "/run/netns"  # as iproute2 has it (NETNS_RUN_DIR)
CURRENT = "/proc/thread-self/ns/net"

_NEWNET = 0x40000000  # linux/sched.h, CLONE_NEWNET
_BIND, _DETACH = 4096, 2  # MS_BIND (linux/mount.h), MNT_DETACH (umount(2))
_NSFS_MAGIC = 0x6E736673

_libc = ctypes.CDLL(None, use_errno=True)
_current = CURRENT.encode()


def path(name: str) -> str:
    """Return the file that names the namespace."""
    return f"{DIRECTORY}/{name}"


def _failed(what: str, name: str) -> Exception:
    number = ctypes.get_errno()
    words = os.strerror(number).lower()
    if number == errno.EPERM:
        return CapabilityError(f"{name}: cannot {what}: {words}", hint="run it as root")
    return KernelError(f"{name}: cannot {what}: {words}")


def enter(descriptor: int, name: str = "network namespace") -> None:
    """Move the calling thread into the namespace of an open file."""
    if _libc.setns(descriptor, _NEWNET):
        raise _failed("enter the namespace", name)


@contextmanager
def returning() -> Iterator[int]:
    """Bring the calling thread back at the end to the namespace it is in now (as a descriptor)."""
    home = os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            yield home
        finally:
            enter(home)
    finally:
        os.close(home)


def fd(name: str) -> int:
    """Return an open descriptor of the namespace; the caller closes it.

    Raises KernelError when there is none, also when only a file of that name is left over.
    """
    try:
        descriptor = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise KernelError(f"{name}: no such network namespace") from None
    if not is_namespace(descriptor):
        os.close(descriptor)
        raise KernelError(
            f"{name}: no such network namespace", hint=f"{path(name)} is only a left-over file"
        )
    return descriptor


class _Statfs(ctypes.Structure):
    _fields_ = (("type", ctypes.c_long), ("rest", ctypes.c_long * 31))


def is_namespace(descriptor: int) -> bool:
    """Return whether the open file is a namespace and not the plain file below one."""
    found = _Statfs()
    return not _libc.fstatfs(descriptor, ctypes.byref(found)) and found.type == _NSFS_MAGIC


def exists(name: str) -> bool:
    """Return whether there is a namespace of that name."""
    try:
        os.close(fd(name))
    except (KernelError, OSError):
        return False
    return True


def identity(name: str) -> int:
    """Return the number that tells a namespace from a later one of the same name; 0: none."""
    try:
        descriptor = fd(name)
    except (KernelError, OSError):
        return 0
    try:
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def move(name: str) -> None:
    """Move the calling thread into the namespace for good. Raises KernelError."""
    descriptor = fd(name)
    try:
        enter(descriptor, name)
    finally:
        os.close(descriptor)


@contextmanager
def entered(name: str) -> Iterator[None]:
    """Have the calling thread inside the namespace for the duration. Raises KernelError."""
    with returning():
        descriptor = fd(name)
        try:
            enter(descriptor, name)
        finally:
            os.close(descriptor)
        yield


def enter_new(name: str) -> None:
    """Make a namespace, name it, and leave the calling thread inside it.

    A left-over file of that name is taken. Raises KernelError, CapabilityError.
    """
    file = path(name)
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    except FileNotFoundError:
        os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
        os.close(os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    if _libc.unshare(_NEWNET):
        raise _failed("make the namespace", name)
    if _libc.mount(_current, file.encode(), None, _BIND, None):
        raise _failed("name the namespace", name)


def create(name: str) -> None:
    """Make a namespace called *name*; there is none yet."""
    with returning():
        enter_new(name)


def delete(name: str) -> None:
    """Take the name away; the namespace ends with its last process and socket.

    It is no error when there is none. Raises KernelError.
    """
    file = path(name)
    raw = file.encode()
    while not _libc.umount2(raw, _DETACH):  # a file may carry several mounts, one on another
        pass
    if ctypes.get_errno() == errno.EPERM:
        raise _failed("delete the namespace", name)
    try:
        os.unlink(file)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise KernelError(
            f"{name}: cannot delete the namespace: {(error.strerror or '').lower()}",
            hint=f"something is mounted on {file} below another mount of {DIRECTORY}",
        ) from error


def names(lab: str) -> list[str]:
    """Return the names that belong to *lab*, `LAB.…`, left-over files included, sorted."""
    prefix = f"{lab}."
    try:
        return sorted(name for name in os.listdir(DIRECTORY) if name.startswith(prefix))
    except FileNotFoundError:
        return []
