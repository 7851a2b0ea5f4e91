"""The path of a client to a load balancer's address: by the balancer, then by a node.

One flow of each protocol and mode is followed hop by hop, through whichever node it was sent to;
many tell the nodes' shares; one from outside the source ranges is refused; and a node that does not
answer the balancer's probes gets none.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from netlab import beyond, patience, probe, world
from netlab.balancing import rules
from netlab.balancing.listeners import HEALTHZ_PORT, VIP, Listener, backends, listeners
from netlab.cluster import NodeState
from netlab.controllers.nodes import lost
from netlab.kernel import owned
from netlab.model.kubernetes import Document
from netlab.model.lab import Lab
from netlab.model.modes import Mode
from netlab.packets import Direction, Flow, Outcome, Protocol, RuleHit, Sighting
from netlab.paths import Place, balancerways
from netlab.paths.places import of_member
from netlab.proxy import Outcome as Fate
from netlab.proxy import Packet, outcome
from netlab.proxy.addresses import contains
from netlab.sensors import mesh
from netlab.sensors.sending import send
from netlab.sensors.token import token
from netlab.verify import serviceprobe
from netlab.verify.context import Checked, Context, Failure, Refuted, Skip
from netlab.verify.serviceprobe import Looking
from netlab.verify.serving import AGAIN, Decisions
from netlab.verify.shares import Shares, flows_for, shares

OK = 200  # HTTP: the node is well
# Seconds for the balancer to notice what became of a node; it should take 1.5.
PATIENCE = patience.seconds(5.0)
LOOK = 0.05  # seconds between two looks
TRIES = 3  # of a flow, when the sensors lost frames
SILENT_AT_MOST = patience.seconds(30.0)  # seconds, should this end without a word
SILENCE = "netlab-silence"  # the table that drops probes at a node for a while


def loadbalancer(context: Context) -> Checked:
    checked, flows = _served(context)
    _without(flows, checked)
    return checked


def flows(context: Context) -> Checked:
    """Return the proof of the flows alone, without taking a node out of health."""
    return _served(context)[0]


def _served(context: Context) -> tuple[Checked, list[_Flows]]:
    if context.lab.balancer is None:
        raise Skip("needs a `balancer` in the Lab document")
    services = context.cluster.documents.of("Service")
    found = [
        one
        for one in listeners(context.lab, services)
        if one.protocol in (Protocol.TCP, Protocol.UDP)
    ]
    chosen = [one for one in found if one.service in set(_one_of_each(found).values())]
    decisions = Decisions(context)
    flows = [_Flows(context, one, decisions) for one in chosen]
    flows = [one for one in flows if one.wanted()]
    if not flows:
        raise Skip("needs a Service of type LoadBalancer with an address and an endpoint")
    context.watch(
        *(_watched(context), [context.lab.netns(world.BALANCER), *_netns(context.cluster.nodes)])
    )
    checked = Checked()
    for one in flows:
        one.agreed()
    for one in flows:
        one.proven(checked)
        checked.evidence.append(one.fair())
    for one in flows:
        checked.evidence += one.refused()
    return checked, flows


def _one_of_each(found: Iterable[Listener]) -> dict[str, str]:
    """Return the first Service of each mode."""
    chosen: dict[str, str] = {}
    for one in found:
        chosen.setdefault(one.mode, one.service)
    return chosen


def _watched(context: Context) -> list[str]:
    lab = context.lab
    members = (world.CLIENT, world.INTERNET, world.GATEWAY, world.BALANCER)
    names = [*(lab.netns(member) for member in members), *world.between(lab)]
    return [
        *dict.fromkeys(names),
        *_netns(context.cluster.nodes),
        *(pod.netns for pod in context.pods),
    ]


def _netns(nodes: Iterable[NodeState]) -> list[str]:
    return [node.netns for node in nodes]


class _Flows:
    """Flows from the client outside to one listener."""

    def __init__(self, context: Context, listener: Listener, decisions: Decisions) -> None:
        self.context, self.listener, self.decisions = context, listener, decisions
        self.protocol = Protocol(listener.protocol)
        self.client = of_member(context.cluster, world.CLIENT)
        self.where = f"{listener.address}:{listener.port}/{listener.protocol}"
        self.title = f"client -> {listener.service} {self.where}, ipMode {listener.mode}"

    def wanted(self) -> list[str]:
        """Return the nodes that the balancer is to use: those that may be, and would say so."""
        one, cluster = self.listener, self.context.cluster
        declared = cluster.documents.of("Node")
        alive = [node for node in declared if not lost(node)]
        fit = {each.name for each in backends(self.context.lab, alive, ip_mode=one.mode)}
        return [node.name for node in cluster.nodes if node.name in fit and self._says_well(node)]

    def _says_well(self, node: NodeState) -> bool:
        """Return whether *node* is to answer the balancer's probes with 200."""
        port = self.listener.check_port
        checks = self.decisions.of(node).health_checks
        return port == HEALTHZ_PORT or any(
            check.status == OK for check in checks if check.port == port
        )

    def agreed(self) -> None:
        """Wait until the balancer uses the nodes that it is to. Raises Failure."""
        wanted = self.wanted()

        def used() -> list[str]:
            return [node.name for node in self.nodes()]

        if not _until(lambda: used() == wanted, PATIENCE):
            raise self.failure(
                f"the balancer uses {', '.join(used()) or 'no node'} after {PATIENCE:.0f} s",
                expected=f"it uses {', '.join(wanted)}, which answer its probes",
            )

    def nodes(self) -> list[NodeState]:
        """Return the nodes that the balancer uses now."""
        told = self.context.live.status().get("balancer", {}).get("listeners", {})
        used = set(told.get(self.where, ()))
        return [node for node in self.context.cluster.nodes if node.address in used]

    def failure(self, *evidence: str, expected: str, last: str = "") -> Failure:
        first, *others = evidence
        where = last or self.context.lab.netns(world.BALANCER)
        return Failure(f"{self.title}: {first}", *others, last_seen=where, expected_next=expected)

    # -- one flow

    def proven(self, checked: Checked) -> None:
        """Send one flow and follow it. Raises Failure, Refuted."""
        capture = self.context.capture
        for attempt in range(1, TRIES + 1):
            lost = capture.lost
            try:
                self._proven(checked)
                return
            except (Failure, Refuted):
                unseen = capture.lost != lost or self.context.trace.lost
                if not unseen or attempt == TRIES:
                    raise

    def _proven(self, checked: Checked) -> None:
        context, one = self.context, self.listener
        flow = Flow(self.client.address, one.address, self.protocol, 0, one.port)
        mark = token()
        with send(self.client.netns, probe.unbound(flow), mark) as sent:
            _until(lambda: sent.answer() is not None, probe.PATIENCE)
            answer = sent.answer()
            flow = sent.flow
        context.capture.flush()
        answered = bool(answer and not answer.refused)
        sightings = probe.seen(
            context.capture, flow, mark, netns=self.client.netns, answered=answered
        )
        node = self._node(sightings)
        if node is None or answer is None:
            last = max(sightings, key=lambda seen: seen.time, default=None)
            where = f"{last.netns} {last.device} {last.direction}" if last else "nowhere"
            raise self.failure(
                f"last seen at {where}" + ("" if answer else ", and not answered"),
                expected="a node that the balancer sends it to",
                last=where,
            )
        fate = self._fate(node)
        endpoint = serviceprobe.sent_to(sightings, flow, fate.endpoints)
        if not endpoint:
            raise self.failure(
                f"sent to no endpoint by {node.name}",
                expected=f"one of {', '.join(fate.endpoints)}",
                last=node.netns,
            )
        rewrite = serviceprobe.rewriting(
            context.cluster, node, endpoint, masquerade=fate.endpoints[endpoint]
        )
        crossing = self._crossing(node)
        expectation = balancerways.expected(context.cluster, self.client, flow, rewrite, crossing)
        sightings = context.capture.in_order(expectation, sightings)
        verdict = probe.judged(expectation, sightings, answer, path="probe", title="")
        if verdict.outcome is not Outcome.PASS:
            raise Refuted(verdict)
        assert expectation.translated is not None
        saw = str(answer.says.get("client", ""))
        if saw != expectation.translated.source:
            raise self.failure(
                f"{rewrite.endpoint.title} saw {saw or 'nobody'}",
                expected=f"{rewrite.endpoint.title} sees {expectation.translated.source}",
                last=rewrite.endpoint.netns,
            )
        back = "straight" if one.mode == VIP else "by the balancer"
        checked.evidence.append(
            f"{self.title}: by the balancer to {node.name}, there to {rewrite.endpoint.title} "
            f"{endpoint}; it saw {saw}; the reply came back {back}, as from {one.address}"
        )
        checked.evidence += self._by_rules(flow, mark)
        checked.passages += verdict.passages

    def _node(self, sightings: Sequence[Sighting]) -> NodeState | None:
        """Return the node that the request was seen to come to from the balancer.

        In a lab of several machines it may have crossed the first on its way to another; which was
        later their clocks do not say.
        """
        found: NodeState | None = None
        home = beyond.outside_home(self.context.lab)
        for seen in sightings:
            for node in self.context.cluster.nodes:
                to = self.listener.address if self.listener.mode == VIP else node.address
                place = (seen.netns, seen.device, seen.direction)
                card = beyond.card_towards_balancer(self.context.lab, node.declared)
                if place == (node.netns, card, Direction.IN) and (
                    seen.outer is None and seen.flow.destination == to
                ):
                    crossed = home is not None and node.name == home.name
                    found = found if crossed and found else node
        return found

    def _fate(self, node: NodeState) -> Fate:
        """Return what *node* is to do with what the balancer sends it."""
        sent = self._sent_on(node, self.client)
        packet = Packet(
            sent.source,
            sent.destination,
            sent.destination_port,
            sent.protocol.upper(),
            beyond.card_towards_balancer(self.context.lab, node.declared),
        )
        return outcome(self.decisions.of(node), packet, local=serviceprobe.own_addresses(node))

    def _sent_on(self, node: NodeState, source: Place) -> Flow:
        """Return a flow of *source*, outside, as the balancer sends it to *node*."""
        one, balancer = self.listener, self.context.lab.balancer
        assert balancer is not None
        if one.mode == VIP:
            return Flow(source.address, one.address, self.protocol, 0, one.port)
        return Flow(balancer.address, node.address, self.protocol, 0, one.node_port)

    def _crossing(self, node: NodeState) -> balancerways.Crossing:
        one, context = self.listener, self.context
        made = self.decisions.of(node)
        looking = Looking(context.cluster, context.capture, context.trace, node, made, context.read)
        portal = looking.portal(self._sent_on(node, self.client))
        return balancerways.Crossing(one.service, 0 if one.mode == VIP else one.node_port, portal)

    def _by_rules(self, flow: Flow, mark: bytes) -> list[str]:
        """Return the rule of the balancer's that chose the node. Raises Failure."""
        hits = [one for one in self._hits(flow, mark) if rules.said(one.rule)]
        if not any("new flow" in rules.said(one.rule) for one in hits):
            raise self.failure(
                "no rule of the balancer's was seen to choose a node",
                expected=f"chain {self.listener.chain} chooses one",
            )
        return [f"  {one.hook}: {one.table} {one.chain}: {one.rule}" for one in hits[:1]]

    def _hits(self, flow: Flow, mark: bytes) -> list[RuleHit]:
        netns = self.context.lab.netns(world.BALANCER)
        hits = self.context.trace.hits(flow, mark, within=[netns])
        return [one for one in hits if one.table == rules.TABLE]

    # -- many flows

    def fair(self) -> str:
        """Ask as often as is needed to tell the nodes' shares; return them. Raises Failure."""
        names = [node.name for node in self.nodes()]
        count = flows_for(len(names))
        found = self.shares(count, names)
        if not found.fair and not found.others:
            found = self.shares(AGAIN * count, names)
        if not found.fair:
            raise self.failure(
                f"not in fair shares: {found}",
                expected=f"equal shares for {', '.join(names)}, and nobody else",
            )
        return f"{self.title}: {str(found).replace('endpoint', 'node')}"

    def shares(self, count: int, names: Sequence[str]) -> Shares:
        """Return by which nodes *count* flows went. Raises Failure when one is not answered."""
        one = self.listener
        answers = mesh.answers(
            [
                mesh.Pair(self.client.netns, one.address, one.port, self.protocol, number)
                for number in range(count)
            ]
        )
        errors = [each.error or "no answer" for each in answers.values() if not each.client]
        if errors:
            raise self.failure(
                f"{len(errors)} of {count} flows failed: {errors[0]}", expected="an answer to each"
            )
        return shares(Counter(self._crossed(each) for each in answers.values()), names)

    def _crossed(self, answer: mesh.Answer) -> str:
        """Return the node a flow went by: the one whose address hid the client, or the pod's."""
        for node in self.context.cluster.nodes:
            if answer.client in serviceprobe.own_addresses(node):
                return node.name
        return self.context.cluster.pod(f"{answer.namespace}/{answer.pod}").node

    # -- who may not

    def refused(self) -> list[str]:
        """Ask from the internet, if the Service lets only others in. Raises Failure."""
        one, outsider = self.listener, of_member(self.context.cluster, world.INTERNET)
        ranges = self._ranges()
        if not ranges or _within(outsider, ranges) or not _within(self.client, ranges):
            return []
        if one.mode == VIP and self.context.lab.proxyMode == Mode.USERSPACE:
            return [
                f"internet -> {one.service} {self.where}: userspace mode knows no source ranges"
            ]
        flow = Flow(outsider.address, one.address, self.protocol, 0, one.port)
        mark = token()
        with send(outsider.netns, probe.unbound(flow), mark) as sent:
            flow = sent.flow
            trace = self.context.trace
            _until(lambda: trace.dropped(flow, mark) or sent.answer() is not None, probe.PATIENCE)
            answer = sent.answer()
        drops = [hit for hit in trace.hits(flow, mark) if hit.rule and hit.verdict == "drop"]
        by = [hit for hit in drops if hit.table == rules.TABLE or serviceprobe.of_proxy(hit)]
        if answer is not None or not by:
            raise self.failure(
                f"internet, {outsider.address}, was {'answered' if answer else 'not answered'}, "
                "and no rule was seen to drop it",
                expected=f"refused, as only {', '.join(ranges)} may come",
            )
        hit = by[-1]
        where = hit.netns.partition(".")[2]
        return [
            f"internet -> {one.service} {self.where}, ipMode {one.mode}: not of "
            f"{', '.join(ranges)}: dropped by {where}: `{hit.table} {hit.chain}: {hit.rule}`"
        ]

    def _ranges(self) -> list[str]:
        namespace, _, name = self.listener.service.partition("/")
        service: Document = self.context.cluster.documents.named("Service", namespace, name) or {}
        return [str(one).strip() for one in service["spec"].get("loadBalancerSourceRanges") or ()]


