"""Everything a proxy on one node has to do, for all Services together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from netlab.model.kubernetes import Pod
from netlab.model.services import EndpointSlice, ProxyNode, Service
from netlab.proxy.addresses import Family
from netlab.proxy.claims import Claims, Owner
from netlab.proxy.frontend import Frontend, HealthCheck
from netlab.proxy.hostport import host_ports
from netlab.proxy.options import Options, Situation, situations
from netlab.proxy.service import Served, served, service_name


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
    local: Iterable[str] | None = None,
) -> Decision:
    """Return what a proxy with *options* does on *node*; hostPorts of *pods* come last.

    *local*: the addresses the node's links have; None: that is not known. A slice without its
    Service has no effect. Raises UsageError when an option is wrong.
    """
    where = situations(node, options, local=local)
    slices: defaultdict[tuple[str, str], list[EndpointSlice]] = defaultdict(list)
    for one in endpoint_slices:
        slices[service_name(one)].append(one)
    warnings: dict[str, None] = {}
    claims = Claims()

    def say(warning: str) -> None:
        warnings[warning] = None

    for service in sorted(services, key=_name):
        found = served(service, slices.get(_name(service), ()), where, say)
        claims.put(Owner(False, *_name(service)), found)
    for pod in sorted(pods, key=lambda one: one.name):
        found = Served(host_ports([pod], node.metadata.name, say), [])
        claims.put(Owner(True, pod.metadata.namespace, pod.metadata.name), found)
    for owner in claims.owners():
        for dispute in claims.disputes(owner):
            say(dispute)
    shares = [claims.share(owner) for owner in claims.owners()]
    return Decision(
        where,
        tuple(one for share in shares for one in share.frontends),
        tuple(one for share in shares for one in share.health_checks),
        tuple(warnings),
    )


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
