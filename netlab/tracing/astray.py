"""What led a packet astray: MACs of others, rewrites by others, rules without a trace.

All of it is somebody else's doing, so nothing of netlab's own differs from what it should be.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator

from netlab.journeys import Cause, Journey, Kind, Place, Rewrite, RewriteKind, Rule, Seen
from netlab.kernel import lookup
from netlab.kernel.netns import entered, exists
from netlab.packets import Direction, Leg
from netlab.processes import run
from netlab.telling.naming import Names
from netlab.tracing.state import target
from netlab.tracing.stops import Stop

_OURS = ("KUBE-", "FLANNEL-")
_CHAIN = re.compile(r"^table netdev (?P<table>\S+) \{|^\tchain (?P<chain>\S+) \{", re.MULTILINE)
_RULE = re.compile(r"^\t\t(?P<rule>.*\bdrop\b.*?)(?: # handle (?P<handle>\d+))?$", re.MULTILINE)


def wrong_mac(names: Names, stop: Stop) -> Iterator[Cause]:
    """Yield that a packet was sent to a MAC which the machine that it is for has not."""
    last = stop.last
    if last is None or last.outer is not None:
        return
    seen = [step for step in stop.track.steps if isinstance(step, Seen)]
    same = itertools.takewhile(
        lambda one: one.destination_mac == last.destination_mac and not one.outer, reversed(seen)
    )
    first = [*same][-1]
    if first.direction is not Direction.OUT or not exists(first.place.netns):
        return
    for address, device in _known_as(first.place, last.destination_mac):
        home = names.home(address)
        if home and home != first.place.netns and last.destination_mac not in _macs(home):
            who = names.who(address)
            yield Cause(
                Kind.NEIGHBOUR,
                first.place,
                f"{first.place} sends what is for {address} ({who}) to MAC "
                f"{last.destination_mac}, which {who} has not",
                (f"ip neigh: {address} dev {device} lladdr {last.destination_mac}",),
                (f"ip -n {first.place.netns} neigh del {address} dev {device}",
                 f"does another answer ARP for {address}? netlab capture, with -f arp"),
            )  # fmt: skip


def _known_as(place: Place, mac: str) -> list[tuple[str, str]]:
    """Return the addresses that have a MAC in the view of a place, each with the device."""
    with entered(place.netns):
        return [
            (one.address, device)
            for device, link in lookup.interfaces().items()
            for one in lookup.neighbours(link.ifindex)
            if one.mac == mac
        ]


def _macs(netns: str) -> set[str]:
    if not exists(netns):
        return set()
    with entered(netns):
        return {link.mac for link in lookup.interfaces().values()}


def rewrites(journey: Journey) -> tuple[str, ...]:
    """Return, as proof, what rules that are not netlab's made of the request's addresses."""
    found: list[str] = []
    for track in journey.tracks[:1]:
        rule: Rule | None = None
        for step in track.steps if track.leg is Leg.REQUEST else ():
            if isinstance(step, Rule) and step.fitted:
                rule = step
            elif isinstance(step, Rewrite) and rule is not None and not _is_ours(rule):
                before, after = step.before, step.after
                if step.kind is RewriteKind.DNAT:
                    ends = "destination", f"{before.destination}:{before.destination_port}", (
                        f"{after.destination}:{after.destination_port}"
                    )  # fmt: skip
                else:
                    ends = "source", before.source, after.source
                found.append(
                    f"{step.place} rewrote its {ends[0]}, {ends[1]} => {ends[2]}: "
                    f"{rule.hit.table} {rule.hit.chain}: {rule.hit.rule}"
                )
    return tuple(found)


def _is_ours(rule: Rule) -> bool:
    return rule.hit.table == "kube-proxy" or rule.hit.chain.startswith(_OURS)


def untraced(stop: Stop | None, dropped: tuple[str, ...]) -> Iterator[Cause]:
    """Yield the dropping rules of netdev tables, where the kernel says that a rule dropped it:
    ingress comes before anything can set a trace. Source: net/netfilter/nft_chain_filter.c."""
    if stop is None or not any("NETFILTER_DROP" in one for one in dropped):
        return
    if not exists(stop.place.netns):
        return
    with entered(stop.place.netns):
        listed = run(("nft", "-a", "-s", "-t", "list", "ruleset", "netdev"), check=False).stdout
    rules = dropping(listed)
    if not rules:
        return
    which = "a rule" if len(rules) == 1 else f"one of {len(rules)} rules"
    words = "; ".join(f"{table} {chain}: {rule}" for table, chain, rule, _ in rules[:3])
    run_there = f"netlab exec {target(stop)}"
    yield Cause(
        Kind.RULE,
        stop.place,
        f"{which} of a netdev table drops it, which the kernel does not trace: {words}",
        (f"{stop.where}, and nowhere after it",),
        tuple(f"{run_there} -- nft {_undone(*one)}" for one in rules[:3]),
    )


def _undone(table: str, chain: str, rule: str, handle: str) -> str:
    """Return the words of nft that undo one of `dropping`."""
    if handle:
        return f"delete rule netdev {shlex.join((table, chain))} handle {handle}"
    return shlex.quote(f"chain netdev {table} {chain} {{ policy accept; }}")


def dropping(listed: str) -> list[tuple[str, str, str, str]]:
    """Return (table, chain, rule, handle) of what drops in a listing of `nft -a`; a policy's line
    has no handle."""
    found: list[tuple[str, str, str, str]] = []
    table = chain = ""
    for line in listed.splitlines():
        if head := _CHAIN.match(line):
            table, chain = head["table"] or table, head["chain"] or chain
        elif rule := _RULE.match(line):
            found.append((table, chain, rule["rule"], rule["handle"] or ""))
    return found
