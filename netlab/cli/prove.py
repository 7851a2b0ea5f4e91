"""verify and probe: the paths, proven by packets."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from netlab.cli import names, options, tables
from netlab.cli.progress import Progress
from netlab.errors import UsageError
from netlab.model.backends import BACKENDS
from netlab.model.modes import PROXY_MODES
from netlab.packets import Leg, Outcome, Passage, Verdict

if TYPE_CHECKING:
    from netlab.lab.live import Live

COLOURS = {
    Outcome.PASS: tables.GREEN,
    Outcome.FAIL: tables.RED,
    Outcome.SKIP: tables.YELLOW,
}
PROTOCOLS = ("tcp", "udp", "sctp")  # those with ports
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")  # RFC 6335, IANA_SVC_NAME


def path_ids() -> list[str]:
    """Return the id of every path that verify knows."""
    from netlab.verify.catalogue import PATHS

    return [path.id for path in PATHS]


@options.command(
    "verify",
    example="""
    netlab verify
    netlab verify pod-pod-cross-node egress-masquerade
    netlab verify -v firewall
    netlab verify -o junit > paths.xml
    netlab verify --proxy-mode all
    netlab verify --backend all
    """,
)
@click.argument("ids", nargs=-1, metavar="[PATH-ID]...", shell_complete=names.paths)
@click.option(
    "--proxy-mode",
    "mode",
    type=click.Choice((*PROXY_MODES, "all")),
    help="Prove the Services' paths, or those named, in this mode, or in all; then back.",
)
@click.option(
    "--backend",
    type=click.Choice((*BACKENDS, "all")),
    help="Prove the pods' paths, or those named, by this back end, or by all; then back.",
)
@options.output_option("table", "json", "junit", default="table")
@click.pass_context
def verify(
    ctx: click.Context, ids: tuple[str, ...], mode: str | None, backend: str | None, output: str
) -> int:
    """Prove every path of the notes, or those named, with packets; exit 1 on any failure.

    A pass shows what was seen, all of it with -v; a failure says at which hop the packet was last
    seen and what was expected next; what the lab lacks is a skip that names it.
    """
    whole = options.settings(ctx).verbose > 0
    if mode is not None and backend is not None:
        raise UsageError("--proxy-mode and --backend at once", hint="one after the other")
    if mode is not None:
        from netlab.cli import matrix

        live = options.live_lab(ctx)
        return matrix.proven_in(live, mode, ids=ids, output=output, whole=whole)
    if backend is not None:
        from netlab.cli import matrix

        live = options.live_lab(ctx)
        return matrix.proven_by(live, backend, ids=ids, output=output, whole=whole)
    return proven(options.live_lab(ctx), ids=ids, output=output, whole=whole)


def proven(live: Live, *, ids: Sequence[str], output: str, whole: bool) -> int:
    """Verify *ids* (all when empty), print the verdicts as *output*; return the exit code."""
    from netlab import verify as prover

    with Progress("verify") as progress:
        done: list[Verdict] = []

        def on_result(verdict: Verdict) -> None:
            done.append(verdict)
            if progress.live:
                progress(f"{len(done)} done", f"{verdict.path} {verdict.outcome}")

        progress("sending packets")
        verdicts = prover.verify(live, list(ids) or None, on_result=on_result, on_wait=progress)
    if output == "json":
        print(json.dumps(prover.as_json(verdicts), indent=2))
    elif output == "junit":
        print(prover.as_junit(verdicts))
    else:
        print("\n".join(proven_words(verdicts, whole=whole)))
    return 1 if any(verdict.outcome is Outcome.FAIL for verdict in verdicts) else 0


def proven_words(verdicts: Sequence[Verdict], *, whole: bool) -> list[str]:
    """Return the verdicts as lines for the terminal there is."""
    return table(verdicts, width=tables.width(), whole=whole)


def table(verdicts: Sequence[Verdict], *, width: int, whole: bool = False) -> list[str]:
    """Return the verdicts as lines: one per path, its evidence below it, skips by their reason.

    *whole*: all evidence of a pass; without it the first piece, and how many more there are.
    """
    shown = [verdict for verdict in verdicts if verdict.outcome is not Outcome.SKIP]
    column = max([len("PATH"), *(len(verdict.path) for verdict in shown)])
    lines = [f"{'PATH':{column}}  RESULT     TIME  WHAT IT IS, AND WHAT WAS SEEN"] if shown else []
    for verdict in shown:
        lines += verdict_lines(verdict, column=column, width=width, whole=whole)
    lines += skip_lines([v for v in verdicts if v.outcome is Outcome.SKIP], width=width)
    return [*lines, "", summary(verdicts)]


def verdict_lines(verdict: Verdict, *, column: int, width: int, whole: bool) -> list[str]:
    """Return one verdict: path, outcome, time and title, then the evidence or where it stopped."""
    outcome = tables.coloured(f"{verdict.outcome.value:6}", COLOURS[verdict.outcome])
    indent = column + len("  RESULT     TIME  ")
    titles = tables.wrapped(verdict.title, indent=indent, width=width) or [""]
    time = tables.seconds(verdict.seconds)
    head = f"{verdict.path:{column}}  {outcome}  {time:>7}  {titles[0].strip()}"
    colour = tables.RED if verdict.outcome is Outcome.FAIL else tables.DIM
    below = [
        tables.coloured(line, colour)
        for piece in pieces(verdict, whole=whole)
        for line in tables.wrapped(piece, indent=4, width=width)
    ]
    return [head, *titles[1:], *below]


def pieces(verdict: Verdict, *, whole: bool) -> list[str]:
    """Return what is to be said of a verdict: of a failure all there is, of a pass enough."""
    if verdict.outcome is Outcome.FAIL:
        stopped = [
            f"{name}: {words}"
            for name, words in (
                ("last seen", verdict.last_seen),
                ("expected next", verdict.expected_next),
            )
            if words
        ]
        return [*verdict.evidence, *stopped]
    if whole or len(verdict.evidence) <= 1:
        return list(verdict.evidence)
    return [f"{verdict.evidence[0]} (and {len(verdict.evidence) - 1} more, with -v)"]


def skip_lines(skips: Sequence[Verdict], *, width: int) -> list[str]:
    """Return the skipped paths, gathered by what the lab lacks for them."""
    reasons: dict[str, list[str]] = {}
    for verdict in skips:
        reason = "; ".join(verdict.evidence) or verdict.title
        reasons.setdefault(reason, []).append(verdict.path)
    lines: list[str] = []
    for reason, paths in reasons.items():
        wrapped = tables.wrapped(f"skip  {reason}: {', '.join(paths)}", indent=6, width=width)
        wrapped[0] = wrapped[0].strip()
        lines += [tables.coloured(line, tables.YELLOW) for line in wrapped]
    return lines


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return `11 passed, 1 failed, 26 skipped`, leaving out what there is none of."""
    words = (("passed", Outcome.PASS), ("failed", Outcome.FAIL), ("skipped", Outcome.SKIP))
    counts = [(sum(v.outcome is outcome for v in verdicts), word) for word, outcome in words]
    return ", ".join(f"{count} {word}" for count, word in counts if count) or "no paths"


