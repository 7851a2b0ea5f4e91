"""One verification of a lab at a time: it deletes a pod and moves leases that another speaks of."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from netlab import patience
from netlab.errors import NetlabError

FILE = "verify.lock"  # in the lab's run directory
WAIT = patience.seconds(300.0)  # for the others before this one: in all modes it takes minutes
LOOK = 0.05  # seconds


@contextmanager
def turn(run: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Wait until nobody else verifies the lab of *run*; *waiting* is told who does.

    Raises NetlabError naming who holds it after `WAIT` seconds. The kernel gives the lock back
    when its holder dies.
    """
    with (run / FILE).open("a+") as file:
        deadline, told = time.monotonic() + WAIT, ""
        while not _taken(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another command"
            if time.monotonic() > deadline:
                raise NetlabError(f"the lab is being verified by {holder}", hint="try again later")
            if holder != told:
                waiting(f"waiting for {holder}")
                told = holder
            time.sleep(LOOK)
        file.truncate(0)
        words = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
        file.write(f"`{words}` (pid {os.getpid()}, since {time.strftime('%T')})")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
