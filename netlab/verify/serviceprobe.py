"""One flow to a Service's address: where it was sent, by which rules, and the way it took.

The decision of the node whose rules see it first says what may become of it. Which of several
endpoints it was sent to is seen; then every hop must be as the way through that endpoint asks, and
the kernel must name the rule that did it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import msgspec

from netlab import paths, probe, world
from netlab.cluster import Cluster, NodeState
from netlab.errors import NetlabError, NotFoundError
from netlab.model.kubernetes import Document, view
from netlab.model.modes import Mode
from netlab.model.services import EndpointSlice, ProxyNode, Service
from netlab.packets import Expectation, Flow, Outcome, Protocol, RuleHit, Sighting
from netlab.paths import Place, places, portalways, serviceways
from netlab.paths.serviceways import Rewrite
from netlab.portals.control import Relayed
from netlab.proxy import Decision, Frontend, Packet, decision
from netlab.proxy import Outcome as Fate
from netlab.proxy import Verdict as Sentence
from netlab.proxy import outcome as fate_of
from netlab.proxy.addresses import family, socket_address
from netlab.proxy.options import options_of
from netlab.proxy.packet import is_bound
from netlab.proxy.portals import key
from netlab.sensors import insides
from netlab.sensors.capture import Capture
from netlab.sensors.ruletrace import RuleTrace
from netlab.sensors.sending import Answer, Sent, send
from netlab.sensors.token import token

IPVS = "ipvs"  # the table of what virtual servers do
_MASQUERADE = {"MASQUERADE", "masquerade"}  # what does it, in iptables' words and in nft's
CLOSED = "connection closed"  # what a client is told by a proxy that has no endpoint for it


class Asked(msgspec.Struct, frozen=True):
    """A probe of a Service's address: the shot, the rules it met, where it was sent."""

    shot: probe.Shot
    fate: Fate  # what may become of it
    hits: tuple[RuleHit, ...]
    endpoint: str = ""  # `10.244.1.2:80`, "" when it was sent to none
    seconds: float = 0.0  # until it was answered, refused or given up
    portal: int = 0  # the port of the node's proxy that it was to go into, 0: none (userspace)
    relayed: Relayed | None = None  # what that proxy says it did with it


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
        options_of(cluster.lab),
        local=own_addresses(node),
    )


def own_addresses(node: NodeState) -> list[str]:
    """Return the addresses of a node's own."""
    return [*node.declared.addresses, *node.bridge_addresses, *node.tunnel_addresses]


def source_address(cluster: Cluster, source: Place, destination: str) -> str:
    """Return the address that *source* sends to a Service's from.

    That of a node which is a machine of its own is for its kernel to say: its default route may
    lead elsewhere, as Vagrant's does, and a cluster IP is on no network of its. Raises NetlabError
    when it has no route there, not even a default one: then no rule ever sees what it sends.
    """
    if cluster.lab.spread and source.node is not None and source.pod is None:
        if own := insides.source_towards(source.netns, destination):
            return own
        raise NetlabError(
            f"{source.title} has no route to {destination}, nor a default one: it reaches no "
            "Service by its cluster IP",
            hint="ip route add default via …, or a route for the Services' range",
        )
    return paths.source_address(cluster, source, Place(destination))


def fate(cluster: Cluster, source: Place, flow: Flow, node: NodeState, made: Decision) -> Fate:
    """Return what *node*, with its decision *made*, is to do with the first packet of *flow*."""
    arriving = "" if source.netns == node.netns else node.uplink
    packet = Packet(
        flow.source,
        flow.destination,
        flow.destination_port,
        flow.protocol.upper(),
        node.declared.bridge if source.pod else arriving,
        bridged=source.pod is not None,
    )
    return fate_of(made, packet, local=own_addresses(node))


Read = Callable[..., Any]  # as of `Context.read`


