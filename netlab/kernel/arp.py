"""Telling a wire whose an IPv4 address is now, and asking it whether an address is anybody's.

Telling is gratuitous ARP, as who takes an address over sends it: without it whoever spoke to the
address lately goes on sending to the card that had it before, until its kernel asks again: up to
eight seconds. Asking is a probe, which names no sender, so that nobody learns anything from it.
Source: RFC 5227, sections 2.1 and 3; linux/if_ether.h, if_arp.h.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Collection

from netlab.kernel.netns import entered

_EVERYBODY = b"\xff" * 6
_ETHERTYPE = 0x0806
_REPLY = 2
_OPERATION, _SENDER = 20, slice(22, 32)  # in a frame: whose MAC and address
_HEAD = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)  # Ethernet, IPv4, their lengths, a request


def announce(netns: str, device: str, address: str) -> None:
    """Tell the wire of *device* that *address* is its own now. Raises OSError: it is down."""
    with entered(netns), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        mac, mine = sender.getsockname()[4], socket.inet_aton(address)
        frame = _EVERYBODY + mac + struct.pack("!H", _ETHERTYPE)
        sender.send(frame + _HEAD + mac + mine + bytes(6) + mine)


def holders(
    device: str, addresses: Collection[str], *, within: float = 1.0, probes: int = 2
) -> dict[str, str]:
    """Return which of *addresses* somebody on the wire of *device* has: their MACs, by address.

    Asked are all at once, as often as *probes* says, in *within* seconds; of them the last part is
    spent on listening. In the calling thread's namespace. Raises OSError: the device is down.
    """
    found: dict[str, str] = {}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE)) as wire:
        wire.bind((device, _ETHERTYPE))
        mac = wire.getsockname()[4]
        for _ in range(probes):
            for one in addresses:
                frame = _EVERYBODY + mac + struct.pack("!H", _ETHERTYPE)
                wire.send(frame + _HEAD + mac + bytes(4) + bytes(6) + socket.inet_aton(one))
            deadline = time.monotonic() + within / probes
            while (left := deadline - time.monotonic()) > 0:
                if select.select([wire], [], [], left)[0]:
                    found.update(_answer(wire.recv(64), addresses))
    return found


def _answer(frame: bytes, addresses: Collection[str]) -> dict[str, str]:
    """Return the address that *frame* says somebody has, with the MAC, if it is one of them."""
    sender = frame[_SENDER]
    if len(sender) < 10 or frame[_OPERATION : _OPERATION + 2] != struct.pack("!H", _REPLY):
        return {}
    address = socket.inet_ntoa(sender[6:])
    return {address: sender[:6].hex(":")} if address in addresses else {}
