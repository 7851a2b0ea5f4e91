"""diff-modes: where proxy modes behave differently with the same objects."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from netlab.cli import options, tables
from netlab.cli.lifecycle import count
from netlab.cli.proxy import DETECTORS, detector, parts
from netlab.cli.servicerows import some
from netlab.errors import InputError, UsageError
from netlab.model.modes import PROXY_MODES

if TYPE_CHECKING:
    from netlab.proxy import Mode
    from netlab.verify.modes import Given, Row
    from netlab.verify.waysin import Sights, Way

APART = 3  # ways of one sort that are told one by one
_LAB = re.compile(r"""^\s*["']?kind["']?\s*:\s*["']?Lab["']?\s*,?\s*(#.*)?$""", re.MULTILINE)


@options.command(
    "diff-modes",
    example="""
    netlab diff-modes topologies/notes.yaml
    kubectl get svc,endpointslices,nodes -A -o yaml | netlab diff-modes -
    netlab diff-modes services.yaml --detect-local cluster-cidr=10.244.0.0/16 -o json
    netlab diff-modes services.yaml --modes iptables,userspace
    """,
)
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|-...", type=click.Path())
@click.option("--node", metavar="NAME", help="The node to see it from; default: one with pods.")
@click.option(
    "--detect-local",
    metavar="HOW",
    help=f"How pods are told from others: {DETECTORS}; default: what the Nodes' podCIDRs say.",
)
@click.option("--masquerade-all", is_flag=True, help="Masquerade all traffic to cluster IPs.")
@click.option(
    "--nodeport-addresses",
    metavar="CIDR,...|primary",
    help="Where NodePorts are, in both modes; default: each mode's own.",
)
@click.option(
    "--localhost-nodeports",
    type=click.BOOL,
    default=True,
    metavar="BOOL",
    help="NodePorts on 127.0.0.1 too (iptables, IPv4).",
)
@click.option("--service-cidr", metavar="CIDR,...", help="Where all cluster IPs are (nftables).")
@click.option(
    "--modes",
    metavar="MODE,MODE[,...]",
    help=f"What to compare, of {', '.join(PROXY_MODES)}; default: all that are no history, and "
    "that this kernel has.",
)
@options.output_option("table", "json")
@click.pass_context
def diff_modes(
    ctx: click.Context,
    files: tuple[str, ...],
    node: str | None,
    detect_local: str | None,
    masquerade_all: bool,
    nodeport_addresses: str | None,
    localhost_nodeports: bool,
    service_cidr: str | None,
    modes: str | None,
    output: str | None,
) -> int:
    """Show which behaviour of Services differs between proxy modes.

    Every way in to every Service port, from every kind of client, with real packets in throw-away
    namespaces, once in each mode. FILE is a lab's, as `netlab up` takes it, or holds Services,
    EndpointSlices and Nodes, as `netlab proxy` does. Exits with 1 when anything differs.
    """
    said = {
        "--detect-local": detect_local,
        "--masquerade-all": masquerade_all,
        "--nodeport-addresses": nodeport_addresses,
        "--service-cidr": service_cidr,
        "--localhost-nodeports": not localhost_nodeports,
    }
    prefix = f"modes{os.getpid()}"
    from netlab.capabilities import available_modes, require_mode
    from netlab.proxy import Mode

    compared_modes: list[Mode]
    if modes is None:
        compared_modes = [mode for mode in available_modes() if mode is not Mode.USERSPACE]
    else:
        compared_modes = known_modes(modes)
        for mode in compared_modes:
            require_mode(mode)
    if _is_lab(files):
        if given_too := [name for name, value in said.items() if value]:
            hint = "the Lab document says it"
            raise UsageError(f"{given_too[0]} beside a lab", hint=hint)
        given = _of_lab(files, node, prefix, compared_modes)
    else:
        given = _of_objects(
            files,
            node,
            prefix,
            compared_modes,
            detect_local=detect_local,
            masquerade_all=masquerade_all,
            node_port_addresses=parts(nodeport_addresses),
            localhost_node_ports=localhost_nodeports,
            service_cidrs=parts(service_cidr),
        )
    for note in given.notes:
        print(f"note: {note}", file=sys.stderr)
    options.be_root(create=True)
    from netlab import rootless
    from netlab.lab.directory import RUN
    from netlab.verify.modes import compared

    begun = time.monotonic()
    try:
        rows = compared(given)
    finally:
        rootless.leave_if_empty(RUN)
    differing = [row for row in rows if row.differs]
    surprising = [row for row in rows if row.surprises]
    if output == "json":
        print(json.dumps(document(given, rows), indent=4))
    else:
        if differing:
            print("\n".join(table(differing)))
            print()
        print(
            f"seen from {given.here.metadata.name}: {count(len(rows), 'way')} tried, "
            f"{len(differing)} differ, in {time.monotonic() - begun:.1f} s"
        )
    for line in surprises(surprising):
        print(f"error: {line}", file=sys.stderr)
    return 1 if differing or surprising else 0


def known_modes(text: str) -> list[Mode]:
    """Return the proxy modes in *text*, `iptables,userspace`. Raises UsageError."""
    from netlab.proxy import Mode

    named = list(parts(text))
    hint = f"two or more of {', '.join(PROXY_MODES)}"
    if unknown := [one for one in named if one not in PROXY_MODES]:
        raise UsageError(f"--modes {text}: no proxy mode {unknown[0]}", hint=hint)
    if len(set(named)) < max(2, len(named)):
        raise UsageError(f"--modes {text}: nothing to compare", hint=hint)
    return [Mode(one) for one in named]


