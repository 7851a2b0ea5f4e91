"""From outside through an ingress controller: to its pod, and from there to the Service's.

Two connections, each seen on its own way. The first is known by its handshake, for what it carries
may be sealed; the second by the token in the request, which the controller passes on as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import msgspec

from netlab import images, paths, probe, vhosts, world
from netlab.cluster import NodeState, PodState
from netlab.packets import Flow, Outcome, Protocol, Sighting, Verdict
from netlab.paths import serviceways
from netlab.paths.places import of_member, of_pod
from netlab.paths.rules import published
from netlab.proxy import Frontend, Kind
from netlab.sensors import sieve, web
from netlab.sensors.token import token
from netlab.sensors.web import Reply
from netlab.verify import serviceprobe
from netlab.verify.context import Checked, Context, Failure, Refuted, Skip
from netlab.verify.serviceprobe import Asked
from netlab.verify.serving import Asking, Decisions, End
from netlab.vhosts import backends, certificates
from netlab.vhosts.model import HTTP, HTTPS, Host, Match, Route, Routing, Settings

IMAGE = "netlab/ingress"
READY_WITHIN = 10.0  # seconds, of a controller that has just been started
ROUTES = 4  # at most so many are asked for
NODES = 3  # and at so many nodes
NEW_FLOWS = 4  # tries for a flow that no kernel remembers


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


def ingress(context: Context) -> Checked:
    """Prove each host and path at every node: by whom it is answered, on which ways."""
    controllers = [pod for pod in context.pods if _is_controller(pod)]
    if not controllers:
        raise Skip(f"needs an ingress controller: a pod of image {IMAGE}")
    decisions = Decisions(context)
    nodes = [node for node in context.cluster.nodes if node.subnet][:NODES]
    doors = _doors(context, decisions, controllers, nodes)
    if not doors:
        raise Skip("needs a NodePort of an ingress controller, in gateway.publish")
    routing = vhosts.routing(context.cluster.documents, Settings())
    wanted = [one for one in _wanted(context, routing) if one.scheme in doors]
    if not wanted:
        raise Skip("needs an Ingress or HTTPRoute with a Service behind it")
    _ready(context, controllers)
    ends = backends.endpoints(context.cluster.documents, routing.backends)
    held = {address for each in ends.values() for address, _ in each}
    pods = [pod for pod in context.pods if pod.ip in held] + controllers
    members = [context.lab.netns(one) for one in (world.UNDERLAY, world.GATEWAY, world.CLIENT)]
    traced = [node.netns for node in nodes]
    context.watch([*members, *traced, *(pod.netns for pod in pods)], traced)
    checked = Checked()
    everywhere = next((one for one in wanted if not one.redirected), None)
    for number, one in enumerate(wanted):
        for node in nodes if one is everywhere else [nodes[number % len(nodes)]]:
            asking = _asking(context, decisions, doors[one.scheme], node)
            if one.redirected:
                checked.evidence.append(_redirected(asking, one))
            else:
                _proven(context, asking, one, ends, checked)
    return checked


def _is_controller(pod: PodState) -> bool:
    return any(images.repository(one.image) == IMAGE for one in pod.containers)


def _doors(
    context: Context,
    decisions: Decisions,
    controllers: Sequence[PodState],
    nodes: Sequence[NodeState],
) -> dict[str, Frontend]:
    """Return the node port that leads to the controllers, by scheme."""
    addresses = {pod.ip for pod in controllers}
    schemes = {Settings().http_port: HTTP, Settings().https_port: HTTPS}
    found: dict[str, Frontend] = {}
    for one in decisions.of(nodes[0]).frontends if nodes else ():
        ends = one.service.reachable
        if one.kind is not Kind.NODE_PORT or one.service.protocol != "TCP" or not ends:
            continue
        scheme = schemes.get(ends[0].port)
        ours = {end.address for end in ends} <= addresses
        if scheme and ours and published(context.lab, one.port, Protocol.TCP):
            found.setdefault(scheme, one)
    return found


def _wanted(context: Context, routing: Routing) -> Iterator[Wanted]:
    """Yield a request for each of some routes: over both schemes, where it has a certificate."""
    found = [
        (host, route)
        for host in routing.hosts
        for route in host.routes
        if not route.rewrite
        and route.match is not Match.PLAIN
        and all(target.port is not None for target in route.targets)
        and _has_room(route.path)
    ]
    for host, route in found[:ROUTES]:
        for scheme in route.schemes:
            if scheme == HTTP:
                yield Wanted(HTTP, host, route)
            elif host.secret:
                given = certificates.pair(context.cluster.documents, host.secret)
                yield Wanted(HTTPS, host, route, given.certificate)


def _has_room(path: str) -> bool:
    try:
        return bool(sieve.http_target(path or "/", token()))
    except ValueError:
        return False


def _ready(context: Context, controllers: Sequence[PodState]) -> None:
    """Wait until the controllers are ready, and know what is to be served. Raises Failure."""
    deadline = time.monotonic() + READY_WITHIN
    for pod in controllers:
        netns = context.cluster.node(pod.node).netns
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


def _asking(context: Context, decisions: Decisions, door: Frontend, node: NodeState) -> Asking:
    client = of_member(context.cluster, world.CLIENT)
    made = decisions.of(node)
    here = next(one for one in made.frontends if one.key == door.key)
    return Asking(context, client, here, node=node, made=made, address=node.address)


def _redirected(asking: Asking, one: Wanted) -> str:
    """Ask over HTTP what is served over HTTPS; return what was told. Raises Failure."""
    reply = web.ask(asking.source.netns, asking.flow, one.path, host=one.name)
    right = f"https://{one.name}{one.path}"
    told = reply.headers.get("location", "")
    if reply.status != 308 or told != right:
        raise asking.failure(
            f"{one.title}: {reply.problem or reply.status} {told}".strip(),
            expected=f"308 to {right}",
        )
    return f"{asking.source.title} -> {one.title} at {asking.node.name}: 308 to {told}"


def _proven(
    context: Context,
    asking: Asking,
    one: Wanted,
    ends: dict[str, tuple[tuple[str, int], ...]],
    checked: Checked,
) -> None:
    """Ask once; prove both connections, and that the right Service answered. Raises Failure."""
    for _ in range(NEW_FLOWS):
        mark = token()
        target = sieve.http_target(one.path, mark)
        reply = web.ask(
            asking.source.netns, asking.flow, target, host=one.name, trusted=one.trusted
        )
        context.capture.flush()
        first = _first(context, asking, reply)
        if first.shot.verdict.outcome is not Outcome.PASS or serviceprobe.rewrite_hit(first):
            break
    if first.shot.verdict.outcome is not Outcome.PASS:
        raise Refuted(first.shot.verdict)
    if serviceprobe.rewrite_hit(first) is None:
        raise asking.failure(
            f"{reply.flow}: no rule of a proxy was seen to send it on",
            expected=f"a rule that sends it to {first.endpoint}",
        )
    end = asking.ends[first.endpoint]
    pod = _answering(context, asking, one, reply, ends)
    second = _second(context, end, pod, reply, mark)
    if second.outcome is not Outcome.PASS:
        raise Refuted(second)
    _told(asking, one, reply, end)
    _sealed(context, asking, one, reply, mark)
    checked.evidence += [_words(asking, one, end, pod, reply), *serviceprobe.by_rules(first)]
    checked.passages += first.shot.verdict.passages + second.passages


def _first(context: Context, asking: Asking, reply: Reply) -> Asked:
    """Return the connection to the controller, by its handshake."""
    cluster, flow = context.cluster, reply.flow
    sightings = context.capture.handshake(flow, netns=asking.source.netns)
    possible = asking.fate.endpoints
    endpoint = serviceprobe.sent_to(sightings, flow, possible)
    chosen = endpoint or next(iter(possible))
    rewrite = serviceprobe.rewriting(
        cluster,
        asking.node,
        chosen,
        masquerade=possible[chosen],
        why=f"the rules of Service {asking.frontend.service.text} on {asking.node.name}",
    )
    expectation = serviceways.expected(cluster, asking.source, flow, rewrite)
    verdict = paths.compare(
        expectation, sightings, answered=not reply.problem, refused=reply.problem
    )
    hits = tuple(context.trace.hits(flow, within=[asking.node.netns]))
    shot = probe.Shot(verdict, flow, expectation, tuple(sightings), None)
    return Asked(shot, asking.fate, hits, endpoint)


def _answering(
    context: Context,
    asking: Asking,
    one: Wanted,
    reply: Reply,
    ends: dict[str, tuple[tuple[str, int], ...]],
) -> PodState:
    """Return the pod that answered, one of the route's. Raises Failure."""
    names = [target.port.name for target in one.route.targets if target.port]
    who = f"{reply.says.get('namespace', '')}/{reply.says.get('pod', '')}"
    right = {address for name in names for address, _ in ends[name]}
    pod = next((pod for pod in context.pods if pod.title == who and pod.ip in right), None)
    if reply.status != 200 or pod is None:
        said = reply.problem or f"{reply.status} from {who.strip('/') or 'nobody'}"
        raise asking.failure(f"{one.title}: {said}", expected=f"200 from a pod of {names}")
    return pod


