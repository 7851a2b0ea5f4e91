"""One flow to a Service's address: where it was sent, by which rules, and the way it took.

The decision of the node whose rules see it first says what may become of it. Which of several
endpoints it was sent to is seen; then every hop must be as the way through that endpoint asks, and
the kernel must name the rule that did it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence

import msgspec

from netlab import paths, probe, world
from netlab.agent.services import options
from netlab.cluster import Cluster, NodeState
from netlab.errors import NotFoundError
from netlab.model.kubernetes import Document, view
from netlab.model.services import EndpointSlice, ProxyNode, Service
from netlab.packets import Expectation, Flow, Outcome, Protocol, RuleHit, Sighting
from netlab.paths import Place, places, serviceways
from netlab.paths.serviceways import Rewrite
from netlab.proxy import Decision, Frontend, Packet, decision
from netlab.proxy import Outcome as Fate
from netlab.proxy import Verdict as Sentence
from netlab.proxy import outcome as fate_of
from netlab.sensors.capture import Capture
from netlab.sensors.ruletrace import RuleTrace
from netlab.sensors.sending import send
from netlab.sensors.token import token
from netlab.sensors.traceswitch import Selector


class Asked(msgspec.Struct, frozen=True):
    """A probe of a Service's address: the shot, the rules it met, where it was sent."""

    shot: probe.Shot
    fate: Fate  # what may become of it
    hits: tuple[RuleHit, ...]
    endpoint: str = ""  # `10.244.1.2:80`, "" when it was sent to none
    seconds: float = 0.0  # until it was answered, refused or given up


def decided(cluster: Cluster, node: NodeState) -> Decision:
    """Return what the rules of *node* are to do, from the stored objects."""
    of: dict[str, list[Document]] = {"Service": [], "EndpointSlice": [], "Node": []}
    for document in cluster.documents:
        of.get(document["kind"], []).append(document)
    mine = [one for one in of["Node"] if one["metadata"]["name"] == node.name]
    if not mine:
        raise NotFoundError(f"etcd has no Node {node.name}")
    return decision(
        [view(one, Service) for one in of["Service"]],
        [view(one, EndpointSlice) for one in of["EndpointSlice"]],
        view(mine[0], ProxyNode),
        options(cluster.lab),
    )


def own_addresses(node: NodeState) -> list[str]:
    """Return the addresses of a node's own."""
    return [one for one in (node.address, node.bridge_address, node.tunnel_address) if one]


def fate(cluster: Cluster, source: Place, flow: Flow, node: NodeState, made: Decision) -> Fate:
    """Return what *node*, with its decision *made*, is to do with the first packet of *flow*."""
    arriving = "" if source.netns == node.netns else world.UPLINK
    packet = Packet(
        flow.source,
        flow.destination,
        flow.destination_port,
        flow.protocol.upper(),
        node.declared.bridge if source.pod else arriving,
    )
    return fate_of(made, packet, local=own_addresses(node))


def ask(
    cluster: Cluster,
    capture: Capture,
    source: Place,
    target: Flow,
    *,
    node: NodeState,
    made: Decision,
    trace: RuleTrace,
    unless: Collection[str] = (),
) -> Asked | None:
    """Send one probe to *target* (its source is left to the kernel) and compare.

    *node*: whose rules see it first, with its decision *made*; *trace* is tracing there already,
    *capture* watching. A probe that failed while the sensors lost frames is sent again. One that
    was answered by an endpoint among *unless* is not looked into: None.
    """
    began = time.monotonic()
    while True:
        lost = capture.lost
        asked = _asked(cluster, capture, source, target, node, made, trace, unless)
        lost = capture.lost - lost
        passed = asked is None or asked.shot.verdict.outcome is Outcome.PASS
        if passed or not lost or time.monotonic() - began > probe.AGAIN:
            return asked


def _asked(
    cluster: Cluster,
    capture: Capture,
    source: Place,
    target: Flow,
    node: NodeState,
    made: Decision,
    trace: RuleTrace,
    unless: Collection[str],
) -> Asked | None:
    began = time.monotonic()
    goal = Place(target.destination)
    address = paths.source_address(cluster, source, goal)
    flow = msgspec.structs.replace(target, source=address)
    possible = fate(cluster, source, flow, node, made)
    mark = token()
    with send(source.netns, probe.unbound(flow), mark) as sent:
        sent_at = time.monotonic()
        flow = msgspec.structs.replace(flow, source_port=sent.flow.source_port)
        expectation = _expected(cluster, source, flow, node, possible, made, "")
        answer = probe.followed(
            capture,
            sent,
            expectation,
            over=lambda: any(hit.verdict == "drop" for hit in trace.hits(sent.flow, mark)),
        )
        answer = answer or sent.answer()  # a refusal comes right behind its drop
        seconds = time.monotonic() - sent_at
    says = answer.says if answer else {}
    if f"{says.get('server')}:{says.get('serverPort')}" in unless:
        return None
    capture.flush()
    answered = bool(answer and not answer.refused)
    sightings = probe.seen(capture, sent.flow, mark, netns=source.netns, answered=answered)
    endpoint = sent_to(sightings, flow, possible.endpoints)
    expectation = _expected(cluster, source, flow, node, possible, made, endpoint)
    verdict = probe.judged(expectation, sightings, answer, path="probe", title="")
    verdict = msgspec.structs.replace(verdict, seconds=time.monotonic() - began)
    hits = trace.hits(sent.flow, mark)
    shot = probe.Shot(verdict, flow, expectation, tuple(sightings), answer)
    return Asked(shot, possible, tuple(hits), endpoint, seconds)


