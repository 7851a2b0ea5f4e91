"""Foreign namespaces in the underlay, compared and repaired one by one.

A part of the world's loop: it is in the host's namespace, where their names and /proc are. What is
wrong with one of them is told in `troubles` and keeps nothing else from being made; it is tried
again, as it may come back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from netlab import attachments
from netlab.errors import NetlabError
from netlab.kernel import Kernel, foreign, netns
from netlab.model.attachments import Attachment
from netlab.model.lab import Lab
from netlab.objects import Object
from netlab.plan import Op, difference

Agree = Callable[..., list[Op]]  # Loop.agree


class Attachments:
    """What is plugged in, and what is wrong with it."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.troubles: dict[str, str] = {}  # by namespace; none for those that are well
        self._agreed: dict[str, tuple[Object, ...]] = {}
        self._seen: dict[str, int] = {}  # which namespace each name has led to

    def moved(self, lab: Lab) -> bool:
        """Return whether a name leads to another namespace than it did in the last pass."""
        return self._seen != self._present(lab)

    def _present(self, lab: Lab) -> dict[str, int]:
        return {one.netns: netns.identity(one.netns) for one in lab.attached}

    def keep(self, lab: Lab, agree: Agree) -> None:
        """Make what *lab* has attached true, as far as its namespaces are there."""
        self._seen = self._present(lab)
        troubles: dict[str, str] = {}
        agreed: dict[str, tuple[Object, ...]] = {}
        for one in lab.attached:
            try:
                foreign.require(one.netns, since=one.born)
                agreed[one.netns] = self._kept(lab, one, agree)
            except NetlabError as error:
                troubles[one.netns] = error.message
        self.troubles, self._agreed = troubles, agreed

    def _kept(self, lab: Lab, one: Attachment, agree: Agree) -> tuple[Object, ...]:
        wanted = tuple(attachments.objects(lab, one))
        agree(
            self.kernel,
            lambda: difference(wanted, observed(self.kernel, wanted)),
            agreed=self._agreed.get(one.netns, ()),
        )
        return wanted

    def told(self, lab: Lab) -> list[dict[str, Any]]:
        """Return what is attached, as `netlab status -o json` has it."""
        return [
            {
                "netns": one.netns,
                "address": one.address,
                **({"address6": one.address6} if one.address6 else {}),
                "device": one.device,
                "segment": lab.segment_of(one.address).name,
                "since": one.since,
                "lastError": self.troubles.get(one.netns, ""),
                "words": one.words,
                "by": one.command,
                "undo": one.undo,
            }
            for one in lab.attached
        ]

    def problems(self, lab: Lab) -> list[str]:
        """Return what is wrong with those that *lab* has, each with what undoes it."""
        return [
            f"attached {trouble}; undo: `{one.undo}`"
            for one in lab.attached
            if (trouble := self.troubles.get(one.netns))
        ]


def observed(kernel: Kernel, wanted: Collection[Object]) -> list[Object]:
    """Return what there is of an attachment, which is *wanted*: its cable, the far end's own."""
    cable, *there = wanted
    found = [thing for thing in kernel.observe(cable.netns, [cable]) if thing.key == cable.key]
    return found + (kernel.observe(there[0].netns, there) if there else [])
