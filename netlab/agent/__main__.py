"""The agent's process: `python -m netlab.agent RUN_DIRECTORY`, started by `netlab up`."""

from __future__ import annotations

import faulthandler
import gc
import logging
import resource
import signal
import sys
from pathlib import Path

from netlab.agent.agent import Agent
from netlab.agent.control import serve


def main(run: Path) -> None:
    """Run the agent of the lab whose run directory is *run* until it is told to stop."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname).1s %(name)s: %(message)s",
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.freeze()  # what was imported stays; the rest is small and mostly freed by counting
    gc.set_threshold(20_000, 20, 50)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1)  # every thread's stack, into agent.log
    serve(run / "agent.sock", Agent(run))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
