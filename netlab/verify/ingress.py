"""From outside through an ingress controller: to its pod, and from there to the Service's.

Two connections, each seen on its own way. The first is known by its handshake, for what it carries
may be sealed; the second by the token in the request, which the controller passes on as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from netlab import paths, probe, vhosts, world
from netlab.cluster import NodeState, PodState
from netlab.model.modes import Mode
from netlab.packets import Direction, Flow, Outcome, Passage, Protocol, Sighting, Verdict
from netlab.paths import portalways, serviceways
from netlab.paths.places import Place, of_member, of_pod
from netlab.portals.control import Relayed
from netlab.proxy import Frontend, Kind
from netlab.sensors import sieve, web
from netlab.sensors.token import token
from netlab.sensors.web import Reply
from netlab.verify import serviceprobe, webrequests
from netlab.verify.context import Checked, Context, Failure, Refuted, Skip
from netlab.verify.serviceprobe import Asked
from netlab.verify.serving import Asking, Decisions
from netlab.verify.webrequests import Wanted
from netlab.vhosts import backends
from netlab.vhosts.model import HTTPS, Settings

NODES = 3  # and at so many nodes
NEW_FLOWS = 4  # tries for a flow that no kernel remembers


def ingress(context: Context) -> Checked:
    """Prove each host and path at every node: by whom it is answered, on which ways."""
    controllers = [pod for pod in context.pods if webrequests.is_controller(pod)]
    if not controllers:
        raise Skip(f"needs an ingress controller: a pod of image {webrequests.IMAGE}")
    decisions = Decisions(context)
    nodes = [node for node in context.cluster.nodes if node.subnet][:NODES]
    doors = webrequests.doors(context, decisions, controllers, nodes, Kind.NODE_PORT)
    if not doors:
        raise Skip("needs a NodePort of an ingress controller, in gateway.publish")
    routing = vhosts.routing(context.cluster.documents, Settings())
    ends = backends.endpoints(context.cluster.documents, routing.backends)
    asked = webrequests.wanted_of(context, routing, ends)
    wanted = [one for one in asked if one.scheme in doors]
    if not wanted:
        raise Skip("needs an Ingress or HTTPRoute with a Service behind it whose pods answer")
    webrequests.await_ready(context, controllers)
    held = {address for each in ends.values() for address, _ in each}
    pods = [pod for pod in context.pods if pod.ip in held] + controllers
    members = [context.lab.netns(one) for one in (world.GATEWAY, world.CLIENT)]
    members += world.between(context.lab)
    members += [context.lab.netns(world.BALANCER)] if context.lab.balancer else []
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
    balanced = webrequests.doors(context, decisions, controllers, nodes, Kind.LOAD_BALANCER)
    for scheme, door in balanced.items() if context.lab.balancer else ():
        found = [one for one in wanted if one.scheme == scheme and not one.redirected]
        for one in found[:1]:
            _balanced(context, door, controllers, one, ends, checked)
    return checked


def _asking(context: Context, decisions: Decisions, door: Frontend, node: NodeState) -> Asking:
    client = of_member(context.cluster, world.CLIENT)
    made = decisions.of(node)
    at = (node.address, door.port, Protocol.TCP)
    here = next(one for one in made.frontends if serviceprobe.is_at(one, *at))
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
    at = f"{asking.node.name}:{reply.flow.destination_port}"
    where = f"{asking.source.title} -> {one.title} at {at}"
    checked.passages += first.shot.verdict.passages
    _further(context, where, one, _Door(end.place, end.client), reply, mark, ends, checked)
    checked.evidence += serviceprobe.by_rules(first)


class _Door(msgspec.Struct, frozen=True):
    """The controller's pod that a request came to, and the client that it saw."""

    place: Place
    client: str


