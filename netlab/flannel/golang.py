"""JSON and addresses as Go's standard library reads them, where that differs from Python's.

Source: go1.22 encoding/json/decode.go, net/mac.go, net/ip.go.
"""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any


class _Pairs(list[tuple[str, Any]]):
    """An object's members in the order of the text: where keys repeat, Go lets the last win."""


def loads(text: str | bytes) -> object:
    """Return what *text* holds, objects as lists of pairs. Raises ValueError.

    Bytes that are not UTF-8 become U+FFFD, as in Go.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        return json.loads(text, object_pairs_hook=_Pairs, parse_constant=_refused)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def folded(value: object, name: str) -> dict[str, Any]:
    """Return the members of an object read by `loads`, their keys in lower case."""
    if value is None:
        return {}
    if not isinstance(value, _Pairs):
        raise ValueError(f"{name} must be an object")
    return {key.casefold(): member for key, member in value}


def ipv4(text: object) -> str:
    """Return an IPv4 address in its usual form; also from `::ffff:10.0.0.1`. Raises ValueError."""
    if not isinstance(text, str) or "%" in text:
        raise ValueError(f"{text!r} is not an IPv4 address")
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        address = address.ipv4_mapped or address
    if not isinstance(address, IPv4Address):
        raise ValueError(f"{text!r} is not an IPv4 address")
    return str(address)


def ipv6(text: object) -> str:
    """Return an IPv6 address in its usual form. Raises ValueError."""
    if not isinstance(text, str) or "%" in text:
        raise ValueError(f"{text!r} is not an IPv6 address")
    return str(IPv6Address(text))


def mac(text: object) -> str:
    """Return an Ethernet address as aa:bb:cc:dd:ee:ff, from any form Go knows.

    Raises ValueError: also for a group address and for zeros, which no device can have.
    """
    if isinstance(text, str) and re.fullmatch(
        r"(?:[\da-f]{2}([:-]))(?:[\da-f]{2}\1){4}[\da-f]{2}|(?:[\da-f]{4}\.){2}[\da-f]{4}",
        text,
        re.ASCII | re.IGNORECASE,
    ):
        octets = bytes.fromhex(re.sub(r"[:.-]", "", text))
        if any(octets) and not octets[0] & 1:
            return octets.hex(":")
    raise ValueError(f"{text!r} is not the MAC of a device")
