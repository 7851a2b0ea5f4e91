"""A journey as a pcapng file: every packet on every device, with what led it there as comments."""

from __future__ import annotations

from collections.abc import Iterator

from netlab import pcapng
from netlab.journeys import End, Envelope, Journey, NextHop, Place, Rewrite, Rule, Seen, Step, Track
from netlab.packets import Direction
from netlab.telling import text

ETHERNET, INNER = 14, 64  # bytes before an IP packet, and before one in a VXLAN envelope


def capture(*journeys: Journey, application: str = "netlab trace") -> bytes:
    """Return the packets of journeys as a pcapng file, in order of time.

    A packet's first comment is which it is and which hop; the others tell what happened to it since
    the device before: rules, rewrites, envelopes; the last one, where it ended.
    """
    sightings = sorted(
        (
            (step, comments)
            for journey in journeys
            for track in journey.tracks
            for step, comments in _sightings(journey, track)
        ),
        key=lambda pair: pair[0].time,
    )
    interfaces: dict[str, int] = {}
    head, body = [pcapng.section(application=application)], []
    for step, comments in sightings:
        name = interface_name(step.place, step.device)
        if name not in interfaces:
            interfaces[name] = len(interfaces)
            head.append(pcapng.interface(name, description=f"{step.device} of {step.place}"))
        flags = pcapng.flags(outgoing=step.direction is Direction.OUT)
        body.append(
            pcapng.packet(
                *(interfaces[name], step.time, step.frame),
                length=max(len(step.frame), step.length + (INNER if step.outer else ETHERNET)),
                comments=comments,
                flags=flags,
            )
        )
    return b"".join([*head, *body])


def interface_name(place: Place, device: str) -> str:
    """Return what a capture calls a device: `node1/default/pair:eth0`, `node1:docker0`."""
    return f"{place.node}/{place.name}:{device}" if place.node else f"{place.name}:{device}"


def _sightings(journey: Journey, track: Track) -> Iterator[tuple[Seen, list[str]]]:
    number = 0
    words: list[str] = []
    waiting: tuple[Seen, list[str]] | None = None
    title = f"{journey.source} -> {journey.destination}"
    for step in text.shown(track.steps):
        if isinstance(step, Seen):
            if waiting is not None:
                yield waiting
            number += 1
            first = f"{title}: {track.name}, {track.leg}, hop {number}, {step.place}"
            waiting, words = (step, [first, *words]), []
        elif isinstance(step, End):
            if waiting is not None:
                waiting[1].extend([*words, f"{step.fate}: {step.words}"])
                words = []
        else:
            words.append(step_words(step))
    if waiting is not None:
        yield waiting


def step_words(step: Step) -> str:
    """Return a step between two devices in one line."""
    match step:
        case Rewrite():
            return text.rewrite_words(step)
        case Envelope():
            return text.envelope_words(step)
        case NextHop():
            return step.words
        case Rule():
            hit = step.hit
            means = f" => {step.means}" if step.means else ""
            return f"{hit.hook} {hit.table} {hit.chain}: {hit.rule or hit.verdict}{means}"
        case End():
            return f"{step.fate}: {step.words}"
    return f"{step.device} {step.direction}"
