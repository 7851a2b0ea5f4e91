"""The kernel's rule traces, switched on for chosen packets by a table of our own.

1. Nothing of it outlives its user: the table belongs to the netlink socket that made it
   (NFT_TABLE_F_OWNER, Linux 5.12) and goes with it, whatever ends the process. Where the kernel
   knows no owners, the next user removes what ended processes left, known by its name.
2. It does nothing but set the trace bit, before any other hook is called (raw is at -300).
3. No nft(8): it would end, and the table with it.

Source: linux/netfilter/nf_tables.h; Documentation of nft(8), `meta nftrace`.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import socket
from collections.abc import Iterator, Sequence
from struct import pack

import msgspec

from netlab.errors import CapabilityError, KernelError
from netlab.kernel import netlink
from netlab.kernel.netlink import attribute, message, nest, text
from netlab.packets import Flow, Protocol
from netlab.sensors.traces import Traced

PREFIX = "netlab-trace-"
PRIORITY = -350
HOOKS = {"prerouting": 0, "output": 3}  # linux/netfilter.h, NF_INET_*
TOKEN_SEEN = 12  # bytes of a UDP or ICMP payload that a rule compares and a trace shows

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NEW_TABLE, _GET_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 1, 2, 3, 6  # NFT_MSG_*
_BATCH_BEGIN, _BATCH_END = 16, 17  # NFNL_MSG_BATCH_*
_OWNER = 0x2  # NFT_TABLE_F_OWNER
_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_*_HEADER
_NFTRACE, _L4PROTO = 12, 16  # NFT_META_*
_EQUAL, _AT_MOST, _AT_LEAST = 0, 3, 5  # NFT_CMP_*
_REGISTER = 1  # NFT_REG_1, 16 bytes
_SYN, _ACK = 0x02, 0x10
PROTOCOLS = {Protocol.ICMP: 1, Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
ICMPV6 = 58
_NAME = re.compile(PREFIX + r"(\d+)-(\d+)-\d+")
_numbers = itertools.count()


class Selector(msgspec.Struct, frozen=True):
    """Which packets are traced: those of *flow*, of which "" and 0 stand for any.

    Of TCP only the one that opens a connection, unless *whole*. *token*: what the payload of UDP
    and ICMP begins with (12 bytes of it count). *source_ports*: the lowest and the highest.
    """

    flow: Flow
    token: bytes = b""
    whole: bool = False
    source_ports: tuple[int, int] | None = None

    @property
    def ipv6(self) -> bool:
        return ":" in self.flow.source + self.flow.destination

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

    Raises CapabilityError when the kernel does not let us, KernelError when it refuses.
    """

    def __init__(self, selectors: Sequence[Selector], *, owned: bool = True) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{_started(os.getpid())}-{next(_numbers)}"
        self._families = sorted({_family(one) for one in selectors})
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

    def _messages(self, selectors: Sequence[Selector], flags: int) -> list[bytes]:
        made = []
        for family in self._families:
            made.append(_message(_NEW_TABLE, family, text(1, self.name), _u32(2, flags), new=True))
            for hook, number in HOOKS.items():
                made.append(
                    _message(
                        *(_NEW_CHAIN, family, text(1, self.name), text(3, hook)),
                        *(nest(4, _u32(1, number), _u32(2, PRIORITY)), text(7, "filter")),
                        new=True,
                    )
                )
                for one in selectors:
                    if _family(one) == family:
                        expressions = nest(4, *_expressions(one))
                        made.append(
                            _message(
                                *(_NEW_RULE, family, text(1, self.name), text(2, hook)),
                                expressions,
                                new=True,
                            )
                        )
        return made

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
    header = pack("=BB", 0, 0) + pack("!H", _SUBSYSTEM >> 8)
    # Only since Linux 6.10 the end of a batch is acknowledged, so the last message asks for it.
    last = messages[-1] + message(_BATCH_END, 0, header)
    errors = connection.send([message(_BATCH_BEGIN, 0, header), *messages[:-1], last])
    if errors:
        raise errors[0]


def _expressions(selector: Selector) -> Iterator[bytes]:
    """Yield the expressions of a rule that sets the trace bit on what *selector* fits."""
    flow = selector.flow
    ipv6 = selector.ipv6
    family, at = (socket.AF_INET6, (8, 24)) if ipv6 else (socket.AF_INET, (12, 16))
    for address, offset in zip((flow.source, flow.destination), at, strict=True):
        if address:
            yield from _equal(_NETWORK, offset, socket.inet_pton(family, address))
    number = ICMPV6 if ipv6 and flow.protocol is Protocol.ICMP else PROTOCOLS[flow.protocol]
    yield _expression("meta", _u32(1, _REGISTER), _u32(2, _L4PROTO))
    yield _compare(bytes([number]))
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
        yield _expression(
            *("bitwise", _u32(1, _REGISTER), _u32(2, _REGISTER), _u32(3, 1)),
            nest(4, attribute(1, bytes([_SYN | _ACK]))),
            nest(5, attribute(1, bytes([0]))),
        )
        yield _compare(bytes([_SYN]))
    if selector._token:
        yield from _equal(_TRANSPORT, 8, selector._token)
    yield _expression("immediate", _u32(1, _REGISTER), nest(2, attribute(1, b"\1")))
    yield _expression("meta", _u32(2, _NFTRACE), _u32(3, _REGISTER))


def _expression(name: str, *attributes: bytes) -> bytes:
    return nest(1, text(1, name), nest(2, *attributes))


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression(
        "payload", _u32(1, _REGISTER), _u32(2, base), _u32(3, offset), _u32(4, length)
    )


def _compare(value: bytes, how: int = _EQUAL) -> bytes:
    return _expression("cmp", _u32(1, _REGISTER), _u32(2, how), nest(3, attribute(1, value)))


def _equal(base: int, offset: int, value: bytes) -> Iterator[bytes]:
    yield _payload(base, offset, len(value))
    yield _compare(value)