class Looking(msgspec.Struct, frozen=True):
    """What a flow to a Service's address is looked at with.

    *node*: whose rules see it first, with its decision *made*; *trace* is tracing there already,
    *capture* watching.
    """

    cluster: Cluster
    capture: Capture
    trace: RuleTrace
    node: NodeState
    made: Decision
    read: Read

    @property
    def virtual(self) -> bool:
        """Whether virtual servers of the node take flows to Services."""
        return self.cluster.lab.proxyMode == Mode.IPVS

    @property
    def by_process(self) -> bool:
        """Whether a process of the node takes flows to Services."""
        return self.cluster.lab.proxyMode == Mode.USERSPACE

    def portal(self, flow: Flow) -> int:
        """Return the port of the node that *flow* is led into, 0 if there is none."""
        if not self.by_process:
            return 0
        at = (flow.destination, flow.destination_port, flow.protocol)
        keys = [key(one.service) for one in self.made.frontends if is_at(one, *at)]
        ports = self.read(self.node, "portals")
        return next((ports[one] for one in keys if one in ports), 0)


class _Call(msgspec.Struct, frozen=True):
    """A probe on its way, what may become of it, and the moment it was sent (monotonic)."""

    sent: Sent
    flow: Flow
    possible: Fate
    at: float


def ask(looking: Looking, source: Place, target: Flow) -> Asked:
    """Send one probe to *target* (its source is left to the kernel) and compare.

    A probe that failed while the sensors lost frames is sent again.
    """
    (asked,) = ask_many(looking, source, target, count=1, kind=lambda _: "", kinds=1)
    return asked


def ask_many(
    looking: Looking,
    source: Place,
    target: Flow,
    *,
    count: int,
    kind: Callable[[str], str | None],
    kinds: int,
) -> list[Asked]:
    """Send *count* probes at once; compare one of each kind, and no more.

    *kind* says of which one is that was answered by an endpoint, `10.244.1.2:80` ("" for none);
    None: not to be looked into. When there are *kinds* of them, nobody waits for the others.
    """
    began = time.monotonic()
    while True:
        lost = looking.capture.lost
        found = _asked(looking, source, target, count, kind, kinds)
        lost = looking.capture.lost - lost
        passed = all(one.shot.verdict.outcome is Outcome.PASS for one in found)
        if passed or not lost or time.monotonic() - began > probe.AGAIN:
            return found


def _asked(
    looking: Looking,
    source: Place,
    target: Flow,
    count: int,
    kind: Callable[[str], str | None],
    kinds: int,
) -> list[Asked]:
    calls = [_called(looking, source, target) for _ in range(count)]
    try:
        chosen = _chosen(looking, calls, kind, kinds)
        ended = [(call, _answer(looking, source, call), time.monotonic()) for call in chosen]
        looking.capture.gather([call.sent.token for call in chosen])
        return [
            _looked_into(looking, source, call, answer, at - call.at) for call, answer, at in ended
        ]
    finally:
        for call in calls:
            call.sent.close()


def _called(looking: Looking, source: Place, target: Flow) -> _Call:
    address = source_address(looking.cluster, source, target.destination)
    here, at = source.netns == looking.node.netns, target.destination
    if looking.virtual and here and is_bound(looking.made, looking.made.situations[family(at)], at):
        address = at  # an address of the node's own, which is taken for the source then
    flow = msgspec.structs.replace(target, source=address)
    possible = fate(looking.cluster, source, flow, looking.node, looking.made)
    sent = send(source.netns, probe.unbound(flow), token())
    flow = msgspec.structs.replace(flow, source_port=sent.flow.source_port)
    return _Call(sent, flow, possible, time.monotonic())


def _chosen(
    looking: Looking, calls: Sequence[_Call], kind: Callable[[str], str | None], kinds: int
) -> list[_Call]:
    """Return the first call of each kind, once there are *kinds*, or no more answers come."""
    if len(calls) == 1:
        return list(calls)
    chosen: dict[str, _Call] = {}
    waiting, last_news = list(calls), time.monotonic()
    while waiting and len(chosen) < kinds and time.monotonic() - last_news < probe.STALL:
        for call in list(waiting):
            answer = call.sent.answer()
            if answer is not None:
                waiting.remove(call)
                last_news = time.monotonic()
                name = kind(_answering(answer))
                if name is not None:
                    chosen.setdefault(name, call)
        if any(_is_over(looking, call) for call in waiting[:1]):
            break
        if waiting and len(chosen) < kinds:
            looking.capture.wait(probe.LOOK)
    if waiting and len(chosen) < kinds:
        chosen.setdefault("", waiting[0])  # nobody answered
    return list(chosen.values())


def _answering(answer: Answer) -> str:
    """Return the endpoint that answered, as it says of itself: `10.244.1.2:80`."""
    says = answer.says
    return socket_address(says["server"], says.get("serverPort", 0)) if "server" in says else ""


