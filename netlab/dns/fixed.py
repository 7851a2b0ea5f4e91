"""A few names that do not change: what a resolver of the world outside knows."""

from __future__ import annotations

from collections.abc import Mapping

from netlab.dns import wire
from netlab.dns.answers import Outcome
from netlab.dns.wire import Name, Query, Record, name_of

TTL = 60  # seconds


class FixedNames:
    """Says the addresses of given names, and that there are no others."""

    def __init__(self, names: Mapping[str, str]) -> None:
        """*names*: IPv4 addresses by name. Raises Malformed for what is no name."""
        self._addresses: dict[Name, bytes] = {
            name_of(name): bytes(map(int, address.split("."))) for name, address in names.items()
        }
        self._parents = {name[at:] for name in self._addresses for at in range(len(name) + 1)}
        self._reverse: dict[Name, Name] = {}
        for name, packed in self._addresses.items():
            digits = ".".join(map(str, reversed(packed)))
            self._reverse.setdefault(name_of(f"{digits}.in-addr.arpa"), name)

    def outcome(self, query: Query) -> Outcome:
        """Return what is said to *query*."""
        name, kind = query.name, query.type
        address, origin = self._addresses.get(name), self._reverse.get(name)
        if address is not None and kind == wire.A:
            return Outcome(answers=[Record(name, wire.A, TTL, address)], flags=wire.RA)
        if origin is not None and kind == wire.PTR:
            return Outcome(answers=[Record(name, wire.PTR, TTL, (origin,))], flags=wire.RA)
        exists = name in self._parents or origin is not None
        rcode = wire.NOERROR if exists else wire.NXDOMAIN
        return Outcome(rcode, denial=_ROOT, flags=wire.RA)


_ROOT = Record(
    (),
    wire.SOA,
    TTL,
    (
        (b"internet",),
        (b"hostmaster", b"internet"),
        b"".join(number.to_bytes(4, "big") for number in (1, 7200, 1800, 86400, TTL)),
    ),
)
