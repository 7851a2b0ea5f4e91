"""A verification of a lab of several machines: each proves what begins on it, and one verdict is
told of each path.

All machines prove at once, each with the sensors of all; thousands of packets (`ALONE`) come before
anybody's sensors. What changes the lab is done once: by this machine, or by the first that has what
it takes. What begins outside is proven by the machine that has the gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec
from msgspec.structs import replace

from netlab import beyond
from netlab.agent import readings
from netlab.agent.answering import VERIFIED_WITHIN
from netlab.errors import NetlabError
from netlab.packets import Outcome, Verdict
from netlab.store.mailbox import Correspondent
from netlab.verify.across import ANSWER, asking
from netlab.verify.catalogue import Path
from netlab.verify.context import Live
from netlab.verify.losing import BACK, CUT
from netlab.verify.manifold import VARIANTS, in_variants
from netlab.verify.part import ALONE, EACH, ONCE, OUTSIDE, proven_here


def verify(live: Live, paths: Sequence[Path], done: Callable[[Verdict], None]) -> None:
    """Prove *paths* on all machines; *done* is called with each verdict.

    Raises NetlabError when a machine does not answer.
    """
    ids = [path.id for path in paths]
    titles = {path.id: path.title for path in paths}
    each = [one for one in EACH if one in ids]
    outside = [one for one in OUTSIDE if one in ids]
    left = [one for one in ONCE if one in ids]
    found: dict[str, dict[str, Verdict]] = {one: {} for one in (*each, *outside, *left)}
    assert live.place is not None
    here = live.place.node
    names = [node.name for node in live.lab.running]
    with asking(live, [name for name in names if name != here]) as others:
        _called(list(others.values()))
        cut = live.lab.nodeLifecycle.gracePeriodSeconds + CUT + BACK
        there = partial(_proven_there, outlasting=cut)

        def proven_on(node: str, wanted: Sequence[str]) -> list[Verdict]:
            if not wanted:
                return []
            return proven_here(live, wanted) if node == here else there(others[node], wanted)

        def note(node: str, said: Sequence[Verdict]) -> None:
            for verdict in said:
                found[verdict.path][node] = verdict

        home = beyond.outside_home(live.lab)

        def prove_on_all(wanted: Sequence[str]) -> None:
            for now in (
                [one for one in wanted if one in ALONE],
                [one for one in wanted if one not in ALONE],
            ):
                begins = [one for one in now if one not in OUTSIDE]
                parts = [now if home and home.name == node else begins for node in names]
                with ThreadPoolExecutor(len(names)) as pool:
                    for node, said in zip(names, pool.map(proven_on, names, parts), strict=True):
                        note(node, said)

        prove_on_all([*each, *outside])
        for one in (*each, *outside):
            done(together(found[one]))
        for node in sorted(names, key=lambda name: name != here):
            note(node, proven_on(node, left))
            left = [one for one in left if found[one][node].outcome is Outcome.SKIP]
        for one in ONCE:
            if one in found:
                done(together(found[one]))

        def proven(wanted: Sequence[str]) -> list[Verdict]:
            for one in wanted:
                found[one] = {}
            prove_on_all([one for one in (*EACH, *OUTSIDE) if one in wanted])
            return [together(found[one]) for one in wanted]

        for one in VARIANTS:
            if one in ids:
                varied = VARIANTS[one](live, lambda mode, name: _lacking(live, others, mode, name))
                verdict = in_variants(varied, frozenset(ids), proven)
                done(replace(verdict, path=one, title=titles[one]))


def _called(machines: Sequence[Correspondent]) -> None:
    """Have all *machines* answer, before any is given minutes. Raises NetlabError."""
    with ThreadPoolExecutor(max(1, len(machines))) as pool:
        for _ in pool.map(lambda one: one.ask({"do": "place"}, timeout=ANSWER), machines):
            pass


def _lacking(live: Live, others: Mapping[str, Correspondent], mode: str, backend: str) -> str:
    """Return which machine cannot have a proxy *mode* or *backend*, and why; "" when all can."""
    words = {"mode": mode, "backend": backend}
    if why := readings.lacking(**words):
        return why
    for node, one in others.items():
        asked = {"do": "read", "netns": live.lab.netns(node), "what": "lacking", "words": words}
        if why := one.ask(asked, timeout=ANSWER)["read"]:
            return f"{node}: {why}"
    return ""


def _proven_there(node: Correspondent, paths: Sequence[str], *, outlasting: float) -> list[Verdict]:
    """*outlasting*: seconds that this machine may be cut off meanwhile, by a check."""
    try:
        answer = node.ask(
            {"do": "verify", "paths": list(paths)}, timeout=VERIFIED_WITHIN, outlasting=outlasting
        )
    except NetlabError as error:
        words = (f"{node.node} could not prove it: {error}",)
        return [Verdict(path, Outcome.FAIL, "", words, f"{node.node}'s agent") for path in paths]
    return msgspec.convert(answer["verdicts"], list[Verdict])


def together(by_node: dict[str, Verdict]) -> Verdict:
    """Return one verdict on a path from what the machines found: it fails if it failed on one, and
    is skipped if it was skipped on all."""
    for outcome in (Outcome.FAIL, Outcome.PASS, Outcome.SKIP):
        telling = {node: one for node, one in by_node.items() if one.outcome is outcome}
        if telling:
            break
    first = next(iter(telling.values()))
    shown = telling if outcome is Outcome.FAIL else by_node
    if outcome is Outcome.PASS:
        first = replace(first, passages=tuple(p for one in telling.values() for p in one.passages))
    evidence = [f"{node}: {line}" for node, one in shown.items() for line in one.evidence]
    title = next((one.title for one in by_node.values() if one.title), "")
    seconds = sum(one.seconds for one in by_node.values())
    return replace(first, title=title, evidence=tuple(evidence), seconds=seconds)
