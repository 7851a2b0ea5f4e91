"""A lab of several machines in every proxy mode, and by every back end: proven by all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from netlab.errors import NetlabError
from netlab.model import backends as titles
from netlab.model.modes import PROXY_MODES
from netlab.packets import Outcome, Verdict
from netlab.verify import backends, proxymodes
from netlab.verify.context import Failure, Live
from netlab.verify.part import EACH, OUTSIDE

BEGINNING = {**EACH, **OUTSIDE}  # paths that do not change the lab themselves
Lacking = Callable[[str, str], str]  # of a mode and a back end: why the machines cannot have it
Proven = Callable[[Sequence[str]], list[Verdict]]  # by all machines


class Variants(NamedTuple):
    """What a lab can be changed to: *lacking* says why not, *become* does it, as its *own* undoes.

    *paths*: what is proven in each.
    """

    own: str
    names: Collection[str]
    paths: Sequence[str]
    lacking: Callable[[str], str]
    become: Callable[[str], None]


def of_modes(live: Live, lacking: Lacking) -> Variants:
    def become(mode: str) -> None:
        proxymodes.changed(live, mode, proxymodes.balancer(live, mode))

    paths = list(proxymodes.PATHS)
    return Variants(live.lab.proxyMode, PROXY_MODES, paths, lambda it: lacking(it, ""), become)


def of_backends(live: Live, lacking: Lacking) -> Variants:
    own = live.lab.network.Backend
    return Variants(
        titles.title(own),
        titles.BACKENDS,
        [*backends.CHECKS, *backends.CROWDED],
        lambda it: titles.unfit(live.lab, it) or lacking("", it),
        lambda it: backends.changed(live, it, own),
    )


VARIANTS: dict[str, Callable[[Live, Lacking], Variants]] = {
    "proxy-modes": of_modes,
    "backends": of_backends,
}


def in_variants(variants: Variants, asked: Collection[str], proven: Proven) -> Verdict:
    """Return one verdict on all of *variants*, the lab's own first; those of *asked* are proven in
    the lab's own already. The lab is its own again afterwards."""
    began, lines, last, now = time.monotonic(), [], [], variants.own
    try:
        for name in sorted(variants.names, key=lambda one: one != variants.own):
            if why := variants.lacking(name):
                last.append(f"{name}: not tried: {why}")
                continue
            known = [one for one in variants.paths if one in BEGINNING]
            beside = [one for one in known if name == variants.own and one in asked]
            if beside:
                last.append(f"{name}, the lab's own: {', '.join(beside)} above")
            if name != now:
                now = name
                variants.become(name)
            for one in proven([one for one in known if one not in beside]):
                line = f"{name}: {one.path}: {next(iter(one.evidence), '')}"
                if one.outcome is Outcome.FAIL:
                    failed = Verdict("", one.outcome, "", (line, *one.evidence[1:]))
                    return _timed(failed, began, one.last_seen, one.expected_next)
                if one.outcome is Outcome.PASS:
                    lines.append(line)
    except Failure as failure:
        found = Verdict("", Outcome.FAIL, "", failure.evidence)
        return _timed(found, began, failure.last_seen, failure.expected_next)
    except NetlabError as error:
        return _timed(Verdict("", Outcome.FAIL, "", (f"{now}: {error}",)), began)
    finally:
        if now != variants.own:
            variants.become(variants.own)
    return _timed(Verdict("", Outcome.PASS, "", (*lines, *last)), began)


def _timed(verdict: Verdict, began: float, last_seen: str = "", expected: str = "") -> Verdict:
    seconds = time.monotonic() - began
    return replace(verdict, last_seen=last_seen, expected_next=expected, seconds=seconds)