@options.command(
    "probe",
    example="""
    netlab probe pair archive
    netlab probe pair dns-far:53/UDP --count 10
    netlab probe client node/node1:22
    netlab probe pair default/db-0:sql
    netlab probe default/pair internet:80 -o json
    """,
)
@click.argument("source", metavar="SRC", shell_complete=names.targets)
@click.argument("destination", metavar="DST[:PORT[/PROTO]]", shell_complete=names.targets)
@click.option("--count", type=click.IntRange(1, 10_000), default=1, metavar="N", help="Packets.")
@click.option("--ipv6", "-6", is_flag=True, help="By the IPv6 addresses of a dual-stack lab.")
@options.output_option("table", "json", default="table")
@click.pass_context
def probe(
    ctx: click.Context, source: str, destination: str, count: int, ipv6: bool, output: str
) -> int:
    """Send one flow and show its verdict and the way it took; exit 1 when it failed.

    SRC and DST: [NS/]POD, node/NAME, master, gateway, client, internet; DST may be an address.
    Without a port the flow is ICMP echo; without a protocol, TCP. A pod's port may be named.
    """
    target, port, protocol = flow_end(destination)
    live = options.live_lab(ctx, looking=True)
    from netlab import probe as prober

    if there := begins_elsewhere(live, source):
        from netlab.cli.inside import passed_on

        words = ["probe", source, destination, "--count", str(count), "-o", output]
        return passed_on(live, there, [*words, *(["-6"] if ipv6 else [])])
    with Progress("probe") as progress:
        progress(f"{source} to {destination}")
        flow: dict[str, Any] = {"protocol": protocol, "port": port, "count": count, "ipv6": ipv6}
        if live.place is None:
            verdict = prober.probe(live, source, target, **flow)
        else:
            verdict = probed_across(live, source, target, **flow)
    if output == "json":
        from netlab import verify as prover

        print(json.dumps(prover.as_json([verdict]), indent=2))
    else:
        print("\n".join(probe_lines(verdict)))
    return 1 if verdict.outcome is Outcome.FAIL else 0


