"""What the kernel holds: one frozen type for each kind of thing netlab makes.

The same types stand for what should be (desired) and for what is (observed), so their difference
is a plan. Each object lives in one network namespace, named by `netns` (the name under
/run/netns, for example `notes.node1`); `key` is its identity there, everything else is state.

Ownership is written on the thing itself: links carry `GROUP`, addresses and routes that flannel
would not make carry protocol `PROTOCOL`, rules have upstream's chain names, namespaces the lab's
name.
Addresses are text without host bits lost: `10.244.1.1/24`; MACs are lower-case with colons.
"""

from __future__ import annotations

from typing import Any

import msgspec

GROUP = 0x6E6C  # link group (IFLA_GROUP) of every link netlab makes: "nl"
PEER_GROUP = GROUP + 1  # of the far end of a veth, so that it is not taken for a link of its own
DOOMED_GROUP = GROUP + 2  # of links about to be deleted, all of a namespace in one message
MAIN_TABLE = 254  # RT_TABLE_MAIN, linux/rtnetlink.h
PROTOCOL = 110  # protocol (rtnetlink(7): rtm_protocol, IFA_PROTO) of what is netlab's own


class Object(msgspec.Struct, frozen=True):
    """One thing the kernel holds. `key` identifies it among the objects of all namespaces."""

    netns: str

    @property
    def key(self) -> tuple[Any, ...]:
        return (type(self).__name__, self.netns)


class Netns(Object, frozen=True):
    """A named network namespace, bind-mounted at /run/netns/NAME, with `lo` up."""

    lo_up: bool = True


class Bridge(Object, frozen=True):
    """An Ethernet bridge, up, without spanning tree, with a fixed MAC."""

    name: str
    mac: str
    mtu: int = 1500
    up: bool = True

    @property
    def key(self) -> tuple[Any, ...]:
        return ("Link", self.netns, self.name)


class Veth(Object, frozen=True):
    """A pair of virtual Ethernet ports, both up; this end may be a port of `bridge`.

    Observed, `peer_netns` is "" when the far end is not in the namespace where it is wanted.
    """

    name: str
    mac: str
    peer_netns: str
    peer_name: str
    peer_mac: str
    mtu: int = 1500
    bridge: str | None = None
    hairpin: bool = False
    up: bool = True
    peer_up: bool = True

    @property
    def key(self) -> tuple[Any, ...]:
        return ("Link", self.netns, self.name)


class Vxlan(Object, frozen=True):
    """A VXLAN tunnel end point (RFC 7348) as flannel makes it: TTL auto, up."""

    name: str
    mac: str
    vni: int
    local: str
    device: str
    mtu: int
    port: int = 0  # 0 is the kernel's default, 8472
    learning: bool = False
    up: bool = True

    @property
    def key(self) -> tuple[Any, ...]:
        return ("Link", self.netns, self.name)


class Tun(Object, frozen=True):
    """A tun device, up, whose IP packets a process reads and writes; it outlives the process."""

    name: str
    mtu: int
    up: bool = True

    @property
    def key(self) -> tuple[Any, ...]:
        return ("Link", self.netns, self.name)


class Address(Object, frozen=True):
    """An address of a link, `10.244.1.1/24`."""

    link: str
    address: str

    @property
    def key(self) -> tuple[Any, ...]:
        return ("Address", self.netns, self.link, self.address)


class Route(Object, frozen=True):
    """A route; `destination` is a prefix or `default` (IPv6: `::/0`)."""

    destination: str
    link: str
    via: str | None = None
    onlink: bool = False
    protocol: int = PROTOCOL
    table: int = MAIN_TABLE

    @property
    def key(self) -> tuple[Any, ...]:
        return ("Route", self.netns, self.destination, self.table)

    def blocks(self, other: Object) -> bool:
        """Return whether it must go before *other* can take its place.

        IPv6 has no next hop on one link that a route leads to by another, onlink or not
        (net/ipv6/route.c, ip6_route_check_nh_onlink), and flannel's are within their destination.
        """
        onlink = isinstance(other, Route) and other.onlink and ":" in other.destination
        return onlink and other.key == self.key


RULE_PRIORITY = 110  # of each RoutingRule, before the main table's own rule, 32766


class RoutingRule(Object, frozen=True):
    """A rule of policy routing: packets with `mark` look into `table` before the main one."""

    mark: int
    table: int

    @property
    def key(self) -> tuple[Any, ...]:
        return ("RoutingRule", self.netns, self.mark, self.table)


class Neighbor(Object, frozen=True):
    """A neighbour (ARP) entry: a permanent one, or without `mac` one the kernel asks for itself.

    The latter only has a place that is its own: neither kind counts towards `gc_thresh3`, the room
    that all network namespaces of a machine share. Somebody else's permanent one does as well.
    """

    link: str
    address: str
    mac: str = ""

    @property
    def key(self) -> tuple[Any, ...]:
        return ("Neighbor", self.netns, self.link, self.address)


class FdbEntry(Object, frozen=True):
    """A permanent forwarding entry of a VXLAN device: frames for `mac` go to `destination`."""

    link: str
    mac: str
    destination: str

    @property
    def key(self) -> tuple[Any, ...]:
        return ("FdbEntry", self.netns, self.link, self.mac)


class Sysctl(Object, frozen=True):
    """One setting below /proc/sys, `net.ipv4.ip_forward` (a dot inside a link name is a slash)."""

    name: str
    value: str

    @property
    def key(self) -> tuple[Any, ...]:
        return ("Sysctl", self.netns, self.name)


class IptablesChain(Object, frozen=True):
    """A chain that is netlab's alone, whole: `rules` as `iptables-save` prints them, without -A.

    `family`: `ip`, or `ip6` for one of ip6tables.
    """

    table: str
    name: str
    rules: tuple[str, ...]
    family: str = "ip"

    @property
    def key(self) -> tuple[Any, ...]:
        return ("IptablesChain", self.netns, self.family, self.table, self.name)


class IptablesJump(Object, frozen=True):
    """One rule of netlab's in a built-in chain, appended; others' rules there are not touched."""

    table: str
    chain: str
    rule: str
    family: str = "ip"

    @property
    def key(self) -> tuple[Any, ...]:
        return ("IptablesJump", self.netns, self.family, self.table, self.chain, self.rule)


class Netem(Object, frozen=True):
    """What a link sends is delayed or lost: its root queue is netem's.

    Times are in milliseconds, `loss` is in percent.
    """

    link: str
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0

    @property
    def key(self) -> tuple[Any, ...]:
        return ("Netem", self.netns, self.link)


class NftTable(Object, frozen=True):
    """A table of nftables that is netlab's alone, whole, as `nft -f` reads its body."""

    family: str
    name: str
    body: str

    @property
    def key(self) -> tuple[Any, ...]:
        return ("NftTable", self.netns, self.family, self.name)
