"""The agent's process: `python -m netlab.agent RUN_DIRECTORY`, started by `netlab up`."""

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

DESCRIPTORS = 2047


def main(run: Path) -> None:
    """Run the agent of the lab whose run directory is *run* until it is told to stop."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _room_for_descriptors()
    gc.freeze()  # what was imported stays; the rest is small and mostly freed by counting
    gc.set_threshold(20_000, 20, 50)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1)  # every thread's stack, into agent.log
    serve(run / "agent.sock", Agent(run))


def _room_for_descriptors() -> None:
    """Have the kernel make room for many descriptors while there is one thread: later, each time
    the table grows, it waits for all threads (expand_files() in fs/file.c)."""
    os.dup2(sys.stderr.fileno(), DESCRIPTORS)
    os.close(DESCRIPTORS)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
