"""One rule of a policy as matches of nft, and the sets these look into.

Written in the form in which nft lists them, so that what is there compares with what is wanted.
A name of a port means another number in each destination pod: there addresses, protocols and
numbers are looked up together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from netlab.model.policies import Direction, IPBlock, Peer, PolicyPort
from netlab.policy.decision import is_within
from netlab.policy.facts import PodFact
from netlab.policy.naming import TABLE, hashed, peers_comment, said
from netlab.policy.selection import Selection
from netlab.proxy.addresses import ANYWHERE, Family
from netlab.proxy.nftables_words import ADDRESS, IP, any_of, plain
from netlab.proxy.ruleset import Block, Sort

VERSION = {Family.IPV4: 4, Family.IPV6: 6}


class Matches(NamedTuple):
    """The lines of one rule, each of which allows, and the sets they look into."""

    lines: tuple[str, ...]  # "": everything
    sets: tuple[Block, ...]


def matches(
    selection: Selection,
    namespace: str,
    direction: Direction,
    peers: Sequence[Peer],
    ports: Sequence[PolicyPort],
    isolated: Iterable[PodFact],
    family: Family,
) -> Matches:
    """Return what one rule of a policy of *namespace* allows, whose pods here are *isolated*.

    All pods are known by their addresses of *family*.
    """
    side = "saddr" if direction is Direction.INGRESS else "daddr"
    sets: list[Block] = []
    who = list(_peers(selection, namespace, side, peers, sets, family)) if peers else [""]
    where = numbered(ports) if ports else [""]
    lines = [f"{one} {port}".strip() for one in who for port in where]
    named = [port for port in ports if isinstance(port.port, str)]
    at = f"{IP[family]} daddr . meta l4proto . th dport"
    if named and direction is Direction.INGRESS:
        sets.append(_named(named, isolated, family))
        lines += [f"{one} {at} @{sets[-1].name}".strip() for one in who]
    elif named:
        sets.append(_named(named, _destinations(selection, namespace, peers), family))
        lines.append(f"{at} @{sets[-1].name}")
    return Matches(tuple(dict.fromkeys(lines)), tuple(sets))


def _peers(
    selection: Selection,
    namespace: str,
    side: str,
    peers: Sequence[Peer],
    sets: list[Block],
    family: Family,
) -> Iterator[str]:
    """Yield the matches of *peers*: all pods in one set, and each block of addresses."""
    selectors = [peer for peer in peers if peer.ipBlock is None]
    if selectors:
        found = {pod.address for pod in selection.peers(namespace, selectors)}
        words = peers_comment(namespace, selectors)
        name = f"pods-{hashed(namespace, selectors)}"
        sets.append(_set(family, name, ADDRESS[family], words, sorted(found)))
        yield f"{IP[family]} {side} @{name}"
    for block in (peer.ipBlock for peer in peers if peer.ipBlock):
        if block.network.version == VERSION[family]:  # no packet here is in another
            yield _block(f"{IP[family]} {side}", block)


def _block(side: str, block: IPBlock) -> str:
    cidr = str(block.network)
    words = "" if cidr in ANYWHERE.values() else f"{side} {plain(cidr)}"
    if block.exceptions:
        words += f" {side} != {any_of(map(str, block.exceptions))}"
    return words.strip()


def numbered(ports: Iterable[PolicyPort]) -> list[str]:
    """Return the matches of those *ports* that are no names, protocol by protocol."""
    lines: list[str] = []
    mine = [port for port in ports if not isinstance(port.port, str)]
    for protocol in dict.fromkeys(port.protocol for port in mine):
        word = protocol.lower()
        of = [port for port in mine if port.protocol == protocol]
        if any(port.port is None for port in of):
            lines.append(f"meta l4proto {word}")
            continue
        spans = _joined((int(port.port or 0), port.endPort or int(port.port or 0)) for port in of)
        single = [str(first) for first, last in spans if first == last]
        if single:
            numbers = single[0] if len(single) == 1 else f"{{ {', '.join(single)} }}"
            lines.append(f"{word} dport {numbers}")
        lines += [f"{word} dport {first}-{last}" for first, last in spans if first != last]
    return lines


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return *spans* in order, those that overlap as one."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def _destinations(selection: Selection, namespace: str, peers: Sequence[Peer]) -> Iterable[PodFact]:
    """Return the pods that packets to *peers* may be for; all, where there are none."""
    if not peers:
        return selection.all
    blocks = [peer.ipBlock for peer in peers if peer.ipBlock]
    within = (pod for pod in selection.all if any(is_within(b, pod.address) for b in blocks))
    return [*selection.peers(namespace, peers), *(within if blocks else ())]


def _named(ports: Sequence[PolicyPort], pods: Iterable[PodFact], family: Family) -> Block:
    """Return the set of where the names of *ports* lead to in *pods*.

    It is called after what is in it: two policies with the same names need not mean the same pods.
    """
    found = {
        f"{pod.address} . {port.protocol.lower()} . {number}"
        for pod in pods
        for port in ports
        for number in pod.numbers(str(port.port), port.protocol)
    }
    elements = sorted(found)
    words = said("ports called " + ", ".join(dict.fromkeys(str(port.port) for port in ports)))
    name = f"ports-{hashed(words, elements)}"
    kind = f"{ADDRESS[family]} . inet_proto . inet_service"
    return _set(family, name, kind, words, elements)


def _set(family: Family, name: str, kind: str, words: str, elements: Sequence[str]) -> Block:
    return Block(family, Sort.SET, TABLE, name, (f"type {kind}", words), tuple(elements))