def _second(context: Context, end: End, pod: PodState, reply: Reply, mark: bytes) -> Verdict:
    """Return the verdict on the connection from the controller to the pod that answered."""
    cluster, source, goal = context.cluster, end.place, of_pod(context.cluster, pod)
    ports = int(reply.says.get("clientPort", 0)), int(reply.says.get("serverPort", 0))
    flow = Flow(source.address, goal.address, Protocol.TCP, *ports)
    sightings = [
        one
        for one in context.capture.sightings(mark)
        if {one.flow.source, one.flow.destination} == {source.address, goal.address}
    ]
    return paths.compare(paths.expected(cluster, source, goal, flow), sightings, answered=True)


def _told(asking: Asking, one: Wanted, reply: Reply, end: End) -> None:
    """Check what the pod saw: the controller as its client, and in headers who really asks.

    Raises Failure.
    """
    request = str(reply.says.get("request", "")).replace("..", "\n")
    wanted = (f"X-Forwarded-For: {end.client}", f"X-Forwarded-Proto: {one.scheme}")
    missing = [line for line in wanted if line not in request.split("\n")]
    if missing or reply.says.get("client") != end.place.address:
        raise asking.failure(
            f"{one.title}: the pod saw {reply.says.get('client')}, and {request!r}",
            expected=f"{end.place.address}, and {' and '.join(wanted)}",
        )


