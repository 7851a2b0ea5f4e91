"""up, down, plan: a lab from its files, and back to nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

import netlab
from netlab.cli import machines, options, tables
from netlab.cli.progress import Progress
from netlab.errors import UsageError
from netlab.model.modes import PROXY_MODES, SCHEDULERS

if TYPE_CHECKING:
    from netlab.lab.report import Report
    from netlab.topology import Declaration

NOTES = Path(netlab.__file__).parent.parent / "topologies" / "notes.yaml"


def declaration(
    ctx: click.Context,
    files: tuple[str, ...],
    *,
    proxy_mode: str | None = None,
    scheduler: str | None = None,
    spread: bool = False,
) -> tuple[Declaration, str]:
    """Return what *files* declare, and the lab's name; without files, the notes' own lab.

    *spread*: the nodes are machines of their own.

    Raises InputError with every mistake, UsageError for a lab that -L does not mean.
    """
    import msgspec

    from netlab import topology

    if not files:
        if not NOTES.is_file():
            raise UsageError("no files given", hint="netlab up FILE|DIR|-")
        print(f"note: no file named, taking {NOTES}", file=sys.stderr)
        files = (str(NOTES),)
    declared = topology.load(files, stdin=sys.stdin, spread=spread)
    lab = topology.require_lab(declared, files)
    said = options.settings(ctx)
    if said.explicit and said.lab != lab.name:
        raise UsageError(
            f"the files declare lab {lab.name}, not {said.lab}",
            hint="leave -L out, or change metadata.name of the Lab document",
        )
    if proxy_mode:
        lab = msgspec.structs.replace(lab, proxyMode=proxy_mode)
    if scheduler:
        lab = msgspec.structs.replace(
            lab, ipvs=msgspec.structs.replace(lab.ipvs, scheduler=scheduler)
        )
    told_notes(declared.notes)
    return msgspec.structs.replace(declared, lab=lab), lab.name


def told_notes(notes: Sequence[str]) -> None:
    """Print the loader's notes (kinds without an effect yet) on stderr."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def told_report(ctx: click.Context, report: Report) -> None:
    """Print what the kernel was told and where the time went, when -v asks for it."""
    if not options.settings(ctx).verbose:
        return
    for line in [*report.changes, *report.words]:
        print(line, file=sys.stderr)
    for step, seconds in report.seconds.items():
        print(f"{seconds:8.3f} s  {step}", file=sys.stderr)


