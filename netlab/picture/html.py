"""A journey as one page that plays it: the picture, the packet moving in it, every step in words.

1. One file that loads nothing: no font, no script, no picture. Its own policy forbids it to, and
   lets no script run but the one it was made with, whatever a name holds.
2. The words are in the page itself; the script only chooses which to show, so that they can be
   read, searched and printed without it.
3. `#step=7` opens it at its seventh step.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files

from netlab.cluster import Cluster
from netlab.journeys import Journey, Track
from netlab.packets import Flow, Protocol
from netlab.picture.layout import Layout, layout
from netlab.picture.model import focused
from netlab.picture.paint import STYLE
from netlab.picture.steps import Packet, Sort, Step, duration, ends, steps
from netlab.picture.svg import drawing
from netlab.picture.text import plain
from netlab.telling.text import heading

SPEEDS = ((2400, "slow"), (1200, "normal"), (500, "fast"))  # milliseconds a step
PACKET = """\
<polyline id="way"/><polyline id="trail"/>
<g id="packet" hidden="">
<rect class="wrap" x="-15" y="-15" width="30" height="30" rx="7"/><circle r="9"/>
<path class="cross" d="M-10-10 10 10M10-10-10 10"/>
</g>"""


def page(journey: Journey, cluster: Cluster) -> str:
    """Return the page of *journey* through *cluster*, whole."""
    netns = {step.place.netns for track in journey.tracks for step in track.steps}
    drawn = layout(
        focused(cluster, netns=netns, service=journey.service.partition(":")[0]), titled=False
    )
    told = steps(journey, drawn)
    script = _file("page.js")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{_e(title(journey))}</title>",
            f"<style>\n{STYLE}{_file('page.css')}</style>\n</head>\n<body>",
            *_header(journey),
            f'<section id="stage">{_stage(drawn, netns)}</section>',
            '<section id="now" aria-live="polite">',
            *(_panel(number, step, journey, len(told)) for number, step in enumerate(told)),
            "</section>",
            _keys(len(told)),
            *_list(journey, told),
            f'<script type="application/json" id="told">{_json(journey, told)}</script>',
            f"<script>{script}</script>",
            "</body>\n</html>\n",
        ]
    )


def title(journey: Journey) -> str:
    """Return `default/pair → default/web:http`."""
    return f"{journey.source} → {journey.service or journey.destination}"


def _file(name: str) -> str:
    return files("netlab.picture").joinpath(name).read_text(encoding="utf-8")


def _e(text: str) -> str:
    return escape(plain(text))


def _header(journey: Journey) -> Iterator[str]:
    _, *words = heading(journey)
    yield f"<header><h1>{_e(title(journey))} <small>{_e(str(journey.flow))}</small></h1>"
    outcome = [one for one in words if not one.startswith("note: ")]
    yield f"<p>{_e(' · '.join(outcome))}</p>"
    for note in words[len(outcome) :]:
        yield f"<p>{_e(note)}</p>"
    yield "</header>"


def _stage(drawn: Layout, netns: set[str]) -> str:
    quiet = {
        pods.netns for card in drawn.cards for pods, _ in card.chips if pods.netns not in netns
    }
    return drawing(drawn, quiet=quiet, inside=PACKET)


def _classes(step: Step, track: Track) -> str:
    return " ".join(filter(None, [step.sort, track.leg, step.fate or ""]))


def _panel(number: int, step: Step, journey: Journey, total: int) -> str:
    """Return what is said of one step: where, what, why, and the packet as it then is."""
    track = journey.tracks[step.track]
    when = f" · {duration(step.microseconds * 1000)} after it set out"
    where = f"<b>{_e(track.name)}</b>, {track.leg} · {_e(step.place)}"
    where += when if step.sort is Sort.DEVICE and step.microseconds >= 0 else ""
    facts = "".join(
        f"<div><dt>{_e(name)}</dt><dd>{_e(value)}</dd></div>" for name, value in step.facts
    )
    parts = [
        f'<article class="{_classes(step, track)}" data-step="{number + 1}">',
        f'<p class="where">step {number + 1} of {total} · {where}</p>',
        f"<div><h2>{_e(step.title)}</h2>",
        f'<p class="means">{_e(step.means)}</p>' if step.means else "",
        f"<pre>{_e(step.text)}</pre>" if step.text else "",
        f"<dl>{facts}</dl>" if facts else "",
        "</div>",
        _packet(step, track),
        "</article>",
    ]
    return "".join(parts)


def _packet(step: Step, track: Track) -> str:
    """Return the packet as nested boxes, what has just been rewritten beside what it was."""
    packet = step.packet
    name = _e(f"{packet.flow.protocol.upper()} {packet.icmp or track.name}")
    inner = (
        f'<div class="box"><span class="name">{name}</span> '
        f'<span class="small">{_e(_sizes(packet))}</span>'
        f'<span class="ends">{_ends(step.before, packet.flow)}</span></div>'
    )
    if packet.outer:
        outer = packet.outer
        way = Flow(
            outer.source, outer.destination, Protocol.UDP, outer.source_port, outer.destination_port
        )
        ttl = f", TTL {outer.ttl}" if outer.ttl else ""
        inner = (
            f'<div class="box outer"><span class="name">{outer.title}</span> '
            f'<span class="small">UDP{ttl}</span>'
            f'<span class="ends">{_ends(None, way)}</span>{inner}</div>'
        )
    return f'<figure class="packet">{inner}</figure>'


def _sizes(packet: Packet) -> str:
    words = [f"TTL {packet.ttl}"] if packet.ttl else []
    return ", ".join([*words, *([f"{packet.length} bytes"] if packet.length else [])])


def _ends(before: Flow | None, flow: Flow) -> str:
    """Return both ends of *flow*, an end that was another one *before* behind what it was."""
    return " → ".join(
        _e(is_) if is_ == was else f"<del>{_e(was)}</del> <ins>{_e(is_)}</ins>"
        for was, is_ in zip(ends(before or flow), ends(flow), strict=True)
    )


def _keys(total: int) -> str:
    speeds = "".join(
        f'<option value="{milliseconds}"{" selected" if word == "normal" else ""}>{word}</option>'
        for milliseconds, word in SPEEDS
    )
    return f"""\
