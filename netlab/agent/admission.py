"""The pods that a node does not take up: decided once, then written and told.

What is decided is kept while the pod is there, whatever it frees meanwhile: its status says that it
has failed. What a crash left unwritten is decided anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from netlab.controllers.admission import Rejection, rejections
from netlab.controllers.events import Fact
from netlab.controllers.podstate import ended, status_of, terminating
from netlab.model.kubernetes import Document


class Admission:
    """What the kubelet of the node called *name* has decided, by uid."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rejected: dict[str, Rejection] = {}
        self._unwritten: list[Document] = []

    def look(
        self,
        pods: Mapping[str, Document],
        given: Collection[str],
        node: Document | None,
        *,
        addresses: int,
    ) -> None:
        """Decide about those of *pods* (by uid) that are new.

        *given*: which have an address that is not written yet; *node*, *addresses*: see
        `controllers.admission.rejections`.
        """
        taken, new = [], []
        for uid, pod in pods.items():
            if uid in given or status_of(pod).get("podIP"):
                taken.append(pod)
            elif not (uid in self._rejected or ended(pod) or terminating(pod)):
                new.append(pod)
        kept = {uid: why for uid, why in self._rejected.items() if uid in pods}
        found = rejections(new, taken, node, addresses=addresses) if new else {}
        self._rejected = {**kept, **found}
        self._unwritten = [pods[uid] for uid in self._rejected if not ended(pods[uid])]

    def takes(self, uid: str, pod: Document) -> bool:
        """Return whether *pod* is the node's business, as far as is known."""
        never_ran = ended(pod) and not status_of(pod).get("podIP")
        return uid not in self._rejected and not never_ran

    def write(self, replaced: Callable[[Sequence[Document]], list[Document]]) -> list[Fact]:
        """Have *replaced* write which have failed; return what is to be told of those written."""
        failed = [self._rejected[pod["metadata"]["uid"]].of(pod) for pod in self._unwritten]
        self._unwritten = []
        written = replaced(failed) if failed else []
        whys = [(pod, self._rejected[pod["metadata"]["uid"]]) for pod in written]
        return [
            Fact(pod, why.reason, why.message, "kubelet", warning=True, host=self._name)
            for pod, why in whys
        ]
