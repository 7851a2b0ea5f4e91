"""A tree of conditions, to classic BPF.

A device has an Ethernet header or, as the tunnel of flannel's udp backend, none: the program asks
which, and goes on with code for the one or the other. Whether there is a packet inside VXLAN (on
any port, as `sensors.sieve` has it) is found out once and kept in a cell; each condition is then
tried on the frame's own packet and on that one. Nothing loads what the frame need not have, as that
would refuse it: a frame that a condition does not fit may still fit the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple

from msgspec.structs import replace

from netlab.annotation.headers import ICMP, ICMPV6, SCTP, TCP, UDP
from netlab.errors import UsageError
from netlab.filters.grammar import All, Condition, End, Kind, Not, OneOf, Wrapped
from netlab.filters.machine import (
    AND,
    ANY,
    AT_LEAST,
    BYTE,
    BYTE_X,
    DEVICE_TYPE,
    EQUAL,
    GREATER,
    HALF,
    HALF_X,
    HEADER,
    IMMEDIATE,
    JUMP,
    KEEP,
    LENGTH,
    LOAD,
    RETURN,
    SHIFT,
    WORD,
    Program,
    assembled,
    plain,
)

WHOLE = 0x40000  # bytes: more than a frame can have
ICMP_ERROR = "icmp-error"  # a kind that no words stand for: ICMP over IPv4 but for echoes
_ETHERNET_TYPES = (1, 772)  # ARPHRD_ETHER, ARPHRD_LOOPBACK
_IPV4, _IPV6, _ARP = 0x0800, 0x86DD, 0x0806
_NUMBERS = {"tcp": TCP, "udp": UDP, "sctp": SCTP, "icmp": ICMP}
_ETHERNET, _INNER = 14, 64  # bytes before the IP packet; inside VXLAN over IPv4
_VXLAN_AT = 42  # of its header in the frame
_FRAGMENT = 0x1FFF
_CELL = 0  # 1 when there is a packet inside VXLAN
_IPV6_HEADER = 40
_SIDES = {"src": (0,), "dst": (1,), "": (0, 1)}


class _Layer(NamedTuple):
    """Where a packet may be: *ip* is its first byte; *typed*: an Ethernet type stands before."""

    ip: int
    typed: bool = True
    inside: bool = False


class _Hosts(NamedTuple):
    """One end, with any of these addresses."""

    end: End
    addresses: tuple[int, ...]


def everything(snaplen: int = 0) -> bytes:
    """Return the filter that takes all frames, of each *snaplen* bytes, 0: all."""
    return assembled([plain(RETURN, snaplen or WHOLE)])


def program(tree: Condition, snaplen: int = 0) -> bytes:
    """Return the filter that takes what *tree* is true of. Raises UsageError if it is too long."""
    labels = (f"label {number}" for number in count())
    outer, inner, raw = _Layer(_ETHERNET), _Layer(_INNER, inside=True), _Layer(0, typed=False)
    steps: Program = [
        plain(WORD, DEVICE_TYPE),
        *((EQUAL, one, "ethernet", "") for one in _ETHERNET_TYPES),
        *_condition(tree, (raw,), "keep", "drop", labels),
        "ethernet",
        *_inside(),
        *_condition(tree, (outer, inner), "keep", "drop", labels),
        "keep",
        plain(RETURN, snaplen or WHOLE),
        "drop",
        plain(RETURN, 0),
    ]
    try:
        return assembled(steps)
    except ValueError as error:
        raise UsageError(f"filter: too long: {error}", hint="name a net, or fewer ends") from None


def _inside() -> Program:
    """Set the cell: is it UDP over IPv4 without options, with RFC 7348's flags?"""
    return [
        plain(IMMEDIATE, 0),
        plain(KEEP, _CELL),
        plain(LENGTH, 0),
        (AT_LEAST, _INNER + 20, "", "known"),
        plain(HALF, _ETHERNET - 2),
        (EQUAL, _IPV4, "", "known"),
        plain(BYTE, _ETHERNET),
        (EQUAL, 0x45, "", "known"),
        plain(BYTE, _ETHERNET + 9),
        (EQUAL, UDP, "", "known"),
        plain(HALF, _ETHERNET + 6),
        (ANY, _FRAGMENT, "known", ""),
        plain(WORD, _VXLAN_AT),
        (EQUAL, 0x08000000, "", "known"),
        plain(BYTE, _VXLAN_AT + 7),
        (EQUAL, 0, "", "known"),
        plain(IMMEDIATE, 1),
        plain(KEEP, _CELL),
        "known",
    ]


