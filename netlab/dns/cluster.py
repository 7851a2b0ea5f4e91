"""What a cluster's DNS says to questions, and which questions are not its own."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from netlab.dns import wire
from netlab.dns.answers import Forward, Outcome
from netlab.dns.wire import Name, Query, Record
from netlab.dns.zone import REVERSE, SCHEMA_TTL, WEIGHT, Found, Site, Zone, addresses

CHAIN = 10  # aliases followed


class ClusterNames:
    """Answers from a zone, below the cluster's domain and for its addresses."""

    def __init__(self, zone: Zone, *, known: bool = True) -> None:
        """*known*: whether the cluster's objects have been heard of; until then nothing of it is
        answered, nor denied."""
        self.zone = zone
        self.known = known

    def outcome(self, query: Query) -> Outcome | Forward:
        """Return what is said to *query*."""
        zone = self.zone
        name, kind = query.name, query.type
        if zone.within(name):
            if not self.known:
                return Outcome(wire.SERVFAIL, flags=0, denial=zone.authority())
            if kind in (wire.AXFR, wire.IXFR):
                return Outcome(wire.REFUSED, flags=0)
            return self._own(zone, query)
        if name[-2:] in REVERSE and kind == wire.PTR and (names := zone.names(name)):
            ttl = zone.settings.ttl
            return Outcome(answers=[Record(name, wire.PTR, ttl, (one,)) for one in names])
        return Forward(query, name)

    def _own(self, zone: Zone, query: Query) -> Outcome | Forward:
        name, kind, ttl = query.name, query.type, zone.settings.ttl
        found = zone.found(name)
        if found is None:
            return Outcome(wire.NXDOMAIN, denial=zone.authority())
        answers: list[Record] = []
        additional: list[Record] = []
        if found.alias and kind in (wire.A, wire.AAAA):
            return self._aliased(zone, query, found)
        if found.alias and kind == wire.CNAME:
            answers = [Record(name, wire.CNAME, ttl, (found.alias,))]
        elif kind in (wire.A, wire.AAAA):
            answers = addresses(name, kind, found.sites, ttl)
        elif kind == wire.TXT and found.text:
            text = bytes((len(found.text),)) + found.text
            answers = [Record(name, wire.TXT, SCHEMA_TTL, text)]
        elif kind == wire.SRV:
            answers, additional = _located(name, found.sites, ttl)
        elif name == zone.domain and kind == wire.SOA:
            answers = [zone.authority()]
        elif name == zone.domain and kind == wire.NS:
            servers = zone.nameservers()
            names = dict.fromkeys(site.name for site in servers)
            answers = [Record(name, wire.NS, ttl, (one,)) for one in names]
            additional = _glue(servers, ttl)
        if not answers:
            return Outcome(denial=zone.authority())
        return Outcome(answers=answers, additional=additional)

    def _aliased(self, zone: Zone, query: Query, found: Found) -> Outcome | Forward:
        """Return where an ExternalName leads: to addresses, to somebody else's name, or nowhere."""
        chain: list[Record] = []
        name, ttl = query.name, zone.settings.ttl
        step: Found | None = found
        while step is not None and step.alias:
            if len(chain) == CHAIN or step.alias in (query.name, *(one.owner for one in chain)):
                return Outcome(denial=zone.authority())
            chain.append(Record(name, wire.CNAME, ttl, (step.alias,)))
            name = step.alias
            if not zone.within(name):
                return Forward(query, name, tuple(chain))
            step = zone.found(name)
        last = addresses(name, query.type, step.sites, ttl) if step else []
        if not last:
            return Outcome(denial=zone.authority())
        return Outcome(answers=[*chain, *last])


def _located(name: Name, sites: Sequence[Site], ttl: int) -> tuple[list[Record], list[Record]]:
    """Return the SRV records of *sites*, and the addresses of the names they lead to."""
    weight = max(1, WEIGHT // len(sites)) if sites else 0
    numbered = [site for site in sites if site.port.number]
    found = dict.fromkeys((site.port.number, site.name) for site in numbered)
    records = [
        Record(name, wire.SRV, ttl, (struct.pack("!3H", 0, weight, port), target))
        for port, target in found
    ]
    return records, _glue(numbered, ttl)


def _glue(sites: Sequence[Site], ttl: int) -> list[Record]:
    """Return the address records of the names of *sites*."""
    found = dict.fromkeys((site.name, site.address) for site in sites)
    records: list[Record] = []
    for name, address in found:
        for kind in wire.ADDRESSES.values():
            records += addresses(name, kind, [Site(address, sites[0].port, name)], ttl)
    return records
