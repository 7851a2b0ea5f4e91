"""What one value may be: each check returns "" for a right value, else what is wrong with it.

The text ends in brackets with what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    NetmaskValueError,
)
from typing import Any

from netlab.model import durations

Check = Callable[[Any], str]

LABEL_MAX = 63  # RFC 1123
SUBDOMAIN_MAX = 253
PORT_NAME_MAX = 15  # RFC 6335
IFNAME_MAX = 15  # linux/if.h, IFNAMSIZ less the closing zero
PROTOCOLS = ("TCP", "UDP", "SCTP")
SELECTOR_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9]|-(?!-))*(?<!-)")
_PUBLISH = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?/(tcp|udp|sctp)")


def described(value: Any) -> str:
    """Return *value* as a mistake names it: `the integer 80`, `a list`."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int):
        return f"the integer {value}"
    if isinstance(value, float):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the text "{value if len(value) <= 40 else value[:37] + "..."}"'
    return "a list" if isinstance(value, list) else "a mapping"


def anything(value: Any) -> str:
    """Accept what netlab keeps without reading."""
    return ""


def string(value: Any) -> str:
    """Accept text. A number or boolean is a forgotten quote more often than not."""
    if isinstance(value, str):
        return "holds a zero byte (no program and no name can)" if "\0" in value else ""
    hint = " (put it in quotes)" if isinstance(value, int | float) else ""
    return f"must be text, not {described(value)}{hint}"


def boolean(value: Any) -> str:
    return "" if isinstance(value, bool) else f"must be true or false, not {described(value)}"