def _within(place: Place, ranges: Iterable[str]) -> bool:
    return any(contains(one, place.address) for one in ranges)


# -- health


def _without(flows: Sequence[_Flows], checked: Checked) -> None:
    """Let the balancer's probes of one node be lost, and see it get nothing. Raises Failure."""
    used = [{node.name for node in one.nodes()} for one in flows]
    common = set.intersection(*used)
    context = flows[0].context
    node = next((one for one in reversed(context.cluster.nodes) if one.name in common), None)
    if node is None or min(map(len, used)) < 2:
        checked.evidence.append("one node only: none was taken out of health")
        return
    ports = sorted({one.listener.check_port for one in flows})
    with _silent(context, node, ports):
        began = time.monotonic()
        gone = _seen(flows, node, used=False, began=began)
        checked.evidence.append(
            f"{node.name} without answers to the balancer's probes: no listener's after "
            f"{gone * 1000:.0f} ms"
        )
        for one in flows:
            names = [each.name for each in one.nodes()]
            found = one.shares(flows_for(len(names)), names)
            if found.others:
                raise one.failure(
                    f"{node.name} is not well, yet it got {found.others}",
                    expected=f"only {', '.join(names)} get flows",
                )
            checked.evidence.append(f"{one.title}: {node.name} got none of {found.flows} flows")
    began = time.monotonic()
    back = _seen(flows, node, used=True, began=began)
    checked.evidence.append(f"{node.name} answers again: used after {back * 1000:.0f} ms")
    for one in flows:
        checked.evidence.append(one.fair())


