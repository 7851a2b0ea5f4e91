"""The rules that packets meet while a capture runs, told in a thread of its own.

Listing a chain takes milliseconds, and a capture must not wait for that.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from types import TracebackType

from netlab.annotation.blocks import Met
from netlab.annotation.headers import Ends
from netlab.packets import Flow, RuleHit
from netlab.sensors.ruletrace import RuleTrace
from netlab.sensors.traces import Traced
from netlab.sensors.traceswitch import PROTOCOLS, Selector

PACE = 200  # packets a second that are traced of each flow of the filter, in each namespace
LOOK = 0.02  # seconds between two looks
MOST = 50_000  # what is kept for somebody who does not take it


class RuleWatch:
    """A context manager: from its start on, what packets of *flows* meet in namespaces is told.

    Raises CapabilityError, when it begins, where the kernel does not let us trace.
    """

    def __init__(self, netns_names: Iterable[str], flows: Sequence[Flow]) -> None:
        selectors = [Selector(flow) for flow in flows]
        self._trace = RuleTrace(netns_names, selectors, pace=PACE)
        self._met: list[Met] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.untold = 0  # packets whose rules there was no room for
        self.error: Exception | None = None

    def __enter__(self) -> RuleWatch:
        self._trace.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join()
        self._trace.close()

    def take(self) -> list[Met]:
        """Return what was met since the last call, in order."""
        with self._lock:
            met, self._met = self._met, []
        return met

    @property
    def lost(self) -> bool:
        """Whether the kernel had more to tell than there was room for."""
        return self._trace.lost

    def _run(self) -> None:
        try:
            while not self._ending.wait(LOOK):
                self._look()
            for _ in range(2):  # what was still being heard comes with the second look
                self._look()
        except Exception as error:  # told by whoever started the thread
            self.error = error

    def _look(self) -> None:
        found = [met for packet, hits in self._trace.taken() if (met := _met(packet, hits))]
        with self._lock:
            room = MOST - len(self._met)
            self._met += found[:room]
            self.untold += len(found[room:])


def _met(packet: Traced, hits: Sequence[RuleHit]) -> Met | None:
    """Return what a packet met in one base chain; None when that was nothing.

    That it came to the end of the chain and was let through is nothing.
    """
    hits = [hit for hit in hits if hit.verdict != "policy accept"]
    if not hits:
        return None
    flow = packet.flow
    number = PROTOCOLS[flow.protocol]
    source, destination = (ip_address(one).packed for one in (flow.source, flow.destination))
    if len(source) == 16 and number == 1:
        number = 58  # ICMPv6
    ends = Ends(number, source, flow.source_port, destination, flow.destination_port)
    rules = tuple(_words(hit) for hit in hits)
    return Met(hits[0].netns, ends, packet.fingerprint[1], rules)


def _words(hit: RuleHit) -> str:
    """`nat KUBE-SERVICES: -d 10.96.0.1/32 … -j KUBE-SVC-…`, a policy `filter FORWARD: policy …`."""
    if not hit.rule:
        return f"{hit.table} {hit.chain}: {hit.verdict}"
    return f"{hit.table} {hit.chain}: {hit.rule}"
