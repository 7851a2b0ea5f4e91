"""The frames of a lab since a test began, kept in memory: what is written when it fails."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from netlab import filters, targets
from netlab.annotation.names import names
from netlab.cluster import Cluster
from netlab.sensors.recorder import Recorder

if TYPE_CHECKING:
    from netlab.filters.grammar import End

KEPT = 16 << 20  # bytes of frames
SNAPLEN = 2048  # bytes of each frame
# etcd speaks all the time, and traces have their sentinels: neither is what is being tested.
FILTER = "not port 2379 and not (host 127.0.0.1 and (port 9 or icmp))"


class Recording:
    """What is on the devices of *cluster*, from now on. Raises CapabilityError."""

    def __init__(self, cluster: Cluster) -> None:
        tree = filters.parsed(FILTER, _nobody)
        self._recorder = Recorder(
            targets.every(cluster),
            size=KEPT,
            code=filters.program(tree, SNAPLEN),
            snaplen=SNAPLEN,
            names=names(cluster),
        ).__enter__()

    def follow(self, cluster: Cluster) -> None:
        """Watch what there is in the lab now."""
        self._recorder.watch(targets.every(cluster), names=names(cluster))

    def forget(self) -> None:
        """Drop all there is."""
        self._recorder.forget()

    def file(self) -> bytes:
        """Return the frames up to now as a pcapng, with what is to be said of each as comments."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "capture.pcapng")
            self._recorder.dump(path)
            return path.read_bytes()

    def notes(self) -> list[str]:
        """Return what the file lacks."""
        return [
            f"{count} frames of {name} were lost" for name, count in self._recorder.lost.items()
        ]

    def close(self) -> None:
        self._recorder.close()


def _nobody(kind: str, word: str) -> list[End]:
    raise AssertionError("the filter has no names")
