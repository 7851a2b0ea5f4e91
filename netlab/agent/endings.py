"""The pods of a node that are to go: told to end, waited for, then gone.

A pod with a deletionTimestamp has left the endpoints; the nodes' rules follow within moments. So
that no request meets closed sockets, its programs are told to end only after their preStop sleep,
as in Kubernetes, and a container that netlab answers for goes on answering for `LINGER` seconds, as
a well-behaved server does. When all have ended, or the time it was given is over, the pod goes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from netlab.cluster import PodState
from netlab.controllers.podstate import GRACE, terminating
from netlab.model.kubernetes import Document
from netlab.model.loose import mapping, mappings, number

LINGER = 1.0  # seconds


class Endings:
    """What is known of the pods that go, by uid. Times are monotonic, in seconds."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[str, float] = {}
        self._gone: dict[str, Document] = {}
        self.new: list[Document] = []  # those that have begun to go since `take` was last called

    def take(self, documents: Sequence[Document]) -> list[Document]:
        """Take note of those of *documents* that are to go; return all but those that are gone."""
        going = {one["metadata"]["uid"]: one for one in documents if terminating(one)}
        self.new = [one for uid, one in going.items() if uid not in self._began]
        now = self._clock()
        self._began = {uid: self._began.get(uid, now) for uid in going}
        self._gone = {uid: going[uid] for uid in self._gone if uid in going}
        return [one for one in documents if one["metadata"]["uid"] not in self._gone]

    @property
    def gone(self) -> list[Document]:
        """The pods of which nothing is left but the object."""
        return list(self._gone.values())

    def told(self, document: Document, container: str) -> bool:
        """Return whether the program of *container* is to end now."""
        began = self._began.get(document["metadata"]["uid"])
        return began is not None and self._clock() >= began + before_stop(document, container)

    def look(
        self,
        pods: Iterable[PodState],
        documents: Mapping[str, Document],
        running: Collection[tuple[str, str, str]],
    ) -> None:
        """Take those of *pods* for gone whose time is over, or in which nothing goes on.

        *running*: the containers with a program that has not ended: namespace, pod, name.
        """
        for pod in pods:
            if pod.uid in self._began:
                document = documents[pod.uid]
                if self._clock() >= self._end(pod, document, running):
                    self._gone[pod.uid] = document

    def _end(
        self, pod: PodState, document: Document, running: Collection[tuple[str, str, str]]
    ) -> float:
        """Return when *pod* goes, as far as is known now."""
        began = self._began[pod.uid]
        grace = number(document["metadata"], "deletionGracePeriodSeconds", GRACE)
        if any((pod.namespace, pod.name, one.name) in running for one in pod.containers):
            return began + grace
        served = [one.name for one in pod.containers if not one.command]
        lingering = [max(LINGER, before_stop(document, name)) for name in served]
        return began + min(grace, max(lingering, default=0.0))

    def due(self, pods: Iterable[PodState], documents: Mapping[str, Document]) -> float | None:
        """Return the seconds until something is to be done for one of *pods*; None: nothing."""
        moments = []
        now = self._clock()
        for pod in pods:
            if pod.uid not in documents or pod.uid not in self._began or pod.uid in self._gone:
                continue
            document, began = documents[pod.uid], self._began[pod.uid]
            grace = number(document["metadata"], "deletionGracePeriodSeconds", GRACE)
            waits = [max(before_stop(document, one.name), LINGER) for one in pod.containers]
            stops = [before_stop(document, one.name) for one in pod.containers]
            moments += [began + one for one in (grace, *waits, *stops) if began + one > now]
        if self._gone:
            return 0.0
        return min(moments) - now if moments else None


def before_stop(document: Document, container: str) -> float:
    """Return the seconds that *container* of a pod asks for before it is told to end."""
    for one in mappings(document, "spec", "containers"):
        if one.get("name") == container:
            return float(number(mapping(one, "lifecycle", "preStop", "sleep"), "seconds"))
    return 0.0