def _grouped(parts: Sequence[Condition]) -> list[Condition | _Hosts]:
    """Return *parts*, those that differ in nothing but a host's address as one."""
    found: dict[object, Condition | _Hosts] = {}
    for part in parts:
        if isinstance(part, End) and part.network is not None and _is_host(part):
            like = (part.side, part.protocol, part.low, part.high)
            known = found.get(like)
            hosts = known.addresses if isinstance(known, _Hosts) else ()
            found[like] = _Hosts(replace(part, network=None), (*hosts, int(part.network[0])))
        else:
            found[len(found)] = part
    return list(found.values())


def _is_host(end: End) -> bool:
    one = end.network
    return one is not None and one.version == 4 and one.prefixlen == 32 and bool(end.protocol)


def _condition(
    tree: Condition | _Hosts, layers: tuple[_Layer, ...], yes: str, no: str, labels: Iterator[str]
) -> Program:
    """Return code that goes to *yes* or to *no*."""
    if isinstance(tree, Not):
        return _condition(tree.one, layers, no, yes, labels)
    if isinstance(tree, All | OneOf):
        steps: Program = []
        *before, last = tree.parts if isinstance(tree, All) else _grouped(tree.parts)
        for part in before:
            after = next(labels)
            ends = (after, no) if isinstance(tree, All) else (yes, after)
            steps += [*_condition(part, layers, *ends, labels), after]
        return [*steps, *_condition(last, layers, yes, no, labels)]
    if isinstance(tree, Wrapped):
        return _wrapped(tree, layers, yes, no)
    steps = []
    for layer in layers:
        after = next(labels)
        if layer.inside:
            steps += [plain(LOAD, _CELL), (EQUAL, 1, "", after)]
        if isinstance(tree, Kind):
            steps += _kind(tree, layer, yes, after)
        elif isinstance(tree, _Hosts):
            steps += _hosts(tree, layer, yes, after, labels)
        else:
            steps += _end(tree, layer, yes, after, labels)
        steps.append(after)
    return [*steps, (JUMP, 0, no, "")]


def _wrapped(tree: Wrapped, layers: tuple[_Layer, ...], yes: str, no: str) -> Program:
    if not any(layer.inside for layer in layers):
        return [(JUMP, 0, no, "")]
    if tree.vni < 0:
        return [plain(LOAD, _CELL), (EQUAL, 1, yes, no)]
    vni = [plain(WORD, _VXLAN_AT + 4), plain(SHIFT, 8), (EQUAL, tree.vni, yes, no)]
    return [plain(LOAD, _CELL), (EQUAL, 1, "", no), *vni]


def _is(layer: _Layer, kind: int, no: str) -> Program:
    """Go on when the packet is of an Ethernet type, else to *no*."""
    if layer.typed:
        return [plain(HALF, layer.ip - 2), (EQUAL, kind, "", no)]
    version = {_IPV4: 0x40, _IPV6: 0x60}.get(kind)
    if version is None:
        return [(JUMP, 0, no, "")]
    return [plain(BYTE, 0), plain(AND, 0xF0), (EQUAL, version, "", no)]


def _kind(tree: Kind, layer: _Layer, yes: str, no: str) -> Program:
    if tree.name == "arp":
        return [*_is(layer, _ARP, no), (JUMP, 0, yes, "")]
    if tree.name == "ip":
        return [*_is(layer, _IPV4, no), (JUMP, 0, yes, "")]
    if tree.name == "ip6":
        return [*_is(layer, _IPV6, no), (JUMP, 0, yes, "")]
    if tree.name == ICMP_ERROR:
        return [
            *_is(layer, _IPV4, no),
            *(plain(BYTE, layer.ip + 9), (EQUAL, ICMP, "", no)),
            *(plain(HEADER, layer.ip), plain(BYTE_X, layer.ip)),
            *((EQUAL, 8, no, ""), (EQUAL, 0, no, yes)),
        ]
    number = _NUMBERS[tree.name]
    six = ICMPV6 if number == ICMP else number
    other = f"{no} six"
    return [
        *_is(layer, _IPV4, other),
        *(plain(BYTE, layer.ip + 9), (EQUAL, number, yes, no)),
        other,
        *_is(layer, _IPV6, no),
        *(plain(BYTE, layer.ip + 6), (EQUAL, six, yes, no)),
    ]


