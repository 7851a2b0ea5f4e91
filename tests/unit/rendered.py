"""What a renderer gives for objects, put together, and for all objects of the table of packets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import flow_cases
from msgspec.structs import replace

from netlab.proxy import Decision, Endpoint, Frontend, Kind, Mode, ServicePort
from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Block, Key, Part, Renderer, Shared


def parts(renderer: Renderer, decision: Decision, family: Family, *, large: bool) -> list[Part]:
    """Return the parts of all Services and pods in *decision*."""
    situation = decision.situations[family]
    owners: dict[tuple[bool, str, str], tuple[list[Any], list[Any]]] = {}
    for one in decision.frontends:
        if one.service.family is family:
            owner = (one.kind is Kind.HOST_PORT, one.service.namespace, one.service.name)
            owners.setdefault(owner, ([], []))[0].append(one)
    for check in decision.health_checks:
        if check.family is family:
            owners.setdefault((False, check.namespace, check.name), ([], []))[1].append(check)
    return [renderer.part(*served, situation, large=large) for served in owners.values()]


def blocks(shared: Iterable[Shared], given: Iterable[Part]) -> dict[Key, Block]:
    """Return the blocks of a node: of *shared* ones the last of a key; no two parts share one."""
    frame = {one.block.key: one for one in shared}
    own: dict[Key, Block] = {}
    lines: dict[Key, list[str]] = {}
    for part in given:
        for block in part.blocks:
            assert own.setdefault(block.key, block) is block, block.key
        for key, added in part.entries:
            lines.setdefault(key, []).extend(added)
    assert lines.keys() <= frame.keys()
    assert not own.keys() & frame.keys()
    return own | {
        key: Block(*key, block.head, (*block.lines, *lines.get(key, ()), *tail))
        for key, (block, tail) in frame.items()
    }


def all_decisions(mode: Mode, **proxy: object) -> Iterator[Decision]:
    """Yield what is decided in every case of the table, with *proxy* words in place of its own.

    Every case has namespaces of its own, so that all of them can be on one node; and what it has
    in IPv4 it has once more in IPv6.
    """
    number = 0
    for case in flow_cases.cases():
        for given, _ in flow_cases.steps(case):
            number += 1
            changed = {**given, "proxy": {**given["proxy"], **proxy}}
            found = flow_cases.decision(changed, mode, given["proxy"]["node"])
            yield apart(found, f"c{number}-")
            known = {one.pods.known for one in found.situations.values()}
            if len(known) == 1:
                yield apart(in_ipv6(found), f"six{number}-")


def apart(decision: Decision, prefix: str) -> Decision:
    """Return *decision* with other namespaces."""
    checks = [replace(one, namespace=prefix + one.namespace) for one in decision.health_checks]
    return _changed(
        replace(decision, health_checks=tuple(checks)),
        lambda one: replace(one, namespace=prefix + one.namespace),
        lambda one: one,
    )


def in_ipv6(decision: Decision) -> Decision:
    """Return what *decision* has in IPv4, in IPv6."""
    here = [one for one in decision.frontends if one.service.family is Family.IPV4]
    checks = [replace(one, family=Family.IPV6) for one in decision.health_checks]

    def endpoints(given: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        return tuple(replace(one, address=_six(one.address)) for one in given)

    local = tuple(map(_six, decision.situations[Family.IPV4].local))
    there = replace(decision.situations[Family.IPV6], local=local)
    situations = {**decision.situations, Family.IPV6: there}
    return _changed(
        replace(
            decision,
            situations=situations,
            frontends=tuple(here),
            health_checks=tuple(checks),
        ),
        lambda one: replace(
            one,
            family=Family.IPV6,
            cluster=endpoints(one.cluster),
            local=endpoints(one.local),
            known=endpoints(one.known),
        ),
        lambda one: replace(
            one,
            address=_six(one.address) if one.address else "",
            sources=tuple(map(_six, one.sources)),
        ),
    )


def _changed(
    decision: Decision,
    port: Callable[[ServicePort], ServicePort],
    frontend: Callable[[Frontend], Frontend],
) -> Decision:
    """Return *decision* with all service ports and frontends changed; a port stays one object."""
    ports = {id(one.service): port(one.service) for one in decision.frontends}
    found = [replace(frontend(one), service=ports[id(one.service)]) for one in decision.frontends]
    return replace(decision, frontends=tuple(found))


def _six(text: str) -> str:
    """Return the IPv6 address or prefix that stands for an IPv4 one."""
    if text == "127.0.0.1":
        return "::1"
    address, slash, length = text.partition("/")
    found = str(IPv6Address((0xFD64 << 112) + int(IPv4Address(address))))
    return f"{found}/{int(length) + 96}" if slash else found