def _is_over(looking: Looking, call: _Call) -> bool:
    return looking.trace.dropped(call.sent.flow, call.sent.token)


def _answer(looking: Looking, source: Place, call: _Call) -> Answer | None:
    """Return the answer to a call, once the call is over."""
    expectation = _expected(looking, source, call, "")
    over = lambda: _is_over(looking, call)  # noqa: E731
    answer = probe.followed(looking.capture, call.sent, expectation, over=over)
    return answer or call.sent.answer()  # a refusal comes right behind its drop


def _looked_into(
    looking: Looking, source: Place, call: _Call, answer: Answer | None, seconds: float
) -> Asked:
    """Return what was seen of a call that is over, compared with what was to be seen."""
    sent, flow, capture = call.sent, call.flow, looking.capture
    if call.possible.verdict is Sentence.CLOSED and answer is not None and not answer.says:
        answer = Answer(refused=answer.refused or CLOSED)
    answered = bool(answer and not answer.refused)
    sightings = probe.seen(capture, sent.flow, sent.token, netns=source.netns, answered=answered)
    endpoint = sent_to(sightings, flow, call.possible.endpoints)
    expectation = _expected(looking, source, call, endpoint)
    sightings = capture.in_order(expectation, sightings)
    relayed = relayed_by(looking.read, looking.node, sent.flow) if looking.by_process else None
    verdict = probe.judged(expectation, sightings, answer, path="probe", title="")
    verdict = msgspec.structs.replace(verdict, seconds=seconds)
    hits = looking.trace.hits(sent.flow, sent.token, within=[looking.node.netns])
    if looking.virtual:
        refused = answer.refused if answer else ""
        hook = "output" if source.netns == looking.node.netns else "input"
        more = by_virtual_server(looking.read, looking.node, flow, hook, refused=refused)
        hits = [*hits, *more]
    shot = probe.Shot(verdict, flow, expectation, tuple(sightings), answer)
    port = looking.portal(flow)
    return Asked(shot, call.possible, tuple(hits), endpoint, seconds, port, relayed)


def by_virtual_server(
    read: Read, node: NodeState, flow: Flow, hook: str, *, refused: str
) -> Iterator[RuleHit]:
    """Yield what ip_vs of *node* did with *flow* as if it were a rule: no trace tells of it.

    That is the real server it gave it, by the connection it remembers; or, of a flow that was
    *refused*, that its virtual server has none.
    """
    name = f"{flow.protocol.upper()} {flow.destination}:{flow.destination_port}"
    found, bare = read(node, "virtual", flow=msgspec.to_builtins(flow), bare=name)
    words = [(server, gave, "continue") for server, gave in found]
    if refused and not found and bare:
        words.append((name, "no real server: reject", "drop"))
    for chain, rule, verdict in words:
        yield RuleHit(node.netns, "ip", IPVS, hook, hook.upper(), chain, rule, verdict, flow)


def relayed_by(read: Read, node: NodeState, flow: Flow) -> Relayed | None:
    """Return what the process of *node* says it did with *flow*, as it was sent."""
    source = (flow.source, flow.source_port)
    found = read(node, "relayed", source=source, protocol=str(flow.protocol))
    return msgspec.convert(found[0], Relayed) if found else None


def sent_to(sightings: Sequence[Sighting], flow: Flow, endpoints: Collection[str]) -> str:
    """Return which of *endpoints* the request of *flow* was on its way to, "" if to none."""
    for sighting in sightings:
        to = socket_address(sighting.flow.destination, sighting.flow.destination_port)
        if sighting.flow.protocol is flow.protocol and to in endpoints:
            return to
    return ""