def _balanced(
    context: Context,
    frontend: Frontend,
    controllers: Sequence[PodState],
    one: Wanted,
    ends: dict[str, tuple[tuple[str, int], ...]],
    checked: Checked,
) -> None:
    """Ask at the load balancer's address; prove that it was crossed, and what came after."""
    client = of_member(context.cluster, world.CLIENT)
    flow = Flow("", frontend.address, Protocol.TCP, 0, frontend.port)
    where = f"client -> {one.title} at {frontend.address}:{frontend.port}"
    mark = token()
    target = sieve.http_target(one.path, mark)
    reply = web.ask(client.netns, flow, target, host=one.name, trusted=one.trusted)
    context.capture.flush()
    seen = context.capture.handshake(reply.flow, netns=client.netns)
    seen += _onward(context, seen)
    arrived = [
        (pod, sighting.flow.source)
        for sighting in seen
        for pod in controllers
        if (sighting.netns, sighting.flow.destination) == (pod.netns, pod.ip)
    ]
    balancer = context.lab.netns(world.BALANCER)
    nodes = {node.netns: node.name for node in context.cluster.nodes}
    crossed = [nodes[each.netns] for each in seen if each.netns in nodes]
    if not arrived or not crossed or all(each.netns != balancer for each in seen):
        last = seen[-1].where if seen else "nowhere"
        raise Failure(
            f"{where}: {reply.problem or 'it went another way'}",
            last_seen=last,
            expected_next=f"{balancer}, a node, a pod of the controller",
        )
    pod, client_seen = arrived[0]
    where += f", over {world.BALANCER} and {crossed[0]}"
    door = _Door(of_pod(context.cluster, pod), client_seen)
    _further(context, where, one, door, reply, mark, ends, checked)


def _onward(context: Context, seen: Sequence[Sighting]) -> list[Sighting]:
    """Return the handshake that a node's proxy made for one that was *seen* to come to it."""
    if context.lab.proxyMode != Mode.USERSPACE:
        return []
    for node in context.cluster.nodes:
        came = (one for one in seen if (one.netns, one.direction) == (node.netns, Direction.IN))
        first = next(came, None)  # which may only have crossed that node's machine
        if first is not None:
            relayed = serviceprobe.relayed_by(context.read, node, first.flow)
            if relayed is not None:
                return _handshake(context, node, relayed)
    return []


def _handshake(context: Context, node: NodeState, relayed: Relayed) -> list[Sighting]:
    """Return that of the connection which the proxy of *node* made."""
    (source, port), (to, to_port) = relayed.source, relayed.endpoint
    second = Flow(source, to, Protocol.TCP, port, to_port)
    return context.capture.handshake(second, netns=node.netns)


def _further(
    context: Context,
    where: str,
    one: Wanted,
    door: _Door,
    reply: Reply,
    mark: bytes,
    ends: dict[str, tuple[tuple[str, int], ...]],
    checked: Checked,
) -> None:
    """Prove who answered, the connection from *door* to it, and what it was told."""
    pod = _answering(context, where, one, reply, ends)
    second = _second(context, door, pod, reply, mark)
    if second.outcome is not Outcome.PASS:
        raise Refuted(second)
    _told(where, one, reply, door)
    _sealed(context, where, one, reply, mark)
    checked.evidence.append(_words(where, one, door, pod, reply))
    checked.passages += second.passages


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
    hits = tuple(context.trace.hits(flow, within=[asking.node.netns]))
    if asking.looking.virtual:
        hits += tuple(
            serviceprobe.by_virtual_server(context.read, asking.node, flow, asking.hook, refused="")
        )
    if portal := asking.looking.portal(flow):
        relayed = serviceprobe.relayed_by(context.read, asking.node, flow)
        shot = _by_process(context, asking, reply, portal, relayed)
        endpoint = "{}:{}".format(*relayed.endpoint) if relayed else ""
        return Asked(shot, asking.fate, hits, endpoint, portal=portal, relayed=relayed)
    expectation = serviceways.expected(cluster, asking.source, flow, rewrite)
    sightings = context.capture.in_order(expectation, sightings)
    verdict = paths.compare(
        expectation, sightings, answered=not reply.problem, refused=reply.problem
    )
    shot = probe.Shot(verdict, flow, expectation, tuple(sightings), None)
    return Asked(shot, asking.fate, hits, endpoint)