def count(number: int, what: str) -> str:
    """Return `1 object`, `2 objects`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def amount(report: Report, verb: str) -> str:
    """Return how much is in *report*: `3 objects changed, 41 kernel operations`."""
    if report.empty:
        return "nothing to change"
    return (
        f"{count(len(report.changes), 'object')} {verb}, "
        f"{count(report.operations, 'kernel operation')}"
    )


FILES = click.argument("files", nargs=-1, metavar="[FILE|DIR|-]...", type=click.Path())


@options.command(
    "up",
    example="""
    netlab up topologies/notes.yaml
    netlab up topologies/notes.yaml --verify -v
    netlab up lab.yaml manifests/
    kubectl get deploy -o yaml | netlab up lab.yaml -
    sudo netlab up --master lab.yaml --uplink eth1
    """,
)
@FILES
@click.option("--proxy-mode", type=click.Choice(PROXY_MODES), help="Instead of the lab's own.")
@click.option(
    "--ipvs-scheduler", type=click.Choice(SCHEDULERS), help="Of ipvs mode, instead of the lab's."
)
@click.option("--verify", is_flag=True, help="Then prove every path with packets.")
@click.option("--master", is_flag=True, help="Be the first of several machines: etcd is here.")
@machines.UPLINK
@machines.tls_options
@click.pass_context
def up(
    ctx: click.Context,
    /,
    files: tuple[str, ...],
    proxy_mode: str | None,
    ipvs_scheduler: str | None,
    verify: bool,
    master: bool,
    uplink: str,
    **said: str,
) -> int:
    """Converge a lab to the files: a Lab document and any Kubernetes manifests.

    Whatever differs is created, changed or removed; a second run changes nothing and says so.
    Every mistake in the files is reported at once, and then nothing is changed.
    """
    begun = time.monotonic()
    declared, name = declaration(
        ctx, files, proxy_mode=proxy_mode, scheduler=ipvs_scheduler, spread=master
    )
    if master:
        return machines.up_here(ctx, declared, uplink=uplink, verify=verify, said=said)
    if uplink or any(said.values()):
        raise UsageError("--uplink and --etcd-… are for several machines", hint="up --master")
    options.be_root(create=True)
    from netlab.lab.live import connect
    from netlab.lab.up import up as brought_up

    with Progress(f"up {name}") as progress:
        report = brought_up(declared, progress=progress, verbose=options.settings(ctx).verbose > 0)
    told_report(ctx, report)
    state = "converged" if report.converged else "not converged"
    print(f"lab {name}: {amount(report, 'changed')}; {state} in {time.monotonic() - begun:.2f} s")
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    for fault in connect(name).lab.faults:
        print(f"still faulted: {fault.words}; undo: {fault.undo}", file=sys.stderr)
    for one in connect(name).lab.attached:
        print(f"still attached: {one.words}; undo: {one.undo}", file=sys.stderr)
    if not report.converged:
        return 1
    if verify:
        from netlab.cli.prove import proven

        print()
        whole = options.settings(ctx).verbose > 1
        return proven(connect(name), ids=(), output="table", whole=whole)
    return 0


@options.command(
    "plan",
    example="""
    netlab plan topologies/notes.yaml
    netlab plan && echo "nothing to do"
    """,
)
@FILES
@click.pass_context
def plan(ctx: click.Context, files: tuple[str, ...]) -> int:
    """Show what `netlab up` would do, in the words of ip(8); nothing is changed.

    Exits with 1 when there is anything to do.
    """
    declared, name = declaration(ctx, files)
    enter_existing()
    from netlab.lab import forecast

    report = forecast.plan(declared)
    # Objects in etcd are told as comments: the rest can be pasted into a shell.
    for line in [*(f"# {change}" for change in report.changes), *report.words]:
        print(line)
    print(f"lab {name}: {amount(report, 'to change')}", file=sys.stderr)
    return 0 if report.empty else 1


def enter_existing() -> bool:
    """Enter the user's lab namespaces if there are any; return whether labs can be seen now."""
    from netlab.errors import NotFoundError

    try:
        options.be_root()
    except NotFoundError:
        return False
    return True


def every_lab() -> list[str]:
    """Return the labs of this machine (without root: of this user)."""
    if not enter_existing():
        return []
    from netlab.lab import directory

    return directory.names()


@options.command(
    "down",
    example="""
    netlab down
    netlab down notes
    netlab down --all
    """,
)
@click.argument("lab_name", required=False, metavar="[LAB]", shell_complete=options.complete_lab)
@click.option("--all", "everything", is_flag=True, help="Every lab of this machine.")
@click.pass_context
def down(ctx: click.Context, lab_name: str | None, everything: bool) -> int:
    """Remove everything netlab made for a lab, and only that."""
    if lab_name and everything:
        raise UsageError("both a lab and --all", hint="netlab down LAB, or netlab down --all")
    names = every_lab() if everything else [options.chosen_lab(ctx, lab_name)]
    if not names:
        print("no labs", file=sys.stderr)
    from netlab.lab.down import down as taken_down

    worst = 0
    for name in names:
        with Progress(f"down {name}") as progress:
            report = taken_down(name, progress=progress)
        told_report(ctx, report)
        for problem in report.problems:
            print(f"problem: {problem}", file=sys.stderr)
        worst |= bool(report.problems)
        taken = tables.seconds(sum(report.seconds.values()))
        print(f"lab {name}: {'gone' if not report.problems else 'not all gone'} in {taken}")
    return int(worst)
