"""The kernel's rule traces, switched on for chosen packets by a table of our own.

1. Nothing of it outlives its user: the table belongs to the netlink socket that made it
   (NFT_TABLE_F_OWNER, Linux 5.12) and goes with it, whatever ends the process. Where the kernel
   knows no owners, the next user removes what ended processes left, known by its name.
2. It does nothing but set the trace bit, before any other hook is called (raw is at -300).
   To know the replies of a UDP flow again it remembers, in a set of its own, how the flow leaves
   the namespace: what comes back is the reverse of that, whatever NAT made of it.
3. No nft(8): it would end, and the table with it.

Source: linux/netfilter/nf_tables.h; Documentation of nft(8), `meta nftrace`.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from struct import pack

import msgspec

from netlab.errors import CapabilityError, KernelError
from netlab.kernel import netlink
from netlab.kernel.netlink import attribute, message, nest, text
from netlab.packets import Flow, Protocol
from netlab.sensors.traces import Traced

PREFIX = "netlab-trace-"
PRIORITY = -350
LATE = 350  # behind source NAT, at 100
HOOKS = {"prerouting": 0, "output": 3}  # linux/netfilter.h, NF_INET_*
LEAVING = {"input": 1, "postrouting": 4}  # where a packet has the ends it leaves with
WINDOW = 65536  # bytes of a conversation's request that its sequence numbers tell
INNER_TRANSPORT = 8 + 8 + 14 + 20  # bytes from an envelope's UDP header to the inner one's
QUOTED_TRANSPORT = 8 + 20  # bytes from an ICMP error's header to that of the packet it quotes
TOKEN_SEEN = 12  # bytes of a UDP or ICMP payload that a rule compares and a trace shows

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEW_TABLE, _GET_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 1, 2, 3, 6  # NFT_MSG_*
_NEW_SET, _NEW_ELEMENT = 9, 12
_BRIDGE = 7  # NFPROTO_BRIDGE
_OWNER = 0x2  # NFT_TABLE_F_OWNER
_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_*_HEADER
_NFTRACE, _L4PROTO, _TIME = 12, 16, 30  # NFT_META_*
_EQUAL, _AT_MOST, _AT_LEAST = 0, 3, 5  # NFT_CMP_*
_REGISTER = 1  # NFT_REG_1, 16 bytes
_WORDS = (8, 9, 10, 11)  # NFT_REG32_00 to _03: the four words of NFT_REG_1
_DYNAMIC = 0x20  # NFT_SET_EVAL: rules add elements
_ENDS = "ends"  # the set's name
_ADDRESSES, _ADDRESSES_ID = "addresses", 2  # another set: its name, its number in a batch
FEW = 6  # selectors that every packet is compared with one by one
_KEY = 16  # bytes: two addresses, two ports of four bytes each
_KEY_TYPE = ((7 << 6 | 7) << 6 | 13) << 6 | 13  # nft's: ipv4_addr twice, inet_service twice
_FLOWS = 1024  # elements
_SYN, _ACK = 0x02, 0x10
PROTOCOLS = {Protocol.ICMP: 1, Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
ICMPV6 = 58
_NAME = re.compile(PREFIX + r"(\d+)-(\d+)-\d+")
ROOM = 4096  # bytes of a send buffer for what goes around a batch
_numbers = itertools.count()


class Selector(msgspec.Struct, frozen=True):
    """Which packets are traced: those of *flow*, of which "" and 0 stand for any.

    Of TCP only the one that opens a connection, unless *whole*. *token*: what the payload of UDP
    and ICMP begins with (12 bytes of it count). *source_ports*: the lowest and the highest.

    With a *conversation* all packets of it, both ways and however rewritten, alone, in VXLAN's
    envelope or quoted by an ICMP error: of TCP by that sequence number, a multiple of `WINDOW`,
    which the sender begins with; of UDP and ICMP by the token. The flow's ends do not matter then.

    *pace*: of each hook at most so many packets a second, after as many at once; 0: all. *since*:
    none before that moment (ns since the epoch), so that in every namespace it is the same packets
    that the pace lets through. *wrapped*: in VXLAN's envelope, too, if the flow has both ends.
    *any_ipv6*: of IPv6, though the flow names no end.
    """

    flow: Flow
    token: bytes = b""
    whole: bool = False
    conversation: int | None = None
    source_ports: tuple[int, int] | None = None
    pace: int = 0
    since: int = 0
    wrapped: bool = False
    any_ipv6: bool = False

    @property
    def ipv6(self) -> bool:
        return self.any_ipv6 or ":" in self.flow.source + self.flow.destination

    def fits(self, packet: Traced) -> bool:
        """Return whether the rule that `switch_on` makes of this would trace *packet*."""
        wanted, seen = self.flow, packet.flow
        if wanted.protocol is not seen.protocol:
            return False
        for name in ("source", "destination", "source_port", "destination_port"):
            if getattr(wanted, name) not in ("", 0, getattr(seen, name)):
                return False
        if self.source_ports is not None:
            low, high = self.source_ports
            if not low <= seen.source_port <= high:
                return False
        if seen.protocol is Protocol.TCP:
            return self.whole or packet.opens
        return packet.payload.startswith(self._token)

    @property
    def _token(self) -> bytes:
        return (
            self.token[:TOKEN_SEEN] if self.flow.protocol in (Protocol.UDP, Protocol.ICMP) else b""
        )


class Switch:
    """A table that traces what *selectors* fit, in the namespace of the calling thread.

    *bridged*: for the rules that bridges ask, too. *pace*: of each selector at most so many packets
    a second, 0: all. Raises CapabilityError when the kernel does not let us, KernelError when it
    refuses.
    """

    def __init__(
        self,
        selectors: Sequence[Selector],
        *,
        owned: bool = True,
        pace: int = 0,
        bridged: bool = False,
    ) -> None:
        self._pace = pace
        self.name = f"{PREFIX}{os.getpid()}-{_started(os.getpid())}-{next(_numbers)}"
        self._families = sorted({_family(one) for one in selectors})
        self._families += [_BRIDGE] if bridged else []
        self._socket = netlink.Socket(netlink.NETFILTER)
        try:
            _remove_left_over(self._socket)
            try:
                _commit(self._socket, self._messages(selectors, _OWNER if owned else 0))
            except OSError as error:
                if not owned or error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                _commit(self._socket, self._messages(selectors, 0))
        except OSError as error:
            self._socket.close()
            raise _refused(error) from error

    def add(self, selectors: Sequence[Selector]) -> None:
        """Trace what *selectors* fit, too, from now on; they are of the families there are.

        Raises KernelError.
        """
        made = [
            self._rule(family, hook, each)
            for family in self._families
            for one in selectors
            if family in (_family(one), _BRIDGE)
            for hook in HOOKS
            for each in _rules(one, self._pace)
        ]
        try:
            if made:
                _commit(self._socket, made)
        except OSError as error:
            raise _refused(error) from error

    def _messages(self, selectors: Sequence[Selector], flags: int) -> list[bytes]:
        made = []
        for family in self._families:
            made.append(_message(_NEW_TABLE, family, text(1, self.name), _u32(2, flags), new=True))
            if any(_remembers(one) for one in selectors):
                made.append(_set(family, self.name))
            mine = [one for one in selectors if family in (_family(one), _BRIDGE)]
            named = [one for one in mine if _is_named(one)]
            if len(named) <= FEW:
                named = []
            else:
                made += _address_set(family, self.name, named)
            for hook, number in HOOKS.items():
                made.append(self._chain(family, hook, number, PRIORITY))
                made += self._apart(family, hook, named)
                for one in mine:
                    if one not in named:
                        made += [self._rule(family, hook, each) for each in _rules(one, self._pace)]
            followed = [
                one for one in selectors if _remembers(one) and family in (_family(one), _BRIDGE)
            ]
            made += self._remembering(family, followed)
        return made

    def _chain(self, family: int, name: str, number: int, priority: int) -> bytes:
        hooked = nest(4, _u32(1, number), _u32(2, priority))
        named = text(1, self.name), text(3, name)
        return _message(_NEW_CHAIN, family, *named, hooked, text(7, "filter"), new=True)

    def _apart(self, family: int, hook: str, named: Sequence[Selector]) -> Iterator[bytes]:
        """Yield the rules of many selectors that name addresses, in a chain that only packets with
        one of these come to: others leave after two look-ups, however many selectors there are.

        Rules are put before those there are, so what is added to the hook's chain comes first.
        """
        if not named:
            return
        apart = f"{hook}-named"
        yield _message(_NEW_CHAIN, family, text(1, self.name), text(3, apart), new=True)
        for one in named:
            for each in _rules(one, self._pace):
                yield self._rule(family, apart, each)
        for offset in (12, 16):
            looked_up = _expression(
                "lookup", text(1, _ADDRESSES), _u32(2, _REGISTER), _u32(4, _ADDRESSES_ID)
            )
            yield self._rule(
                family, hook, [_payload(_NETWORK, offset, 4), looked_up, _go_to(apart)]
            )

    def _rule(self, family: int, chain: str, expressions: Iterable[bytes]) -> bytes:
        named = text(1, self.name), text(2, chain)
        return _message(_NEW_RULE, family, *named, nest(4, *expressions), new=True)

    def _remembering(self, family: int, selectors: Sequence[Selector]) -> Iterator[bytes]:
        """Yield what has the ends of *selectors* remembered as their packets leave, and the
        replies traced."""
        if not selectors:
            return
        for hook, number in LEAVING.items():
            yield self._chain(family, hook, number, LATE)
            for one in selectors:
                yield self._rule(family, hook, [*_carries(one), *_remember_reverse()])
        for hook in HOOKS:
            yield self._rule(family, hook, [*_is_udp(), *_remembered(0), *_trace()])
            inside = [*_is_udp(), *_remembered(INNER_TRANSPORT), *_trace()]
            yield self._rule(family, hook, inside)

    def close(self) -> None:
        """Switch the traces off."""
        try:
            _commit(self._socket, [_deletion(family, self.name) for family in self._families])
        except OSError:
            pass  # somebody flushed the rule set meanwhile
        finally:
            self._socket.close()


def _refused(error: OSError) -> Exception:
    if error.errno in (errno.EPERM, errno.EACCES):
        return CapabilityError("cannot trace rules: not permitted", hint="run it as root")
    if error.errno in (errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):
        return CapabilityError(f"cannot trace rules: {error}", hint="see `netlab doctor`")
    return KernelError(f"cannot trace rules: {error}")


def _family(selector: Selector) -> int:
    return socket.AF_INET6 if selector.ipv6 else socket.AF_INET


# -- what ended processes left


def _started(pid: int) -> str:
    """Return when a process began, in ticks since boot, "" when there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _remove_left_over(connection: netlink.Socket) -> None:
    for family, name in _tables(connection):
        named = _NAME.fullmatch(name)
        if named and _started(int(named[1])) != named[2]:
            try:
                _commit(connection, [_deletion(family, name)])
            except OSError:
                pass  # somebody else was quicker


