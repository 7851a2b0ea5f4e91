"""The flows the kernel remembers, in the namespace the calling thread is in, over ctnetlink.

1. The kernel has one table for all namespaces and walks all of it for each dump, which takes it
   15 ms where it made 262,144 buckets. With many entries it is writing and decoding them that
   costs: then what is not asked for is left out by the kernel, by a dump for each port. Those
   before Linux 5.8 leave out nothing; the answer is the same.
2. A dump is not a picture of one moment, and need not be: entries come and go with every packet.
3. An entry is deleted by its tuple, its zone and its id, so never one that took its place.

Numbers: linux/netfilter/nfnetlink_conntrack.h; of filters: net/netfilter/nf_internals.h, v5.8.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv6Address
from struct import Struct, pack

from netlab.errors import CapabilityError, KernelError
from netlab.kernel import netlink, settings
from netlab.kernel.netlink import NESTED, Attributes, NetlinkError, attribute, attributes, nest, u32
from netlab.packets import Entry, Flow, Protocol
from netlab.proxy.addresses import Family

__all__ = ["Entry", "delete", "entries", "entries_of"]

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2  # IPCTNL_MSG_CT_*
_ORIGINAL, _REPLY, _STATUS, _PROTOINFO = 1, 2, 3, 4  # CTA_*
_TIMEOUT, _MARK, _ID, _ZONE, _FILTER = 7, 8, 12, 18, 25
_IP, _PROTO, _TUPLE_ZONE = 1, 2, 3  # CTA_TUPLE_*
_SOURCE, _DESTINATION = {4: 1, 16: 3}, {4: 2, 16: 4}  # CTA_IP_V4_*, CTA_IP_V6_*, by length
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3  # CTA_PROTO_*
_ORIGINAL_FLAGS = 1  # CTA_FILTER_ORIG_FLAGS
_BY_NUMBER, _BY_DESTINATION_PORT = 1 << 3, 1 << 5  # CTA_FILTER_F_CTA_PROTO_*
MANY = 20_000  # entries of a namespace, from which a dump for each port is quicker than one of all
MOST_FILTERS = 16  # dumps, one per port; for more ports, one dump of them all is quicker
DELETIONS_PER_SEND = 100  # so that as many refusals fit the default receive buffer

_FAMILY = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}
_PROTOCOL = {
    socket.IPPROTO_ICMP: Protocol.ICMP,
    socket.IPPROTO_TCP: Protocol.TCP,
    socket.IPPROTO_UDP: Protocol.UDP,
    socket.IPPROTO_SCTP: Protocol.SCTP,
}
_PROTOCOL_NUMBER = {protocol: number for number, protocol in _PROTOCOL.items()}
# By CTA_PROTOINFO_*: 1 is TCP (linux/netfilter/nf_conntrack_tcp.h), 3 is SCTP (…_sctp.h).
_STATES = {
    1: (
        *("NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT"),
        *("CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE", "SYN_SENT2"),
    ),
    3: (
        *("NONE", "CLOSED", "COOKIE_WAIT", "COOKIE_ECHOED", "ESTABLISHED", "SHUTDOWN_SENT"),
        *("SHUTDOWN_RECD", "SHUTDOWN_ACK_SENT", "HEARTBEAT_SENT"),
    ),
}
_STATE = 1  # CTA_PROTOINFO_TCP_STATE, CTA_PROTOINFO_SCTP_STATE

_header = Struct("=BBH")  # nfgenmsg: family, version, resource
# A tuple of a protocol with ports, as every kernel writes it: attributes of fixed size and order.
_TUPLE = {
    48: Struct(">8x4s4x4s8xB7xH6xH2x"),  # bytes: of IPv4
    72: Struct(">8x16s4x16s8xB7xH6xH2x"),  # of IPv6
}
# In a message of an IPv4 entry: the headers of its two tuples, which come first, and of its zone.
_TWO_TUPLES = (pack("=HH", 52, _ORIGINAL | NESTED), pack("=HH", 52, _REPLY | NESTED))
_ZONE_HEADER = pack("=HH", 6, _ZONE)


def entries(
    family: Family,
    protocol: Protocol | str | None = None,
    *,
    ports: Collection[int] = (),
    of: str = "",
    only: Callable[[Entry], bool] | None = None,
) -> list[Entry]:
    """Return the entries of *family*: of *protocol*, if given, and sent to *ports*, if any.

    With *of*, only those that have this address at one of their four ends; with *only*, those of
    which it is true: it is asked once for all with the same zone, destination and answerer, so
    that thousands of flows between few ends need not be decoded. A protocol may be
    written as Kubernetes does, `UDP`; without one, those that `packets` has no word for are left
    out. Ports need a protocol. Raises CapabilityError, KernelError.
    """
    number = 0 if protocol is None else _PROTOCOL_NUMBER[Protocol(protocol.lower())]
    wanted = sorted(set(ports))
    asked = wanted if len(wanted) == 1 or _worth_filtering(wanted) else []
    connection = _connection()
    try:
        bodies = [
            body
            for port in asked or [0]
            for body in connection.dump(_GET, _question(family, number, port))
        ]
    except NetlinkError as error:
        raise _without(error) from error
    finally:
        connection.close()
    if not asked and len(wanted) <= MOST_FILTERS:
        needles = [attribute(_DESTINATION_PORT, port.to_bytes(2, "big"))[:6] for port in wanted]
        bodies = [body for body in bodies if any(one in body for one in needles) or not needles]
    if of:
        raw = socket.inet_pton(_FAMILY[family], of)
        bodies = [body for body in bodies if raw in body]
    if only is not None:
        bodies = list(_alike(bodies, only))
    found = _decoded(bodies, number, frozenset(ports))
    return [one for one in found if not of or of in _ends(one)]


def _worth_filtering(wanted: Sequence[int]) -> bool:
    """Return whether a dump for each of the *wanted* ports is quicker than one of all entries."""
    if len(wanted) > MOST_FILTERS:
        return False
    return int(settings.read("net.netfilter.nf_conntrack_count") or MANY) >= MANY


def _ends(entry: Entry) -> tuple[str, str, str, str]:
    sent, answered = entry.original, entry.reply
    return sent.source, sent.destination, answered.source, answered.destination


def entries_of(flows: Sequence[Flow]) -> list[Entry]:
    """Return the entries that packets of *flows* belong to, as they come or as they were sent on.

    Asks for each by its tuple, which takes the kernel no longer with a full table. Of TCP, UDP and
    SCTP only: an echo's tuple has a number that a flow does not tell. Raises CapabilityError.
    """
    wanted = dict.fromkeys(each for one in flows for each in (one, one.reply))
    asked = [one for one in wanted if one.source_port or one.destination_port]
    connection = _connection()
    try:
        replies = connection.ask([netlink.message(_GET, 0, _named(one)) for one in asked])
    finally:
        connection.close()
    if any(isinstance(one, NetlinkError) and one.errno in _LACKING for one in replies):
        raise CapabilityError("this kernel tells of no flows", hint="modprobe nf_conntrack_netlink")
    bodies = [one for one in replies if isinstance(one, bytes)]
    return list({one.key: one for one in _decoded(bodies, 0, ())}.values())


def _named(flow: Flow) -> bytes:
    """Return the body of the request for the entry that has the tuple *flow*, either way."""
    family = socket.AF_INET6 if ":" in flow.source else socket.AF_INET
    ends = [socket.inet_pton(family, one) for one in (flow.source, flow.destination)]
    ip = nest(
        _IP,
        attribute(_SOURCE[len(ends[0])], ends[0]) + attribute(_DESTINATION[len(ends[1])], ends[1]),
    )
    proto = nest(
        _PROTO,
        attribute(_NUMBER, bytes([_PROTOCOL_NUMBER[flow.protocol]]))
        + attribute(_SOURCE_PORT, flow.source_port.to_bytes(2, "big"))
        + attribute(_DESTINATION_PORT, flow.destination_port.to_bytes(2, "big")),
    )
    return _header.pack(family, 0, 0) + nest(_ORIGINAL, ip + proto)


def _question(family: Family, number: int, port: int) -> bytes:
    """Return the body of a dump request; 0: any protocol, any port."""
    body = _header.pack(_FAMILY[family], 0, 0)
    if not number:
        return body
    wanted = attribute(_NUMBER, bytes([number]))
    flags = _BY_NUMBER
    if port:
        wanted += attribute(_DESTINATION_PORT, port.to_bytes(2, "big"))
        flags |= _BY_DESTINATION_PORT
    return body + nest(_ORIGINAL, nest(_PROTO, wanted)) + nest(_FILTER, u32(_ORIGINAL_FLAGS, flags))


def _decoded(bodies: Sequence[bytes], number: int, ports: Collection[int]) -> Iterator[Entry]:
    seen: set[bytes] = set()  # where a dump is interrupted, it may repeat itself
    for body in bodies:
        found = attributes(body, _header.size)
        original = _tuple(found[_ORIGINAL])
        if original[2] not in _PROTOCOL or (number and original[2] != number):
            continue
        if ports and original[4] not in ports:
            continue
        unique = found[_ORIGINAL] + found.get(_ZONE, b"") + found.get(_ID, b"")
        if unique not in seen:
            seen.add(unique)
            yield _entry(found, original)


def _alike(bodies: Iterable[bytes], only: Callable[[Entry], bool]) -> Iterator[bytes]:
    """Yield the *bodies* of whose kind one was decoded, and *only* is true."""
    known: dict[bytes, bool] = {}
    for body in bodies:
        kind = _kind(body)
        if kind not in known:
            known[kind] = any(only(one) for one in _decoded([body], 0, ()))
        if known[kind]:
            yield body


def _kind(body: bytes) -> bytes:
    """Return what entries with the same zone, destination and answerer have in common.

    The whole body for other than IPv4 without a zone, as every kernel writes it.
    """
    if (body[4:8], body[56:60]) != _TWO_TUPLES or _ZONE_HEADER in body:
        return body
    return body[24:28] + body[36:37] + body[52:54] + body[68:72] + body[96:98]


_Tuple = tuple[bytes, bytes, int, int, int]  # addresses, protocol, ports


def _tuple(raw: bytes) -> _Tuple:
    known = _TUPLE.get(len(raw))
    if known is not None:
        found: _Tuple = known.unpack(raw)
        if found[2] in (socket.IPPROTO_UDP, socket.IPPROTO_TCP, socket.IPPROTO_SCTP):
            return found
    parts = attributes(raw)
    ip, proto = attributes(parts[_IP]), attributes(parts[_PROTO])
    source = next(value for kind, value in ip.items() if kind == _SOURCE[len(value)])
    destination = next(value for kind, value in ip.items() if kind == _DESTINATION[len(value)])
    return (
        source,
        destination,
        _big(proto.get(_NUMBER)),
        _big(proto.get(_SOURCE_PORT)),
        _big(proto.get(_DESTINATION_PORT)),
    )


def _big(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big")


@lru_cache(maxsize=1 << 16)
def _words(raw: bytes) -> str:
    """Return an address in the one form `proxy.addresses` writes."""
    return socket.inet_ntop(socket.AF_INET, raw) if len(raw) == 4 else str(IPv6Address(raw))


def _flow(one: _Tuple) -> Flow:
    return Flow(_words(one[0]), _words(one[1]), _PROTOCOL[one[2]], one[3], one[4])


def _entry(found: Attributes, original: _Tuple) -> Entry:
    key = attribute(_ORIGINAL | NESTED, found[_ORIGINAL])
    if _ZONE in found:
        key += attribute(_ZONE, found[_ZONE])
    return Entry(
        original=_flow(original),
        reply=_flow(_tuple(found[_REPLY])),
        zone=_zone(found),
        mark=_big(found.get(_MARK)),
        status=_big(found.get(_STATUS)),
        id=_big(found.get(_ID)),
        timeout=_big(found.get(_TIMEOUT)),
        state=_state(found[_PROTOINFO]) if _PROTOINFO in found else "",
        key=key,
    )


def _zone(found: Attributes) -> int:
    """Return the zone of an entry; one that holds in one direction is written into its tuple."""
    if _ZONE in found:
        return _big(found[_ZONE])
    tuples = (found[_ORIGINAL], found[_REPLY])
    if all(len(one) in _TUPLE for one in tuples):
        return 0
    return max(_big(attributes(one).get(_TUPLE_ZONE)) for one in tuples)


def _state(info: bytes) -> str:
    for kind, value in attributes(info).items():
        number = _big(attributes(value).get(_STATE))
        if number < len(_STATES.get(kind, ())):
            return _STATES[kind][number]
    return ""


def delete(unwanted: Collection[Entry]) -> None:
    """Have the kernel forget the entries, as it listed them. One that is gone already is no error.

    Raises CapabilityError; KernelError when an entry is refused, after the others were done.
    """
    if not unwanted:
        return
    doomed = list(unwanted)
    connection = _connection()
    refused: list[tuple[Entry, NetlinkError]] = []
    try:
        for first in range(0, len(doomed), DELETIONS_PER_SEND):
            some = doomed[first : first + DELETIONS_PER_SEND]
            for error in connection.send([_deletion(one) for one in some]):
                if error.errno != errno.ENOENT:
                    refused.append((some[error.index], error))
    finally:
        connection.close()
    if refused:
        entry, error = refused[0]
        if error.errno in _LACKING:
            raise _without(error) from error
        raise KernelError(f"cannot forget the flow {entry}: {error}") from error


def _deletion(entry: Entry) -> bytes:
    family = socket.AF_INET6 if ":" in entry.original.source else socket.AF_INET
    named = entry.key + attribute(_ID, entry.id.to_bytes(4, "big"))
    return netlink.message(_DELETE, 0, _header.pack(family, 0, 0) + named)


_LACKING = (errno.EINVAL, errno.EOPNOTSUPP)  # what nfnetlink says of a subsystem it does not have


def _connection() -> netlink.Socket:
    try:
        return netlink.Socket(netlink.NETFILTER)
    except OSError as error:
        raise CapabilityError("this kernel has no nfnetlink") from error


def _without(error: NetlinkError) -> CapabilityError | KernelError:
    if error.errno in _LACKING:
        hint = "modprobe nf_conntrack_netlink"
        return CapabilityError(f"this kernel tells of no flows: {error}", hint=hint)
    if error.errno == errno.EPERM:
        return CapabilityError("not allowed to see the flows", hint="run it as root")
    return KernelError(f"cannot list the flows: {error}")
