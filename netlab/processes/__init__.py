"""Processes and commands.

`own`       netlab's own processes: started with a mark, found again by it, ended
`commands`  `run`, the one door for programs that do one thing and end
`errand`    a program that runs for somebody elsewhere, who fetches its output
`holder`    who has a port that is taken
"""

from netlab.processes.commands import MARK, START, Completed, installed, pasteable, run
from netlab.processes.own import (
    STDERR,
    alive,
    end,
    end_all,
    marked,
    marked_environment,
    own_environment,
    pidfd,
    spawn,
    start_time,
    strays,
    wait,
)

__all__ = [
    "MARK",
    "START",
    "STDERR",
    "Completed",
    "alive",
    "end",
    "end_all",
    "installed",
    "marked",
    "marked_environment",
    "own_environment",
    "pasteable",
    "pidfd",
    "run",
    "spawn",
    "start_time",
    "strays",
    "wait",
]