def _tables(connection: netlink.Socket) -> Iterator[tuple[int, str]]:
    for body in connection.dump(_SUBSYSTEM | _GET_TABLE, pack("=BBH", 0, 0, 0)):
        yield body[0], netlink.string(netlink.attributes(body, 4)[1])


# -- messages


def _u32(kind: int, value: int) -> bytes:
    """nftables' numbers are big endian."""
    return attribute(kind, pack("!i", value) if value < 0 else pack("!I", value))


def _message(kind: int, family: int, *attributes: bytes, new: bool = False) -> bytes:
    flags = netlink.CREATE | netlink.EXCL if new else 0
    return message(_SUBSYSTEM | kind, flags, pack("=BBH", family, 0, 0) + b"".join(attributes))


def _deletion(family: int, name: str) -> bytes:
    return _message(_DELETE_TABLE, family, text(1, name))


def _commit(connection: netlink.Socket, messages: list[bytes]) -> None:
    """Do *messages*, all or none. Raises OSError."""
    connection.room(2 * sum(len(one) for one in messages) + ROOM)
    errors = connection.commit(_SUBSYSTEM >> 8, messages)
    if errors:
        raise errors[0]


def _set(family: int, table: str) -> bytes:
    return _message(
        *(_NEW_SET, family, text(1, table), text(2, _ENDS), _u32(3, _DYNAMIC)),
        *(_u32(4, _KEY_TYPE), _u32(5, _KEY), nest(9, _u32(1, _FLOWS)), _u32(10, 1)),
        new=True,
    )


