"""capture: what the devices of a lab show, in one pcapng file."""

from __future__ import annotations

import errno
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netlab.cli import names, options
from netlab.cli.menu import complain
from netlab.cli.progress import Progress
from netlab.errors import NetlabError, UsageError

if TYPE_CHECKING:
    from netlab.lab.live import Live
    from netlab.recording import Summary, Wish
    from netlab.sensors.taps import Taps

LEAST_SNAPLEN = 64  # bytes: less would cut off the ports of a packet over IPv4
PATIENCE = 1.0  # seconds
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@options.command(
    "capture",
    example="""
    netlab capture --all -w lab.pcapng
    netlab capture pair node/node1 node/node2:flannel.1 -w way.pcapng -f 'svc web or arp'
    netlab capture node/node1 --rules -f 'tcp port 80' -c 100 -w rules.pcapng
    netlab capture --all -w - | wireshark -k -i -
    netlab capture --all --ring 64 --files 4 -w ring.pcapng
    """,
)
@click.argument("words", nargs=-1, metavar="[TARGET[:DEV]]...", shell_complete=names.watched)
@click.option("--all", "everything", is_flag=True, help="Every device of the lab.")
@click.option("-w", "--write", required=True, metavar="FILE|-", help="Where to; - is stdout.")
@click.option("-f", "--filter", "text", metavar="EXPR", default="", help="Which packets.")
@click.option("-n", "--namespace", metavar="NS", default="default", shell_complete=names.namespaces)
@click.option("-c", "--count", type=click.IntRange(1), metavar="N", help="End after N packets.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), metavar="S", help="… S s.")
@click.option("--size", type=click.FloatRange(0, min_open=True), metavar="MIB", help="… MIB MiB.")
@click.option(
    "--ring",
    type=click.FloatRange(0, min_open=True),
    metavar="MIB",
    help="Begin another file after MIB MiB; the newest stay.",
)
@click.option("--files", type=click.IntRange(1), metavar="N", help="How many stay; 2.")
@click.option(
    "-s",
    "--snaplen",
    type=click.IntRange(LEAST_SNAPLEN),
    metavar="BYTES",
    help="Keep so much of each frame.",
)
@click.option("--rules", is_flag=True, help="Have the kernel tell which rules packets met.")
@click.option("--here", is_flag=True, help="Only what is on this machine of several.")
@click.option("--comments/--no-comments", default=True, help="Say who, which hop, what changed.")
@click.pass_context
def capture(
    ctx: click.Context,
    words: tuple[str, ...],
    everything: bool,
    write: str,
    text: str,
    namespace: str,
    count: int | None,
    seconds: float | None,
    size: float | None,
    ring: float | None,
    files: int | None,
    snaplen: int | None,
    rules: bool,
    here: bool,
    comments: bool,
) -> int:
    """Write what devices show into one pcapng file, each device an interface, until ^C or a bound.

    TARGET: [NS/]POD, node/NAME, svc/[NS/]NAME (all nodes and its pods), master, gateway, client,
    internet, underlay; with :DEV only that device. Comments name both ends, the hop, and what was
    rewritten. EXPR: as tcpdump's, with pod, node and svc as well, also inside VXLAN.
    """
    if not words and not everything:
        hint = "name pods, node/NAME, svc/NAME, gateway, …; or all of them: --all"
        raise UsageError("nothing to capture", hint=hint)
    if words and everything:
        raise UsageError("both targets and --all", hint="leave one of them out")
    if files and not ring:
        raise UsageError("--files without --ring", hint="--ring MIB says when a file is full")
    if rules and not text:
        raise UsageError("--rules without a filter", hint="say of which packets: -f 'tcp port 80'")
    if rules and not comments:
        raise UsageError("--rules without comments", hint="rules are told in comments")
    refuse_stdout(write, ring=bool(ring))
    live = options.live_lab(ctx, looking=True)
    from netlab.recording import Wish

    wish = Wish(
        words=words,
        namespace=namespace,
        filter=text,
        path=None if write == "-" else Path(write),
        count=count or 0,
        seconds=seconds or 0,
        size=size or 0,
        ring=ring or 0,
        files=files or 2,
        snaplen=snaplen or 0,
        comments=comments,
        rules=rules,
        here=here,
    )
    with written(write):
        summary = recorded(live, wish)
    for line in summary_lines(summary):
        complain(line)
    return 0


@contextmanager
def written(write: str) -> Iterator[None]:
    """Raise NetlabError in place of the system's error about the file *write*."""
    try:
        yield
    except OSError as error:
        about_it = error.filename is not None and str(error.filename) == write
        if not about_it and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        where = "stdout" if write == "-" else write
        why = (error.strerror or str(error)).lower()
        raise NetlabError(f"cannot write {where}: {why}") from error


def refuse_stdout(write: str, *, ring: bool) -> None:
    """Raise UsageError for a capture that is to go to stdout and cannot."""
    if write == "-" and ring:
        raise UsageError("a ring of files cannot be stdout", hint="-w FILE")
    if write == "-" and sys.stdout.isatty():
        raise UsageError("a capture is no text for a terminal", hint="-w - | wireshark -k -i -")


def recorded(live: Live, wish: Wish) -> Summary:
    """Capture until a signal or a bound; return what came of it."""
    from netlab import recording

    stop = Stop()
    with stop.listening(), Progress("capture") as progress:

        def began(taps: Taps) -> None:
            said = f"{len(taps.interfaces)} devices of {len(taps.watched)} namespaces"
            if progress.live:
                progress(f"{said}, until ^C")
            else:
                complain(f"capture: {said}")

        def commenting(words: str) -> None:
            stop.interrupting = True
            progress("adding comments", words)

        return recording.record(live, wish, stopped=stop.asked, began=began, progress=commenting)


class Stop:
    """Whether a signal asked the capture to end.

    One that comes while comments are added, or `PATIENCE` after the first (a stream that nobody
    reads can be stuck), is a KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.interrupting = False
        self._asked = 0.0

    def asked(self) -> bool:
        return bool(self._asked)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of signals in the block instead of being ended by them."""
        before = {number: signal.getsignal(number) for number in ENDING}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN or number == signal.SIGINT:
                signal.signal(number, self._hear)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self.interrupting or (self._asked and now - self._asked > PATIENCE):
            raise KeyboardInterrupt
        self._asked = self._asked or now


def summary_lines(summary: Summary) -> list[str]:
    """Return what came of a capture: what there is, where, and what is missing from it."""
    packets = _counted(summary.packets, "packet")
    lines = [
        f"{packets} on {summary.interfaces} devices of {summary.namespaces} namespaces in "
        f"{summary.seconds:.1f} s, {summary.size / (1 << 20):.1f} MiB"
    ]
    if summary.paths:
        lines[0] += f": {', '.join(map(str, summary.paths))}"
    for name, lost in summary.lost.items():
        them = "it" if lost == 1 else "them"
        lines.append(f"lost: {_counted(lost, 'frame')} of {name}: there was no room for {them}")
    if summary.bare:
        lines.append(f"{_counted(summary.bare, 'packet')} without comments")
    return lines + [f"note: {note}" for note in summary.notes]


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
