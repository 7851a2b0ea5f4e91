"""Which remembered UDP flows lead their clients astray, and so must be forgotten.

A flow is translated once, when it begins; then the kernel sends its packets where the first one
went, whatever the rules say by now. TCP ends when its endpoint goes; a UDP client that never stops
sends to nobody for ever. But a change of policy moves no flow that works, neither TCP nor UDP.
Forgotten are flows to a UDP frontend that

1. were sent to what serves it no more, or not on that port, if others do: they get one of those;
2. were sent nowhere, having begun before there were rules, if somebody serves it now;
3. were sent to an endpoint that is gone, if nobody is left: they are refused, as new ones are;
4. were sent to an endpoint, if the frontend itself is gone: so are they.

What is not ready but serves (a pod that ends, say) keeps its flows. Where the one endpoint left
does not serve, it keeps them too: it may still answer, and nobody else can.
Source: kubernetes pkg/proxy/conntrack/cleanup.go, v1.34, which knows 1 and 2 only; for hostPorts,
containernetworking/plugins plugins/meta/portmap, deletePortmapStaleConnections, v1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from netlab.packets import Entry, Protocol
from netlab.proxy.addresses import is_loopback
from netlab.proxy.endpoints import Endpoint
from netlab.proxy.frontend import Frontend, Kind, ServicePort
from netlab.proxy.options import Situation

Target = tuple[str, int]  # address and port
UDP = "UDP"
NOBODY: frozenset[Target] = frozenset()


class _Watched(NamedTuple):
    """A frontend's flows: where they may have gone, and where they should not any more."""

    serving: frozenset[Target]
    gone: frozenset[Target]  # endpoints it had
    kind: Kind
    portal: int = 0  # the node's port that it leads into; 0: none

    def is_lost(self, target: Target) -> bool:
        return target not in self.serving if self.serving else target in self.gone


def judge(
    frontends: Iterable[Frontend],
    situation: Situation,
    *,
    gone: Iterable[Frontend] = (),
    local: Collection[str],
    portal: Callable[[ServicePort], int] | None = None,
) -> Callable[[Entry], bool]:
    """Return what tells whether an entry must be forgotten once *frontends* have come to be.

    *frontends* are those of the Services (and pods, with hostPorts) that changed, all there are if
    it is not known which; *gone* what the same had before. Those of other protocols or families
    are passed over. *local* are the node's addresses; *portal* tells, in userspace mode, into which
    port of the node a frontend leads: its own flows go there, and those of another mode before stay
    with their endpoints. What counts of an entry is where it was sent
    and who answers: who asks, and from which port, makes no difference.
    """
    watched = _watched(frontends, gone, situation, portal)
    return lambda entry: _is_stale(entry, watched, situation, local)


def may_mislead(before: Iterable[Frontend], now: Iterable[Frontend]) -> bool:
    """Return whether a change from *before* to *now* may have made flows stale that were not.

    It cannot when each frontend is served by all that served it, and perhaps by others too.
    """
    old, new = _ends(before), _ends(now)
    if old.keys() != new.keys():
        return True
    for at, (serving, known) in old.items():
        serve, know = new[at]
        if not (serving <= serve and known <= know) or (serve and not serving):
            return True
    return False


def _ends(
    frontends: Iterable[Frontend],
) -> dict[tuple[str, int, Kind], tuple[frozenset[Target], frozenset[Target]]]:
    """Return of each UDP frontend the endpoints that serve it, and all that are known."""
    return {
        (one.address, one.port, one.kind): (_serving(one), _targets(one.service.known))
        for one in frontends
        if one.service.protocol == UDP
    }


def ports(frontends: Iterable[Frontend]) -> frozenset[int]:
    """Return the destination ports of the flows that `judge` may find, of *frontends* and gone."""
    return frozenset(one.port for one in frontends if one.service.protocol == UDP)


def _watched(
    frontends: Iterable[Frontend],
    gone: Iterable[Frontend],
    situation: Situation,
    portal: Callable[[ServicePort], int] | None,
) -> dict[Target, _Watched]:
    """Return what is known of each frontend; of one on all of the node's addresses, by ("", port).

    What is there now has its share in front of what was there before.
    """
    former: dict[Target, tuple[frozenset[Target], Kind]] = {}
    for one in _of_interest(gone, situation):
        at = (one.address, one.port)
        had = former[at][0] if at in former else NOBODY
        former[at] = (had | _targets(one.service.known), one.kind)
    found = {at: _Watched(NOBODY, had, kind) for at, (had, kind) in former.items()}
    for one in _of_interest(frontends, situation):
        at = (one.address, one.port)
        lost = former[at][0] - _targets(one.service.known) if at in former else NOBODY
        leads = portal if one.kind is not Kind.HOST_PORT else None
        port = leads(one.service) if leads is not None else 0
        found[at] = _Watched(_serving(one), lost, one.kind, port)
    return found


def _of_interest(frontends: Iterable[Frontend], situation: Situation) -> Iterable[Frontend]:
    return (
        one
        for one in frontends
        if one.service.protocol == UDP and one.service.family is situation.family
    )


def _serving(frontend: Frontend) -> frozenset[Target]:
    return _targets(end for end in frontend.service.known if end.serving or end.ready)


def _targets(endpoints: Iterable[Endpoint]) -> frozenset[Target]:
    return frozenset((one.address, one.port) for one in endpoints)


def _is_stale(
    entry: Entry,
    watched: dict[Target, _Watched],
    situation: Situation,
    local: Collection[str],
) -> bool:
    sent = entry.original
    if sent.protocol is not Protocol.UDP or entry.zone:
        return False
    at: _Watched | None = watched.get((sent.destination, sent.destination_port))
    if at is None:
        at = watched.get(("", sent.destination_port))
        if at is None or not (sent.destination in local or is_loopback(sent.destination)):
            return False
        # To an address without NodePorts: it is the node's own business. But if it was translated,
        # it came when that address still had them.
        unserved = at.kind is Kind.NODE_PORT and not situation.node_ports.on(sent.destination)
        if unserved and not entry.redirected:
            return False
    served_by = (entry.reply.source, entry.reply.source_port)
    if at.portal and (served_by[0] in local or is_loopback(served_by[0])):
        return served_by[1] != at.portal
    return at.is_lost(served_by)
