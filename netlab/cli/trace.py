"""trace and why: one packet's whole way, hop by hop and rule by rule; and what stops it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from netlab.cli import names, options, tables
from netlab.cli.progress import Progress
from netlab.cli.prove import begins_elsewhere
from netlab.errors import NetlabError, UsageError

if TYPE_CHECKING:
    from netlab.cluster import Cluster
    from netlab.journeys import Journey
    from netlab.lab.live import Live
    from netlab.verify.across import Across

COUNT, SECONDS = 20, 10.0  # bounds of --attach: packets of a conversation, and how long
PICTURES = ("html", "mermaid")  # forms of one flow
FORMS = ("text", "json", "pcapng", "html", "mermaid")
PROTOCOLS = ("icmp", "tcp", "udp", "sctp")
F = TypeVar("F", bound=Callable[..., Any])


def _given(ctx: click.Context, option: click.Parameter, value: str) -> str:
    """Return *value*, if it is empty only for want of the option. Raises UsageError."""
    given = ctx.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    if given and not value:
        raise UsageError(f"--{option.name}: {option.metavar} is empty")
    return value


def flow_options(function: F) -> F:
    """Add what says more of a flow than its ends."""
    for option in (
        click.option(
            "--size",
            type=click.IntRange(min=1),
            metavar="BYTES",
            help="Make the IP packet that long, and forbid to cut it (DF).",
        ),
        click.option(
            "--dns",
            metavar="NAME[/TYPE]",
            default="",
            callback=_given,
            help="Ask DST this name (port 53/UDP).",
        ),
        click.option(
            "--http",
            metavar="URL",
            default="",
            callback=_given,
            help="Send an HTTP request, http://HOST/PATH.",
        ),
    ):
        function = option(function)
    return function


@options.command(
    "trace",
    example="""
    netlab trace pair archive:7000
    netlab trace pair web:http                        # a Service, by a port's name
    netlab trace client node/node1:30080
    netlab trace pair --http http://web/index.html -o html -w way.html
    netlab trace pair archive:7000 -o pcapng | tshark -r -
    netlab trace --attach 'svc web and port 80'       # what others send
    """,
)
@click.argument("source", metavar="[SRC]", default="", shell_complete=names.targets)
@click.argument(
    "destination", metavar="[DST[:PORT[/PROTO]]]", default="", shell_complete=names.destinations
)
@flow_options
@click.option("--all-rules", is_flag=True, help="Show the rules too that did not fit.")
@click.option(
    "--attach",
    metavar="FILTER",
    help="Send nothing: tell what flows already and fits FILTER, as `capture` has them.",
)
@click.option(
    "-c", "--count", type=click.IntRange(min=1), metavar="N", help="With --attach: packets [20]."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=86400),
    metavar="S",
    help="With --attach: wait so long at most [10].",
)
@click.option(
    "--flows",
    type=click.IntRange(min=1, max=100),
    metavar="N",
    help="With --attach: so many conversations at most [1].",
)
@click.option("--every", is_flag=True, help="Show the steps of every packet, not of the first two.")
@options.output_option(*FORMS, default="text")
@click.option("-w", "--write", metavar="FILE", default="-", help="Write there instead of stdout.")
@click.pass_context
def trace(
    ctx: click.Context,
    source: str,
    destination: str,
    http: str,
    dns: str,
    size: int | None,
    attach: str | None,
    count: int | None,
    seconds: float | None,
    flows: int | None,
    all_rules: bool,
    every: bool,
    output: str,
    write: str,
) -> int:
    """Send one flow and tell its whole way: devices, rules, rewrites, envelopes, and back.

    SRC and DST: [NS/]POD, node/NAME, master, gateway, client, internet; DST may also be a Service
    (svc/NAME, NAME) or an address. Without a port it is an ICMP echo, of a Service its only port;
    without a protocol, TCP. Exit 1 when it was not answered.

    With --attach nothing is sent: conversations that others have and that FILTER fits are told,
    new ones from their first packet, until each has shown COUNT packets or has ended, or the time
    is over, or ^C. Exit 1 when none came.
    """
    suitable(output, write)
    bounds = {"--count": count, "--seconds": seconds, "--flows": flows}
    if attach is not None:
        sent = {"SRC": source, "--http": http, "--dns": dns, "--size": size}
        if wrong := [name for name, value in sent.items() if value]:
            raise UsageError(f"{wrong[0]} beside --attach, which sends nothing")
        if (flows or 1) > 1 and output in PICTURES:
            raise UsageError(f"-o {output} tells one flow", hint="--flows 1, or -o text or json")
        return _attach(
            *(ctx, attach),
            count=count or COUNT,
            seconds=seconds or SECONDS,
            flows=flows or 1,
            all_rules=all_rules,
            every=every,
            output=output,
            write=write,
        )
    if wrong := [name for name, value in bounds.items() if value]:
        raise UsageError(f"{wrong[0]} is for --attach", hint="netlab trace --attach FILTER")
    if not source:
        raise UsageError("no source", hint="netlab trace SRC DST[:PORT[/PROTO]]")
    target, port, protocol = asked_of(destination, http)
    live = options.live_lab(ctx, looking=True)
    if there := begins_elsewhere(live, source):
        words = ["trace", source, *([destination] if destination else []), "-o", output]
        words += flow_words(http, dns, size)
        words += [*(["--all-rules"] if all_rules else []), *(["--every"] if every else [])]
        return written_elsewhere(live, there, words, write)
    from netlab import tracing

    with Progress("trace") as progress, machines_of(live) as machines:
        progress(f"{source} to {destination or http}")
        journey = tracing.trace(
            *(machines or live, source, target),
            protocol=protocol,
            port=port,
            http=http,
            dns=dns,
            size=size or 0,
            all_rules=all_rules,
            machines=machines,
        )
    write_out(told(journey, live.cluster, output, every=every), write)
    return 0 if journey.answered else 1


def flow_words(http: str, dns: str, size: int | None) -> list[str]:
    """Return the options that `flow_options` adds, as words of a command line."""
    given = {"--http": http, "--dns": dns, "--size": str(size or "")}
    return [word for name, value in given.items() if value for word in (name, value)]


def written_elsewhere(live: Live, there: str, words: Sequence[str], write: str) -> int:
    """Run `netlab WORDS` on another machine, and write its output; return its exit code."""
    from netlab.cli.inside import passed_on

    if write == "-":
        return passed_on(live, there, words)
    kept = BytesIO()
    code = passed_on(live, there, words, out=kept)
    if kept.tell():
        write_out(kept.getvalue(), write)
    return code


@contextmanager
def machines_of(live: Live) -> Iterator[Across | None]:
    """Have the other machines of the lab, None where all of it is on this one."""
    if live.place is None:
        yield None
        return
    from netlab.verify.across import across

    with across(live) as machines:
        yield machines


def _attach(
    ctx: click.Context,
    words: str,
    *,
    count: int,
    seconds: float,
    flows: int,
    all_rules: bool,
    every: bool,
    output: str,
    write: str,
) -> int:
    live = options.live_lab(ctx, looking=True, whole=True)
    from netlab.tracing.attached import attached

    with Progress("trace") as progress:
        progress(f"waiting for `{words}`, {seconds:g} s at most")
        journeys = attached(
            *(live, words), count=count, seconds=seconds, most=flows, all_rules=all_rules
        )
    if not journeys:
        print(f"nothing came that fits `{words}` in {seconds:g} s", file=sys.stderr)
        if output == "json" and flows > 1:
            write_out(b"[]\n", write)
        return 1
    write_out(told_together(journeys, live.cluster, output, every=every, listed=flows > 1), write)
    return 0


@options.command(
    "why",
    example="""
    netlab why client node/node1:22
    netlab why pair archive:7001
    netlab why pair web:http -v                    # all that was found, and the way it took
    netlab why pair archive --size 1450            # does a packet of that length arrive?
    """,
)
@click.argument("source", metavar="SRC", shell_complete=names.targets)
@click.argument(
    "destination", metavar="[DST[:PORT[/PROTO]]]", default="", shell_complete=names.destinations
)
@flow_options
@options.output_option("text", "json", default="text")
@click.pass_context
def why(
    ctx: click.Context,
    source: str,
    destination: str,
    http: str,
    dns: str,
    size: int | None,
    output: str,
) -> int:
    """Send one flow and tell what stops it: where, why, what shows it, what would repair it.

    SRC and DST as for `netlab trace`. Waits for no timeout. Exit 1 when something stops it.
    """
    if not source:
        raise UsageError("no source", hint="netlab why SRC DST[:PORT[/PROTO]]")
    target, port, protocol = asked_of(destination, http, command="why")
    live = options.live_lab(ctx)
    if there := begins_elsewhere(live, source):
        from netlab.cli.inside import passed_on

        flow = [*([destination] if destination else []), *flow_words(http, dns, size)]
        loud = ["-v"] * options.settings(ctx).verbose
        return passed_on(live, there, ["why", source, *flow, "-o", output, *loud])
    from netlab.telling import forms, text
    from netlab.tracing.why import why as diagnosed

    with Progress("why") as progress, machines_of(live) as machines:
        progress(f"{source} to {destination or http}")
        found = diagnosed(
            *(live, source, target),
            protocol=protocol,
            port=port,
            http=http,
            dns=dns,
            size=size or 0,
            machines=machines,
        )
    if output == "json":
        print(json.dumps(forms.diagnosis_document(found), indent=2))
    else:
        every = options.settings(ctx).verbose > 0
        lines = text.diagnosis(found, width=tables.width(), paint=tables.coloured, every=every)
        print("\n".join(lines))
    return 0 if found.works else 1


def asked_of(destination: str, http: str, *, command: str = "trace") -> tuple[str, int | str, str]:
    """Return (target, port, protocol) of the words on the command line. Raises UsageError."""
    if not (destination or http):
        raise UsageError("no destination", hint=f"netlab {command} SRC DST[:PORT[/PROTO]]")
    return flow_end(destination)


def flow_end(words: str) -> tuple[str, int | str, str]:
    """Return (target, port, protocol) of `DST[:PORT[/PROTO]]`, without a port 0 and "".

    A port may be a name. Raises UsageError.
    """
    if words.count(":") > 1:
        return words, 0, ""  # an IPv6 address, which is told to be one where places are known
    target, colon, rest = words.rpartition(":")
    if not colon:
        head, slash, protocol = words.rpartition("/")
        if slash and protocol.lower() in PROTOCOLS and head:
            return head, 0, protocol.lower()
        return words, 0, ""
    number, slash, protocol = rest.partition("/")
    protocol = protocol.lower()
    if protocol not in PROTOCOLS and (protocol or slash):
        raise UsageError(f"{words}: no protocol {protocol!r}", hint="TCP, UDP or ICMP")
    if not target or not number:
        raise UsageError(f"{words}: a target and a port belong there", hint="web:80, svc/web:http")
    if not number.isascii() or not number.isdigit():
        if number[0].isdigit() or not number.replace("-", "").isalnum():
            raise UsageError(f"{words}: no port {number!r}", hint="a number, or a port's name")
        return target, number, protocol
    if not 1 <= int(number) <= 65535:
        raise UsageError(f"{words}: no port {number}", hint="a number from 1 to 65535")
    return target, int(number), protocol


def suitable(output: str, write: str) -> None:
    """Raise UsageError for bytes that would go to a terminal."""
    if output == "pcapng" and write == "-" and sys.stdout.isatty():
        raise UsageError(
            "a pcapng file is no text for a terminal", hint="-w FILE, or | tshark -r -"
        )


def told(
    journey: Journey, cluster: Callable[[], Cluster], output: str, *, every: bool = False
) -> bytes:
    """Return a journey in the form *output*, as what is to be written."""
    from netlab.telling import forms, packets, text

    if output == "pcapng":
        return packets.capture(journey)
    if output == "json":
        return json.dumps(forms.document(journey), indent=2).encode() + b"\n"
    if output == "html":
        from netlab.picture import html

        return html.page(journey, cluster()).encode()
    if output == "mermaid":
        from netlab.picture import sequence

        return sequence.mermaid(journey).encode()
    lines = text.lines(journey, width=tables.width(), paint=tables.coloured, every=every)
    return "\n".join(lines).encode() + b"\n"


def told_together(
    journeys: Sequence[Journey],
    cluster: Callable[[], Cluster],
    output: str,
    *,
    every: bool,
    listed: bool,
) -> bytes:
    """Return journeys in the form *output*. *listed*: JSON is a list, though it be of one."""
    from netlab.telling import forms, packets

    if output == "pcapng":
        return packets.capture(*journeys)
    if output == "json" and listed:
        return json.dumps([forms.document(one) for one in journeys], indent=2).encode() + b"\n"
    if output == "html":
        return told(journeys[0], cluster, output)
    texts = [told(one, cluster, output, every=every) for one in journeys]
    return b"\n".join(texts)


def write_out(data: bytes, where: str) -> None:
    """Write *data* to a file, or to stdout for `-`. Raises NetlabError."""
    if where == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    try:
        Path(where).write_bytes(data)
    except OSError as error:
        raise NetlabError(
            f"cannot write {where}: {(error.strerror or str(error)).lower()}"
        ) from error
