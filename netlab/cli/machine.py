"""doctor, completion, version: about this machine, not about a lab."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netlab.cli import menu, options, tables

if TYPE_CHECKING:
    from netlab.capabilities import Capability

SHELLS = ("bash", "zsh", "fish")


@options.command(
    "doctor",
    example="""
    netlab doctor
    netlab doctor -o json | jq '.capabilities[] | select(.ok | not) | .name'
    """,
)
@options.output_option("table", "json", default="table")
def doctor(output: str) -> int:
    """Try what this machine's kernel and programs can do, and say what needs what is missing.

    Everything is tried in namespaces that vanish again. Exits with 3 when something is missing
    that every lab needs; what only some features need is named and counts as fine.
    """
    from netlab.capabilities import tried

    found = tried()
    lacking = [capability for capability in found if capability.required and not capability.ok]
    if output == "json":
        facts = [capability._asdict() for capability in found]
        print(json.dumps({"ok": not lacking, "capabilities": facts}, indent=2))
    else:
        print("\n".join([*examined(found), *broken()]))
    return 3 if lacking else 0


def broken() -> list[str]:
    """Return a line for each fault that somebody has made in a lab of this machine."""
    from netlab.cli.lifecycle import every_lab
    from netlab.errors import NetlabError
    from netlab.lab.live import connect
    from netlab.model.faults import told

    lines = []
    for name in every_lab():
        try:
            faults = connect(name).lab.faults
        except NetlabError:  # half made, or half gone
            continue
        lines += [f"lab {name}: {told(fault)}" for fault in faults]
    return lines


def examined(found: Sequence[Capability]) -> list[str]:
    """Return the lines of the table, what to do about each gap below it, and the sum."""
    header = ("CAPABILITY", "STATE", "NEEDED FOR", "SEEN")
    rows = [(c.name, state(c), c.needed_by, c.detail or "-") for c in found]
    lines = [cut(line) for line in tables.aligned(header, rows)]
    gaps = [capability for capability in found if not capability.ok]
    if gaps:
        lines.append("")
    for gap in gaps:
        colour = tables.RED if gap.required else tables.YELLOW
        for line in tables.wrapped(f"{gap.name}: {gap.remedy}", indent=2, width=tables.width()):
            lines.append(tables.coloured(line, colour))
    lacking = sum(gap.required for gap in gaps)
    lines.append("")
    if lacking:
        lines.append(f"{lacking} missing: no lab can run here")
    elif gaps:
        lines.append("labs can run here; what is named above needs more")
    else:
        lines.append("everything is there")
    return lines


def state(capability: Capability) -> str:
    """Return a capability's state in a word or two."""
    if capability.ok:
        return "ok"
    return "MISSING" if capability.required else "no (optional)"


def cut(line: str) -> str:
    """Return *line* in at most the columns there are."""
    return line if len(line) <= tables.WIDTH else line[: tables.WIDTH - 3] + "..."


@options.command(
    "completion",
    example="""
    eval "$(netlab completion bash)"
    netlab completion zsh > ~/.zfunc/_netlab
    netlab completion fish > ~/.config/fish/completions/netlab.fish
    """,
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that makes a shell complete commands, labs, pods, nodes and path ids."""
    from click.shell_completion import get_completion_class

    from netlab.cli.program import program

    kind = get_completion_class(shell)
    assert kind is not None
    complete = kind(program, {}, "netlab", "_NETLAB_COMPLETE")
    # Not .source(): that starts bash to ask for its version, which is no business of a printer.
    sys.stdout.write(complete.source_template % complete.source_vars())


@options.command("version", example="netlab version")
def version() -> None:
    """Print the version of netlab, Python and the kernel."""
    sys.stdout.write(menu.version_text())
