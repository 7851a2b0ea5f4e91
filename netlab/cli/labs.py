"""get labs: the labs of this machine, one row each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from netlab.cli import tables
from netlab.errors import NotFoundError


def print_labs(names: Sequence[str], output: str, *, headers: bool = True) -> int:
    """Print the labs called *names*, without names every lab of this machine (without root: of
    this user). Raises NotFoundError.
    """
    from netlab.cli.lifecycle import every_lab

    known = every_lab()
    for name in names:
        if name not in known:
            hint = f"known: {', '.join(known)}" if known else "netlab up FILE makes one"
            raise NotFoundError(f"no lab called {name}", hint=hint)
    states = [state(name) for name in known if not names or name in names]
    if output in ("json", "yaml"):
        from netlab.cli.get import text_of

        listed = {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": states}
        print(text_of(states[0] if len(names) == 1 else listed, output), end="")
    elif not states:
        print("No labs found.", file=sys.stderr)
    elif output == "name":
        print("\n".join(f"lab/{state['lab']}" for state in states))
    else:
        rows = [row(state) for state in states]
        lines = tables.aligned(["NAME", "NODES", "PODS", "CONVERGED", "PROBLEM"], rows)
        print("\n".join(lines if headers else lines[1:]))
    return 0


def state(name: str) -> dict[str, Any]:
    """Return a lab's `Live.status`, or as much of it as there is when its agent is gone."""
    from netlab.lab.live import connect

    try:
        return connect(name).status()
    except Exception as error:  # a lab whose agent is gone is still a lab, and is listed
        return {"lab": name, "converged": False, "nodes": [], "problems": [str(error)]}


def row(state: dict[str, Any]) -> list[str]:
    """Return one lab's cells."""
    problems = state["problems"]
    return [
        state["lab"],
        str(len(state["nodes"])),
        str(sum(node["pods"] for node in state["nodes"])),
        "yes" if state["converged"] else "no",
        problems[0] if problems else "",
    ]
