"""Link messages: bridges, veths and VXLAN tunnels, each made whole by one message; read back.

Everything that can be is given at birth (index, group, MAC, master, up, the far end's namespace):
little can be half-made. Three things the kernel takes only from a second message: the far end's
being up, hairpin (it is an attribute of an existing port), and the MTU of a bridge (given at birth,
the next port changes it: br_mtu_auto_adjust() honours only br_change_mtu()).
Attribute numbers: linux/if_link.h, linux/veth.h.
"""

from __future__ import annotations

import socket
from struct import Struct, pack
from typing import NamedTuple

from netlab.kernel import netlink
from netlab.kernel.netlink import attribute, message, nest, number, string, text, u8, u32
from netlab.objects import DOOMED_GROUP, GROUP, PEER_GROUP, Bridge, Veth, Vxlan

NEW, DELETE, GET, SET = 16, 17, 18, 19  # RTM_*LINK
NEW_NSID, GET_NSID = 88, 90
LOOPBACK = 1  # index of lo in every namespace

UP, LOWER_UP = 0x1, 0x10000  # IFF_UP, IFF_LOWER_UP (the far end of a veth is up)
_ADDRESS, _NAME, _MTU, _LINK, _QDISC, _MASTER, _TXQLEN, _PROTINFO = 1, 3, 4, 5, 6, 10, 13, 12
_LINKINFO, _GROUP, _FD, _EXT_MASK, _LINK_NSID, _TARGET_NSID = 18, 27, 28, 29, 37, 46
_KIND, _DATA, _PORT_KIND, _PORT_DATA = 1, 2, 4, 5  # IFLA_INFO_*
_PEER = 1  # VETH_INFO_PEER
_PORT_MODE = 4  # IFLA_BRPORT_MODE: hairpin
_VNI, _DEVICE, _LOCAL, _TTL, _TOS, _LEARNING = 1, 3, 4, 5, 6, 7  # IFLA_VXLAN_*
_PROXY, _RSC, _L2MISS, _L3MISS, _PORT, _LOCAL6, _ZERO_CSUM_TX, _ZERO_CSUM_RX = (
    *(11, 12, 13, 14),
    *(15, 17, 19, 20),
)
_NSID_FD, _NSID = 3, 1  # NETNSA_*
_NO_STATISTICS = u32(_EXT_MASK, 8)  # RTEXT_FILTER_SKIP_STATS: a third of the bytes

_pack_header = Struct("=BxHiII").pack  # ifinfomsg: family, type, index, flags, mask of flags
_HEADER_SIZE = 16
# One queue of each sort. Not told, the kernel makes one per CPU, takes all but one out of use again
# (veth_init_queues()) and waits for all CPUs for it (synchronize_net()): most of the time of a pod.
_ONE_QUEUE = u32(31, 1) + u32(32, 1)  # IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES
_OUR_GROUP, _FAR_GROUP = u32(_GROUP, GROUP), u32(_GROUP, PEER_GROUP)
_VETH, _BRIDGE, _VXLAN = (text(_KIND, kind) for kind in ("veth", "bridge", "vxlan"))
_MAKE = netlink.CREATE | netlink.EXCL

DUMP_BODY = _pack_header(0, 0, 0, 0, 0) + _NO_STATISTICS


def mac(words: str) -> bytes:
    return bytes.fromhex(words.replace(":", ""))


def _born(name: str, address: str, mtu: int) -> bytes:
    return text(_NAME, name) + attribute(_ADDRESS, mac(address)) + (u32(_MTU, mtu) if mtu else b"")


def _header(index: int, up: bool) -> bytes:
    return _pack_header(0, 0, index, UP if up else 0, UP)


def new_bridge(thing: Bridge, index: int) -> list[bytes]:
    """Return the messages that make a bridge at *index* (0: the kernel chooses)."""
    body = (
        _header(index, thing.up)
        + _born(thing.name, thing.mac, 0)
        + _OUR_GROUP
        + nest(_LINKINFO, _BRIDGE)
    )
    fixed = _pack_header(0, 0, 0, 0, 0) + text(_NAME, thing.name) + u32(_MTU, thing.mtu)
    return [message(NEW, _MAKE, body), message(NEW, 0, fixed)]