def integer(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return ""
    numeric = isinstance(value, str) and value.strip().lstrip("+-").isdigit()
    hint = " (without quotes)" if numeric else ""
    return f"must be an integer, not {described(value)}{hint}"


def between(low: int, high: int, *, why: str = "") -> Check:
    """Return the check for an integer of *low*..*high*."""

    def check(value: Any) -> str:
        if wrong := integer(value):
            return wrong
        reason = f": {why}" if why else ""
        return "" if low <= value <= high else f"{value} is out of range ({low}..{high}{reason})"

    return check


def amount(value: Any) -> str:
    """Accept a number of pods, or a percentage of them."""
    if isinstance(value, int) and not isinstance(value, bool):
        return "" if value >= 0 else f"{value} is negative (0 or more)"
    if isinstance(value, str) and value.endswith("%") and value[:-1].isdigit():
        return ""
    return f"must be a number or a percentage, not {described(value)} (1, or 25%)"


def duration(longest: int) -> Check:
    """Return the check for a span of time of at most *longest* seconds: `15m0s`."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            return f"must be a duration, not {described(value)} (15m0s, 90s)"
        try:
            found = durations.seconds(value)
        except ValueError:
            return f"{value} is no duration (15m0s, 90s: whole hours, minutes and seconds)"
        return "" if found <= longest else f"{value} is too long (at most {longest}s)"

    return check


port = between(1, 65535)


def not_negative(value: Any) -> str:
    if wrong := integer(value):
        return wrong
    return f"{value} is negative (0 or more)" if value < 0 else ""


def one_of(words: Collection[str], *, later: Collection[str] = ()) -> Check:
    """Return the check for one of *words*; *later* are right words netlab cannot do yet."""

    def check(value: Any) -> str:
        if wrong := string(value):
            return wrong
        if value in words:
            return ""
        known = ", ".join((*words, *later))
        if value in later:
            return f"{value} is not there yet ({', '.join(words)})"
        near = nearest(value, (*words, *later))
        return f"unknown {value} ({f'did you mean {near}? ' if near else ''}known: {known})"

    return check


def nearest(word: str, known: Collection[str]) -> str:
    """Return the one of *known* that *word* was probably meant to be, or ""."""
    import difflib

    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return lower[close[0]] if close else ""


def label(value: Any) -> str:
    """Accept an RFC 1123 label: `web-1`."""
    return _name(value, _LABEL, LABEL_MAX, "label", "a-z, 0-9 and -")


def subdomain(value: Any) -> str:
    """Accept an RFC 1123 subdomain: `web-1.shop`."""
    return _name(value, _SUBDOMAIN, SUBDOMAIN_MAX, "name", "a-z, 0-9, - and .")


def _name(value: Any, pattern: re.Pattern[str], longest: int, word: str, letters: str) -> str:
    if wrong := string(value):
        return wrong
    if not value:
        return f"is empty (an RFC 1123 {word}: {letters})"
    if len(value) > longest:
        return f"is {len(value)} characters long (at most {longest})"
    if pattern.fullmatch(value):
        return ""
    better = re.sub(r"[^a-z0-9.-]+", "-", value.lower()).strip("-.")
    hint = f": {better}" if pattern.fullmatch(better) else ""
    return f"{value} is not an RFC 1123 {word} ({letters}, a letter or digit at both ends{hint})"


def path_segment(value: Any) -> str:
    """Accept the name of an object whose kind allows more than RFC 1123: `system:node`."""
    if wrong := string(value):
        return wrong
    if value in ("", ".", "..") or re.search(r"[/%\x00-\x20]", value) or len(value) > 253:
        return f"{value!r} cannot be an object's name (no / and no % in it)"
    return ""


def label_key(value: str) -> str:
    """Accept a label's key: `app`, `app.kubernetes.io/name`."""
    prefix, slash, name = value.rpartition("/")
    fine = _QUALIFIED.fullmatch(name) is not None and len(name) <= LABEL_MAX
    if slash and fine:
        fine = len(prefix) <= SUBDOMAIN_MAX and _SUBDOMAIN.fullmatch(prefix) is not None
    return "" if fine else "is not a label key (name, or domain/name, of letters, digits, - _ .)"


def label_value(value: Any) -> str:
    """Accept a label's value."""
    if wrong := string(value):
        return wrong
    if value == "" or (_QUALIFIED.fullmatch(value) and len(value) <= LABEL_MAX):
        return ""
    return f"{value} is not a label value (at most {LABEL_MAX} letters, digits, - _ .)"


def port_name(value: Any) -> str:
    """Accept the name of a port (RFC 6335): `http`."""
    if wrong := string(value):
        return wrong
    if _PORT_NAME.fullmatch(value) and len(value) <= PORT_NAME_MAX:
        return ""
    return f"{value} is not a port name (at most {PORT_NAME_MAX} of a-z, 0-9 and -, one a letter)"


def interface_name(value: Any) -> str:
    """Accept the name of a network interface (dev_valid_name() in net/core/dev.c)."""
    if wrong := string(value):
        return wrong
    if len(value.encode()) > IFNAME_MAX:
        return f"{value} is {len(value.encode())} bytes long (an interface: at most {IFNAME_MAX})"
    if value in ("", ".", "..") or re.search(r"[/:\s\x00]", value) or not value.isascii():
        return f"{value!r} cannot be an interface's name (no /, : or space)"
    return ""


def address(value: Any) -> str:
    """Accept an IPv4 address without prefix length."""
    if wrong := string(value):
        return wrong
    try:
        IPv4Address(value)
    except AddressValueError:
        if ":" in value:
            return f"{value} is an IPv6 address (IPv4 here; fields that end in 6 take IPv6)"
        hint = f": {value.partition('/')[0]}" if "/" in value else ", for example 192.168.50.11"
        return f"{value} is not an IPv4 address (four numbers of 0..255{hint})"
    return ""


def network(value: Any) -> str:
    """Accept an IPv4 network in CIDR notation, without host bits."""
    if wrong := _prefixed(value, "a network", "10.244.0.0/16"):
        return wrong
    right = IPv4Interface(value).network
    if str(right.network_address) != value.partition("/")[0]:
        return f"{value} has host bits set ({right})"
    return ""


def interface(value: Any) -> str:
    """Accept a machine's IPv4 address with the prefix length of its network."""
    if wrong := _prefixed(value, "an address with prefix length", "203.0.113.10/24"):
        return wrong
    here = IPv4Interface(value)
    if here.network.prefixlen > 30:
        return f"{value} leaves no room for the gateway (a prefix length of 30 or less)"
    return host_in(here.ip, here.network)


def _prefixed(value: Any, what: str, example: str) -> str:
    if wrong := string(value):
        return wrong
    head, slash, length = value.partition("/")
    if ":" in value:
        return f"{value} is IPv6 (IPv4 here, such as {example}; fields that end in 6 take IPv6)"
    if not slash and not address(head):
        return f"{value} has no prefix length ({what}, such as {example})"
    try:
        IPv4Interface(value)
    except (AddressValueError, NetmaskValueError):
        return f"{value} is not {what} (such as {example})"
    if not length.isdigit():
        return f"{value} is not in CIDR notation ({IPv4Interface(value).with_prefixlen})"
    return ""


def address6(value: Any) -> str:
    """Accept an IPv6 address in its usual form (RFC 5952), without prefix length."""
    if wrong := string(value):
        return wrong
    try:
        right = str(IPv6Address(value))
    except AddressValueError:
        hint = f": {value.partition('/')[0]}" if "/" in value else ", for example fd00:50::11"
        return f"{value} is not an IPv6 address (eight groups of four hexadecimal digits{hint})"
    if "%" in value:
        return f"{value} names a link (an address that is the same everywhere)"
    return "" if right == value else f"{value} is not in its usual form ({right})"


def network6(value: Any) -> str:
    """Accept an IPv6 network in CIDR notation, without host bits, in its usual form."""
    if wrong := _prefixed6(value, "an IPv6 network", "fd00:50::/64"):
        return wrong
    right = IPv6Interface(value).network
    if right.network_address != IPv6Address(value.partition("/")[0]):
        return f"{value} has host bits set ({right})"
    return "" if str(right) == value else f"{value} is not in its usual form ({right})"


def interface6(value: Any) -> str:
    """Accept a machine's IPv6 address with the prefix length of its network."""
    if wrong := _prefixed6(value, "an IPv6 address with prefix length", "2001:db8:1::10/64"):
        return wrong
    here = IPv6Interface(value)
    if here.network.prefixlen > 126:
        return f"{value} leaves no room for the gateway (a prefix length of 126 or less)"
    if str(here) != value:
        return f"{value} is not in its usual form ({here})"
    return host_in(here.ip, here.network)


def _prefixed6(value: Any, what: str, example: str) -> str:
    if wrong := string(value):
        return wrong
    head, slash, length = value.partition("/")
    if not slash and not address6(head):
        return f"{value} has no prefix length ({what}, such as {example})"
    try:
        IPv6Interface(value)
    except (AddressValueError, NetmaskValueError):
        return f"{value} is not {what} (such as {example})"
    return "" if length.isdigit() and "%" not in head else f"{value} is not {what} ({example})"


def host_in(ip: IPv4Address | IPv6Address, net: IPv4Network | IPv6Network) -> str:
    """Accept the address of a machine in *net*: not its first one, nor IPv4's last one."""
    if ip == net.network_address:
        return f"{ip} is the network address of {net} (a host's address)"
    if ip.version == 4 and ip == net.broadcast_address:
        return f"{ip} is the broadcast address of {net} (a host's address)"
    return ""


def published(value: Any) -> str:
    """Accept `30080/tcp` or `30000-32767/tcp`."""
    right = "PORT/tcp, or FIRST-LAST/udp, such as 30000-32767/tcp"
    if wrong := string(value):
        return f"{wrong.partition(' (')[0]} ({right})"
    match = _PUBLISH.fullmatch(value)
    if not match:
        return f"{value} is not a port to publish ({right})"
    first, last = int(match[1]), int(match[2] or match[1])
    if not (1 <= first <= 65535 and 1 <= last <= 65535):
        return f"{value} is out of range (ports 1..65535)"
    if last < first:
        return f"{value} ends before it begins ({last}-{first}/{match[3]})"
    return ""


def pool_entry(value: Any) -> str:
    """Accept `192.168.50.200-192.168.50.219`, one address, or a network in CIDR notation."""
    if wrong := string(value):
        return wrong
    if "-" not in value:
        return network(value) if "/" in value else address(value)
    first, _, last = value.partition("-")
    if wrong := address(first) or address(last):
        return f"{wrong.partition(' (')[0]} (FIRST-LAST, such as 192.168.50.200-192.168.50.219)"
    if IPv4Address(last) < IPv4Address(first):
        return f"{value} ends before it begins ({last}-{first})"
    return ""
