"""The flows whose rules are traced for a filter: all that it may take, and perhaps a few more.

A trace is asked for by exact ends and ports; what a filter says beyond that (nets, ranges, `not`)
is left out here, so that what is traced is never less than what is captured.
"""

from __future__ import annotations

from ipaddress import ip_network
from itertools import product

import msgspec

from netlab.filters.grammar import PORTED, All, Condition, End, Kind, OneOf
from netlab.packets import Flow, Protocol

MOST = 32  # flows; of a filter with more, everything is traced

_PROTOCOLS = {"tcp": Protocol.TCP, "udp": Protocol.UDP, "icmp": Protocol.ICMP}
_TRACED = tuple(_PROTOCOLS)


class _Part(msgspec.Struct, frozen=True):
    protocol: str = ""
    source: str = ""
    destination: str = ""
    source_port: int = 0
    destination_port: int = 0


_ANY: tuple[_Part, ...] = (_Part(),)


def flows(tree: Condition | None, *, most: int = MOST) -> list[Flow]:
    """Return the flows to trace for *tree*; "" and 0 in them stand for any."""
    parts = _ANY if tree is None else _parts(tree, most)
    found: dict[Flow, None] = {}
    for part in parts:
        for name in (part.protocol,) if part.protocol else _TRACED:
            ports = (part.source_port, part.destination_port)
            if name in _PROTOCOLS and (name in PORTED or not any(ports)):
                found[Flow(part.source, part.destination, _PROTOCOLS[name], *ports)] = None
    return list(found)


def _parts(tree: Condition, most: int) -> tuple[_Part, ...]:
    if isinstance(tree, Kind):
        if tree.name in ("ip", "ip6"):
            return _ANY
        return (_Part(tree.name),)
    if isinstance(tree, End):
        return _of_end(tree)
    if isinstance(tree, OneOf):
        return _bounded(tuple(part for one in tree.parts for part in _parts(one, most)), most)
    if isinstance(tree, All):
        found = _ANY
        for one in tree.parts:
            both = (_both(*pair) for pair in product(found, _parts(one, most)))
            found = _bounded(tuple(part for part in both if part is not None), most)
        return found
    return _ANY


def _of_end(end: End) -> tuple[_Part, ...]:
    network = end.network
    single = network is not None and network == ip_network(network.network_address)
    address = str(network.network_address) if network is not None and single else ""
    port = end.low if end.ported and end.low == end.high else 0
    found = []
    if end.side != "dst":
        found.append(_Part(end.protocol, source=address, source_port=port))
    if end.side != "src":
        found.append(_Part(end.protocol, destination=address, destination_port=port))
    return tuple(found)


def _both(one: _Part, other: _Part) -> _Part | None:
    """Return what is true of both; None when nothing is."""
    merged = {}
    for name in one.__struct_fields__:
        mine, its = getattr(one, name), getattr(other, name)
        if mine and its and mine != its:
            return None
        merged[name] = mine or its
    return _Part(**merged)


def _bounded(parts: tuple[_Part, ...], most: int) -> tuple[_Part, ...]:
    unique = tuple(dict.fromkeys(parts))
    return unique if len(unique) <= most and _Part() not in unique else _ANY
