"""Services in `userspace` mode, as kube-proxy wrote them up to v1.25: each leads to its portal.

A portal is a port of the node that a process listens on, which chooses an endpoint for each
connection; so rules know no endpoints. Whatever comes in by a card is redirected to it; what the
node itself sends is translated to the node's address, since redirected it would go to the loopback.
Source: kubernetes pkg/proxy/userspace/proxier.go, openPortal and iptablesInit (v1.25).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from netlab.proxy import hostport_rules
from netlab.proxy.addresses import socket_address
from netlab.proxy.frontend import Frontend, HealthCheck, Kind, ServicePort, by_port
from netlab.proxy.iptables_words import FILTER, NAT, chain, chain_key, comment, host, jumps
from netlab.proxy.options import Situation
from netlab.proxy.ruleset import Block, Key, Part, Shared

PORTALS_CONTAINER = "KUBE-PORTALS-CONTAINER"  # of all that comes in by a card
PORTALS_HOST = "KUBE-PORTALS-HOST"  # of all that a process on the node sends
NODE_PORT_CONTAINER = "KUBE-NODEPORT-CONTAINER"
NODE_PORT_HOST = "KUBE-NODEPORT-HOST"
NON_LOCAL = "KUBE-NODEPORT-NON-LOCAL"  # what lets clients of NodePorts in

LOCAL = "-m addrtype --dst-type LOCAL"
_FIRST = comment("handle ClusterIPs; NOTE: this must be before the NodePort rules")
_LAST = comment("handle service NodePorts; NOTE: this must be the last rule in the chain")
_FLOWS = comment("Ensure that non-local NodePort traffic can flow")

Line = tuple[Key, str]


class Userspace:
    """The renderer: *port* gives the one that leads to a port of a Service."""

    def __init__(self, port: Callable[[ServicePort], int]) -> None:
        self._port = port

    def frame(self, situation: Situation, used: Collection[Key] = ()) -> list[Shared]:
        """Return the blocks that are there without any Service."""
        return frame(situation)

    def hostport_frame(self, situation: Situation) -> list[Shared]:
        """Return the blocks that are there beside when a pod has a hostPort."""
        return hostport_rules.hostport_frame(situation, frame)

    def part(
        self,
        frontends: Sequence[Frontend],
        health_checks: Sequence[HealthCheck],
        situation: Situation,
        *,
        large: bool,
    ) -> Part:
        """Return the rules of one Service, or of the hostPorts of one pod, in one family.

        Of health checks there are none, and no comment is ever left out.
        """
        if frontends and frontends[0].kind is Kind.HOST_PORT:
            return hostport_rules.part(frontends)
        entries: dict[Key, dict[str, None]] = {}
        for service, mine in by_port(frontends):
            for one in mine:
                for at, line in _lines(one, self._port(service), situation):
                    entries.setdefault(at, {})[line] = None
        return Part((), tuple((at, tuple(lines)) for at, lines in entries.items()))


def frame(situation: Situation) -> list[Shared]:
    """Return the blocks that are there without any Service."""
    family = situation.family
    blocks: list[Block] = [
        *(chain(family, NAT, one) for one in (PORTALS_CONTAINER, PORTALS_HOST)),
        *(chain(family, NAT, one) for one in (NODE_PORT_CONTAINER, NODE_PORT_HOST)),
        chain(family, FILTER, NON_LOCAL),
        jumps(family, FILTER, "INPUT", f"{_FLOWS} -j {NON_LOCAL}"),
    ]
    for hook, portals, node_ports in (
        ("PREROUTING", PORTALS_CONTAINER, NODE_PORT_CONTAINER),
        ("OUTPUT", PORTALS_HOST, NODE_PORT_HOST),
    ):
        to = (f"{_FIRST} -j {portals}", f"{LOCAL} {_LAST} -j {node_ports}")
        blocks.append(jumps(family, NAT, hook, *to))
    return [Shared(block) for block in blocks]


def _lines(frontend: Frontend, port: int, situation: Situation) -> Iterator[Line]:
    """Yield the lines of *frontend*, whose portal is *port*."""
    service, family = frontend.service, frontend.service.family
    protocol = service.protocol.lower()
    said = comment(service.text)
    in_by = f"-j REDIRECT --to-ports {port}"
    out = in_by
    if situation.address:
        out = f"-j DNAT --to-destination {socket_address(situation.address, port)}"
    to = f"-p {protocol} {said} -m {protocol} --dport {frontend.port}"
    if frontend.kind is Kind.NODE_PORT:
        yield chain_key(family, NAT, NODE_PORT_CONTAINER), f"{to} {in_by}"
        yield chain_key(family, NAT, NODE_PORT_HOST), f"{to} {out}"
        let_in = f"-p {protocol} {said} -m {protocol} --dport {port} {said}"
        yield chain_key(family, FILTER, NON_LOCAL), f"{let_in} -m state --state NEW -j ACCEPT"
        return
    at = f"-d {host(frontend.address)} {to}"
    if frontend.kind is Kind.EXTERNAL_IP:
        by_wire = "-m physdev ! --physdev-is-in"
        yield chain_key(family, NAT, PORTALS_CONTAINER), f"{at} {by_wire} {in_by}"
        at = f"{at} {LOCAL}"
    yield chain_key(family, NAT, PORTALS_CONTAINER), f"{at} {in_by}"
    yield chain_key(family, NAT, PORTALS_HOST), f"{at} {out}"
