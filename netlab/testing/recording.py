"""The frames of a lab since a test began, kept in memory: what is written when it fails.

The kernel's rings hold what comes while the keeper is at work; between its deeds it moves that
into its own memory, where the oldest go when there are too many.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence

from netlab import __version__, filters, pcapng, targets
from netlab.cluster import Cluster
from netlab.sensors.taps import Record, Taps

KEPT = 16 << 20  # bytes of frames
RINGS = 16 << 20  # bytes of all the kernel's rings together
SNAPLEN = 2048  # bytes of each frame
# etcd speaks all the time, and traces have their sentinels: neither is what is being tested.
FILTER = "not port 2379 and not (host 127.0.0.1 and (port 9 or icmp))"


class Recording:
    """The lab's devices, watched. For one thread. Raises CapabilityError."""

    def __init__(self) -> None:
        self._taps = Taps(
            filters.program(filters.parsed(FILTER, _nobody), SNAPLEN), snaplen=SNAPLEN, memory=RINGS
        )
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._gone = 0  # frames that had to make room

    def forget(self) -> None:
        """Drop all there is."""
        self._taps.take()
        self._kept.clear()
        self._size = self._gone = 0

    def follow(self, cluster: Cluster) -> None:
        """Watch what there is in the lab now."""
        self._taps.follow(targets.every(cluster))

    def drain(self) -> None:
        """Take over what the rings hold."""
        self._keep(self._taps.take())

    def _keep(self, records: Sequence[Record]) -> None:
        for _, block in records:
            self._kept.append(block)
            self._size += len(block)
        while self._size > KEPT:
            self._size -= len(self._kept.popleft())
            self._gone += 1

    def file(self) -> bytes:
        """Return the frames up to now as a pcapng; nothing when there are none."""
        self._keep(self._taps.rest())
        if not self._kept:
            return b""
        machine = os.uname()
        head = pcapng.section(
            hardware=machine.machine,
            system=f"{machine.sysname} {machine.release}",
            application=f"netlab {__version__}",
        )
        interfaces = [
            pcapng.interface(
                one.label,
                description=one.description,
                link=one.link,
                snaplen=SNAPLEN,
                mac=one.mac,
                filter=FILTER,
            )
            for one in self._taps.interfaces
        ]
        return b"".join([head, *interfaces, *self._kept])

    def notes(self) -> list[str]:
        """Return what the file lacks."""
        found = [f"{count} frames of {name} were lost" for name, count in self._taps.lost.items()]
        if self._gone:
            found.append(f"the first {self._gone} frames of the test were not kept")
        return found

    def close(self) -> None:
        self._taps.close()


def _nobody(kind: str, word: str) -> list[filters.grammar.End]:
    raise AssertionError("the filter has no names")
