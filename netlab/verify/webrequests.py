"""Requests to an ingress controller: which there can be, and by which doors it is reached."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from netlab import images, patience
from netlab.cluster import NodeState, PodState
from netlab.packets import Flow, Protocol
from netlab.paths.rules import published
from netlab.proxy import Frontend, Kind
from netlab.sensors import sieve, web
from netlab.sensors.token import token
from netlab.verify.context import Context, Failure, listeners
from netlab.verify.serving import Decisions
from netlab.vhosts import backends, certificates
from netlab.vhosts.model import HTTP, HTTPS, Host, Match, Route, Routing, Settings

IMAGE = "netlab/ingress"
READY_WITHIN = patience.seconds(10.0)  # seconds, of a controller that has just been started
ROUTES = 4  # at most so many are asked for

Ends = Mapping[str, tuple[backends.Endpoint, ...]]


class Wanted(msgspec.Struct, frozen=True):
    """A request to be: over which scheme, for which host and route, and whose certificate."""

    scheme: str
    host: Host
    route: Route
    trusted: str | None = None

    @property
    def name(self) -> str:
        return self.host.name.replace("*", "any", 1) or "any.example"

    @property
    def path(self) -> str:
        return self.route.path or "/"

    @property
    def redirected(self) -> bool:
        return self.route.to_https and self.scheme == HTTP

    @property
    def title(self) -> str:
        return f"{self.scheme}://{self.name}{self.path}"


def is_controller(pod: PodState) -> bool:
    return any(images.repository(one.image) == IMAGE for one in pod.containers)


def doors(
    context: Context,
    decisions: Decisions,
    controllers: Sequence[PodState],
    nodes: Sequence[NodeState],
    kind: Kind,
) -> dict[str, Frontend]:
    """Return the frontend of *kind* that leads to the controllers, by scheme."""
    addresses = {pod.ip for pod in controllers}
    schemes = {Settings().http_port: HTTP, Settings().https_port: HTTPS}
    found: dict[str, Frontend] = {}
    for one in decisions.of(nodes[0]).frontends if nodes else ():
        ends = one.service.reachable
        scheme = schemes.get(ends[0].port) if ends and one.service.protocol == "TCP" else None
        if one.kind is not kind or not scheme or not {end.address for end in ends} <= addresses:
            continue
        if kind is not Kind.NODE_PORT or published(context.lab, one.port, Protocol.TCP):
            found.setdefault(scheme, one)
    return found


def wanted_of(context: Context, routing: Routing, ends: Ends) -> Iterator[Wanted]:
    """Yield a request for each of some routes: over both schemes, where it has a certificate.

    *ends*: the endpoints of its backends. Of routes to nobody, and to programs that do not say who
    they are, nothing can be asked.

    Without a usable one the controller shows one of its own making, which nobody can know before.
    """
    found = [
        (host, route)
        for host in routing.hosts
        for route in host.routes
        if not route.rewrite
        and route.match is not Match.PLAIN
        and all(target.port is not None for target in route.targets)
        and _has_room(route.path)
        and _tells(context, route, ends)
    ]
    for host, route in found[:ROUTES]:
        for scheme in route.schemes:
            if scheme == HTTP:
                yield Wanted(HTTP, host, route)
            elif host.secret and (given := _usable(context, host.secret)):
                yield Wanted(HTTPS, host, route, given.certificate)


def _tells(context: Context, route: Route, ends: Ends) -> bool:
    """Return whether *route* leads to somebody, and to nobody whom netlab does not answer for."""
    found = {end for target in route.targets if target.port for end in ends[target.port.name]}
    answered = {(one.pod.ip, one.port) for pod in context.pods for one in listeners(pod)}
    known = {pod.ip for pod in context.cluster.pods}
    return bool(found) and all(end in answered or end[0] not in known for end in found)


def _usable(context: Context, secret: str) -> certificates.Pair | None:
    try:
        return certificates.pair(context.cluster.documents, secret)
    except certificates.Unusable:
        return None


def _has_room(path: str) -> bool:
    try:
        return bool(sieve.http_target(path or "/", token()))
    except ValueError:
        return False


def await_ready(context: Context, controllers: Sequence[PodState]) -> None:
    """Wait until the controllers are ready, and know what is to be served. Raises Failure."""
    deadline = time.monotonic() + READY_WITHIN
    for pod in controllers:
        node = context.cluster.node(pod.node)
        netns = node.netns if context.is_here(node.name) else context.nodes[0].netns
        flow = Flow("", pod.ip, Protocol.TCP, 0, Settings().healthz_port)
        while (reply := web.ask(netns, flow, "/healthz")).status != 200:
            if time.monotonic() > deadline:
                raise Failure(
                    f"{pod.title} is not ready: {reply.problem or reply.status} at /healthz",
                    *_said(context, pod),
                    last_seen=netns,
                    expected_next=f"200 from {pod.ip}:{flow.destination_port}",
                )
            time.sleep(0.05)


def _said(context: Context, pod: PodState) -> list[str]:
    """Return the warnings there are about *pod*."""
    return [
        f"{one['reason']}: {one['message']}"
        for one in context.refreshed().documents.of("Event")
        if (one.get("involvedObject") or {}).get("uid") == pod.uid and one["type"] == "Warning"
    ]