def _is_lab(files: Sequence[str]) -> bool:
    """Return whether a Lab document is among *files*; standard input can be read again then."""
    from netlab.topology.mistakes import Mistakes
    from netlab.topology.sources import texts

    if "-" in files:
        sys.stdin = io.StringIO(sys.stdin.read())
    mistakes = Mistakes()
    found = texts(files, mistakes, stdin=sys.stdin)
    if mistakes:
        raise InputError(mistakes.lines())
    if "-" in files:
        sys.stdin.seek(0)
    return any(_LAB.search(one.text) for one in found)


def _of_lab(files: Sequence[str], node: str | None, prefix: str, modes: Sequence[Mode]) -> Given:
    from netlab import topology
    from netlab.verify import trial

    declared = topology.load(files, stdin=sys.stdin)
    return trial.of_lab(
        *(declared.require_lab(), declared.documents), node=node, prefix=prefix, modes=modes
    )


def _of_objects(
    files: Sequence[str],
    node: str | None,
    prefix: str,
    modes: Sequence[Mode],
    *,
    detect_local: str | None,
    **said: Any,
) -> Given:
    from netlab.proxy import DetectLocal, Options
    from netlab.topology.stored import stored
    from netlab.verify import trial

    documents, notes = stored(files, stdin=sys.stdin)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    how, pods, interface = detector(detect_local or DetectLocal.NODE_CIDR)
    chosen = Options(detect_local=how, pod_cidrs=pods, interface=interface, **said)
    return trial.given(documents, chosen, node=node, prefix=prefix, modes=modes)


# -- what is printed


def table(rows: Sequence[Row]) -> list[str]:
    """Return the differing *rows*: in one line those of clients that see the same, and, if they are
    many, those of Services at which they do."""
    from netlab.verify.waysin import Caller

    modes = list(rows[0].seen)
    grouped: dict[tuple[Way, tuple[str, ...]], list[Caller]] = {}
    for row in rows:
        told = tuple(words(row.seen[mode], row.seen.values()) for mode in modes)
        grouped.setdefault((row.way, told), []).append(row.caller)
    alike: dict[tuple[str, str, tuple[str, ...]], list[Way]] = {}
    for (way, told), callers in grouped.items():
        who = "anybody" if len(callers) == len(Caller) else ", ".join(callers)
        alike.setdefault((way.sort, who, told), []).append(way)
    cells = []
    for (sort, who, told), ways in alike.items():
        if len(ways) > APART:
            cells.append([sort, some(list(dict.fromkeys(way.service for way in ways))), who, *told])
        else:
            cells += [[way.title, way.service, who, *told] for way in ways]
    return tables.aligned(["WAY IN", "SERVICE", "FROM", *(mode.upper() for mode in modes)], cells)


def words(sights: Sights, beside: Collection[Sights] = ()) -> str:
    """Return what is seen in plain words: `answers`, `refuses`.

    *beside*: what is seen in all modes; where they answer alike, who answers tells them apart.
    """
    from netlab.sensors.calls import Came

    answers = sorted(one for one in sights if one.came is Came.ANSWER and one.seen_as)
    others = {one for one in sights if one not in answers}
    found = ["answers"] if answers else []
    if answers and sum(any(it.seen_as for it in one) for one in beside) > 1:
        seen = sorted({one.seen_as for one in answers})
        at = sorted({one.by for one in answers})
        found = [f"answers by {some(at)}, which see the {' or '.join(seen)}"]
    found += sorted({_PLAIN[(one.came.value, one.by != "")] for one in others})
    return ", or ".join(found) or "nothing seen"


_PLAIN: Mapping[tuple[str, bool], str] = {
    ("answer", True): "leaves it alone",
    ("refusal", False): "refuses",
    ("closed", False): "accepts and closes",
    ("silence", False): "is silent",
    ("unsendable", False): "cannot be sent",
    ("unreachable", False): "is unreachable",
}


def surprises(rows: Sequence[Row]) -> list[str]:
    """Return, for each mode in which not what was expected is seen, what is wrong."""
    return [
        f"{row.way.title} ({row.way.service}) from {row.caller}: {mode} "
        f"{words(row.seen[mode], both)}; expected: {words(row.expected[mode], both)}"
        for row in rows
        for mode in row.surprises
        for both in [(row.seen[mode], row.expected[mode])]
    ]


def document(given: Given, rows: Sequence[Row]) -> dict[str, Any]:
    """Return all of it as an object."""
    return {
        "node": given.here.metadata.name,
        "modes": [str(mode) for mode in given.options],
        "tried": len(rows),
        "differences": [_row(row) for row in rows if row.differs],
        "surprises": [
            {**_row(row), "expected": _by_mode(row.expected)} for row in rows if row.surprises
        ],
    }


def _row(row: Row) -> dict[str, Any]:
    way = row.way
    return {
        "way": way.title,
        "service": way.service,
        "address": way.address,
        "port": way.port,
        "protocol": way.protocol,
        "from": str(row.caller),
        "seen": _by_mode(row.seen),
    }


def _by_mode(sights: Mapping[Mode, Sights]) -> dict[str, Any]:
    return {
        str(mode): {
            "words": words(found),
            "outcomes": [
                {"came": str(one.came), "by": one.by, "seenAs": one.seen_as}
                for one in sorted(found)
            ],
        }
        for mode, found in sights.items()
    }
