"""Devices as the interfaces of a capture: what they are called, what their frames begin with."""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from netlab import pcapng
from netlab.sensors.ring import PACKET_OUTGOING
from netlab.targets import Target

_KINDS = (pcapng.UNICAST, pcapng.BROADCAST, pcapng.MULTICAST, pcapng.PROMISCUOUS)  # sll_pkttype
_RAW_LINKS = frozenset((65534, 768, 769, 776, 778, 519))  # ARPHRD_NONE, tunnels of IP: no header
_SIOCGIFHWADDR = 0x8927  # netdevice(7)


class Interface(NamedTuple):
    """A device of the capture; its number is its place among the others."""

    netns: str
    device: str
    label: str
    description: str
    link: int  # LINKTYPE_*
    mac: bytes = b""


def statistics(
    interfaces: Sequence[Interface],
    counts: Sequence[int],
    lost: Mapping[str, int],
    *,
    start: int,
    end: int,
) -> Iterator[bytes]:
    """Yield a block for each interface: how many packets it had, and what its namespace lost.

    Losses stand at the first interface of a namespace, and a comment there says whose they are.
    """
    told: set[str] = set()
    for number, one in enumerate(interfaces):
        first, dropped = one.netns not in told, lost.get(one.netns, 0)
        told.add(one.netns)
        words = f"lost by all devices of {one.netns} together: the kernel counts them so"
        yield pcapng.statistics(
            number,
            end,
            start=start,
            end=end,
            received=counts[number],
            dropped=dropped if first else None,
            comment=words if first and dropped else "",
        )


def interface(target: Target, device: str) -> Interface:
    """Return a device of the namespace that the calling thread is in, which is *target*'s."""
    kind, mac = _hardware(device)
    link = pcapng.RAW_IP if kind in _RAW_LINKS else pcapng.ETHERNET
    label, description = target.name(device), target.description(device)
    return Interface(target.netns, device, label, description, link, mac)


def flags(kind: int) -> int:
    """Return the flags of a packet of an sll_pkttype."""
    if kind == PACKET_OUTGOING:
        return pcapng.flags(outgoing=True)
    return pcapng.flags(outgoing=False, kind=_KINDS[kind] if kind < len(_KINDS) else 0)


def _hardware(device: str) -> tuple[int, bytes]:
    """Return the type (ARPHRD_*) and MAC of a device here; Ethernet for one that just went."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        request = struct.pack("16s24x", device.encode())
        try:
            answer = fcntl.ioctl(asked.fileno(), _SIOCGIFHWADDR, request)
        except OSError:
            return 1, b""
    kind = int(struct.unpack_from("=H", answer, 16)[0])
    return kind, answer[18:24] if kind == 1 else b""
