"""Ipsets of the namespace the calling thread is in, over netlink.

An element is written as ipset(8) lists it: `10.96.0.1,tcp:443`, `30080`, `10.244.1.2`.
Numbers: linux/netfilter/ipset/ip_set.h; which set type takes what: net/netfilter/ipset, v6.12.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv6Address
from struct import pack

from netlab.errors import CapabilityError, KernelError
from netlab.kernel import netlink
from netlab.kernel.netlink import NetlinkError, attribute, attributes, message, nest, string, text
from netlab.kernel.netlink import u8 as byte
from netlab.proxy.ipvs_sets import FAMILIES, INET, MOST, PLACE
from netlab.proxy.ruleset import Block, Key, Sort, Step

_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET
_PROTOCOL, _CREATE, _DESTROY, _LIST, _ADD, _DEL = 1, 2, 3, 7, 9, 10  # IPSET_CMD_*
_VERSION = attribute(1, b"\x06")  # IPSET_ATTR_PROTOCOL: 6, which every kernel knows
_NAME, _TYPE, _REVISION, _FAMILY, _DATA, _ADT, _LINE = 2, 3, 4, 5, 7, 8, 9  # IPSET_ATTR_*
_IP, _CIDR, _PORT, _PORT_TO, _PROTO, _MAXELEM = 1, 3, 4, 5, 7, 19  # …, inside _DATA
_IP2, _CIDR2 = 20, 21
_V4, _V6 = 1, 2  # IPSET_ATTR_IPADDR_*
_NET = 0x4000  # NLA_F_NET_BYTEORDER
# Of each type, the revision that the oldest programs in use know, too.
REVISIONS = {
    "hash:ip": 0,
    "hash:ip,port": 1,
    "hash:ip,port,ip": 1,
    "hash:ip,port,net": 1,
    "bitmap:port": 0,
}
PORTS = 65535
PORTION = 400  # elements in one message
_NUMBER = {"tcp": 6, "udp": 17, "sctp": 132}
_WORD = {number: word for word, number in _NUMBER.items()}
_LACKING = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
_NO_TYPE, _NO_ELEMENT, _FULL = 4098, 4103, 4352  # IPSET_ERR_FIND_TYPE, _EXIST, _HASH_FULL

_header = {"inet": b"\x02\0\0\0", "inet6": b"\x0a\0\0\0", "": b"\0\0\0\0"}  # nfgenmsg


def lacking() -> str:
    """Return why there can be no sets here, "" if there can."""
    try:
        opened = netlink.Socket(netlink.NETFILTER)
    except OSError as error:
        return str(error.strerror)
    try:
        (reply,) = opened.ask([_request(_PROTOCOL, "", b"")])
    finally:
        opened.close()
    return str(reply) if isinstance(reply, NetlinkError) else ""


def _request(command: int, family: str, body: bytes, flags: int = 0) -> bytes:
    return message(_SUBSYSTEM | command, flags, _header[family] + _VERSION + body)


def read() -> dict[Key, Block]:
    """Return the sets that are kube-proxy's by name. Raises KernelError."""
    try:
        opened = netlink.Socket(netlink.NETFILTER)
    except OSError:
        return {}
    try:
        bodies = opened.dump(_SUBSYSTEM | _LIST, _header[""] + _VERSION)
    except NetlinkError as error:
        if error.errno in (*_LACKING, errno.ENOENT):
            return {}
        raise KernelError(f"cannot list the ipsets: {error}") from error
    finally:
        opened.close()
    heads: dict[str, str] = {}
    elements: dict[str, list[str]] = {}
    for body in bodies:
        found = attributes(body, 4)
        name = string(found[_NAME])
        if name not in FAMILIES:
            continue
        if _TYPE in found:
            heads[name] = _head(string(found[_TYPE]), found)
        listed = elements.setdefault(name, [])
        listed += [_element(heads[name], one) for one in netlink.each(found.get(_ADT, b""))]
    blocks = [
        Block(FAMILIES[name], Sort.IPSET, PLACE, name, (head,), tuple(elements[name]))
        for name, head in heads.items()
    ]
    return {block.key: block for block in blocks}


def _head(kind: str, found: netlink.Attributes) -> str:
    data = attributes(found.get(_DATA, b""))
    if kind == "bitmap:port":
        first, last = (int.from_bytes(data.get(one, b""), "big") for one in (_PORT, _PORT_TO))
        return f"{kind} range {first}-{last}"
    family = {2: "inet", 10: "inet6"}.get(found.get(_FAMILY, b"\0")[0], "")
    return f"{kind} family {family} maxelem {int.from_bytes(data.get(_MAXELEM, b''), 'big')}"


def _element(head: str, raw: bytes) -> str:
    """Return one element of a set with this *head*, as ipset(8) lists it."""
    found = attributes(raw)
    port = int.from_bytes(found.get(_PORT, b""), "big")
    if _IP not in found:
        return str(port)
    words = _address(found[_IP])
    if _PORT in found:
        words += f",{_WORD.get(found[_PROTO][0], found[_PROTO][0])}:{port}"
    if _IP2 in found:
        words += f",{_address(found[_IP2])}"
        if "net" in head:
            whole = 128 if "inet6" in head else 32
            length = found[_CIDR2][0] if _CIDR2 in found else whole
            words += f"/{length}" if length != whole else ""
    return words


