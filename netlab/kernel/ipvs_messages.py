"""Messages to ip_vs, packed: virtual servers and their real servers.

Numbers: linux/ip_vs.h; net/netfilter/ipvs/ip_vs_ctl.c, v6.12.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import IPv6Address
from struct import pack, unpack

from netlab.errors import CapabilityError
from netlab.kernel import netlink
from netlab.kernel.netlink import attribute, message, nest, text, u32
from netlab.proxy.addresses import Family, socket_address
from netlab.proxy.ipvs import NUMBER
from netlab.proxy.ipvs_text import Real, Server
from netlab.proxy.ruleset import Block

NEW_SERVICE, SET_SERVICE, DELETE_SERVICE, GET_SERVICE = 1, 2, 3, 4  # IPVS_CMD_*
NEW_DEST, SET_DEST, DELETE_DEST, GET_DEST = 5, 6, 7, 8
_SERVICE, _DEST = 1, 2  # IPVS_CMD_ATTR_*
(
    _AF,
    _PROTOCOL,
    _ADDRESS,
    _PORT,
    _SCHEDULER,
    _BITS,
    _TIMEOUT,
    _NETMASK,
) = (  # IPVS_SVC_ATTR_*
    *(1, 2, 3, 4),
    *(6, 7, 8, 9),
)
_PERSISTENT = 0x1  # IP_VS_SVC_F_PERSISTENT
# IP_VS_SVC_F_SCHED1, 2: what they mean is the scheduler's; here, of those that have some.
_FLAGS = {"sh": {"sh-fallback": 0x8, "sh-port": 0x10}, "mh": {"mh-fallback": 0x8, "mh-port": 0x10}}
_DEST_ADDRESS, _DEST_PORT, _FORWARD, _WEIGHT, _UPPER, _LOWER, _DEST_AF = 1, 2, 3, 4, 5, 6, 11
_ACTIVE, _INACTIVE = 7, 8
_PROTOCOLS = {number: word for word, number in NUMBER.items()}
_METHOD = {"-m": 0, "-g": 3, "-i": 2}  # IP_VS_CONN_F_*
_FORWARDS = {number: word for word, number in _METHOD.items()}

_CONTROL, _GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2  # linux/genetlink.h


def family_id(opened: netlink.Socket) -> int:
    """Return the number of ip_vs's family; the kernel loads the module for it where it may.

    Raises CapabilityError.
    """
    body = pack("=BBH", _GET_FAMILY, 1, 0) + text(_FAMILY_NAME, "IPVS")
    (reply,) = opened.ask([message(_CONTROL, 0, body)])
    if isinstance(reply, netlink.NetlinkError):
        raise CapabilityError("this kernel has no ip_vs", hint=HINT) from reply
    return netlink.number(netlink.attributes(reply, 4)[_FAMILY_ID])


HINT = "modprobe ip_vs; `scripts/vm` runs a kernel that has it"


def _place(words: str) -> tuple[int, bytes, int]:
    """Return family, address in 16 bytes and port of `10.96.0.1:443`."""
    host, _, port = words.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.inet_pton(family, host).ljust(16, b"\0"), int(port)


@lru_cache(maxsize=1 << 14)
def _named(name: str) -> bytes:
    """Return the attributes that tell a virtual server from others."""
    protocol, _, place = name.partition(" ")
    family, address, port = _place(place)
    return (
        attribute(_AF, pack("=H", family))
        + attribute(_PROTOCOL, pack("=H", NUMBER[protocol]))
        + attribute(_ADDRESS, address)
        + attribute(_PORT, pack(">H", port))
    )


def service(kind: int, command: int, block: Block) -> bytes:
    """Return the message that makes, changes or deletes the virtual server *block*."""
    words = block.head[0].split(" ")
    body = _named(block.name)
    if command != DELETE_SERVICE:
        timeout = int(words[words.index("-p") + 1]) if "-p" in words else 0
        flags = _PERSISTENT if timeout else 0
        if "-b" in words:
            flags |= sum(_FLAGS[words[1]][one] for one in words[words.index("-b") + 1].split(","))
        whole = u32(_NETMASK, 128) if "[" in block.name else attribute(_NETMASK, b"\xff" * 4)
        body += (
            text(_SCHEDULER, words[1])
            + attribute(_BITS, pack("=II", flags, 0xFFFFFFFF))
            + u32(_TIMEOUT, timeout)
            + whole
        )
    return message(kind, 0, pack("=BBH", command, 1, 0) + nest(_SERVICE, body))


def every_service() -> bytes:
    """Return the body of the question for all virtual servers."""
    return pack("=BBH", GET_SERVICE, 1, 0)


def reals_of(name: str) -> bytes:
    """Return the body of the question for the real servers of the virtual server *name*."""
    return pack("=BBH", GET_DEST, 1, 0) + nest(_SERVICE, _named(name))


def server(body: bytes) -> Server | None:
    """Return the virtual server that an answer tells of, without its real ones.

    None: it is by firewall mark.
    """
    of = netlink.attributes(netlink.attributes(body, 4)[_SERVICE])
    if _ADDRESS not in of:
        return None
    scheduler, bits = netlink.string(of[_SCHEDULER]), unpack("=II", of[_BITS])[0]
    flags = (name for name, bit in _FLAGS.get(scheduler, {}).items() if bits & bit)
    family, address = _address(of[_AF], of[_ADDRESS])
    return Server(
        family,
        _PROTOCOLS[netlink.number(of[_PROTOCOL])],
        address,
        int.from_bytes(of[_PORT], "big"),
        scheduler,
        netlink.number(of[_TIMEOUT]) if bits & _PERSISTENT else 0,
        ",".join(flags),
        (),
    )


def real(body: bytes) -> Real:
    """Return the real server that an answer tells of."""
    of = netlink.attributes(netlink.attributes(body, 4)[_DEST])
    _, address = _address(of[_DEST_AF], of[_DEST_ADDRESS])
    number = netlink.number
    return Real(
        socket_address(address, int.from_bytes(of[_DEST_PORT], "big")),
        _FORWARDS.get(number(of[_FORWARD]) & 7, "-m"),
        number(of[_WEIGHT]),
        number(of[_ACTIVE]),
        number(of[_INACTIVE]),
    )


def _address(number: bytes, raw: bytes) -> tuple[Family, str]:
    if netlink.number(number) == socket.AF_INET:
        return Family.IPV4, socket.inet_ntoa(raw[:4])
    return Family.IPV6, str(IPv6Address(raw[:16]))


def dest(kind: int, command: int, name: str, line: str, *, weight: int | None = None) -> bytes:
    """Return the message about the real server *line* of the virtual server *name*.

    *weight*: another one than the line's.
    """
    words = line.split(" ")
    family, address, port = _place(words[1])
    body = (
        attribute(_DEST_ADDRESS, address)
        + attribute(_DEST_PORT, pack(">H", port))
        + attribute(_DEST_AF, pack("=H", family))
    )
    if command != DELETE_DEST:
        method, own = (words[2], int(words[4])) if len(words) > 4 else ("-m", 1)
        body += (
            u32(_FORWARD, _METHOD[method])
            + u32(_WEIGHT, own if weight is None else weight)
            + u32(_UPPER, 0)
            + u32(_LOWER, 0)
        )
    both = nest(_SERVICE, _named(name)) + nest(_DEST, body)
    return message(kind, 0, pack("=BBH", command, 1, 0) + both)
