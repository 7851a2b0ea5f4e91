"""Verdicts as JSON and as JUnit's XML; docs/verify.md documents both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from netlab.packets import Flow, Outcome, Passage, Verdict

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from netlab.verify.matrix import Column

_OPTIONS = {"mode": "--proxy-mode", "backend": "--backend"}
_WORDS = {"mode": "in {} mode", "backend": "by {}"}
VERSION = 1  # of the JSON schema; fields may be added, none is renamed or removed within it


def as_json(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Return the verdicts as JSON's own types."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    return {
        "version": VERSION,
        "passed": counts[Outcome.PASS],
        "failed": counts[Outcome.FAIL],
        "skipped": counts[Outcome.SKIP],
        "seconds": round(sum(verdict.seconds for verdict in verdicts), 4),
        "paths": [_verdict(verdict) for verdict in verdicts],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    began = min((p.sighting.time for p in verdict.passages if p.sighting), default=0)
    return {
        "path": verdict.path,
        "title": verdict.title,
        "outcome": verdict.outcome.value,
        "seconds": round(verdict.seconds, 4),
        "evidence": list(verdict.evidence),
        "lastSeen": verdict.last_seen,
        "expectedNext": verdict.expected_next,
        "flow": _flow(verdict.flow) if verdict.flow else None,
        "hops": [_hop(passage, began) for passage in verdict.passages],
    }


def _flow(flow: Flow) -> dict[str, Any]:
    return {
        "protocol": flow.protocol.value,
        "source": flow.source,
        "sourcePort": flow.source_port,
        "destination": flow.destination,
        "destinationPort": flow.destination_port,
    }


def _hop(passage: Passage, began: int) -> dict[str, Any]:
    hop, sighting = passage.hop, passage.sighting
    expected: dict[str, Any] = {
        "source": hop.source,
        "sourcePort": hop.source_port,
        "destination": hop.destination,
        "destinationPort": hop.destination_port,
        "ttl": hop.ttl,
        "vxlan": None,
    }
    if hop.outer:
        expected["vxlan"] = {
            "source": hop.outer.source,
            "destination": hop.outer.destination,
            "vni": hop.outer.number,
        }
    return {
        "leg": passage.leg.value,
        "netns": hop.netns,
        "device": hop.device,
        "direction": hop.direction.value,
        "expected": expected,
        "seen": None if sighting is None else _sighting(passage, began),
        "problem": passage.problem,
        "why": hop.why,
    }


def _sighting(passage: Passage, began: int) -> dict[str, Any]:
    sighting = passage.sighting
    assert sighting is not None
    outer = sighting.outer
    return {
        "time": sighting.time,
        "microseconds": (sighting.time - began) / 1000,
        **_flow(sighting.flow),
        "ttl": sighting.ttl,
        "length": sighting.length,
        "sourceMac": sighting.source_mac,
        "destinationMac": sighting.destination_mac,
        "vxlan": None
        if outer is None
        else {
            "source": outer.source,
            "sourcePort": outer.source_port,
            "destination": outer.destination,
            "destinationPort": outer.destination_port,
            "vni": outer.number,
            "ttl": outer.ttl,
        },
    }


# What XML 1.0 has no way to write.
_UNPRINTABLE = {code: "\N{REPLACEMENT CHARACTER}" for code in range(32) if chr(code) not in "\t\n"}


def _printable(text: str) -> str:
    return text.translate(_UNPRINTABLE)


def columns_as_json(columns: Sequence[Column], kind: str = "mode") -> dict[str, Any]:
    """Return what was found in several proxy modes as JSON's own types, or by several variants of
    another *kind*: `backend`."""
    every = as_json([one for column in columns for one in column.verdicts])
    return {
        **{key: value for key, value in every.items() if key != "paths"},
        f"{kind}s": [
            {kind: one.name, "lacking": one.lacking, **as_json(one.verdicts)} for one in columns
        ],
    }


def as_junit(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a JUnit report, one test case per path."""
    return _printed(_suite(verdicts, "netlab verify"))


def columns_as_junit(columns: Sequence[Column], kind: str = "mode") -> str:
    """Return a JUnit report with one test suite per proxy mode, or variant of another *kind*."""
    from xml.etree import ElementTree

    every = ElementTree.Element("testsuites", name=f"netlab verify {_OPTIONS[kind]}")
    for one in columns:
        suite = _suite(one.verdicts, f"netlab verify {_WORDS[kind].format(one.name)}")
        if one.lacking:
            case = ElementTree.SubElement(
                suite, "testcase", classname="netlab.verify", name=one.name, time="0"
            )
            ElementTree.SubElement(case, "skipped", message=_printable(one.lacking))
            suite.set("tests", "1")
            suite.set("skipped", "1")
        every.append(suite)
    return _printed(every)


def _printed(element: Element) -> str:
    from xml.etree import ElementTree

    ElementTree.indent(element)
    return ElementTree.tostring(element, encoding="unicode", xml_declaration=True) + "\n"


def _suite(verdicts: Sequence[Verdict], name: str) -> Element:
    from xml.etree import ElementTree

    counts = Counter(verdict.outcome for verdict in verdicts)
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(len(verdicts)),
        failures=str(counts[Outcome.FAIL]),
        errors="0",
        skipped=str(counts[Outcome.SKIP]),
        time=f"{sum(verdict.seconds for verdict in verdicts):.3f}",
    )
    for verdict in verdicts:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname="netlab.verify",
            name=verdict.path,
            time=f"{verdict.seconds:.3f}",
        )
        words = _printable("\n".join(verdict.evidence))
        if verdict.outcome is Outcome.FAIL:
            message = words.partition("\n")[0] or verdict.title
            failure = ElementTree.SubElement(case, "failure", message=message)
            failure.text = (
                f"{words}\nlast seen: {verdict.last_seen or '-'}"
                f"\nexpected next: {verdict.expected_next or '-'}"
            )
        elif verdict.outcome is Outcome.SKIP:
            ElementTree.SubElement(case, "skipped", message=words)
        else:
            ElementTree.SubElement(case, "system-out").text = words
    return suite
