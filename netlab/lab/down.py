"""Taking a lab down: what carries its marks is ended and removed, agent or no agent."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec

from netlab import attachments, processes, rootless, world
from netlab.agent import control, leaving
from netlab.agent import place as places
from netlab.agent.place import Place
from netlab.errors import NetlabError, StoreError
from netlab.kernel import real
from netlab.lab import machines, unit
from netlab.lab.directory import LOCK, RUN, lock
from netlab.lab.report import Progress, Report, silent
from netlab.model.lab import Lab
from netlab.objects import Netns, Veth
from netlab.plan import Op, Verb, words

AGENT_END = 10.0  # seconds for an agent to end when asked


def down(name: str, *, progress: Progress = silent) -> Report:
    """Remove everything of the lab called *name*, whatever state a crash left it in."""
    began = time.monotonic()
    with lock(name) as run:
        progress("agent")
        lab, place = _spread(run)
        if place is not None:
            unit.remove()  # or it would start the agent again, now or after the next boot
        _stop_agent(run)
        problems: list[str] = []
        if lab is not None and place is not None and not place.master:
            progress("etcd")
            problems += _deregistered(lab, place)
        progress("processes")
        ended = [f"end {role}" for role in processes.end_all(run, grace=0.0)]
        progress("namespaces")
        kernel = real.RealKernel()
        operations = leaving.cleared(run, lab, place, kernel) if lab and place else []
        # First what reaches into others' namespaces: a namespace is freed when the kernel has time.
        cables = [
            thing
            for thing in kernel.observe(f"{name}.{world.UNDERLAY}", ())
            if isinstance(thing, Veth) and thing.name.startswith(attachments.PORT)
        ]
        shells = [Op(Verb.DELETE, thing) for thing in cables]
        shells += [Op(Verb.DELETE, Netns(n)) for n in kernel.namespaces(name)]
        kernel.apply(shells)
        operations += shells
        if place is not None and place.data:
            shutil.rmtree(place.data, ignore_errors=True)
        _remove(run)
    if RUN.is_dir() and not any(RUN.iterdir()):
        try:
            RUN.rmdir()
        except OSError:
            pass  # another lab is just beginning
    rootless.leave_if_empty(RUN)
    return Report(
        changes=ended,
        problems=problems,
        operations=len(operations),
        words=[line for op in operations for line in words(op)],
        seconds={"down": round(time.monotonic() - began, 4)},
    )


def _spread(run: Path) -> tuple[Lab | None, Place | None]:
    """Return the lab and what this machine is in it, where the nodes are machines."""
    place = places.read(run)
    if place is None or not (run / "lab.json").exists():
        return None, place
    return msgspec.json.decode((run / "lab.json").read_bytes(), type=Lab), place


def _deregistered(lab: Lab, place: Place) -> list[str]:
    """Have etcd forget the machine; return what is left to be said of it."""
    try:
        machines.deregister(lab, place)
    except StoreError as error:
        return [f"{error.message}: the lease of node {place.node} stays there until it ends"]
    return []


def _remove(run: Path) -> None:
    """Remove the run directory, its lock at the very end: an `up` that waits may begin then."""
    for entry in run.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()
    (run / LOCK).unlink()
    try:
        run.rmdir()
    except OSError:
        pass  # that `up` has begun, or another `down` has been quicker


def _stop_agent(run: Path) -> None:
    """Have the agent end what it started and itself; one that does not is ended."""
    path = run / "agent.sock"
    pid = control.listener_pid(path)
    if pid is None:
        return
    try:
        for _ in control.ask(path, {"do": "stop"}, timeout=AGENT_END):
            processes.wait(pid, seconds=AGENT_END)
    except NetlabError:
        pass  # it hangs or has just died; either way:
    processes.end(pid, grace=0.0)