def _by_process(
    context: Context, asking: Asking, reply: Reply, portal: int, relayed: Relayed | None
) -> probe.Shot:
    """Return the two connections of userspace mode, each by its own handshake, as one.

    The client's is answered before the other begins.
    """
    cluster, node, flow = context.cluster, asking.node, reply.flow
    parts = [
        (
            portalways.inward(cluster, asking.source, flow, node, portal),
            context.capture.handshake(flow, netns=asking.source.netns),
        )
    ]
    if relayed is not None:
        to = "{}:{}".format(*relayed.endpoint)
        rewrite = serviceprobe.rewriting(cluster, node, to, masquerade=True)
        seen = _handshake(context, node, relayed)
        parts.append((portalways.onward(cluster, flow, rewrite), seen))
    passages: tuple[Passage, ...] = ()
    for expectation, sightings in parts:
        verdict = paths.compare(
            expectation,
            context.capture.in_order(expectation, sightings),
            answered=not reply.problem,
            refused=reply.problem,
        )
        passages += verdict.passages
        if verdict.outcome is not Outcome.PASS:
            break
    whole = msgspec.structs.replace(verdict, flow=flow, passages=passages)
    sighted = tuple(one for _, seen in parts for one in seen)
    return probe.Shot(whole, flow, parts[0][0], sighted, None)


def _answering(
    context: Context,
    where: str,
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
        raise Failure(f"{where}: {said}", expected_next=f"200 from a pod of {names}")
    return pod


def _second(context: Context, door: _Door, pod: PodState, reply: Reply, mark: bytes) -> Verdict:
    """Return the verdict on the connection from the controller to the pod that answered."""
    cluster, source, goal = context.cluster, door.place, of_pod(context.cluster, pod)
    ports = int(reply.says.get("clientPort", 0)), int(reply.says.get("serverPort", 0))
    flow = Flow(source.address, goal.address, Protocol.TCP, *ports)
    sightings = [
        one
        for one in context.capture.sightings(mark)
        if {one.flow.source, one.flow.destination} == {source.address, goal.address}
    ]
    expectation = paths.expected(cluster, source, goal, flow)
    sightings = context.capture.in_order(expectation, sightings)
    return paths.compare(expectation, sightings, answered=True)


def _told(where: str, one: Wanted, reply: Reply, door: _Door) -> None:
    """Check what the pod saw: the controller as its client, and in headers who really asks.

    Raises Failure.
    """
    request = str(reply.says.get("request", "")).replace("..", "\n")
    wanted = (f"X-Forwarded-For: {door.client}", f"X-Forwarded-Proto: {one.scheme}")
    missing = [line for line in wanted if line not in request.split("\n")]
    if missing or reply.says.get("client") != door.place.address:
        raise Failure(
            f"{where}: the pod saw {reply.says.get('client')}, and {request!r}",
            expected_next=f"{door.place.address}, and {' and '.join(wanted)}",
        )


def _sealed(context: Context, where: str, one: Wanted, reply: Reply, mark: bytes) -> None:
    """Check that over HTTPS the request was sealed up to the controller. Raises Failure."""
    asker = (reply.flow.source, reply.flow.source_port)
    bare = [
        each.where
        for each in context.capture.sightings(mark)
        if (each.flow.source, each.flow.source_port) == asker
    ]
    if (one.scheme == HTTPS) == bool(bare):
        last = bare[0] if bare else "nowhere"
        raise Failure(
            f"{where}: the request was readable {'at ' if bare else ''}{last}",
            last_seen=last,
            expected_next="sealed up to the controller" if bare else "readable: it is HTTP",
        )


def _words(where: str, one: Wanted, door: _Door, pod: PodState, reply: Reply) -> str:
    to = door.place.title
    if one.scheme == HTTPS:
        to += f", TLS ended there (certificate of Secret {one.host.secret}, for {one.name})"
    return (
        f"{where}: to {to}, from there to {pod.title} {pod.ip}:{reply.says.get('serverPort')}, "
        f"which saw X-Forwarded-For: {door.client}, X-Forwarded-Proto: {one.scheme}"
    )
