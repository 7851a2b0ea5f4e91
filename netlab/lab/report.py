"""What a change of a lab came to."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Progress = Callable[[str], None]


def silent(_: str) -> None:
    """Take progress and tell nobody."""


class Report(msgspec.Struct):
    """What `up`, `down` or `plan` did, or would do."""

    changes: list[str] = []  # objects in etcd
    operations: int = 0  # kernel objects
    words: list[str] = []  # the operations in words of ip(8)
    seconds: dict[str, float] = {}
    converged: bool = True
    problems: list[str] = []

    @property
    def empty(self) -> bool:
        return not self.changes and not self.operations
