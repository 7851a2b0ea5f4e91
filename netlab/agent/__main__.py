"""The agent's process: `python -m netlab.agent RUN_DIRECTORY`, started by `netlab up`, or in the
place of `netlab agent`."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import resource
import signal
import sys
from pathlib import Path

from netlab.agent.agent import Agent
from netlab.agent.control import serve
from netlab.agent.place import read

DESCRIPTORS = 2047


def main(run: Path) -> None:
    """Run the agent of the lab whose run directory is *run* until it is told to stop."""
    apart = read(run) is not None
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if apart and not _is_stderr(run / "agent.log"):
        handlers.append(logging.FileHandler(run / "agent.log"))
    logging.basicConfig(
        handlers=handlers,
        level=logging.INFO,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _room_for_descriptors()
    gc.freeze()  # what was imported stays; the rest is small and mostly freed by counting
    gc.set_threshold(20_000, 20, 50)
    # On a terminal of a machine of several ^C ends it, as any signal may; what it made goes on.
    signal.signal(signal.SIGINT, signal.SIG_DFL if apart else signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1)  # every thread's stack, into agent.log
    serve(run / "agent.sock", Agent(run))


def _is_stderr(path: Path) -> bool:
    return path.exists() and os.path.samestat(path.stat(), os.fstat(2))


def _room_for_descriptors() -> None:
    """Have the kernel make room for many descriptors while there is one thread: later, each time
    the table grows, it waits for all threads (expand_files() in fs/file.c)."""
    os.dup2(sys.stderr.fileno(), DESCRIPTORS)
    os.close(DESCRIPTORS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