def _is_named(selector: Selector) -> bool:
    """Return whether a selector fits only packets with an address of IPv4 that it names."""
    flow = selector.flow
    return (
        selector.conversation is None
        and not selector.wrapped
        and not selector.ipv6
        and bool(flow.source or flow.destination)
    )


def _address_set(family: int, table: str, named: Sequence[Selector]) -> list[bytes]:
    """Return a set of the addresses that selectors name, of each one."""
    addresses = dict.fromkeys(one.flow.source or one.flow.destination for one in named)
    made = _message(
        *(_NEW_SET, family, text(1, table), text(2, _ADDRESSES), _u32(3, 0)),
        *(_u32(4, 7), _u32(5, 4), nest(9, _u32(1, len(addresses)))),  # nft's type ipv4_addr
        _u32(10, _ADDRESSES_ID),
        new=True,
    )
    elements = [nest(1, nest(1, attribute(1, socket.inet_aton(one)))) for one in addresses]
    named_set = text(1, table), text(2, _ADDRESSES), _u32(4, _ADDRESSES_ID)
    return [made, _message(_NEW_ELEMENT, family, *named_set, nest(3, *elements), new=True)]


def _go_to(chain: str) -> bytes:
    verdict = nest(2, nest(2, _u32(1, -4), text(2, chain)))  # NFTA_DATA_VERDICT, NFT_GOTO
    return _expression("immediate", _u32(1, 0), verdict)  # NFT_REG_VERDICT