def begins_elsewhere(live: Live, source: str) -> str:
    """Return the machine that *source* is on, "" when it is this one. Raises NotFoundError."""
    if live.place is None:
        return ""
    from netlab import paths

    begins = paths.place(live.cluster(), source)
    member = begins.node.name if begins.node else begins.member
    return live.machine_of(member) if member else ""


def probed_across(live: Live, source: str, destination: str, **flow: Any) -> Verdict:
    """Return the verdict on a flow from this machine, seen by the sensors of all of its lab."""
    from netlab import probe as prober
    from netlab.verify.across import across

    with across(live) as machines:
        return prober.probe(machines, source, destination, sensors=machines.capture, **flow)


def flow_end(words: str) -> tuple[str, int | str, str]:
    """Return (target, port, protocol) of `DST[:PORT[/PROTO]]`; without a port 0 and an empty text.

    A port may be a name, whose protocol is known when its pod is. Raises UsageError. A target may
    hold a slash itself: `node/node1:22`, `shop/cart-1`.
    """
    behind = words.partition("]")[2]
    if words.count(":") > 1 and behind[:1] != ":":
        return words, 0, ""  # an IPv6 address
    target, colon, rest = words.rpartition(":")
    if not colon:
        return words, 0, ""  # ICMP echo
    number, slash, protocol = rest.partition("/")
    named = PORT_NAME.fullmatch(number)
    protocol = protocol.lower() or ("" if named and not slash else "tcp")
    if protocol and protocol not in PROTOCOLS:
        raise UsageError(f"{words}: no protocol {protocol!r}", hint="TCP, UDP or SCTP")
    if named:
        return target, number, protocol
    if not number.isascii() or not number.isdigit() or not 1 <= int(number) <= 65535:
        raise UsageError(f"{words}: no port {number!r}", hint="a number from 1 to 65535, or a name")
    return target, int(number), protocol


def probe_lines(verdict: Verdict) -> list[str]:
    """Return one flow's verdict: the outcome, every hop in order, then the evidence."""
    outcome = tables.coloured(outcome_words(verdict), COLOURS[verdict.outcome])
    lines = [f"{outcome}: {verdict.title or verdict.path} ({verdict.seconds:.2f} s)"]
    lines += hop_lines(verdict.passages)
    lines += [f"  {piece}" for piece in verdict.evidence]
    if verdict.last_seen:
        lines.append(f"  last seen:     {verdict.last_seen}")
    if verdict.expected_next:
        lines.append(f"  expected next: {verdict.expected_next}")
    return lines


def outcome_words(verdict: Verdict) -> str:
    """Return the outcome; a pass without a reply proves that something stays out, and says so."""
    legs = {passage.leg for passage in verdict.passages}
    if verdict.outcome is Outcome.PASS and legs == {Leg.REQUEST}:
        return "pass (not delivered, as it should be)"
    return verdict.outcome.value


def hop_lines(passages: Sequence[Passage]) -> list[str]:
    """Return a table of the hops: when (ms after the first sighting), where, what was seen."""
    seen = [passage.sighting.time for passage in passages if passage.sighting]
    if not seen:
        return []
    rows = [
        (
            passage.leg.value,
            f"+{(passage.sighting.time - min(seen)) / 1e6:.3f} ms" if passage.sighting else "-",
            place_words(passage.hop.netns),
            f"{passage.hop.device} {passage.hop.direction}",
            passage_words(passage),
        )
        for passage in passages
    ]
    lines = tables.aligned(("LEG", "TIME", "WHERE", "DEVICE", "SEEN"), rows, gap="  ")
    return [f"  {line}" for line in lines]


def place_words(netns: str) -> str:
    """Return whose a namespace is: `node1` of `notes.node1`, a pod's name of a pod's."""
    parts = netns.split(".", 3)
    return parts[3] if len(parts) == 4 else ".".join(parts[1:])


def passage_words(passage: Passage) -> str:
    """Return what was seen at a hop: the envelope inside VXLAN, else addresses and TTL; or that
    nothing was seen. The packet in an envelope is the one on the tunnel's own device."""
    sighting = passage.sighting
    if sighting is None:
        return f"not seen{': ' + passage.problem if passage.problem else ''}"
    if sighting.outer:
        outer = sighting.outer
        words = f"{outer.title}: {outer.source} -> {outer.destination}"
    else:
        words = f"{sighting.flow.source} -> {sighting.flow.destination} ttl {sighting.ttl}"
    return words + (f" ({passage.problem})" if passage.problem else "")