def sent_to(sightings: Sequence[Sighting], flow: Flow, endpoints: Collection[str]) -> str:
    """Return which of *endpoints* the request of *flow* was on its way to, "" if to none."""
    for sighting in sightings:
        to = f"{sighting.flow.destination}:{sighting.flow.destination_port}"
        if sighting.flow.protocol is flow.protocol and to in endpoints:
            return to
    return ""


def _expected(
    cluster: Cluster,
    source: Place,
    flow: Flow,
    node: NodeState,
    possible: Fate,
    made: Decision,
    endpoint: str,
) -> Expectation:
    match possible.verdict:
        case Sentence.ENDPOINTS:
            chosen = endpoint or next(iter(possible.endpoints))
            rewrite = rewriting(
                *(cluster, node, chosen),
                masquerade=possible.endpoints[chosen],
                why=f"the rules of {_by(made, flow)} on {node.name}",
            )
            return serviceways.expected(cluster, source, flow, rewrite)
        case Sentence.REJECTED:
            why = f"a rule of {_by(made, flow)} refuses it on {node.name}"
            return serviceways.refused(cluster, source, flow, node, why=why)
        case Sentence.DROPPED:
            why = f"a rule of {_by(made, flow)} drops it on {node.name}"
            return serviceways.refused(cluster, source, flow, node, why=why)
    return paths.expected(cluster, source, Place(flow.destination), flow)


def _by(made: Decision, flow: Flow) -> str:
    for one in made.frontends:
        if is_at(one, flow.destination, flow.destination_port, flow.protocol):
            return f"Service {one.service.text}"
    return "no Service"


def is_at(frontend: Frontend, address: str, port: int, protocol: Protocol) -> bool:
    """Return whether *frontend* is the one at an address (of the node's, for a NodePort)."""
    same = (frontend.port, frontend.service.protocol) == (port, protocol.upper())
    return same and frontend.address in ("", address)


def rewriting(
    cluster: Cluster, node: NodeState, endpoint: str, *, masquerade: bool, why: str = ""
) -> Rewrite:
    """Return what *node* does to a flow it sends to *endpoint*, `10.244.1.2:80`."""
    address, _, port = endpoint.rpartition(":")
    place = places.of_address(cluster, address)
    return Rewrite(node, place, int(port), masquerade, why)


def watched(cluster: Cluster, sources: Iterable[Place], frontend: Frontend) -> list[str]:
    """Return the namespaces to watch for flows from *sources* to *frontend*."""
    ends = [places.of_address(cluster, one.address).netns for one in frontend.service.reachable]
    names = [source.netns for source in sources]
    names += [node.netns for node in cluster.nodes]
    names += [cluster.lab.netns(world.UNDERLAY), cluster.lab.netns(world.GATEWAY)]
    return list(dict.fromkeys(name for name in (*names, *ends) if name))


def tracing(nodes: Iterable[NodeState], targets: Iterable[Flow]) -> RuleTrace:
    """Return a trace, not yet open, of flows to *targets* on *nodes*."""
    return RuleTrace([node.netns for node in nodes], [Selector(target) for target in targets])


def rewrite_hit(asked: Asked) -> RuleHit | None:
    """Return the rule of a proxy's that gave the flow its endpoint, if the kernel named one."""
    to = (f"--to-destination {asked.endpoint}", f"dnat to {asked.endpoint}")
    hits = [hit for hit in asked.hits if asked.endpoint and of_proxy(hit)]
    return next((hit for hit in hits if hit.rule.endswith(to)), None)


def masquerade_hit(asked: Asked) -> RuleHit | None:
    """Return the rule, a proxy's or not, that hid the flow's source, if the kernel named one."""
    hidden = [hit for hit in asked.hits if hit.hook == "postrouting"]
    return next((hit for hit in hidden if "masquerade" in hit.rule.lower()), None)


def of_proxy(hit: RuleHit) -> bool:
    """Return whether a rule is a proxy's by name."""
    return hit.chain.startswith("KUBE-") or hit.table == "kube-proxy"


def deciding(asked: Asked) -> list[RuleHit]:
    """Return the rules, of a proxy's by name, that said what became of the flow, in their order.

    Those that every flow passes (base chains, returns, `KUBE-FORWARD`) say nothing about this one,
    and what a packet that was sent again met is not told twice.
    """
    once = {(hit.hook, hit.chain, hit.rule): hit for hit in reversed(asked.hits)}
    return [
        hit
        for hit in reversed(once.values())
        if hit.rule
        and hit.chain != hit.base
        and hit.verdict != "return"
        and of_proxy(hit)
        and hit.chain not in ("KUBE-FORWARD", "KUBE-FIREWALL", "KUBE-PROXY-FIREWALL")
    ]


def last_verdict(asked: Asked) -> RuleHit | None:
    """Return the rule that ended the flow, if one did."""
    ended = [hit for hit in asked.hits if hit.rule and hit.verdict == "drop"]
    return ended[-1] if ended else None


def ending(asked: Asked) -> RuleHit | None:
    """Return the rule, of a proxy's by name, that let the flow go no further."""
    ended = [hit for hit in asked.hits if hit.rule and hit.verdict == "drop" and of_proxy(hit)]
    return ended[-1] if ended else None


def by_rules(asked: Asked) -> list[str]:
    """Return, as evidence, the rules that decided about a flow."""
    return [
        f"  {hit.hook}: {hit.table} {hit.chain}: {hit.rule}"
        + (f" -> {hit.verdict}" if " vmap " in hit.rule else "")
        for hit in deciding(asked)
    ]
