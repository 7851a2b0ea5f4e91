"""Work in a thread of its own, for what a thread cannot undo.

A thread that has chosen the PID namespace of its children cannot always choose its first one
again: in a user namespace that would take rights over the namespace outside. So it is a thread
made for that, and it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def apart(work: Callable[[], T]) -> T:
    """Return what *work* returns when called in a new thread; its exception is raised here."""
    results: list[T] = []
    errors: list[BaseException] = []

    def kept() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=kept, name="apart")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
