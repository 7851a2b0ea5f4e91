"""A check made: what it found as a verdict, with what else is to be known of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from netlab.errors import NetlabError
from netlab.model.faults import told
from netlab.packets import Outcome, Verdict
from netlab.sensors import insides
from netlab.verify.catalogue import Path
from netlab.verify.context import Checked, Context, Failure, Refuted, Skip
from netlab.verify.explaining import explained

Check = Callable[[Context], Checked]
ROOM = "net.ipv4.neigh.default.gc_thresh3 of the machine, for all namespaces together"


def verdict_of(path: Path, check: Check, context: Context, *, again: bool = False) -> Verdict:
    """Return what *check* found, with the time it took.

    *again*: it follows packets, and if it failed while the sensors lost frames that proves nothing:
    it is made once more, and if it fails again the loss is told.
    """
    began, overflows, lost = time.monotonic(), insides.arp_overflows(), context.capture.lost
    verdict = _found(path, check, context)
    if verdict.outcome is Outcome.FAIL and again and context.capture.lost > lost:
        lost = context.capture.lost
        verdict = _found(path, check, context)
    if verdict.outcome is Outcome.FAIL:
        overflows = insides.arp_overflows() - overflows
        lost = context.capture.lost - lost
        more = [f"on purpose: {told(one)}" for one in context.cluster.lab.faults if one.breaks]
        if overflows:
            more += [f"meanwhile the kernel's neighbour table was full {overflows} times ({ROOM})"]
        if lost:
            more += [f"meanwhile the sensors lost {lost} frames: this may be one of them"]
        verdict = msgspec.structs.replace(verdict, evidence=(*verdict.evidence, *more))
    return msgspec.structs.replace(verdict, seconds=time.monotonic() - began)


def _found(path: Path, check: Check, context: Context) -> Verdict:
    try:
        checked = check(context)
        return Verdict(
            path.id,
            Outcome.PASS,
            path.title,
            tuple(checked.evidence),
            passages=checked.passages,
        )
    except Skip as skip:
        return Verdict(path.id, Outcome.SKIP, path.title, (str(skip),))
    except Refuted as refuted:
        return _refuted(path, refuted.verdict, explained(context, refuted.verdict))
    except Failure as failure:
        return Verdict(
            path.id,
            Outcome.FAIL,
            path.title,
            failure.evidence,
            failure.last_seen,
            failure.expected_next,
        )
    except (NetlabError, OSError, LookupError) as error:
        words = f"cannot be checked: {error}"
    except Exception as error:  # a defect of one check: what the others found is told all the same
        words = f"cannot be checked: {type(error).__name__}: {error}"
    return Verdict(path.id, Outcome.FAIL, path.title, (words,))


def _refuted(path: Path, verdict: Verdict, explanation: Sequence[str]) -> Verdict:
    evidence = (f"{verdict.flow}", *verdict.evidence, *explanation)
    return msgspec.structs.replace(verdict, path=path.id, title=path.title, evidence=evidence)
