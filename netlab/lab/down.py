"""Taking a lab down: what carries its marks is ended and removed, agent or no agent."""

from __future__ import annotations

import shutil
import time

from netlab import processes, rootless
from netlab.agent import control
from netlab.kernel import real
from netlab.lab.directory import RUN, lock
from netlab.lab.report import Progress, Report, silent
from netlab.objects import Netns
from netlab.plan import Op, Verb, words


def down(name: str, *, progress: Progress = silent) -> Report:
    """Remove everything of the lab called *name*, whatever state a crash left it in."""
    began = time.monotonic()
    with lock(name) as run:
        progress("agent")
        pid = control.listener_pid(run / "agent.sock")
        if pid is not None:
            processes.end(pid, grace=0.0)
        progress("processes")
        ended = [f"end {role}" for role in processes.end_all(run, grace=0.0)]
        progress("namespaces")
        kernel = real.RealKernel()
        operations = [Op(Verb.DELETE, Netns(n)) for n in kernel.namespaces(name)]
        kernel.apply(operations)
        shutil.rmtree(run)
    if RUN.is_dir() and not any(RUN.iterdir()):
        try:
            RUN.rmdir()
        except OSError:
            pass  # another lab is just beginning
    rootless.leave_if_empty(RUN)
    return Report(
        changes=ended,
        operations=len(operations),
        words=[line for op in operations for line in words(op)],
        seconds={"down": round(time.monotonic() - began, 4)},
    )