def _address(nested: bytes) -> str:
    (raw,) = attributes(nested).values()
    return socket.inet_ntop(socket.AF_INET, raw) if len(raw) == 4 else str(IPv6Address(raw))


def make(steps: Sequence[Step]) -> None:
    """Create the sets and add the elements that *steps* add.

    Raises KernelError, CapabilityError.
    """
    requests: list[tuple[bytes, Block]] = []
    for new, old in steps:
        if new is None:
            continue
        if old is not None and old.head != new.head:
            raise KernelError(
                f"ipset {new.name} is {old.head[0]}, not {new.head[0]}",
                hint="whoever made it: `netlab proxy --cleanup` removes it",
            )
        if old is None:
            requests.append((_creation(new), new))
        had = frozenset(old.lines) if old else frozenset()
        more = [line for line in new.lines if line not in had]
        requests += [(one, new) for one in _portions(_ADD, new, more)]
    _send(requests)


def unmake(steps: Sequence[Step]) -> None:
    """Remove the elements and sets that *steps* take away. Raises KernelError."""
    requests: list[tuple[bytes, Block]] = []
    for new, old in steps:
        if old is None:
            continue
        if new is None:
            family = INET[old.family]
            requests.append((_request(_DESTROY, family, text(_NAME, old.name)), old))
            continue
        kept = frozenset(new.lines)
        less = [line for line in old.lines if line not in kept]
        requests += [(one, old) for one in _portions(_DEL, old, less)]
    _send(requests, gone=True)


def _send(requests: Sequence[tuple[bytes, Block]], *, gone: bool = False) -> None:
    """Do *requests*; with *gone*, what is not there is no error."""
    if not requests:
        return
    try:
        opened = netlink.Socket(netlink.NETFILTER)
    except OSError as error:
        raise CapabilityError("this kernel has no ipsets", hint=HINT) from error
    try:
        errors = opened.send([one for one, _ in requests])
    finally:
        opened.close()
    for refused in errors:
        if gone and refused.errno in (errno.ENOENT, _NO_ELEMENT):
            continue
        block = requests[refused.index][1]
        if refused.errno in (*_LACKING, _NO_TYPE):
            raise CapabilityError(f"this kernel has no ipset of type {block.head[0]}", hint=HINT)
        why = "it is full" if refused.errno == _FULL else str(refused)
        raise KernelError(f"cannot write ipset {block.name}: {why}")


HINT = "modprobe ip_set; `scripts/vm` runs a kernel that has all of it"


def _creation(block: Block) -> bytes:
    kind = block.head[0].split(" ")[0]
    family = INET[block.family]
    if kind == "bitmap:port":
        number = 0  # NFPROTO_UNSPEC
        data = _ports(_PORT, 0) + _ports(_PORT_TO, PORTS)
    else:
        number = _header[family][0]
        data = attribute(_MAXELEM | _NET, MOST.to_bytes(4, "big"))
    body = (
        text(_NAME, block.name)
        + text(_TYPE, kind)
        + byte(_REVISION, REVISIONS[kind])
        + byte(_FAMILY, number)
        + nest(_DATA, data)
    )
    return _request(_CREATE, family, body, netlink.CREATE)


def _ports(kind: int, number: int) -> bytes:
    return attribute(kind | _NET, pack(">H", number))


def _portions(command: int, block: Block, lines: Sequence[str]) -> Iterator[bytes]:
    """Yield the messages that add or remove *lines*; what is so already is no error."""
    encode = _encoder(block.head[0].split(" ")[0])
    for first in range(0, len(lines), PORTION):
        some = lines[first : first + PORTION]
        elements = (nest(_DATA, encode(line), _numbered(at)) for at, line in enumerate(some, 1))
        body = text(_NAME, block.name) + attribute(_LINE | _NET, b"\0\0\0\0")
        body += nest(_ADT, b"".join(elements))
        yield _request(command, INET[block.family], body)


def _numbered(line: int) -> bytes:
    return attribute(_LINE | _NET, line.to_bytes(4, "big"))


def _encoder(kind: str) -> Callable[[str], bytes]:
    return _bitmap if kind == "bitmap:port" else _hashed


def _bitmap(line: str) -> bytes:
    return _ports(_PORT, int(line))


def _hashed(line: str) -> bytes:
    first, *more = line.split(",")
    found = _packed(_IP, first)
    if more:
        protocol, _, port = more[0].partition(":")
        found += _ports(_PORT, int(port)) + byte(_PROTO, _NUMBER[protocol])
    if len(more) > 1:
        host, _, length = more[1].partition("/")
        found += _packed(_IP2, host) + (byte(_CIDR2, int(length)) if length else b"")
    return found


def _packed(kind: int, address: str) -> bytes:
    if ":" in address:
        return nest(kind, attribute(_V6 | _NET, socket.inet_pton(socket.AF_INET6, address)))
    return nest(kind, attribute(_V4 | _NET, socket.inet_aton(address)))
