"""The gateway's rules: inside may go out, outside reaches what is published only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from netlab.model.lab import Lab

NAME = "firewall"  # of the table


class Published(NamedTuple):
    """A port of a load balancer's address, for which the gateway is open to the outside."""

    address: str
    protocol: str  # tcp, udp, sctp
    port: int


def body(lab: Lab, published: Iterable[Published], *, inside: Sequence[str], family: str) -> str:
    """Return the body of the table of *family*, `ip` or `ip6`, as `nft -f` reads it.

    Open are ports of the nodes, and *published*, ports of addresses of the balancer. *inside* is
    the gateway's devices on the underlay.
    """
    every = [one for node in lab.nodes for one in node.addresses if family_of(one) == family]
    nodes = ", ".join(sorted(every, key=lambda one: int(ip_address(one))))
    opened = [
        f"\t\t{family} daddr {{ {nodes} }} {proto} dport {ports} accept"
        for ports, proto in (entry.split("/") for entry in lab.gateway.publish)
    ]
    opened += [
        f"\t\t{family} daddr {one.address} {one.protocol} dport {one.port} accept "
        'comment "load balancer"'
        for one in sorted(published)
        if family_of(one.address) == family
    ]
    outwards = " ".join(f'oifname != "{one}"' for one in inside)
    lines = [
        "\tchain forward {",
        "\t\ttype filter hook forward priority filter; policy drop;",
        "\t\tct state established,related accept",
        *(f'\t\tiifname "{one}" accept comment "from the inside"' for one in inside),
        f'\t\t{outwards} accept comment "between outside machines"',
        *opened,
        '\t\tcounter drop comment "not published"',
        "\t}",
    ]
    return "\n".join(lines) + "\n"


def family_of(address: str) -> str:
    """Return nftables' word for the family of *address*."""
    return "ip6" if ":" in address else "ip"
