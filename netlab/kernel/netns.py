"""Network namespaces with names: files below /run/netns, each with a namespace mounted on it.

The same files that ip-netns(8) makes and shows.

Namespaces belong to threads, and so do these functions: what they change holds for the calling
thread alone. Go back to where the thread came from, not to the process's first namespace: a node's
thread lives in its node. Opening a namespace never makes one.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from netlab.errors import CapabilityError, KernelError

DIRECTORY = "/run/netns"  # as iproute2 has it (NETNS_RUN_DIR)
CURRENT = "/proc/thread-self/ns/net"

_NEWNET = 0x40000000  # linux/sched.h, CLONE_NEWNET
_BIND, _DETACH = 4096, 2  # MS_BIND (linux/mount.h), MNT_DETACH (umount(2))
_SHARED = 1 << 20  # MS_SHARED
_AT_FDCWD, _AT_SYMLINK_FOLLOW = -100, 0x400  # fcntl.h, for linkat(2)
_NSFS_MAGIC = 0x6E736673
_SOURCE = "netlab"  # marks the file system that `_make_directory` may have to mount

_libc = ctypes.CDLL(None, use_errno=True)
_current = CURRENT.encode()
_making_directory = threading.Lock()
_directory_is_made = False


def path(name: str) -> str:
    """Return the file that names the namespace; a path, such as /proc/1/ns/net, is one itself."""
    return os.path.join(DIRECTORY, name)


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
        found = os.stat(path(name))
    except OSError:
        return 0
    return found.st_ino if found.st_dev == _nsfs_device() else 0


@functools.cache
def _nsfs_device() -> int:
    return os.stat(CURRENT).st_dev


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
    _make_directory()
    _name(file)
    if _libc.unshare(_NEWNET):
        raise _failed("make the namespace", name)
    if _libc.mount(_current, file.encode(), None, _BIND, None):
        raise _failed("name the namespace", name)


def _name(file: str) -> None:
    """Make an empty file to mount a namespace on; one that is there is taken.

    All are names of one file without a name of its own: on a /run that is on a disk, a new inode
    costs half as much as the namespace itself (0.6 ms on ext4, against 8 us for another name).
    """
    global _nameless
    try:
        if _nameless < 0:
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            _nameless = os.open(DIRECTORY, flags, 0o444)
        source = f"/proc/self/fd/{_nameless}".encode()
        if _libc.linkat(_AT_FDCWD, source, _AT_FDCWD, file.encode(), _AT_SYMLINK_FOLLOW) == 0:
            return
        if ctypes.get_errno() == errno.EEXIST:
            return
    except OSError:
        pass
    # No such files here, or the directory is on another file system by now: as ip-netns(8) does.
    _nameless = -1
    os.close(os.open(file, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))


_nameless = -1  # descriptor of the file that every name is a link to


def create(name: str) -> None:
    """Make a namespace called *name*; there is none yet."""
    with returning():
        enter_new(name)


def attach(name: str, process: str = "self") -> None:
    """Have the network namespace of a *process* called *name*, as `ip netns attach` does.

    One that is called so already stays so. Raises KernelError: the name is another namespace's.
    """
    source = f"/proc/{process}/ns/net"
    number = identity(name)
    if number:
        if number != os.stat(source).st_ino:
            raise KernelError(
                f"{name}: another namespace has this name",
                hint=f"`ip netns delete {name}` takes it away, if nobody needs it",
            )
        return
    file = path(name)
    _make_directory()
    _name(file)
    if _libc.mount(source.encode(), file.encode(), None, _BIND, None):
        raise _failed("name the namespace", name)


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


# `ip netns add` mounts /run/netns over itself when it is not mounted yet. Names made before then
# get a second mount below, out of reach of umount(2), and can never be deleted, unless mounts there
# are shared (as systemd has them). Where they are not, be the one who mounts it.
def _make_directory() -> None:
    global _directory_is_made
    if _directory_is_made:
        return
    with _making_directory:
        os.makedirs(DIRECTORY, mode=0o755, exist_ok=True)
        point, shared, _source = _mount_under(DIRECTORY)
        if point != DIRECTORY and not shared and not os.listdir(DIRECTORY):
            target = DIRECTORY.encode()
            if not _libc.mount(_SOURCE.encode(), target, b"tmpfs", 0, b"mode=755"):
                _libc.mount(b"none", target, None, _SHARED, None)
        _directory_is_made = True


def tidy() -> None:
    """Take away what had to be mounted on /run/netns, when no name is left there."""
    global _directory_is_made, _nameless
    with _making_directory:
        if os.path.isdir(DIRECTORY) and not os.listdir(DIRECTORY):
            if _nameless >= 0:  # it has no name left to be linked from, and keeps the mount busy
                os.close(_nameless)
                _nameless = -1
            point, _shared, source = _mount_under(DIRECTORY)
            if (point, source) == (DIRECTORY, _SOURCE):
                _libc.umount2(DIRECTORY.encode(), 0)
                _directory_is_made = False


# The mount that a directory is on: its mount point, whether it is shared, its source.
# Source: proc_pid_fdinfo(5), proc_pid_mountinfo(5).
def _mount_under(directory: str) -> tuple[str, bool, str]:
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(f"/proc/thread-self/fdinfo/{descriptor}") as lines:
            number = next(line.split()[1] for line in lines if line.startswith("mnt_id:"))
    finally:
        os.close(descriptor)
    with open("/proc/thread-self/mountinfo") as lines:
        for line in lines:
            fields, _, origin = line.partition(" - ")
            mount, _parent, _device, _root, point, *options = fields.split()
            if mount == number:
                shared = any(option.startswith("shared:") for option in options)
                return point, shared, origin.split()[1]
    return "", False, ""


def names(lab: str = "") -> list[str]:
    """Return the names that belong to *lab*, `LAB.…`, left-over files included, sorted; without
    a lab, all there are."""
    prefix = f"{lab}." if lab else ""
    try:
        return sorted(name for name in os.listdir(DIRECTORY) if name.startswith(prefix))
    except FileNotFoundError:
        return []
