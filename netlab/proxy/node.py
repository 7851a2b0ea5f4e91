"""Everything a proxy on one node has to do, for all Services together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from netlab.model.kubernetes import Pod
from netlab.model.services import EndpointSlice, ProxyNode, Service
from netlab.proxy.addresses import Family
from netlab.proxy.endpoints import Say
from netlab.proxy.frontend import Frontend, HealthCheck, Kind
from netlab.proxy.hostport import host_ports
from netlab.proxy.options import Options, Situation, situations
from netlab.proxy.service import served, service_name

RANK = {kind: rank for rank, kind in enumerate(Kind)}


class Decision(msgspec.Struct, frozen=True):
    """What a node's proxy does. Services come in the order of their names, ports as they wrote."""

    situations: dict[Family, Situation]
    frontends: tuple[Frontend, ...]
    health_checks: tuple[HealthCheck, ...]
    warnings: tuple[str, ...]  # what was left out, and why


def decision(
    services: Iterable[Service],
    endpoint_slices: Iterable[EndpointSlice],
    node: ProxyNode,
    options: Options,
    *,
    pods: Iterable[Pod] = (),
) -> Decision:
    """Return what a proxy with *options* does on *node*; hostPorts of *pods* come last.

    A slice without its Service has no effect. Raises UsageError when an option is wrong.
    """
    where = situations(node, options)
    slices: defaultdict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
    for one in endpoint_slices:
        slices[service_name(one)].append(one)
    warnings: dict[str, None] = {}
    frontends: list[Frontend] = []
    checks: list[HealthCheck] = []

    def say(warning: str) -> None:
        warnings[warning] = None

    for service in sorted(services, key=_name):
        found = served(service, slices.get(_name(service), ()), where, say)
        frontends += found.frontends
        checks += found.health_checks
    frontends += host_ports(pods, node.metadata.name, say)
    return Decision(where, _undisputed(frontends, say), _apart(checks, say), tuple(warnings))


def frontends(
    services: Iterable[Service],
    endpoint_slices: Iterable[EndpointSlice],
    node: ProxyNode,
    options: Options,
) -> list[Frontend]:
    """Return the frontends of *services* on *node*, a part of the `decision`."""
    return list(decision(services, endpoint_slices, node, options).frontends)


def _name(service: Service) -> tuple[str, str]:
    return service.metadata.namespace, service.metadata.name


def _undisputed(frontends: Sequence[Frontend], say: Say) -> tuple[Frontend, ...]:
    """Return *frontends* without those whose address and port another one has.

    The first kind wins, then the first name: nobody takes a cluster IP by claiming it as an
    external IP. One Service may have an address in two ways; that is no dispute.
    """
    owners: dict[tuple[Family, str, str, int], Frontend] = {}
    for one in frontends:
        owner = owners.setdefault(one.key, one)
        if RANK[one.kind] < RANK[owner.kind]:
            owners[one.key] = one
    if len(owners) == len(frontends):
        return tuple(frontends)
    for one in frontends:
        owner = owners[one.key]
        if owner.service is not one.service:
            at = f"{one.kind} {one.address} port {one.port}/{one.service.protocol}"
            say(f"{one.service.text}: {at} is {owner.service.text}'s {owner.kind}")
    return tuple(one for one in frontends if owners[one.key] is one)


def _apart(checks: Sequence[HealthCheck], say: Say) -> tuple[HealthCheck, ...]:
    """Return *checks* without those whose port another Service has."""
    owners: dict[tuple[Family, int], HealthCheck] = {}
    for one in checks:
        owner = owners.setdefault((one.family, one.port), one)
        if owner is not one:
            names = f"{one.namespace}/{one.name}: health check port {one.port}"
            say(f"Service {names} is {owner.namespace}/{owner.name}'s")
    return tuple(owners.values())