def _rules(selector: Selector, pace: int) -> Iterator[list[bytes]]:
    """Yield the expressions of each rule that sets the trace bit on what *selector* fits, at most
    *pace* times a second (0: always)."""
    if selector.conversation is None:
        yield [*_ends(selector), *_paced(selector, pace), *_trace()]
        if selector.wrapped and not selector.ipv6 and selector.flow.source_port:
            yield [*_is_udp(), *_inner_ends(selector.flow), *_paced(selector, pace), *_trace()]
        return
    yield [*_carries(selector), *_trace()]
    if selector.flow.protocol is Protocol.TCP:
        yield [*_number(PROTOCOLS[Protocol.TCP]), *_in_window(selector, 8), *_trace()]
        for field in (4, 8):
            inner = _in_window(selector, INNER_TRANSPORT + field)
            yield [*_is_udp(), *inner, *_trace()]
        quoted = _in_window(selector, QUOTED_TRANSPORT + 4)
    else:
        inner = _equal(_TRANSPORT, INNER_TRANSPORT + 8, selector._token)
        yield [*_is_udp(), *inner, *_trace()]
        quoted = _equal(_TRANSPORT, QUOTED_TRANSPORT + 8, selector._token)
    yield [*_number(PROTOCOLS[Protocol.ICMP]), *quoted, *_trace()]


def _remembers(selector: Selector) -> bool:
    """Return whether replies can only be known by the ends of what was asked."""
    return selector.conversation is not None and selector.flow.protocol is Protocol.UDP


def _carries(selector: Selector) -> Iterator[bytes]:
    """Yield what fits a packet of the asking side of a conversation."""
    yield from _number(PROTOCOLS[selector.flow.protocol])
    if selector.flow.protocol is Protocol.TCP:
        yield from _in_window(selector, 4)
    else:
        yield from _equal(_TRANSPORT, 8, selector._token)


def _in_window(selector: Selector, offset: int) -> Iterator[bytes]:
    """Yield what fits a sequence number of the conversation at *offset* of the transport header."""
    mask, value = pack("!I", 2**32 - WINDOW), pack("!I", selector.conversation or 0)
    yield _payload(_TRANSPORT, offset, 4)
    yield _masked(mask)
    yield _compare(value)


def _number(protocol: int) -> Iterator[bytes]:
    yield _expression("meta", _u32(1, _REGISTER), _u32(2, _L4PROTO))
    yield _compare(bytes([protocol]))


def _is_udp() -> Iterator[bytes]:
    yield from _number(PROTOCOLS[Protocol.UDP])


def _remember_reverse() -> Iterator[bytes]:
    """Yield what puts the ends that an answer will have into the set."""
    parts = (_NETWORK, 16, 4), (_NETWORK, 12, 4), (_TRANSPORT, 2, 2), (_TRANSPORT, 0, 2)
    for register, part in zip(_WORDS, parts, strict=True):
        yield _payload(*part, register=register)
    update = 1  # NFT_DYNSET_OP_UPDATE
    yield _expression("dynset", text(1, _ENDS), _u32(2, 1), _u32(3, update), _u32(4, _REGISTER))


def _remembered(inner: int) -> Iterator[bytes]:
    """Yield what fits a packet whose ends are in the set, or one *inner* bytes behind UDP's."""
    if inner:
        parts = [(_TRANSPORT, inner - 8, 4), (_TRANSPORT, inner - 4, 4)]
    else:
        parts = [(_NETWORK, 12, 4), (_NETWORK, 16, 4)]
    parts += [(_TRANSPORT, inner, 2), (_TRANSPORT, inner + 2, 2)]
    for register, part in zip(_WORDS, parts, strict=True):
        yield _payload(*part, register=register)
    yield _expression("lookup", text(1, _ENDS), _u32(2, _REGISTER), _u32(4, 1))


