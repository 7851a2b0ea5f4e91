"""What sent a packet on: the route, the neighbour and the forwarding entry that the kernel used.

The kernel tells of rules, not of routes. So it is asked, right after the packet, what it would do
with the same one: by the device it came in by, from its source, to its destination as rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from msgspec.structs import replace

from netlab import beyond
from netlab.errors import KernelError
from netlab.journeys import NextHop, Rule, Seen, Step, Track
from netlab.kernel import lookup
from netlab.kernel.links import Link
from netlab.kernel.netlink import NetlinkError
from netlab.kernel.netns import entered
from netlab.packets import Direction
from netlab.processes.commands import run

_BEHIND = ("forward", "postrouting")  # hooks that a packet comes to once it has its route


class Turn(NamedTuple):
    """A packet goes on within one namespace: from *before* (None: it was made here) to *after*."""

    before: Seen | None
    after: Seen
    at: int  # the number of the step it is to be told before
    mark: int = 0  # which the packet has when its way is chosen


def told(tracks: Sequence[Track], asked: Kernels | None = None) -> tuple[Track, ...]:
    """Return *tracks* with their next hops, but for those that went as an earlier one did.

    *asked*: whom to ask, where not all namespaces are on this machine.
    """
    kernels = asked or Kernels()
    return tuple(track if track.same_as >= 0 else _track(track, kernels) for track in tracks)


def _track(track: Track, asked: Kernels) -> Track:
    found: list[tuple[int, NextHop]] = []
    for turn in _turns(track.steps):
        hop = asked.next_hop(turn)
        if hop is not None:
            found.append((turn.at, hop))
    steps = list(track.steps)
    for at, hop in reversed(found):
        steps.insert(at, hop)
    return replace(track, steps=tuple(steps))


def _turns(steps: Sequence[Step]) -> Iterator[Turn]:
    """Yield where a namespace sent the packet on, by a route or over a bridge."""
    before: Seen | None = None
    since = 0
    for number, step in enumerate(steps):
        if not isinstance(step, Seen):
            continue
        same = before is not None and before.place == step.place
        made_here = before is None or (not same and step.direction is Direction.OUT)
        went_on = same and before is not None and before.direction is Direction.IN
        if step.direction is Direction.OUT and (made_here or went_on):
            rules = [(at, one) for at in range(since, number) if isinstance(one := steps[at], Rule)]
            behind = (at for at, one in rules if one.hit.hook in _BEHIND)
            marks = (one.hit.mark for _, one in reversed(rules) if one.hit.hook not in _BEHIND)
            at, mark = next(behind, number), next(marks, 0)
            yield Turn(before if went_on else None, step, at, mark)
        before, since = step, number + 1


class Kernels:
    """The kernel's answers; the links of each namespace are listed once."""

    def __init__(self) -> None:
        self._links: dict[str, dict[str, Link]] = {}

    def next_hop(self, turn: Turn) -> NextHop | None:
        """Return what sent a packet on; None where the kernel does not say."""
        netns = turn.after.place.netns
        if turn.after.device == "lo":
            return None
        try:
            with entered(netns):
                if netns not in self._links:
                    self._links[netns] = lookup.interfaces()
                return _next_hop(turn, self._links[netns])
        except (KernelError, NetlinkError, KeyError):
            return None  # the namespace or the device is gone meanwhile


def _next_hop(turn: Turn, links: dict[str, Link]) -> NextHop | None:
    after = turn.after
    if beyond.BALANCED in links and (handed := _handed_on(turn)) is not None:
        return handed
    arriving = _arriving(turn, links)
    if arriving is None:
        return _switched(after, links)
    wrapped = after.outer
    to = wrapped.destination if wrapped else after.flow.destination
    source = turn.before.flow.source if turn.before and not wrapped else ""
    source = source if arriving else ""
    mark = 0 if wrapped else turn.mark
    way = lookup.route(to, source=source, arriving=arriving, mark=mark)
    device = next((name for name, one in links.items() if one.ifindex == way.device), "")
    if way.refused or way.kind != "unicast" or not device:
        return None
    via = f" via {way.gateway}" if way.gateway else ""
    marked = mark and way != lookup.route(to, source=source, arriving=arriving)
    parts = [f"route {way.prefix}{via} dev {device}" + (f", by mark {mark:#x}" if marked else "")]
    hop = way.gateway or to
    known = {one.address: one for one in lookup.neighbours(way.device)}
    mac = known[hop].mac if hop in known else ""
    if mac:
        fixed = " permanent" if known[hop].state == "permanent" else ""
        parts.append(f"neighbour {hop} lladdr {mac}{fixed}")
    tunnel = ""
    if links[device].kind == "vxlan":
        entries = {one.mac: one.destination for one in lookup.forwarding(way.device)}
        tunnel = entries.get(mac, "")
        parts += [f"FDB {mac} dst {tunnel}"] if tunnel else []
    return NextHop(after.place, "route", device, "; ".join(parts), way.gateway, mac, tunnel)


def _arriving(turn: Turn, links: dict[str, Link]) -> int | None:
    """Return the index of the device that IP got the packet from, 0 when it was made here; None
    when IP did not get it: a bridge switched it."""
    before = turn.before
    if before is None:
        return 0
    link = links[before.device]
    if link.master:
        link = next((one for one in links.values() if one.ifindex == link.master), link)
    # A tun device has no MAC, and gives all that comes to IP.
    return link.ifindex if not link.mac or before.frame[:6].hex(":") == link.mac else None


def _handed_on(turn: Turn) -> NextHop | None:
    """Return the rule that handed a packet on before IP got it: it names the MAC it came to, or
    the prefix that it is from, and the device."""
    before, after = turn.before, turn.after
    if before is None:
        return None
    named = ("nft", "list", "table", beyond.FAMILY, beyond.TABLE)
    chain = ""
    for line in map(str.strip, run(named, check=False).stdout.splitlines()):
        if line.startswith("type filter hook ingress device "):
            chain = line.split('"')[1]
        if chain == before.device and f'device "{after.device}"' in line:
            words = line.split()
            to = before.frame[:6].hex(":") in words
            since = "saddr" in words and IPv4Address(before.flow.source) in IPv4Network(
                words[words.index("saddr") + 1]
            )
            if to or since:
                rule = f"table {beyond.FAMILY} {beyond.TABLE}: {line.partition(' comment')[0]}"
                return NextHop(after.place, "rule", after.device, rule)
    return None


def _switched(after: Seen, links: dict[str, Link]) -> NextHop | None:
    link = links[after.device]
    bridge = next((one for one in links.values() if one.ifindex == link.master), None)
    if bridge is None:
        return None
    mac = after.frame[:6].hex(":")
    words = f"bridge {bridge.name}: {mac} is behind port {after.device}"
    return NextHop(after.place, "bridge", after.device, words, mac=mac)