@contextmanager
def _silent(context: Context, node: NodeState, ports: Sequence[int]) -> Iterator[None]:
    """Have the balancer's probes of *node*, at *ports*, be lost meanwhile."""
    if context.here not in ("", node.name):
        with context.away(node.name, "silence", {"ports": ports, "seconds": SILENT_AT_MOST}):
            yield
        return
    with silence(context.lab, node.netns, ports):
        yield


def silence(lab: Lab, netns: str, ports: Iterable[int]) -> AbstractContextManager[None]:
    """Have the balancer's probes of the node *netns*, at *ports*, be lost there meanwhile."""
    assert lab.balancer is not None
    chain = (
        "input { type filter hook input priority filter; "
        f"ip saddr {lab.balancer.address} tcp dport {{ {', '.join(map(str, ports))} }} "
        "counter drop; }"
    )
    return owned.table(netns, SILENCE, [chain])


def _seen(flows: Sequence[_Flows], node: NodeState, *, used: bool, began: float) -> float:
    """Return the seconds since *began* until all listeners use *node*, or none. Raises Failure."""

    def all_agree() -> bool:
        return all((node.name in {each.name for each in one.nodes()}) is used for one in flows)

    if not _until(all_agree, PATIENCE):
        raise flows[0].failure(
            f"{node.name} is {'not used' if used else 'used'} still after {PATIENCE:.0f} s",
            expected=f"{node.name} {'used' if used else 'not used'} within 2 s",
        )
    return time.monotonic() - began


def _until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK if seconds > probe.PATIENCE else probe.LOOK)
    return True
