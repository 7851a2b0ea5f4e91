"""tun devices: made by an ioctl of /dev/net/tun, not by netlink; then links like others.

Source: linux/if_tun.h; Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os

from netlab.encapsulation import device
from netlab.errors import CapabilityError

_TUNSETPERSIST = 0x400454CB
_ABSENT = (errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EACCES, errno.EPERM)


def require() -> None:
    """Raise CapabilityError where the machine has no tun."""
    os.close(_opened())


def _opened() -> int:
    try:
        return device.opened()
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        raise CapabilityError(
            f"no tun devices here: {device.CLONE}: {(error.strerror or '').lower()}",
            hint=f"modprobe tun; mkdir -p /dev/net; mknod {device.CLONE} c 10 200; "
            "see `netlab doctor`",
        ) from error


def persistent(name: str) -> None:
    """Make a tun device called *name* in the thread's namespace; it stays when nobody has it open.

    Raises CapabilityError where the machine has no tun, OSError when the kernel refuses.
    """
    opened = _opened()
    try:
        device.attach(opened, name)
        fcntl.ioctl(opened, _TUNSETPERSIST, 1)
    finally:
        os.close(opened)