def _expected(looking: Looking, source: Place, call: _Call, endpoint: str) -> Expectation:
    """Return the way *call* is to take; through *endpoint*, or any of those it may be sent to."""
    cluster, node, made = looking.cluster, looking.node, looking.made
    flow, possible = call.flow, call.possible
    match possible.verdict:
        case Sentence.ENDPOINTS:
            chosen = endpoint or next(iter(possible.endpoints))
            rewrite = rewriting(
                *(cluster, node, chosen),
                masquerade=possible.endpoints[chosen],
                why=f"the rules of {_by(made, flow)} on {node.name}",
            )
            if looking.by_process:
                return portalways.expected(cluster, source, flow, rewrite, looking.portal(flow))
            return serviceways.expected(cluster, source, flow, rewrite)
        case Sentence.REJECTED:
            why = f"a rule of {_by(made, flow)} refuses it on {node.name}"
            return serviceways.refused(cluster, source, flow, node, why=why)
        case Sentence.DROPPED:
            why = f"a rule of {_by(made, flow)} drops it on {node.name}"
            return serviceways.refused(cluster, source, flow, node, why=why)
        case Sentence.CLOSED:
            why = f"the userspace proxy of {node.name} has no endpoint of {_by(made, flow)}"
            portal = looking.portal(flow)
            return portalways.closed(cluster, source, flow, node, portal, why=why)
    return paths.expected(cluster, source, Place(flow.destination), flow)


def _by(made: Decision, flow: Flow) -> str:
    for one in made.frontends:
        if is_at(one, flow.destination, flow.destination_port, flow.protocol):
            return f"Service {one.service.text}"
    return "no Service"


def is_at(frontend: Frontend, address: str, port: int, protocol: Protocol) -> bool:
    """Return whether *frontend* is the one at an address (of the node's, for a NodePort)."""
    of = frontend.service
    same = (frontend.port, of.protocol, of.family) == (port, protocol.upper(), family(address))
    return same and frontend.address in ("", address)


def rewriting(
    cluster: Cluster, node: NodeState, endpoint: str, *, masquerade: bool, why: str = ""
) -> Rewrite:
    """Return what *node* does to a flow it sends to *endpoint*, `10.244.1.2:80`."""
    address, _, port = endpoint.rpartition(":")
    place = places.of_address(cluster, address.strip("[]"))
    return Rewrite(node, place, int(port), masquerade, why)


def watched(cluster: Cluster, sources: Collection[Place], frontend: Frontend) -> list[str]:
    """Return the namespaces to watch for flows from *sources* to *frontend*."""
    ends = [places.of_address(cluster, one.address).netns for one in frontend.service.reachable]
    names = [source.netns for source in sources]
    names += [node.netns for node in cluster.nodes]
    names += world.between(cluster.lab)
    if any(source.member for source in sources):
        names.append(cluster.lab.netns(world.GATEWAY))
    return list(dict.fromkeys(name for name in (*names, *ends) if name))


def rewrite_hit(asked: Asked) -> RuleHit | None:
    """Return the rule of a proxy's that gave the flow its endpoint, if the kernel named one.

    In userspace mode, the one that led it to the proxy.
    """
    to: tuple[str, ...] = (
        f"--to-destination {asked.endpoint}",
        f"dnat to {asked.endpoint}",
        f"-r {asked.endpoint} -m",
    )
    if asked.portal:
        to = (f"--to-ports {asked.portal}", f":{asked.portal}")
    hits = [hit for hit in asked.hits if (asked.endpoint or asked.portal) and of_proxy(hit)]
    return next((hit for hit in hits if hit.rule.endswith(to)), None)


def masquerade_hit(asked: Asked) -> RuleHit | None:
    """Return the rule, a proxy's or not, that hid the flow's source, if the kernel named one."""
    hidden = [hit for hit in asked.hits if hit.hook == "postrouting"]
    # The word by itself: a jump's comment may speak of it, too.
    return next((hit for hit in hidden if _MASQUERADE & {*hit.rule.split()}), None)


def of_proxy(hit: RuleHit) -> bool:
    """Return whether a rule is a proxy's by name."""
    return hit.chain.startswith("KUBE-") or hit.table in ("kube-proxy", IPVS)


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


def ending(asked: Asked) -> RuleHit | None:
    """Return the rule, of a proxy's by name, that let the flow go no further.

    In userspace mode, that led it to a proxy that lets it go.
    """
    if asked.fate.verdict is Sentence.CLOSED:
        return rewrite_hit(asked)
    ended = [hit for hit in asked.hits if hit.rule and hit.verdict == "drop" and of_proxy(hit)]
    return ended[-1] if ended else None


def by_rules(asked: Asked) -> list[str]:
    """Return, as evidence, the rules that decided about a flow."""
    return [
        f"  {hit.hook}: {hit.table} {hit.chain}: {hit.rule}"
        + (f" -> {hit.verdict}" if " vmap " in hit.rule else "")
        for hit in deciding(asked)
    ]
