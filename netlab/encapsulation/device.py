"""A tun device, as the process that has it open sees it. Source: linux/if_tun.h."""

from __future__ import annotations

import fcntl
import os
from struct import pack

CLONE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


def opened() -> int:
    """Return a descriptor for a device of the thread's namespace. Raises OSError: no tun here."""
    return os.open(CLONE, os.O_RDWR | os.O_CLOEXEC)


def attach(descriptor: int, name: str) -> None:
    """Have *descriptor* read and write the IP packets of tun device *name*, made if it is missing.

    Raises OSError: somebody else has it, for one.
    """
    fcntl.ioctl(descriptor, _TUNSETIFF, pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
