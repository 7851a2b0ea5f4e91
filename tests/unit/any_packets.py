"""Options of a proxy, and packets of all kinds of clients to all there is in a decision."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import ip_network

from netlab.proxy import Decision, Frontend, Kind, Packet
from netlab.proxy.addresses import Family, family

OUTSIDE = {Family.IPV4: "198.18.7.7", Family.IPV6: "fd77::7"}
LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}
OWN = ("192.168.0.2", "192.168.99.11")  # addresses of the table's node, one not its primary

PROXIES: dict[str, dict[str, object]] = {
    "as they are": {},
    "bridge": {"detect_local": {"mode": "bridge-interface", "bridge": "cbr0"}},
    "interface prefix": {"detect_local": {"mode": "interface-name-prefix", "prefix": "cali"}},
    "every address is a pod's": {
        "detect_local": {"mode": "cluster-cidr", "cidrs": ["0.0.0.0/0", "::/0"]}
    },
    "none": {"detect_local": {"mode": "none"}},
    "masquerade all": {"masquerade_all": True},
    "some addresses": {"nodeport_addresses": ["192.168.0.0/24", "fd00::/16"]},
    "not on loopback": {"localhost_nodeports": False},
    "half of all, not on loopback": {
        "nodeport_addresses": ["0.0.0.0/1", "192.0.0.0/2", "::/1"],
        "localhost_nodeports": False,
    },
}


def packets(decision: Decision, which: Family, local: Collection[str]) -> Iterator[Packet]:
    """Yield packets to each frontend from all kinds of clients, and beside it from some."""
    frontends = [one for one in decision.frontends if one.service.family is which]
    checks = [("TCP", one.port) for one in decision.health_checks if one.family is which]
    own = [*sorted(local), LOOPBACK[which], OUTSIDE[which][:-1] + "9"]
    for one in frontends:
        protocol, port = one.service.protocol, one.port
        for address in [one.address] if one.address else own:
            for source, interface in clients(decision, one, local):
                if family(address) is family(source) is which:
                    yield Packet(source, address, port, protocol, interface)
            for beside in ((protocol, 7), ("UDP" if protocol == "TCP" else "TCP", port), *checks):
                if family(address) is which:
                    yield Packet(OUTSIDE[which], address, beside[1], beside[0], "eth9")
                    yield Packet(LOOPBACK[which], address, beside[1], beside[0], "")


def clients(
    decision: Decision, frontend: Frontend, local: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yield sources with the interfaces they come in by; "" for the node's own processes."""
    which = frontend.service.family
    prefixes = [*frontend.sources, decision.situations[which].pods.cidr]
    far = [
        str(ip_network(one)[1 if "/" in one else 0])
        for one in prefixes
        if one and not one.endswith("/0")
    ]
    for source in (OUTSIDE[which], *(one.address for one in frontend.service.known[:1])):
        for interface in ("cbr0", "cali7", "eth9"):
            yield source, interface
    yield from ((source, "cali7") for source in far if source)
    own = {*local, frontend.address} - {"::1"}
    if frontend.kind is not Kind.HOST_PORT or which is Family.IPV4:
        own.add(LOOPBACK[which])  # ::1 never leaves the node: the portmap plugin cannot help it
    yield from ((source, "") for source in sorted(own) if source)