def _end(tree: End, layer: _Layer, yes: str, no: str, labels: Iterator[str]) -> Program:
    """Try an end over IPv4, IPv6 and ARP, as far as each can fit."""
    version = tree.network.version if tree.network else 0
    steps: Program = []
    if version in (0, 4):
        after = next(labels)
        steps += [*_is(layer, _IPV4, after), *_end_of(tree, layer, 4, yes, no, labels), after]
    if version in (0, 6):
        after = next(labels)
        steps += [*_is(layer, _IPV6, after), *_end_of(tree, layer, 6, yes, no, labels), after]
    if version == 4 and not tree.ported and not tree.protocol and layer.typed:
        steps += _is(layer, _ARP, no)
        places = {"src": (14,), "dst": (24,), "": (14, 24)}[tree.side]
        for place in places:
            after = next(labels)
            steps += [*_address(tree, layer.ip + place, after), (JUMP, 0, yes, ""), after]
    return [*steps, (JUMP, 0, no, "")]


def _hosts(tree: _Hosts, layer: _Layer, yes: str, no: str, labels: Iterator[str]) -> Program:
    """Try all hosts at once: each address of a packet is loaded once, as loads are what costs."""
    ip, end = layer.ip, tree.end
    steps: Program = [
        *_is(layer, _IPV4, no),
        *(plain(BYTE, ip + 9), (EQUAL, _NUMBERS[end.protocol], "", no)),
    ]
    if end.ported:
        steps += [plain(HALF, ip + 6), (ANY, _FRAGMENT, no, "")]
    for side in _SIDES[end.side]:
        hit, after = next(labels), next(labels)
        steps.append(plain(WORD, ip + (12, 16)[side]))
        steps += [(EQUAL, address, hit, "") for address in tree.addresses]
        steps += [(JUMP, 0, after, ""), hit]
        if end.ported:
            steps += _port(end, ip, 4, side, after)
        steps += [(JUMP, 0, yes, ""), after]
    return [*steps, (JUMP, 0, no, "")]


def _end_of(
    tree: End, layer: _Layer, version: int, yes: str, no: str, labels: Iterator[str]
) -> Program:
    """Go to *yes* or *no* for a packet that is known to be of an IP version."""
    ip = layer.ip
    steps: Program = []
    if tree.protocol:
        number = _NUMBERS[tree.protocol]
        steps += [plain(BYTE, ip + (9 if version == 4 else 6)), (EQUAL, number, "", no)]
    elif tree.ported:
        after = next(labels)
        steps.append(plain(BYTE, ip + (9 if version == 4 else 6)))
        steps += [(EQUAL, TCP, after, ""), (EQUAL, UDP, after, ""), (EQUAL, SCTP, after, no), after]
    if tree.ported and version == 4:
        steps += [plain(HALF, ip + 6), (ANY, _FRAGMENT, no, "")]
    addresses = (12, 16) if version == 4 else (8, 24)
    for side in _SIDES[tree.side]:
        after = next(labels)
        if tree.network is not None:
            steps += _address(tree, ip + addresses[side], after)
        if tree.ported:
            steps += _port(tree, ip, version, side, after)
        steps += [(JUMP, 0, yes, ""), after]
    return [*steps, (JUMP, 0, no, "")]


def _port(tree: End, ip: int, version: int, side: int, no: str) -> Program:
    if version == 4:
        load = [plain(HEADER, ip), plain(HALF_X, ip + 2 * side)]
    else:
        load = [plain(HALF, ip + _IPV6_HEADER + 2 * side)]
    if tree.low == tree.high:
        return [*load, (EQUAL, tree.low, "", no)]
    return [*load, (AT_LEAST, tree.low, "", no), (GREATER, tree.high, no, "")]


def _address(tree: End, at: int, no: str) -> Program:
    """Go on when the address at byte *at* is in the network, else to *no*."""
    assert tree.network is not None
    value, mask = tree.network.network_address.packed, tree.network.netmask.packed
    steps: Program = []
    for part in range(0, len(value), 4):
        bits = int.from_bytes(mask[part : part + 4], "big")
        if not bits:
            break
        steps.append(plain(WORD, at + part))
        if bits != 0xFFFFFFFF:
            steps.append(plain(AND, bits))
        steps.append((EQUAL, int.from_bytes(value[part : part + 4], "big"), "", no))
    return steps
