"""A journey as JSON: a schema that other programs may rely on (docs/trace.md)."""

from __future__ import annotations

from typing import Any

from netlab.journeys import (
    Diagnosis,
    End,
    Envelope,
    Journey,
    NamedConnection,
    NextHop,
    Place,
    Rewrite,
    Rule,
    Seen,
    Step,
    Track,
)
from netlab.packets import Entry, Flow, Outer

VERSION = 1  # goes up when a field is renamed, removed or given another meaning


def document(journey: Journey) -> dict[str, Any]:
    """Return a journey as JSON's types."""
    return {
        "version": VERSION,
        "source": journey.source,
        "destination": journey.destination,
        "flow": _flow(journey.flow),
        "service": journey.service or None,
        "endpoint": journey.endpoint or None,
        "attached": journey.attached,
        "answered": journey.answered,
        "refused": journey.refused,
        "says": journey.says,
        "seconds": round(journey.seconds, 6),
        "packets": [_track(track) for track in journey.tracks],
        "conntrack": [{"place": _place(one.place), **_entry(one.entry)} for one in journey.entries],
        "ipvs": [{"place": _place(one.place), **_connection(one)} for one in journey.virtual],
        "lost": journey.lost,
        "notes": list(journey.notes),
    }


def _track(track: Track) -> dict[str, Any]:
    return {
        "name": track.name,
        "leg": track.leg.value,
        "flow": _flow(track.flow),
        "nanoseconds": track.nanoseconds,
        "sameAs": track.same_as if track.same_as >= 0 else None,
        "by": track.by or None,
        "steps": [step_document(step) for step in track.steps],
    }


def step_document(step: Step) -> dict[str, Any]:
    """Return one step: `step` says of which kind it is, `place` where it happened."""
    place = {"place": _place(step.place)}
    match step:
        case Seen():
            return {
                "step": "device",
                **place,
                "time": step.time,
                "device": step.device,
                "direction": step.direction.value,
                "flow": _flow(step.flow),
                "ttl": step.ttl,
                "length": step.length,
                "mtu": step.mtu or None,
                "sourceMac": step.source_mac,
                "destinationMac": step.destination_mac,
                "vxlan": _outer(step.outer) if step.outer else None,
                "icmp": step.icmp or None,
                "foreign": step.foreign,
            }
        case Rule():
            hit = step.hit
            return {
                "step": "rule",
                **place,
                "hook": hit.hook,
                "family": hit.family,
                "table": hit.table,
                "base": hit.base,
                "chain": hit.chain,
                "rule": hit.rule,
                "verdict": hit.verdict,
                "fitted": step.fitted,
                "means": step.means,
                "mark": hit.mark,
                "state": hit.state,
                "flow": _flow(hit.flow),
                "incoming": hit.incoming,
                "outgoing": hit.outgoing,
            }
        case Rewrite():
            return {
                "step": "rewrite",
                **place,
                "kind": step.kind.value,
                "before": _flow(step.before),
                "after": _flow(step.after),
                "conntrack": step.conntrack or None,
                "means": step.means,
                "by": step.by or None,
            }
        case NextHop():
            return {
                "step": "next-hop",
                **place,
                "by": step.by,
                "device": step.device,
                "gateway": step.gateway or None,
                "mac": step.mac or None,
                "tunnel": step.tunnel or None,
                "words": step.words,
            }
        case Envelope():
            return {
                "step": "envelope",
                **place,
                "device": step.device,
                "opened": step.opened,
                "vxlan": _outer(step.outer),
            }
        case End():
            return {"step": "end", **place, "fate": step.fate.value, "words": step.words}


def _place(place: Place) -> dict[str, Any]:
    return {
        "netns": place.netns,
        "kind": place.kind,
        "name": place.name,
        "node": place.node or None,
    }


def _flow(flow: Flow) -> dict[str, Any]:
    return {
        "protocol": flow.protocol.value,
        "source": flow.source,
        "sourcePort": flow.source_port,
        "destination": flow.destination,
        "destinationPort": flow.destination_port,
    }


def _outer(outer: Outer) -> dict[str, Any]:
    return {
        "source": outer.source,
        "sourcePort": outer.source_port,
        "destination": outer.destination,
        "destinationPort": outer.destination_port,
        "vni": outer.number,
        "ttl": outer.ttl,
    }


def _connection(one: NamedConnection) -> dict[str, Any]:
    of = one.connection
    return {
        "virtualServer": of.server,
        "scheduler": of.scheduler,
        "realServer": of.real,
        "client": f"{of.flow.source}:{of.flow.source_port}",
        "state": of.state,
        "timeout": of.timeout,
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "original": _flow(entry.original),
        "reply": _flow(entry.reply),
        "state": entry.state or None,
        "mark": entry.mark,
        "timeout": entry.timeout,
    }


def diagnosis_document(found: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as JSON's types: its causes, the likeliest first, and the journey."""
    return {
        "version": VERSION,
        "works": found.works,
        "seconds": round(found.seconds, 6),
        "causes": [
            {
                "kind": cause.kind.value,
                "place": _place(cause.place),
                "what": cause.what,
                "proof": list(cause.proof),
                "repair": list(cause.repair),
            }
            for cause in found.causes
        ],
        "trace": document(found.journey),
    }
