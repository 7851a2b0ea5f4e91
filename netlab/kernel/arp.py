"""Telling a wire whose an IPv4 address is now: gratuitous ARP, as who takes one over sends it.

Without it whoever spoke to the address lately goes on sending to the card that had it before, until
its kernel asks again: up to eight seconds.
Source: RFC 5227, section 3; linux/if_ether.h, if_arp.h.
"""

from __future__ import annotations

import socket
import struct

from netlab.kernel.netns import entered

_EVERYBODY = b"\xff" * 6
_ETHERTYPE = 0x0806
_HEAD = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)  # Ethernet, IPv4, their lengths, a request


def announce(netns: str, device: str, address: str) -> None:
    """Tell the wire of *device* that *address* is its own now. Raises OSError: it is down."""
    with entered(netns), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        mac, mine = sender.getsockname()[4], socket.inet_aton(address)
        frame = _EVERYBODY + mac + struct.pack("!H", _ETHERTYPE)
        sender.send(frame + _HEAD + mac + mine + bytes(6) + mine)
