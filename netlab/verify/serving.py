"""Flows from one place to one frontend: proven one by one, or many at once and counted."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable

import msgspec

from netlab.cluster import NodeState, PodState
from netlab.model.modes import Mode
from netlab.packets import Flow, Outcome, Protocol
from netlab.paths import Place, serviceways
from netlab.proxy import Decision, Frontend, Kind
from netlab.proxy.addresses import Family, socket_address
from netlab.sensors import mesh
from netlab.verify import serviceprobe
from netlab.verify.context import Checked, Context, Failure, Refuted, all_listeners
from netlab.verify.serviceprobe import Asked, Looking
from netlab.verify.shares import Shares, flows_for, shares

TRIES = 25  # probes per endpoint at most, until one of each place answered
AGAIN = 4  # times as many flows, before unequal shares are no chance: 1 in 1000 of fair ones fails
NEW_FLOWS = 4  # tries for one that the kernel does not remember: then no NAT rule is asked
PROTOCOLS = (Protocol.TCP, Protocol.UDP)


class Decisions:
    """What the rules of each node are to do, worked out once. Several threads may ask."""

    def __init__(self, context: Context) -> None:
        self._cluster = context.cluster
        self._made: dict[str, Decision] = {}
        self._turn = threading.Lock()

    def of(self, node: NodeState) -> Decision:
        with self._turn:
            if node.name not in self._made:
                self._made[node.name] = serviceprobe.decided(self._cluster, node)
            return self._made[node.name]


# -- frontends


def frontends(
    context: Context, made: Decision, kind: Kind, family: Family = Family.IPV4
) -> list[Frontend]:
    """Return the frontends of *kind* and *family* that netlab's own servers answer for: of TCP or
    UDP."""
    serving = {(ip, one.port, one.protocol) for one in all_listeners(context) for ip in one.pod.ips}
    # In ipvs mode a NodePort has a frontend for each of the node's addresses: one will do.
    every = {
        (one.service.text, "" if one.kind is Kind.NODE_PORT else one.address, *one.key[2:]): one
        for one in reversed(made.frontends)
        if one.service.family is family
    }
    return [
        one
        for one in reversed(every.values())
        if one.kind is kind
        and one.service.protocol.lower() in PROTOCOLS
        and all(
            (end.address, end.port, protocol_of(one)) in serving for end in one.service.reachable
        )
    ]


def protocol_of(frontend: Frontend) -> Protocol:
    return Protocol(frontend.service.protocol.lower())


def most_served(found: Iterable[Frontend]) -> list[Frontend]:
    """Return one frontend of each protocol: that with the most endpoints."""
    best: dict[Protocol, Frontend] = {}
    for one in found:
        held = best.get(protocol_of(one))
        if held is None or len(one.service.reachable) > len(held.service.reachable):
            best[protocol_of(one)] = one
    return [best[protocol] for protocol in PROTOCOLS if protocol in best]


def pods_of(context: Context, frontend: Frontend) -> list[PodState]:
    """Return the pods that are endpoints of *frontend*."""
    addresses = {one.address for one in frontend.service.reachable}
    return [pod for pod in context.pods if addresses.intersection(pod.ips)]


# -- one place, one frontend


class End(msgspec.Struct, frozen=True):
    """An endpoint a flow may be sent to, and the client that it is to see then."""

    text: str  # `10.244.1.2:80`
    place: Place
    masquerade: bool
    client: str


def relation(source: Place, node: NodeState, end: End) -> str:
    """Return where the endpoint is, as *source* sees it, and *node* whose rules decide."""
    if source.netns == end.place.netns:
        return "itself"
    return "same node" if node == end.place.node else "other node"


class Asking:
    """Flows from *source*, whose first rules are *node*'s, to *frontend* (on *address*).

    `hook`: where those rules see them first.
    """

    def __init__(
        self,
        context: Context,
        source: Place,
        frontend: Frontend,
        *,
        node: NodeState,
        made: Decision,
        address: str = "",
    ) -> None:
        self.context, self.source, self.frontend = context, source, frontend
        self.node, self.made = node, made
        protocol = protocol_of(frontend)
        to = Place(address or frontend.address)
        own = serviceprobe.source_address(context.cluster, source, to.address)
        self.flow = Flow(own, to.address, protocol, 0, frontend.port)
        self.fate = serviceprobe.fate(context.cluster, source, self.flow, node, made)
        virtual = context.lab.proxyMode == Mode.IPVS  # it takes what is delivered to the node
        arriving = "input" if virtual else "prerouting"
        self.hook = "output" if source.netns == node.netns else arriving
        self.ends = {text: self._end(text, hide) for text, hide in self.fate.endpoints.items()}
        self.title = (
            f"{source.title} -> {frontend.service.text} {to.address}:{frontend.port}/{protocol}"
        )

    def _end(self, text: str, masquerade: bool) -> End:
        cluster = self.context.cluster
        rewrite = serviceprobe.rewriting(cluster, self.node, text, masquerade=masquerade)
        hidden = serviceways.hiding_address(cluster, rewrite)
        return End(text, rewrite.endpoint, masquerade, hidden if masquerade else self.flow.source)

    @property
    def looking(self) -> Looking:
        """What its flows are looked at with."""
        context = self.context
        return Looking(
            *(context.cluster, context.capture, context.trace), self.node, self.made, context.read
        )

    def ask(self) -> Asked:
        """Send one probe and compare; it is being watched and traced."""
        return serviceprobe.ask(self.looking, self.source, self.flow)

    def proven(self) -> tuple[Asked, End]:
        """Send a probe that is to be answered; return it with its endpoint, if all was seen.

        That is: every hop; the rule that sent it to its endpoint, at the first hook; the rule that
        hid its source, if it is to be hidden; the pod that answered, and whom it saw.
        Raises Refuted, Failure.
        """
        for _ in range(NEW_FLOWS):
            asked = self.ask()
            if _named(asked):
                break
        return asked, self._proven(asked)

    def _proven(self, asked: Asked) -> End:
        """Return the endpoint of a probe of which all was seen. Raises Refuted, Failure."""
        if asked.shot.verdict.outcome is not Outcome.PASS:
            raise Refuted(asked.shot.verdict)
        end = self.ends[asked.endpoint]
        self._by_known_rules(asked, end)
        says = asked.shot.answer.says if asked.shot.answer else {}
        self._right_answer(
            f"{says.get('namespace', '')}/{says.get('pod', '')}", str(says.get("client", "")), end
        )
        return end

    def _by_known_rules(self, asked: Asked, end: End) -> None:
        hit = serviceprobe.rewrite_hit(asked)
        if hit is None or hit.hook != self.hook:
            raise self.failure(
                f"{asked.shot.flow}: no rule of a proxy was seen to send it to {end.text}"
                + (f" at {self.hook}, only {hit} at {hit.hook}" if hit else ""),
                expected=f"a rule at {self.hook} that sends it to {end.text}",
            )
        if asked.portal:
            self._by_the_process(asked, end)
            return
        hidden = serviceprobe.masquerade_hit(asked)
        if (hidden is not None and serviceprobe.of_proxy(hidden)) != end.masquerade:
            raise self.failure(
                f"{asked.shot.flow}: masqueraded by {hidden or 'no rule'}",
                expected="a rule of a proxy's that masquerades it"
                if end.masquerade
                else "its own source kept",
            )

    def _by_the_process(self, asked: Asked, end: End) -> None:
        """Have the proxy's process say the same as the packets: where it sent the flow, as whom."""
        relayed = asked.relayed
        said = relayed and (relayed.source[0], socket_address(*relayed.endpoint))
        if said != (end.client, end.text):
            raise self.failure(
                f"{asked.shot.flow}: the proxy of {self.node.name} says of it: {relayed}",
                expected=f"a flow of its own from {end.client} to {end.text}",
            )

    def _right_answer(self, who: str, client: str, end: End) -> None:
        if end.place.pod is None or who != end.place.pod.title:
            raise self.failure(
                f"sent to {end.text}, answered by {who.strip('/') or 'nobody'}",
                expected=f"an answer of {end.place.title}",
            )
        if client != end.client:
            raise self.failure(
                f"{end.place.title} saw {client or 'nobody'}, not {end.client}",
                expected=f"{end.place.title} sees {end.client}",
            )

    def failure(self, *evidence: str, expected: str, last: str = "") -> Failure:
        """Return the failure of these flows, last seen at their node if nowhere else."""
        first, *others = evidence
        where = last or self.node.netns
        return Failure(f"{self.title}: {first}", *others, last_seen=where, expected_next=expected)

    @property
    def relations(self) -> set[str]:
        """Where its endpoints are: `itself`, `same node`, `other node`."""
        return {self._relation(end) for end in self.ends.values()}

    def _relation(self, end: End) -> str:
        return relation(self.source, self.node, end)

    def one_of_each(self, *, rules: bool = True) -> Checked:
        """Probe until an endpoint of each place has answered, each flow proven.

        The evidence has the *rules* that decided about the first. Raises Refuted, Failure.
        """
        missing, unnamed = self.relations, 0
        checked, sent, most = Checked(), 0, TRIES * len(self.ends)
        while missing and sent < most:
            count = min(self._enough(missing), most - sent)
            sent += count
            for asked in self._one_of_each(count, missing):
                if not _named(asked) and (unnamed := unnamed + 1) < NEW_FLOWS:
                    continue
                end = self._proven(asked)
                missing.discard(self._relation(end))
                checked.evidence += self.words(asked, end, rules=rules and not checked.evidence)
                checked.passages += asked.shot.verdict.passages
        if missing:
            raise self.failure(
                f"of {sent} flows none was sent to an endpoint at "
                f"{' nor at '.join(sorted(missing))}",
                expected=f"each of {', '.join(self.ends)}",
            )
        return checked

    def _enough(self, missing: Collection[str]) -> int:
        """Return how many probes most probably reach an endpoint at each of the *missing* places.

        One is enough when they all are at one place; otherwise none goes there once in ten times.
        """
        at = Counter(self._relation(end) for end in self.ends.values())
        rarest = min(at[one] for one in missing)
        return 1 if rarest == len(self.ends) else -(-2 * len(self.ends) // rarest)

    def _one_of_each(self, count: int, missing: Collection[str]) -> list[Asked]:
        """Send *count* probes at once; return one for each of the places that are *missing*."""

        def kind(endpoint: str) -> str | None:
            if endpoint not in self.ends:
                return ""
            at = self._relation(self.ends[endpoint])
            return at if at in missing else None

        return serviceprobe.ask_many(
            self.looking, self.source, self.flow, count=count, kind=kind, kinds=len(missing)
        )

    def words(self, asked: Asked, end: End, *, rules: bool) -> list[str]:
        """Return the evidence of a flow that was proven, with the *rules* that decided about it."""
        hidden = " (masqueraded)" if end.masquerade else ""
        by = f"by {self.node.name} at {self.hook}"
        if asked.relayed is not None:
            port = asked.relayed.source[1]
            by = f"by the proxy on port {asked.portal} of {self.node.name}"
            hidden = f", port {port}: a flow of the proxy's own"
        lines = [
            f"{self.title}: sent to {end.place.title} {end.text} ({self._relation(end)}) "
            f"{by}; it saw {end.client}{hidden}; "
            f"the reply came as from {self.flow.destination}"
        ]
        return lines + (serviceprobe.by_rules(asked) if rules else [])

    # -- many flows

    def fair_shares(self) -> str:
        """Ask as often as is needed to tell; return the shares in words. Raises Failure."""
        flows = flows_for(len(self.ends))
        found = self._shares(flows)
        if not found.fair and not found.others:
            found = self._shares(AGAIN * flows)
        if not found.fair:
            expected = f"equal shares for {len(self.ends)} endpoints, and nobody else"
            raise self.failure(f"not in fair shares: {found}", expected=expected)
        return f"{self.title}: {found}"

    def _shares(self, flows: int) -> Shares:
        by_title = {end.place.title: end for end in self.ends.values()}
        answers = self.often(flows)
        for one in answers:
            who = f"{one.namespace}/{one.pod}"
            if who in by_title:
                self._right_answer(who, one.client, by_title[who])
        return shares(Counter(f"{one.namespace}/{one.pod}" for one in answers), by_title)

    def often(self, flows: int) -> list[mesh.Answer]:
        """Return the answers of *flows* flows at once, none without one. Raises Failure."""
        flow = self.flow
        answers = mesh.answers(
            [
                mesh.Pair(
                    *(self.source.netns, flow.destination, flow.destination_port, flow.protocol),
                    number,
                )
                for number in range(flows)
            ]
        )
        errors = [one.error or "no answer" for one in answers.values() if not one.client]
        if errors:
            raise self.failure(
                f"{len(errors)} of {flows} flows failed: {errors[0]}",
                last=self.source.netns,
                expected="an answer to each",
            )
        return list(answers.values())


def _named(asked: Asked) -> bool:
    """Return whether a rule was seen to send the probe on, if it got anywhere.

    There is none for a flow that the kernel remembers.
    """
    passed = asked.shot.verdict.outcome is Outcome.PASS
    return not passed or serviceprobe.rewrite_hit(asked) is not None


def watch(flows: Iterable[Asking]) -> None:
    """Have the rules traced that *flows* meet first, and the capture see where they may go."""
    for one in flows:
        one.context.watch(
            serviceprobe.watched(one.context.cluster, [one.source], one.frontend), [one.node.netns]
        )