def _trace() -> Iterator[bytes]:
    yield _expression("immediate", _u32(1, _REGISTER), nest(2, attribute(1, b"\1")))
    yield _expression("meta", _u32(2, _NFTRACE), _u32(3, _REGISTER))


def _ends(selector: Selector) -> Iterator[bytes]:
    """Yield what fits packets with the ends of *selector*'s flow, and its token."""
    flow = selector.flow
    ipv6 = selector.ipv6
    family, at = (socket.AF_INET6, (8, 24)) if ipv6 else (socket.AF_INET, (12, 16))
    for address, offset in zip((flow.source, flow.destination), at, strict=True):
        if address:
            yield from _equal(_NETWORK, offset, socket.inet_pton(family, address))
    icmpv6 = ipv6 and flow.protocol is Protocol.ICMP
    yield from _number(ICMPV6 if icmpv6 else PROTOCOLS[flow.protocol])
    for port, offset in ((flow.source_port, 0), (flow.destination_port, 2)):
        if port:
            yield from _equal(_TRANSPORT, offset, pack("!H", port))
    if selector.source_ports is not None:
        low, high = (pack("!H", port) for port in selector.source_ports)
        yield _payload(_TRANSPORT, 0, 2)
        yield _compare(low, _AT_LEAST)
        yield _compare(high, _AT_MOST)
    if flow.protocol is Protocol.TCP and not selector.whole:
        yield _payload(_TRANSPORT, 13, 1)
        yield _masked(bytes([_SYN | _ACK]))
        yield _compare(bytes([_SYN]))
    if selector._token:
        yield from _equal(_TRANSPORT, 8, selector._token)


def _inner_ends(flow: Flow) -> Iterator[bytes]:
    """Yield what fits the ends of the packet in an envelope."""
    for address, offset in ((flow.source, -8), (flow.destination, -4)):
        yield from _equal(_TRANSPORT, INNER_TRANSPORT + offset, socket.inet_aton(address))
    ports = pack("!HH", flow.source_port, flow.destination_port)
    yield from _equal(_TRANSPORT, INNER_TRANSPORT, ports)


def _paced(selector: Selector, pace: int) -> Iterator[bytes]:
    if selector.since:
        yield _expression("meta", _u32(1, _REGISTER), _u32(2, _TIME))
        swapped = _u32(3, 1), _u32(4, 8), _u32(5, 8)  # NFT_BYTEORDER_HTON, of 8 bytes, 8 at a time
        yield _expression("byteorder", _u32(1, _REGISTER), _u32(2, _REGISTER), *swapped)
        earliest = nest(3, attribute(1, pack("!Q", selector.since)))
        yield _expression("cmp", _u32(1, _REGISTER), _u32(2, _AT_LEAST), earliest)
    pace = selector.pace or pace
    if pace:  # NFTA_LIMIT_RATE, _UNIT (seconds), _BURST
        rate = attribute(1, pack("!Q", pace)), attribute(2, pack("!Q", 1))
        yield _expression("limit", *rate, _u32(3, pace))


def _masked(mask: bytes) -> bytes:
    return _expression(
        *("bitwise", _u32(1, _REGISTER), _u32(2, _REGISTER), _u32(3, len(mask))),
        nest(4, attribute(1, mask)),
        nest(5, attribute(1, bytes(len(mask)))),
    )


def _expression(name: str, *attributes: bytes) -> bytes:
    return nest(1, text(1, name), nest(2, *attributes))


def _payload(base: int, offset: int, length: int, *, register: int = _REGISTER) -> bytes:
    return _expression(
        "payload", _u32(1, register), _u32(2, base), _u32(3, offset), _u32(4, length)
    )


def _compare(value: bytes, how: int = _EQUAL) -> bytes:
    return _expression("cmp", _u32(1, _REGISTER), _u32(2, how), nest(3, attribute(1, value)))


def _equal(base: int, offset: int, value: bytes) -> Iterator[bytes]:
    yield _payload(base, offset, len(value))
    yield _compare(value)


def families_of_tables() -> set[int]:
    """Return the families (NFPROTO_*) of which the calling thread's namespace has rules, of
    anybody's but our own."""
    connection = netlink.Socket(netlink.NETFILTER)
    try:
        return {family for family, name in _tables(connection) if not name.startswith(PREFIX)}
    finally:
        connection.close()


def has_bridge_tables() -> bool:
    """Return whether bridges in the calling thread's namespace ask rules."""
    return _BRIDGE in families_of_tables()
