"""Sysctls of the namespace the calling thread is in."""

from __future__ import annotations

import os
from collections.abc import Mapping

from netlab.errors import KernelError

_TO_PATH = str.maketrans("./", "/.")


def path(name: str) -> str:
    """Return the file of a sysctl as sysctl(8) maps names: a dot inside a name is a slash.

    >>> path("net.ipv6.conf.flannel/1.accept_ra")
    '/proc/sys/net/ipv6/conf/flannel.1/accept_ra'
    """
    return "/proc/sys/" + name.translate(_TO_PATH)


def needless(name: str) -> bool:
    """Return whether a setting is about IPv6 on a kernel that has none: it holds already."""
    return name.startswith("net.ipv6.") and not os.path.isdir("/proc/sys/net/ipv6")


def read(name: str) -> str | None:
    """Return the value, blanks made single spaces; None when there is no such setting."""
    try:
        descriptor = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return " ".join(os.read(descriptor, 4096).decode().split())
    finally:
        os.close(descriptor)


def write(name: str, value: str) -> None:
    """Give the setting a value. Raises OSError."""
    try:
        descriptor = os.open(path(name), os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if needless(name):
            return
        raise
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def unlike(wanted: Mapping[str, str]) -> dict[str, str]:
    """Return those of the settings *wanted* that the kernel has, with another value."""
    held = {name: read(name) for name in wanted}
    return {name: value for name, value in wanted.items() if held[name] not in (None, value)}


def make(wanted: Mapping[str, str]) -> dict[str, str]:
    """Give the settings the values *wanted*, where the kernel has them; return those written.

    Raises KernelError.
    """
    written = unlike(wanted)
    for name, value in written.items():
        try:
            write(name, value)
        except OSError as error:
            raise KernelError(f"cannot set {name}={value}: {error.strerror}") from error
    return written
