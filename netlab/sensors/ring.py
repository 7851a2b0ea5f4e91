"""One AF_PACKET socket with a ring in shared memory: every frame of every device of a namespace.

1. No late start: once `open_ring` has returned, no frame is missed.
2. No loss in a burst: the kernel writes into the ring by itself, whatever the reader is doing.
   A plain socket would do no better than `net.core.rmem_max`, and raising that needs privileges
   that a user namespace does not give. What cannot be a probe's is left out by a filter in the
   kernel (`sieve`), so that bulk data beside them does not use the ring up.
3. What is lost all the same is counted (PACKET_STATISTICS), never hidden.
4. Whoever keeps all frames reads whole blocks by itself (`blocks`): a generator and a tuple per
   frame would take as long as all else that is done to it.

TPACKET_V3 packs frames of any size into blocks; a block is handed over when it is full or after
`RETIRE` milliseconds. Source: linux/if_packet.h, Documentation/networking/packet_mmap.rst.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from netlab.errors import CapabilityError
from netlab.sensors import sieve

SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 5, 6, 10
TPACKET_V3 = 2
ETH_P_ALL = 0x0003
# linux/if_packet.h, sll_pkttype: to another card's MAC; leaving through the device
PACKET_OTHERHOST, PACKET_OUTGOING = 3, 4

# A block is used up when it is full, and by the first frame after `RETIRE`: small blocks let a
# trickle of frames take long to use up a ring that nobody reads meanwhile.
BLOCK = 4096  # bytes; longer frames (segments not yet cut) are kept up to here
RETIRE = 2  # milliseconds until a block with frames in it is handed over though it is not full
FRAME = 320  # bytes of ring reckoned per frame: 80 of headers, and a probe inside VXLAN
USER = 1  # TP_STATUS_USER: the block is ours to read

LOSING = 4  # TP_STATUS_LOSING: frames were lost since the statistics were last read

_BLOCK_HEAD = struct.Struct("=III")  # block_status, num_pkts, offset_to_first_pkt; from byte 8
# Of tpacket3_hdr: offset of the next frame, s, ns, bytes kept and in all, offset of the frame; of
# the sockaddr_ll behind it: ifindex, pkttype.
FRAME_HEAD = struct.Struct("=IIIII4xH22x4xi2xB")
_TYPED_HEAD = struct.Struct("=IIIII4xH22x4xiHB")  # the same, and sll_hatype

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h

_libc = ctypes.CDLL(None, use_errno=True)


class Frame(NamedTuple):
    """One frame as the kernel noted it; `time` in ns since the epoch."""

    time: int
    ifindex: int
    outgoing: bool
    foreign: bool  # coming in, addressed to another card's MAC
    data: bytes
    headless: bool = False  # of a device without Ethernet, a tun: it begins with the IP header


class Ring:
    """An open ring. Its socket belongs to the namespace it was opened in, for good."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self.memory: mmap.mmap | None = None
        self._block = BLOCK
        self._blocks = 0
        self._next = 0
        self.lost = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def start(self, size: int, *, block: int = BLOCK, retire: int = RETIRE) -> None:
        """Make the ring, of *size* bytes in blocks of *block*, a power of two, and begin.

        A block that is not full is handed over after *retire* milliseconds. Slow by nature (the
        kernel waits until every CPU has seen the change, some 8 ms), so it may be called in another
        thread. socket.setsockopt would keep the GIL during that wait; a ctypes call lets go of it,
        and many rings then wait at the same time.
        """
        self._block, self._blocks = block, max(2, -(-size // block))
        size = self._blocks * block
        request = struct.pack("=7I", block, self._blocks, 2048, size // 2048, retire, 0, 0)
        self._call("make a packet ring", "setsockopt", SOL_PACKET, PACKET_RX_RING, request)
        self.memory = mmap.mmap(
            self.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
        )
        everything = struct.pack("=H", socket.AF_PACKET) + struct.pack("!H", ETH_P_ALL)
        self._call("listen to all devices", "bind", everything.ljust(20, b"\0"))

    def _call(self, what: str, name: str, *arguments: int | bytes) -> None:
        length = len(arguments[-1]) if isinstance(arguments[-1], bytes) else 0
        if getattr(_libc, name)(self.fileno(), *arguments, length):
            words = os.strerror(ctypes.get_errno()).lower()
            raise CapabilityError(f"cannot {what}: {words}", hint="see `netlab doctor`")

    def blocks(self, most: int = 0) -> Iterator[tuple[int, int, bool]]:
        """Yield of each block handed over, oldest first: how many frames it has, where in `memory`
        the first begins (`FRAME_HEAD`), whether frames were lost before the end of it.

        It is the kernel's again once the next is asked for. *most*: blocks, 0: all there are.
        """
        ring = self.memory
        if ring is None:
            return
        for _ in range(most or self._blocks):
            start = self._next * self._block
            status, count, offset = _BLOCK_HEAD.unpack_from(ring, start + 8)
            if not status & USER:
                return
            yield count, start + offset, bool(status & LOSING)
            struct.pack_into("=I", ring, start + 8, 0)
            self._next = (self._next + 1) % self._blocks

    def frames(self) -> Iterator[Frame]:
        """Yield the frames handed over since the last call, oldest first."""
        for count, at, _losing in self.blocks():
            assert self.memory is not None
            for _ in range(count):
                following, sec, nsec, held, _, mac, ifindex, hardware, packet_type = (
                    _TYPED_HEAD.unpack_from(self.memory, at)
                )
                yield Frame(
                    sec * 1_000_000_000 + nsec,
                    ifindex,
                    packet_type == PACKET_OUTGOING,
                    packet_type == PACKET_OTHERHOST,
                    self.memory[at + mac : at + mac + held],
                    hardware not in sieve.ETHERNET_TYPES,
                )
                at += following

    def count_lost(self) -> int:
        """Return how many frames the kernel had no room for since the start."""
        counters = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
        self.lost += struct.unpack("=III", counters)[1]  # the kernel starts again from zero
        return self.lost

    def filter(self, code: bytes) -> None:
        """Take what *code* lets through from now on. Raises OSError when it is no filter.

        Where there is no room for two long filters (net.core.optmem_max), all frames are taken for
        the moment between the one and the other.
        """
        try:
            attach(self._socket, code)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            self._socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            attach(self._socket, code)

    def close(self) -> None:
        """Stop; waits for the kernel as `start` does."""
        if self.memory is not None:
            self.memory.close()
            self.memory = None
        self._socket.close()


def open_ring(code: bytes = b"") -> Ring:
    """Return a ring for the namespace the calling thread is in; it is silent until `start`.

    *code* is the filter, an array of struct sock_filter; without it `sieve`'s, for probes.
    """
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        opened.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        attach(opened, code or sieve.program())
    except PermissionError as denied:
        raise CapabilityError("cannot watch packets: not permitted", hint="run as root") from denied
    return Ring(opened)


def attach(opened: socket.socket, code: bytes) -> None:
    """Have the socket take what the filter *code* lets through, from now on. Raises OSError."""
    program = ctypes.create_string_buffer(code)
    described = struct.pack("HL", len(code) // 8, ctypes.addressof(program))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)
