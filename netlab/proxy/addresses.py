"""Addresses and prefixes as people write them in Services, in the one form the kernel prints.

Kubernetes tolerates leading zeros in IPv4 octets and reads them as decimal, whatever libc does;
an object that was stored with them long ago must still work.
Source: k8s.io/utils/net, ParseIPSloppy; KEP-4858.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv6Address, ip_network


class Family(StrEnum):
    """An address family, in Kubernetes' words."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


ANYWHERE = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}


def family(canonical: str) -> Family:
    """Return the family of a *canonical* address or prefix."""
    return Family.IPV6 if ":" in canonical else Family.IPV4


@lru_cache(maxsize=1 << 17)
def address(text: str) -> str:
    """Return the address *text* in canonical form, "" if it is none.

    Leading zeros are decimal, an IPv4-mapped IPv6 address is IPv4; blanks, zones and anything else
    make it no address.
    """
    if ":" not in text:
        return _ipv4(text)
    if "%" in text:
        return ""
    head, _, tail = text.rpartition(":")
    if "." in tail:
        text = f"{head}:{_ipv4(tail)}"
    try:
        value = IPv6Address(text)
    except ValueError:
        return ""
    return str(value.ipv4_mapped or value)


def _ipv4(text: str) -> str:
    parts = text.split(".")
    if len(parts) != 4 or not text.isascii() or not all(map(str.isdecimal, parts)):
        return ""
    octets = [int(part) for part in parts if len(part) < 20]
    return ".".join(map(str, octets)) if len(octets) == 4 and max(octets) < 256 else ""


@lru_cache(maxsize=1 << 12)
def network(text: str) -> str:
    """Return the prefix *text* in canonical form, host bits cleared, "" if it is none.

    Blanks around it are allowed: the API let them into loadBalancerSourceRanges.
    """
    base, slash, length = text.strip().partition("/")
    host = address(base)
    if not slash or not host or not length.isascii() or not length.isdecimal():
        return ""
    try:
        return str(ip_network(f"{host}/{int(length)}", strict=False))
    except ValueError:
        return ""


@lru_cache(maxsize=1 << 14)
def is_loopback(canonical: str) -> bool:
    """Return whether the *canonical* address is the machine's own: 127.0.0.0/8 or ::1."""
    return canonical.startswith("127.") or canonical == "::1"


@lru_cache(maxsize=1 << 14)
def contains(prefix: str, canonical: str) -> bool:
    """Return whether the canonical *prefix* covers the *canonical* address or smaller prefix."""
    outer, inner = ip_network(prefix), ip_network(canonical)
    bits = outer.max_prefixlen - outer.prefixlen
    return (
        outer.version == inner.version
        and outer.prefixlen <= inner.prefixlen
        and int(outer.network_address) >> bits == int(inner.network_address) >> bits
    )


def socket_address(canonical: str, port: int) -> str:
    """Return `10.0.0.1:80` or `[fd00::1]:80`."""
    return f"[{canonical}]:{port}" if ":" in canonical else f"{canonical}:{port}"
