"""What a namespace is told of IP before it has addresses: its settings; and its default routes."""

from __future__ import annotations

from netlab.model.lab import Lab
from netlab.objects import Object, Sysctl

FORWARDS_IPV6 = "net.ipv6.conf.all.forwarding"


def no_ipv6(netns: str) -> Sysctl:
    """Return the setting that keeps a single-stack namespace silent: no neighbour discovery."""
    return Sysctl(netns, "net.ipv6.conf.all.disable_ipv6", "1")


def ip_stacks(lab: Lab, netns: str, *, forwards: bool = False) -> list[Object]:
    """Return the settings of a namespace for IPv6: off, or in a dual-stack lab as it must be.

    Addresses are in use at once (nobody asks whether another has them), and there are no routers
    to ask for or to listen to; *forwards*: it is one itself.
    """
    if not lab.dual:
        return [no_ipv6(netns)]
    conf = "net.ipv6.conf"
    return [
        Sysctl(netns, f"{conf}.all.disable_ipv6", "0"),
        Sysctl(netns, f"{conf}.default.accept_dad", "0"),
        Sysctl(netns, f"{conf}.default.accept_ra", "0"),
        Sysctl(netns, FORWARDS_IPV6, "1" if forwards else "0"),
    ]


def no_reverse_path_filter(netns: str) -> list[Object]:
    """Return strict reverse-path filtering off; a new namespace inherits the host's setting."""
    return [
        Sysctl(netns, "net.ipv4.conf.all.rp_filter", "0"),
        Sysctl(netns, "net.ipv4.conf.default.rp_filter", "0"),
    ]


def default_route(address: str) -> str:
    """Return the destination of the default route of the family of *address*."""
    return "::/0" if ":" in address else "default"
