"""From EndpointSlices to the endpoints one node uses.

1. What cannot be used is left out with a warning, and never refuses the rest.
2. An endpoint in several slices is one endpoint; the most useful of its states counts.
3. Which ones serve is decided apart for the cluster-wide and the local set.

Source: kube-proxy pkg/proxy/endpointslicecache.go and topology.go, v1.34.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from netlab.model.services import Conditions, EndpointSlice, Named, SliceEndpoint
from netlab.proxy.addresses import Family, address, family, socket_address

PORTS = range(1, 65536)
UNKNOWN = Conditions()  # so it is ready, as the API defines
Say = Callable[[str], None]


class Endpoint(msgspec.Struct, frozen=True):
    """Where a packet may be sent."""

    address: str
    port: int
    local: bool = False  # it is on this node
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zones: tuple[str, ...] = ()  # the clients' zones and nodes its hints are for
    nodes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """`10.0.0.1:80`."""
        return socket_address(self.address, self.port)

    @property
    def lingering(self) -> bool:
        """Whether it still serves though it is going."""
        return self.serving and self.terminating


Key = tuple[Family, str, str]  # family, port name, protocol
Found = dict[Key, tuple[Endpoint, ...]]


class Usable(msgspec.Struct, frozen=True):
    """The endpoints of a service port that are used on this node."""

    cluster: tuple[Endpoint, ...]
    local: tuple[Endpoint, ...]
    exist: bool  # whether there is any, on whatever node


def found(slices: Iterable[EndpointSlice], node: str, say: Say) -> Found:
    """Return the endpoints in the *slices* of one Service, per port, in the order of their text."""
    held: dict[Key, dict[tuple[str, int], Endpoint]] = {}
    for one in slices:
        where = f"EndpointSlice {one.metadata.namespace}/{one.metadata.name}"
        hosts = [
            (which, host, of)
            for of in one.endpoints or ()
            for which, host in _usable_address(one, of, where, say)
        ]
        for port in one.ports or ():
            if port.port not in PORTS:
                say(f"{where}: port {port.name or ''!r}: {port.port} is no port number")
                continue
            number, protocol = int(port.port or 0), port.protocol or "TCP"
            for which, host, of in hosts:
                here = held.setdefault((which, port.name or "", protocol), {})
                new = _endpoint(host, number, of, node)
                old = here.get((host, number))
                if old is None or _usefulness(new) > _usefulness(old):
                    here[host, number] = new
    return {key: tuple(sorted(here.values(), key=_text)) for key, here in held.items()}


def _text(endpoint: Endpoint) -> str:
    return endpoint.text


def _usable_address(
    one: EndpointSlice, of: SliceEndpoint, where: str, say: Say
) -> Iterable[tuple[Family, str]]:
    """Return family and canonical form of the first address; the others are the same endpoint."""
    if one.addressType == "FQDN":
        return ()
    given = of.addresses[0] if of.addresses else ""
    host = address(given)
    if not host:
        say(f"{where}: {given!r} is no address")
        return ()
    which = family(host)
    if one.addressType and which != one.addressType:
        say(f"{where}: {given} is not {one.addressType}")
        return ()
    return ((which, host),)


def _endpoint(host: str, port: int, of: SliceEndpoint, node: str) -> Endpoint:
    state = of.conditions or UNKNOWN
    local = bool(node) and of.nodeName == node
    hints = of.hints
    return Endpoint(
        host,
        port,
        local,
        state.ready is not False,
        state.serving is not False,
        state.terminating is True,
        _names(hints.forZones) if hints else (),
        _names(hints.forNodes) if hints else (),
    )


def _names(hints: list[Named] | None) -> tuple[str, ...]:
    return tuple(one.name for one in hints or ())


def _usefulness(endpoint: Endpoint) -> tuple[bool, bool, bool, bool]:
    return endpoint.local, endpoint.ready, endpoint.serving, not endpoint.terminating


def usable(
    endpoints: Sequence[Endpoint], *, cluster: bool, local: bool, node: str, zone: str
) -> Usable:
    """Return which of *endpoints* are used for the policies asked for: *cluster*, *local*.

    Ready ones are; if there are none, those that still serve while terminating are. Hints narrow
    the cluster-wide set only, and only if they leave something.
    """
    ready = [one for one in endpoints if one.ready]
    lingering = [one for one in endpoints if not one.ready and one.lingering]
    everywhere = _near(ready, node, zone) or lingering if cluster else []
    here = [one for one in ready if one.local] or [one for one in lingering if one.local]
    return Usable(tuple(everywhere), tuple(here) if local else (), bool(ready or lingering))


def _near(ready: list[Endpoint], node: str, zone: str) -> list[Endpoint]:
    """Return those of *ready* whose hints name *node*, else *zone*; all if a hint is missing."""
    if all(one.nodes for one in ready) and (same := [one for one in ready if node in one.nodes]):
        return same
    if all(one.zones for one in ready) and (same := [one for one in ready if zone in one.zones]):
        return same
    return ready