def new_veth(thing: Veth, index: int, *, master: int, peer_fd: int, peer_index: int) -> list[bytes]:
    """Return the messages that make a pair, its far end born in the namespace of *peer_fd*.

    The far end is still down: the kernel configures it before it knows its peer (veth_open()).
    """
    peer = (
        _pack_header(0, 0, peer_index, 0, 0)
        + _born(thing.peer_name, thing.peer_mac, thing.mtu)
        + _FAR_GROUP
        + _ONE_QUEUE
        + u32(_FD, peer_fd)
    )
    body = (
        _header(index, thing.up)
        + _born(thing.name, thing.mac, thing.mtu)
        + _OUR_GROUP
        + _ONE_QUEUE
        + (u32(_MASTER, master) if master else b"")
        + nest(_LINKINFO, _VETH + nest(_DATA, attribute(_PEER, peer)))
    )
    made = message(NEW, _MAKE, body)
    return [made, set_hairpin(index, True)] if thing.hairpin and master else [made]


def new_vxlan(thing: Vxlan, index: int, device: int) -> list[bytes]:
    """Return the message that makes a tunnel, with the attributes flannel gives it.

    Source: flannel v0.28 backend/vxlan/device.go, as strace shows it.
    """
    family = socket.AF_INET6 if ":" in thing.local else socket.AF_INET
    local = _LOCAL6 if family == socket.AF_INET6 else _LOCAL
    data = (
        u32(_VNI, thing.vni)
        + u32(_DEVICE, device)
        + attribute(local, socket.inet_pton(family, thing.local))
        + u8(_LEARNING, thing.learning)
        + b"".join(
            u8(kind, 0)
            for kind in (_TTL, _TOS, _PROXY, _RSC, _L2MISS, _L3MISS, _ZERO_CSUM_TX, _ZERO_CSUM_RX)
        )
        + (attribute(_PORT, pack("!H", thing.port)) if thing.port else b"")
    )
    body = (
        _header(index, thing.up)
        + _born(thing.name, thing.mac, thing.mtu)
        + u32(_TXQLEN, 0)
        + _OUR_GROUP
        + nest(_LINKINFO, _VXLAN + nest(_DATA, data))
    )
    return [message(NEW, _MAKE, body)]


def change(
    index: int,
    *,
    address: str | None = None,
    mtu: int | None = None,
    master: int | None = None,
    up: bool | None = None,
    ours: bool = False,
) -> bytes:
    """Return the message that changes what is given of a link; master 0 frees a port; *ours*: it
    is marked as netlab's."""
    body = _pack_header(0, 0, index, UP if up else 0, 0 if up is None else UP)
    if address is not None:
        body += attribute(_ADDRESS, mac(address))
    if mtu is not None:
        body += u32(_MTU, mtu)
    if master is not None:
        body += u32(_MASTER, master)
    return message(NEW, 0, body + (_OUR_GROUP if ours else b""))


def up(name: str) -> bytes:
    return message(NEW, 0, _pack_header(0, 0, 0, UP, UP) + text(_NAME, name))


LO_UP = message(NEW, 0, _pack_header(0, 0, LOOPBACK, UP, UP))


def set_hairpin(index: int, on: bool) -> bytes:
    """Return the message that lets a bridge port send a frame back to where it came from."""
    body = _pack_header(socket.AF_BRIDGE, 0, index, 0, 0) + nest(_PROTINFO, u8(_PORT_MODE, on))
    return message(SET, 0, body)


def new_dummy(name: str) -> bytes:
    """Return the message that makes a dummy, down, as whoever makes it by hand."""
    kind = nest(_LINKINFO, text(_KIND, "dummy"))
    return message(NEW, _MAKE, _pack_header(0, 0, 0, 0, 0) + text(_NAME, name) + kind)


