"""Paths to Services' cluster IPs: from pods, from nodes; unserved, sticky, alike in name."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from netlab.cluster import NodeState
from netlab.packets import Outcome, Protocol
from netlab.paths import Place
from netlab.paths.places import of_node
from netlab.proxy import Decision, Frontend, Kind, Policy, Refusal
from netlab.proxy import Verdict as Sentence
from netlab.proxy.addresses import Family
from netlab.verify import asker, serviceprobe
from netlab.verify.context import Checked, Context, Failure, Refuted, Skip
from netlab.verify.serviceprobe import Asked
from netlab.verify.serving import (
    NEW_FLOWS,
    Asking,
    Decisions,
    frontends,
    most_served,
    pods_of,
    watch,
)

REFUSED = ("connection refused", "operation not permitted")  # the latter: UDP, from the node itself
LET_GO = (serviceprobe.CLOSED, "connection reset by peer")  # the latter: what was sent is unread
UNSERVED = "@no-endpoint-services"  # in nftables mode the map of Services that nobody serves
REFUSED_TRIES = 4  # pods, until one is told: ICMP errors are rationed for each (icmp_ratelimit)
STICKY_FLOWS = 50
CLIENTS = 3
LONGEST_WAIT = 3  # seconds of an affinity's timeout that a verification waits for


def balanced(context: Context, made: Decision, family: Family = Family.IPV4) -> list[Frontend]:
    """Return the cluster IPs whose endpoints are to answer everybody in equal shares."""
    return [
        one
        for one in frontends(context, made, Kind.CLUSTER_IP, family)
        if one.service.cluster
        and not one.service.affinity
        and one.ways
        and one.ways[0].policy is Policy.CLUSTER
    ]


def home_of(context: Context, place: Place) -> NodeState:
    """Return the node that *place* is, or is on."""
    if place.node is None:
        raise Skip(f"needs {place.title} on a node")
    return context.cluster.node(place.node.name)


def asking(context: Context, decisions: Decisions, source: Place, frontend: Frontend) -> Asking:
    """Return flows from a pod or node to a cluster IP."""
    node = home_of(context, source)
    return Asking(context, source, frontend, node=node, made=decisions.of(node))


def pod_clusterip(context: Context) -> Checked:
    decisions = Decisions(context)
    made = _first(context, decisions)
    found = {of: most_served(balanced(context, made, of)) for of in context.families}
    if not found[Family.IPV4]:
        raise Skip("needs a Service with a cluster IP and an endpoint")
    # Best is an endpoint itself that has others on its node and elsewhere.
    places = {
        (family, one.key): [
            context.pod_place(pod, family)
            for pod in [pod for pod in pods_of(context, one) if context.is_here(pod.node)]
            or context.senders
        ]
        for family, every in found.items()
        for one in every
    }
    if not all(places.values()):
        raise Skip("needs a pod")
    best = [
        _nearest_to_all(context, decisions, places[family, one.key], one)
        for family, every in found.items()
        for one in every
    ]
    checked = _one_of_each_in_shares(best)
    checked.evidence += [
        f"no Service has a cluster IP of {family}: not tried"
        for family, every in found.items()
        if not every
    ]
    for one in best:
        missing = {"itself", "same node", "other node"} - one.relations
        if missing:
            checked.evidence.append(f"{one.title}: no endpoint at: {', '.join(sorted(missing))}")
    return checked


def _nearest_to_all(
    context: Context, decisions: Decisions, places: Sequence[Place], frontend: Frontend
) -> Asking:
    """Return flows from that one of *places* which has endpoints at the most different ones."""
    tried = [asking(context, decisions, place, frontend) for place in places]
    return max(tried, key=lambda one: len(one.relations))


def _one_of_each_in_shares(flows: Sequence[Asking]) -> Checked:
    checked = Checked()
    watch(flows)
    for one in flows:
        seen = one.one_of_each()
        checked.evidence += [*seen.evidence, one.fair_shares()]
        checked.passages += seen.passages
    return checked


def _first(context: Context, decisions: Decisions) -> Decision:
    if not context.nodes:
        raise Skip("needs a node")
    return decisions.of(context.nodes[0])


def node_clusterip(context: Context) -> Checked:
    decisions = Decisions(context)
    found = most_served(balanced(context, _first(context, decisions)))
    if not found:
        raise Skip("needs a Service with a cluster IP and an endpoint")
    nodes = [of_node(node) for node in context.nodes if node.subnet]
    return _one_of_each_in_shares(
        [_nearest_to_all(context, decisions, nodes, frontend) for frontend in found]
    )


# -- nobody serves


def no_endpoints(context: Context) -> Checked:
    decisions = Decisions(context)
    made = _first(context, decisions)
    found = most_served(
        one
        for one in frontends(context, made, Kind.CLUSTER_IP)
        if not one.ways and one.refusal in (Refusal.REJECT, Refusal.CLOSE)
    )
    if not found or not context.senders:
        raise Skip("needs a Service without endpoints, and a pod")
    pods = [context.pod_place(pod) for pod in context.senders][:REFUSED_TRIES]
    node = of_node(context.nodes[0])
    groups = [
        [asking(context, decisions, place, frontend) for place in places]
        for frontend in found
        for places in (pods, [node])
    ]
    checked = Checked()
    watch(one for group in groups for one in group)
    for group in groups:
        _refused_at_once(group, checked)
    return checked


def _refused_at_once(group: Sequence[Asking], checked: Checked) -> None:
    """Ask and be refused by a rule of the Service. Raises Failure, Refuted.

    The next of *group* asks when one is not told: the kernel rations ICMP errors for each client.
    """
    if group[0].fate.verdict is Sentence.CLOSED:
        _let_go_at_once(group[0], checked)
        return
    told = ""
    for one in group:
        asked = one.ask()
        if asked.shot.verdict.outcome is not Outcome.PASS:
            raise Refuted(asked.shot.verdict)
        refusing, text = serviceprobe.ending(asked), one.frontend.service.text
        led = any(
            text in hit.rule or UNSERVED in hit.rule or hit.table == serviceprobe.IPVS
            for hit in serviceprobe.deciding(asked)
        )
        if refusing is None or "reject" not in refusing.rule.lower() or not led:
            raise one.failure(
                f"ended by {refusing or 'no known rule'}" + ("" if led else f", not as {text}"),
                expected=f"a rule for {text} that rejects it",
            )
        told = asked.shot.answer.refused if asked.shot.answer else ""
        if told in REFUSED[: 1 + (one.hook == "output")]:
            took = f"{asked.seconds * 1000:.0f} ms"
            checked.evidence.append(
                f"{one.title}: {told} after {took}, by `{refusing.chain}: {refusing.rule}`"
            )
            checked.evidence += serviceprobe.by_rules(asked)
            checked.passages += asked.shot.verdict.passages
            return
    raise group[0].failure(
        "nobody was told, though a rule rejects it" + (f"; instead: {told}" if told else ""),
        expected=f"{REFUSED[0]}, at once",
    )


def _let_go_at_once(one: Asking, checked: Checked) -> None:
    """Ask, be let in by a process and out again; of UDP, hear nothing. Raises Failure, Refuted."""
    asked = one.ask()
    if asked.shot.verdict.outcome is not Outcome.PASS:
        raise Refuted(asked.shot.verdict)
    told = asked.shot.answer.refused if asked.shot.answer else ""
    hit = serviceprobe.ending(asked)
    if hit is None or told not in (LET_GO if one.flow.protocol is Protocol.TCP else ("",)):
        raise one.failure(
            f"led by {hit or 'no known rule'}, then: {told or 'nothing'}",
            expected=f"into port {asked.portal} of {one.node.name}, and {LET_GO[0]}",
        )
    what = f"{told} after {asked.seconds * 1000:.0f} ms" if told else "not answered"
    checked.evidence.append(
        f"{one.title}: {what}, by the proxy of {one.node.name}, which has no endpoint for it"
    )
    checked.evidence += serviceprobe.by_rules(asked)
    checked.passages += asked.shot.verdict.passages


# -- affinity


def affinity(context: Context) -> Checked:
    decisions = Decisions(context)
    found = most_served(
        one
        for one in frontends(context, _first(context, decisions), Kind.CLUSTER_IP)
        if one.service.affinity and len(one.service.cluster) > 1
    )
    if not found or not context.senders:
        raise Skip("needs a Service with sessionAffinity ClientIP and two endpoints")
    some = context.senders[:: max(1, len(context.senders) // CLIENTS)][:CLIENTS]
    clients = [
        [asking(context, decisions, context.pod_place(pod), frontend) for pod in some]
        for frontend in found
    ]
    checked = Checked()
    watch(flows[0] for flows in clients)
    for flows in clients:
        checked.evidence += [_stays(one) for one in flows]
        asked, _ = flows[0].proven()
        checked.evidence += serviceprobe.by_rules(asked)
        checked.passages += asked.shot.verdict.passages
    checked.evidence += _until_timeouts(context, decisions, found)
    return checked


def _stays(one: Asking) -> str:
    """Return in words that one client keeps its endpoint. Raises Failure.

    Asked again when not all did: a flow that the kernel remembers from before goes where it went.
    """
    for _ in range(NEW_FLOWS):
        answers = one.often(1) + one.often(STICKY_FLOWS - 1)
        at = Counter(f"{each.namespace}/{each.pod}" for each in answers)
        if len(at) == 1:
            return f"{one.title}: {STICKY_FLOWS} of {STICKY_FLOWS} flows to {next(iter(at))}"
    raise one.failure(
        f"{STICKY_FLOWS} flows of one client went to {len(at)} endpoints: "
        + ", ".join(f"{who} {count}" for who, count in at.items()),
        expected="one endpoint",
    )


def _until_timeouts(context: Context, decisions: Decisions, found: Sequence[Frontend]) -> list[str]:
    """Wait until those affinities end that do so soon, and see clients move. Raises Failure."""
    lines = [
        f"{one.service.text}: for {one.service.affinity} s, which is not waited for here"
        for one in found
        if one.service.affinity > LONGEST_WAIT
    ]
    soon = [one for one in found if one.service.affinity <= LONGEST_WAIT]
    places = [context.pod_place(pod) for pod in context.senders]
    clients = [[asking(context, decisions, place, one) for place in places] for one in soon]
    before = [[client.often(1)[0].pod for client in each] for each in clients]
    wait = max((one.service.affinity + 1 for one in soon), default=0)  # xt_recent: whole seconds
    time.sleep(wait)
    for frontend, each, old in zip(soon, clients, before, strict=True):
        pairs = zip(each, old, strict=True)
        moved = sum(client.often(1)[0].pod != pod for client, pod in pairs)
        text, seconds = frontend.service.text, frontend.service.affinity
        if not moved:
            raise Failure(
                f"{text}: none of {len(each)} clients has moved {wait} s later",
                expected_next=f"each chooses anew {seconds} s after its last flow",
            )
        lines.append(f"{text}: after {seconds} s of silence {moved} of {len(each)} clients moved")
    return lines


# -- namespaces


def namespaces(context: Context) -> Checked:
    decisions = Decisions(context)
    found = balanced(context, _first(context, decisions))
    pair = next(
        (
            (one, other)
            for one in found
            for other in found
            if one.service.name == other.service.name
            and one.service.namespace < other.service.namespace
            and one.service.protocol == other.service.protocol
        ),
        None,
    )
    if pair is None or not context.senders:
        raise Skip("needs two Services of one name in two namespaces, both with endpoints")
    client = context.pod_place(context.senders[0])
    flows = [asking(context, decisions, client, frontend) for frontend in pair]
    checked = Checked()
    ways: list[set[tuple[str, str]]] = []
    watch(flows)
    for one in flows:
        checked.evidence.append(one.fair_shares())
        asked, end = one.proven()
        checked.evidence += one.words(asked, end, rules=True)
        checked.passages += asked.shot.verdict.passages
        ways.append(_own_way(asked))
    # One verdict map leads both to chains of their own; a mark ("continue") is nobody's.
    if shared := [way for way in ways[0] & ways[1] if way[1] != "continue"]:
        raise Failure(
            f"both Services called {pair[0].service.name} were led by "
            + ", ".join(f"{chain} to {verdict}" for chain, verdict in shared),
            expected_next="chains of their own for each",
        )
    checked.evidence.append("no rule served both")
    addresses = {one.service.namespace: one.address for one in pair}
    try:
        checked.evidence += asker.own_first(context, pair[0].service.name, addresses)
    except Skip as nobody:
        checked.evidence.append(f"their names were not asked for: {nobody}")
    return checked


def _own_way(asked: Asked) -> set[tuple[str, str]]:
    """Return the chains that *asked* met and where each sent it on: what should be its Service's.

    In userspace and ipvs mode all Services share chains; each has a rule, or a virtual server, of
    its own.
    """
    hits = serviceprobe.deciding(asked)
    if any(hit.table == serviceprobe.IPVS for hit in hits):
        return {(hit.chain, hit.rule) for hit in hits if hit.table == serviceprobe.IPVS}
    return {(hit.chain, hit.rule if asked.portal else hit.verdict) for hit in hits}