def _sealed(context: Context, asking: Asking, one: Wanted, reply: Reply, mark: bytes) -> None:
    """Check that over HTTPS the request was sealed up to the controller. Raises Failure."""
    bare = [
        sighting for sighting in context.capture.sightings(mark) if _before(sighting, asking, reply)
    ]
    if (one.scheme == HTTPS) == bool(bare):
        where = bare[0].where if bare else "nowhere"
        raise asking.failure(
            f"{one.title}: the request was readable {'at ' + where if bare else 'nowhere'}",
            expected="sealed up to the controller" if bare else "readable: it is HTTP",
            last=where,
        )


def _before(sighting: Sighting, asking: Asking, reply: Reply) -> bool:
    """Return whether a packet is of the connection to the controller, as the client sent it."""
    flow = sighting.flow
    return (flow.source, flow.source_port) == (reply.flow.source, reply.flow.source_port)


def _words(asking: Asking, one: Wanted, end: End, pod: PodState, reply: Reply) -> str:
    where = f"{asking.node.name}:{asking.flow.destination_port}"
    door = end.place.title
    if one.scheme == HTTPS:
        door += f", TLS ended there (certificate of Secret {one.host.secret}, for {one.name})"
    return (
        f"{asking.source.title} -> {one.title} at {where}: to {door}, from there to {pod.title} "
        f"{pod.ip}:{reply.says.get('serverPort')}, which saw X-Forwarded-For: {end.client}, "
        f"X-Forwarded-Proto: {one.scheme}"
    )
