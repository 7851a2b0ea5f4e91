"""A journey as a pcapng file: every packet on every device, with what led it there as comments."""

from __future__ import annotations

from collections.abc import Iterator

from netlab import pcapng
from netlab.journeys import End, Envelope, Journey, NextHop, Place, Rewrite, Rule, Seen, Step, Track
from netlab.packets import BARE, Direction
from netlab.telling import text

ETHERNET, IPV4_TYPE = 14, b"\x08\0"  # bytes before an IP packet, and the last of them
INNER, BARE_INNER = 64, 42  # before one in a VXLAN envelope; bare in a datagram


def before_ip(seen: Seen) -> int:
    """Return the bytes of a sighting's frame before its (inner) IP packet: 0 on a tun device."""
    if seen.outer is not None:
        return BARE_INNER if seen.outer.vni == BARE else INNER
    typed = seen.frame[ETHERNET - 2 : ETHERNET] == IPV4_TYPE
    return ETHERNET if typed or seen.destination_mac else 0


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
            link = pcapng.ETHERNET if before_ip(step) else pcapng.RAW_IP
            described = f"{step.device} of {step.place}"
            head.append(pcapng.interface(name, description=described, link=link))
        flags = pcapng.flags(outgoing=step.direction is Direction.OUT)
        body.append(
            pcapng.packet(
                *(interfaces[name], step.time, step.frame),
                length=max(len(step.frame), step.length + before_ip(step)),
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
