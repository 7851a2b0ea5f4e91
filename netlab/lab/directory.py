"""Where labs keep their files, which labs there are, and who may change one."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netlab.errors import NetlabError, NotFoundError, UsageError

RUN = Path("/run/netlab")
LOCK = "lock"  # in a lab's run directory


def run_directory(name: str) -> Path:
    """Return where the lab called *name* keeps its files."""
    return RUN / name


def names() -> list[str]:
    """Return the labs that exist on this machine, running or crashed."""
    found = {path.name for path in RUN.iterdir() if path.is_dir()} if RUN.is_dir() else set()
    return sorted(found)


def chosen(name: str | None) -> str:
    """Return the lab meant: *name*, or the only one there is.

    Raises NotFoundError when there is none, UsageError when one must be named.
    """
    known = names()
    if name is not None:
        if name not in known:
            hint = f"there are: {', '.join(known)}" if known else "start it: netlab up FILE"
            raise NotFoundError(f"no lab called {name}", hint=hint)
        return name
    if not known:
        raise NotFoundError("no lab is running", hint="start one: netlab up FILE")
    if len(known) > 1:
        raise UsageError(
            f"there are {len(known)} labs: {', '.join(known)}", hint="name one with -L LAB"
        )
    return known[0]


@contextmanager
def lock(name: str) -> Iterator[Path]:
    """Hold the right to change the lab called *name*; yield its run directory.

    Raises NetlabError naming who holds it. The kernel gives it back when its holder dies.
    """
    run = run_directory(name)
    while True:
        try:
            run.mkdir(parents=True, exist_ok=True)
            opened = (run / LOCK).open("a+")
        except FileNotFoundError:
            continue  # a `down` removed the directory, or the one above it, in between
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise NetlabError(
                    f"lab {name} is being changed by {file.read().strip() or 'another command'}",
                    hint="wait until it is done",
                ) from None
            if not _same_file(file.fileno(), run / LOCK):
                continue  # a `down` removed the directory between open and flock
            file.truncate(0)
            file.write(f"`{_command_line()}` (pid {os.getpid()}, since {time.strftime('%T')})")
            file.flush()
            try:
                yield run
            finally:
                if _same_file(file.fileno(), run / LOCK):
                    file.truncate(0)
            return


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _command_line() -> str:
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