<nav id="keys">
<button id="first" title="Home">|◀</button><button id="back" title="←">◀ back</button>
<button id="play" title="space">▶ play</button>
<button id="forward" title="→">step ▶</button><button id="last" title="End">▶|</button>
<input id="slider" type="range" min="1" max="{max(1, total)}" value="1" aria-label="step">
<span id="count"></span>
<select id="speed" aria-label="speed">{speeds}</select>
<span class="help">← → step · ↑ ↓ packet · space plays and pauses · Home, End</span>
</nav>"""


def _list(journey: Journey, told: Sequence[Step]) -> Iterator[str]:
    """Yield all steps as a list, packet by packet."""
    yield "<aside>"
    if not told:
        yield "<p>Nothing was seen of it.</p>"
    last = -1
    for number, step in enumerate(told):
        track = journey.tracks[step.track]
        if step.track != last:
            yield "</ol>" if last >= 0 else ""
            took = duration(track.nanoseconds)
            yield f'<h3 class="{track.leg}">{_e(track.name)} <span>{track.leg}, {took}</span></h3>'
            yield "<ol>"
            last = step.track
        yield (
            f'<li class="{_classes(step, track)}" data-step="{number + 1}">'
            f'<a href="#step={number + 1}"><span class="place">{_e(step.short)}</span>'
            f"<span>{_e(line(step))}</span></a></li>"
        )
    yield "</ol></aside>" if told else "</aside>"


def line(step: Step) -> str:
    """Return a step in one line: of a rule what it is for, of a rewrite what it put there."""
    if step.sort is Sort.RULE:
        return step.means or step.title
    if step.before is not None:
        pairs = zip(ends(step.before), ends(step.packet.flow), strict=True)
        changed = zip(("source", "destination"), pairs, strict=True)
        return ", ".join(f"{what} → {is_}" for what, (was, is_) in changed if was != is_)
    return f"{step.title} {step.means}".rstrip() if step.sort is Sort.END else step.title


def _json(journey: Journey, told: Sequence[Step]) -> str:
    """Return what the script needs, so that no text in it can end the element it is in."""
    facts = [
        {
            "track": step.track,
            "leg": journey.tracks[step.track].leg,
            "netns": plain(step.netns),
            "way": [[round(x, 1), round(y, 1)] for x, y in step.way],
            "wrapped": step.packet.outer is not None,
            "fate": step.fate or "",
        }
        for step in told
    ]
    text = json.dumps({"steps": facts}, separators=(",", ":"))
    for one in "<>&":
        text = text.replace(one, f"\\u{ord(one):04x}")
    return text
