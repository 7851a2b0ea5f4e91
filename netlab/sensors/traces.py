"""What the kernel tells of a traced packet: one message for each rule it fits.

Source: linux/netfilter/nf_tables.h, enum nft_trace_attributes; net/netfilter/nf_tables_trace.c.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from struct import unpack_from

import msgspec

from netlab.kernel import netlink
from netlab.packets import ICMP_ERRORS, Flow, Identity, Protocol, identity

GROUP = 9  # NFNLGRP_NFTRACE
MESSAGE = 10 << 8 | 17  # NFNL_SUBSYS_NFTABLES, NFT_MSG_TRACE

_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID = 1, 2, 3, 4, 5, 6  # NFTA_TRACE_*
_NETWORK, _TRANSPORT, _IN, _OUT, _MARK, _POLICY = 8, 9, 10, 12, 14, 16
_CT_ID, _CT_STATE = 18, 21  # since Linux 6.16
_POLICY_TYPE = 1  # NFT_TRACETYPE_POLICY
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_VERDICTS = {  # linux/netfilter.h, NF_*; below zero NFT_*
    0: "drop",
    1: "accept",
    2: "stolen",
    3: "queue",
    4: "repeat",
    -1: "continue",
    -2: "break",
    -3: "jump",
    -4: "goto",
    -5: "return",
}
_STATES = {1: "invalid", 2: "established", 4: "related", 8: "new", 64: "untracked"}
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}  # NFPROTO_*
_PROTOCOLS = {
    1: Protocol.ICMP,
    58: Protocol.ICMP,
    6: Protocol.TCP,
    17: Protocol.UDP,
    132: Protocol.SCTP,
}
_SYN, _ACK = 0x02, 0x10


class Traced(msgspec.Struct, frozen=True):
    """A packet as it came to a base chain.

    `mark` is what no rewrite of addresses and ports changes: the packet is known by it again, in
    other namespaces too. `payload` are the first 12 bytes behind the header of UDP and ICMP.
    """

    flow: Flow
    fingerprint: Identity
    payload: bytes = b""
    opens: bool = False  # it is a TCP SYN
    incoming: int = 0  # interface indexes, 0: none
    outgoing: int = 0
    state: str = ""
    conntrack: int = 0  # the id of the kernel's entry, 0: not told
    icmp_error: bool = False


class Event(msgspec.Struct, frozen=True):
    """One message: a rule that fitted; without a handle: a chain's end, or the base's policy."""

    number: int  # of the packet; the kernel uses one again as soon as a packet is gone
    family: str
    table: str
    chain: str
    handle: int
    verdict: str
    mark: int
    packet: Traced | None  # in the first message of each base chain

    @property
    def tells(self) -> bool:
        """Whether it is more than the end of a chain that the packet was led to."""
        return bool(self.handle) or self.verdict.startswith("policy")


def events(data: bytes) -> Iterator[Event]:
    """Yield the events in a datagram of netlink."""
    for kind, _flags, _sequence, body in netlink.messages(data):
        if kind == MESSAGE:
            yield _event(body[0], netlink.attributes(body, 4))


def _event(family: int, held: Mapping[int, bytes]) -> Event:
    if _big(held, _TYPE) == _POLICY_TYPE:
        verdict = f"policy {_VERDICTS.get(_big(held, _POLICY), '?')}"
    else:
        verdict = _verdict(netlink.attributes(held.get(_VERDICT, b"")))
    return Event(
        number=_big(held, _ID),
        family=_FAMILIES.get(family, str(family)),
        table=netlink.string(held[_TABLE]),
        chain=netlink.string(held[_CHAIN]),
        handle=_big(held, _HANDLE),
        verdict=verdict,
        mark=_big(held, _MARK),
        packet=_packet(held),
    )


def _big(held: Mapping[int, bytes], kind: int) -> int:
    return int.from_bytes(held.get(kind, b""), "big")


def _verdict(held: Mapping[int, bytes]) -> str:
    code = int.from_bytes(held.get(_VERDICT_CODE, b"\0\0\0\0"), "big", signed=True)
    word = _VERDICTS.get(code if code < 0 else code & 0xFF, str(code))
    chain = netlink.string(held.get(_VERDICT_CHAIN, b""))
    return f"{word} {chain}" if chain else word


def _packet(held: Mapping[int, bytes]) -> Traced | None:
    header, transport = held.get(_NETWORK, b""), held.get(_TRANSPORT, b"")
    if header[:1] and header[0] >> 4 == 6 and len(header) >= 40:
        number, ends = header[6], (header[8:24], header[24:40])
        family = socket.AF_INET6
    elif len(header) >= 20:
        number, ends = header[9], (header[12:16], header[16:20])
        family = socket.AF_INET
    else:
        return None
    protocol = _PROTOCOLS.get(number)
    if protocol is None or len(transport) < 8:
        return None
    source, destination = (socket.inet_ntop(family, end) for end in ends)
    ports = (0, 0) if protocol is Protocol.ICMP else unpack_from("!HH", transport)
    tcp = protocol is Protocol.TCP
    return Traced(
        Flow(source, destination, protocol, *ports),
        identity(protocol, transport),
        transport[8:] if protocol in (Protocol.UDP, Protocol.ICMP) else b"",
        tcp and len(transport) > 13 and (transport[13] & (_SYN | _ACK)) == _SYN,
        _big(held, _IN),
        _big(held, _OUT),
        _STATES.get(_big(held, _CT_STATE), ""),
        _big(held, _CT_ID),
        protocol is Protocol.ICMP and transport[0] in ICMP_ERRORS,
    )
