"""Bringing a lab up: start its agent if none listens, hand it the declaration, wait."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from netlab import attachments, beyond, capabilities, patience, processes
from netlab.agent import control
from netlab.agent import place as places
from netlab.agent.place import Place
from netlab.errors import NetlabError, UsageError
from netlab.lab import machines
from netlab.lab.directory import lock
from netlab.lab.report import Progress, Report, silent
from netlab.model.lab import Lab
from netlab.topology import Declaration

AGENT_START = patience.seconds(60.0)  # for a new agent to listen; one that ends is seen at once
AGENT_SILENCE = 180.0  # seconds without a word from the agent before it is given up


def up(
    declaration: Declaration,
    *,
    progress: Progress = silent,
    verbose: bool = False,
    patience: float | None = None,
    place: Place | None = None,
) -> Report:
    """Make the lab be what *declaration* says; a second call changes nothing.

    *place*: what this machine is, if the nodes are machines of their own.

    *verbose*: have the report say every kernel change in words of ip(8). Raises CapabilityError
    when this machine lacks what the lab needs, UsageError where an attached namespace has
    no place any more; nothing is changed then.
    """
    lab = declaration.require_lab()
    capabilities.require_mode(lab.proxyMode)
    if lab.dual:
        capabilities.require_ipv6()
    home = beyond.outside_home(lab)
    if lab.balancer is not None and place is not None and home and home.name == place.node:
        capabilities.require_handing_on()
    began = time.monotonic()
    if place is not None:
        machines.take(lab.name, place)
    with lock(lab.name) as run:
        if place is None and (spread := places.read(run)) is not None:
            raise UsageError(
                f"lab {lab.name} is on several machines; this one is {' and '.join(spread.names)}",
                hint="`netlab up --master` on the machine of the control plane changes it",
            )
        attachments.carried(lab, _running(run))
        started = _ensure_agent(run)
        seconds = {"agent": round(time.monotonic() - began, 4)} if started else {}
        request: dict[str, Any] = {
            "do": "declare",
            "lab": msgspec.to_builtins(lab),
            "documents": list(declaration.documents),
            "files": list(declaration.files),
            "words": verbose,
        }
        if patience is not None:
            request["patience"] = patience
        for message in control.ask(run / "agent.sock", request, timeout=AGENT_SILENCE):
            if "progress" in message:
                progress(message["progress"])
            else:
                result = message["result"]
                result["seconds"] = {**seconds, **result["seconds"]}
                return msgspec.convert(result, Report)
    raise NetlabError("the agent ended without an answer", hint=f"see {run}/agent.log")


def _running(run: Path) -> Lab | None:
    """Return the lab as it runs, or did when its agent ended; None for a new one."""
    path = run / "lab.json"
    return msgspec.json.decode(path.read_bytes(), type=Lab) if path.exists() else None


def _ensure_agent(run: Path) -> bool:
    """Start the lab's agent unless one listens; return whether it was started."""
    path = run / "agent.sock"
    if control.listener_pid(path) is not None:
        return False
    for pid in processes.marked(run).get("agent", []):
        processes.end(pid, grace=0.0)  # it lives but does not listen: half started, or ending
    path.unlink(missing_ok=True)
    log = run / "agent.log"
    pid = processes.spawn(
        run, "agent", [sys.executable, "-m", "netlab.agent", str(run)], stdout=log
    )
    deadline = time.monotonic() + AGENT_START
    while not path.exists():
        if processes.wait(pid, seconds=0.003) or time.monotonic() > deadline:
            tail = log.read_text().strip().splitlines()[-1:] if log.exists() else []
            raise NetlabError(f"the agent did not start: {' '.join(tail)}", hint=f"see {log}")
    return True