def delete(indexes: list[int]) -> list[bytes]:
    """Return the messages that delete links of one namespace.

    Several are marked and go by one message: unregister_netdevice_many() waits for the readers
    (synchronize_net(), milliseconds) once for all of them instead of once for each.
    """
    if len(indexes) == 1:
        return [message(DELETE, 0, _pack_header(0, 0, indexes[0], 0, 0))]
    doomed = u32(_GROUP, DOOMED_GROUP)
    marks = [message(NEW, 0, _pack_header(0, 0, index, 0, 0) + doomed) for index in indexes]
    return [*marks, message(DELETE, 0, _pack_header(0, 0, 0, 0, 0) + doomed)]


def by_index(index: int, target_nsid: int | None = None) -> bytes:
    """Return the question for one link, perhaps of the namespace this one knows by that number."""
    body = _pack_header(0, 0, index, 0, 0) + _NO_STATISTICS
    if target_nsid is not None:
        body += u32(_TARGET_NSID, target_nsid)
    return message(GET, 0, body)


def nsid_of(descriptor: int) -> bytes:
    """Return the question for this namespace's number of another one, given as a descriptor."""
    return message(GET_NSID, 0, b"\0\0\0\0" + u32(_NSID_FD, descriptor))


def nsid(body: bytes) -> int:
    """Return the number in the reply; -1 when this namespace has none for the other."""
    value = number(netlink.attributes(body, 4).get(_NSID, b"\xff\xff\xff\xff"))
    return -1 if value == 0xFFFFFFFF else value


class Link(NamedTuple):
    """One link as the kernel reports it; 0 and None where it has no such thing."""

    ifindex: int
    name: str
    up: bool
    lower_up: bool
    mac: str
    mtu: int
    group: int
    kind: str
    master: int
    link: int  # index of the far end, in its own namespace; or of the device below a tunnel
    nsid: int | None  # this namespace's number of the one the far end is in; None: the same one
    hairpin: bool
    data: bytes  # attributes of its kind
    qdisc: str  # the kind of its root queue

    @property
    def ours(self) -> bool:
        return self.group in (GROUP, PEER_GROUP, DOOMED_GROUP)


def link(body: bytes) -> Link:
    """Return the link that a message of type NEW tells of."""
    _family, index, flags = _unpack_header(body)
    found = netlink.attributes(body, _HEADER_SIZE)
    info = netlink.attributes(found.get(_LINKINFO, b""))
    port = b""
    if string(info.get(_PORT_KIND, b"")) == "bridge":
        port = netlink.attributes(info.get(_PORT_DATA, b"")).get(_PORT_MODE, b"")
    return Link(
        index,
        string(found.get(_NAME, b"")),
        bool(flags & UP),
        bool(flags & LOWER_UP),
        found.get(_ADDRESS, b"").hex(":"),
        number(found.get(_MTU, b"")),
        number(found.get(_GROUP, b"")),
        string(info.get(_KIND, b"")),
        number(found.get(_MASTER, b"")),
        number(found.get(_LINK, b"")),
        number(found[_LINK_NSID]) if _LINK_NSID in found else None,
        number(port) == 1,
        info.get(_DATA, b""),
        string(found.get(_QDISC, b"")),
    )


_unpack_parts = Struct("=BxHiII").unpack_from


def _unpack_header(body: bytes) -> tuple[int, int, int]:
    family, _type, index, flags, _mask = _unpack_parts(body)
    return family, index, flags


class Tunnel(NamedTuple):
    """What a VXLAN link is made of."""

    vni: int
    device: int  # index
    local: str
    port: int
    learning: bool


def tunnel(data: bytes) -> Tunnel:
    """Return what `Link.data` of a VXLAN link says."""
    found = netlink.attributes(data)
    local = ""
    if _LOCAL in found:
        local = socket.inet_ntop(socket.AF_INET, found[_LOCAL])
    elif _LOCAL6 in found:
        local = socket.inet_ntop(socket.AF_INET6, found[_LOCAL6])
    return Tunnel(
        number(found.get(_VNI, b"")),
        number(found.get(_DEVICE, b"")),
        local,
        int.from_bytes(found.get(_PORT, b""), "big"),
        number(found.get(_LEARNING, b"")) == 1,
    )
