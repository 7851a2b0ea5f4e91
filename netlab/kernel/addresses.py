"""The addresses of the namespace the calling thread is in."""

from __future__ import annotations

import socket

from netlab.kernel import netlink, routes
from netlab.proxy.addresses import Family

_TENTATIVE = 0x40  # linux/if_addr.h
_NUMBER = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


def local_addresses(family: Family) -> frozenset[str]:
    """Return every address of *family* that packets may be sent to here, of whatever link."""
    connection = netlink.Socket()
    try:
        bodies = connection.dump(routes.GET_ADDRESS, routes.addresses_body(_NUMBER[family]))
        return frozenset(routes.address(body)[1].partition("/")[0] for body in bodies)
    finally:
        connection.close()


def has_tentative() -> bool:
    """Return whether some IPv6 address here is not yet in use (IFA_F_TENTATIVE)."""
    try:
        with open("/proc/thread-self/net/if_inet6") as lines:
            return any(int(line.split()[4], 16) & _TENTATIVE for line in lines)
    except FileNotFoundError:
        return False  # a kernel without IPv6
