"""Rules as causes: the one that ended a packet, and those of a Service that are not there."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from netlab.agent.rules import State, programmed
from netlab.balancing import rules as balancing
from netlab.cluster import Cluster
from netlab.journeys import (
    Cause,
    Fate,
    Journey,
    Kind,
    Place,
    Rewrite,
    RewriteKind,
)
from netlab.kernel import ipvs
from netlab.kernel.netns import entered
from netlab.packets import RuleHit
from netlab.proxy.claims import Owner
from netlab.telling.naming import Names
from netlab.tracing import drift, state
from netlab.tracing.asking import Asking
from netlab.tracing.stops import Stop


def cause_of(stop: Stop, hit: RuleHit, journey: Journey) -> Cause:
    proof: tuple[str, ...] = (
        f"the kernel's trace: verdict {hit.verdict} at {hit.hook} of {stop.place}",
    )
    if journey.refused:
        proof += (f"the sender was told: {journey.refused}",)
    called = _called(stop, hit)
    if called is not None:
        by = f"{called.table} {called.chain}: {called.rule}"
        proof = (*proof, f"{hit.chain} was called by {by}")
    what = f"{hit.table} {hit.chain}: {hit.rule}" if hit.rule else (
        f"the policy of {hit.table} {hit.chain} is {hit.verdict.removeprefix('policy ')}"
    )  # fmt: skip
    rule = hit.rule
    if "has no endpoints" in rule or "no-endpoint" in rule or "no local endpoints" in rule:
        return _no_endpoints(stop, hit, what, proof, journey)
    asked_of = called.rule if called is not None else ""
    if hit.chain.startswith(("no-endpoint", "service-endpoints")) or "no-endpoint" in asked_of:
        return _no_endpoints(stop, hit, what, proof, journey)
    if (cause := _balanced(stop, hit, what, proof, journey)) is not None:
        return cause
    if "INVALID" in rule or "ct state invalid" in rule:
        return Cause(
            Kind.CONNTRACK_INVALID,
            stop.place,
            f"to the connection tracking of {stop.place} the packet is of no connection; {what}",
            proof,
            (
                "it saw no beginning of it: is the way there another one than the way back, "
                "or does a `notrack` rule hide one?",
            ),
        )
    verb = "refuses" if stop.end.fate is Fate.REFUSED else "drops"
    if hit.verdict == "queue":
        what = f"a rule hands it to a queue, and no program gives it back: {what}"
        return Cause(Kind.RULE, stop.place, what, proof, rule_repair(stop.place, hit))
    return Cause(
        Kind.RULE, stop.place, f"a rule {verb} it: {what}", proof, rule_repair(stop.place, hit)
    )


def _balanced(
    stop: Stop, hit: RuleHit, what: str, proof: tuple[str, ...], journey: Journey
) -> Cause | None:
    """Return the cause when a load balancer's rule dropped the packet: its own, or a node's."""
    service = (journey.service or "").partition(":")[0]
    titled = f"Service {service}" if service else "the Service"
    if "traffic not accepted by" in hit.rule or hit.chain.startswith("firewall-"):
        ranged = True
    elif hit.table == balancing.TABLE:
        ranged = balancing.NOT_IN_RANGES in hit.rule
    else:
        return None
    if ranged:
        text = f"{titled} lets no {journey.flow.source} in, by loadBalancerSourceRanges: {what}"
        described = f"netlab describe service {service}" if service else "netlab get services -A"
        return Cause(Kind.SOURCE_RANGE, stop.place, text, proof, (described,))
    if balancing.NO_NODE in hit.rule:
        text = f"no node is well for {titled}, so the balancer has nowhere to send it: {what}"
        return Cause(Kind.NO_NODE, stop.place, text, proof, ("netlab status",))
    if balancing.NO_SERVICE in hit.rule:
        flow = journey.flow
        text = f"the balancer serves no {flow.destination}:{flow.destination_port}: {what}"
        return Cause(Kind.NO_PORT, stop.place, text, proof, ("netlab get services -A",))
    return None


def _called(stop: Stop, hit: RuleHit) -> RuleHit | None:
    """Return the rule that sent the packet to the chain of *hit*, None for a base chain."""
    words = (f"jump {hit.chain}", f"goto {hit.chain}")
    return next((one for one in reversed(stop.hits) if one.verdict in words), None)


def _no_endpoints(
    stop: Stop, hit: RuleHit, what: str, proof: tuple[str, ...], journey: Journey
) -> Cause:
    service = journey.service or "the Service"
    # Both modes drop where only others' endpoints are left, and refuse where there is none at all.
    local = hit.verdict == "drop" and ("no local endpoints" in hit.rule or "vmap" in hit.rule)
    which = f" on {stop.place}, and its policy is Local" if local else ""
    return Cause(
        Kind.NO_ENDPOINTS,
        stop.place,
        f"Service {service} has no ready endpoint{which}: {what}",
        proof,
        (f"netlab describe service {service.partition(':')[0]}",),
    )


def unserved(names: Names, journey: Journey, nodes: Iterable[str]) -> Iterator[Cause]:
    """Yield that a virtual server without real ones refused it: no rule does, in ipvs mode."""
    flow = journey.flow
    name = f"{flow.protocol.upper()} {flow.destination}:{flow.destination_port}"
    for netns in dict.fromkeys(nodes):
        with entered(netns):
            found = next((one for one in ipvs.servers() if one.name == name), None)
        if found is None or any(one.weight for one in found.reals):
            continue
        place, service = names.place(netns), journey.service or "the Service"
        ending = f", but for {len(found.ending)} that end" if found.ending else ""
        said = f"ipvsadm -Ln: {name} {found.scheduler}, without real servers{ending}"
        told = (f"the sender was told: {journey.refused}",) if journey.refused else ()
        yield Cause(
            Kind.NO_ENDPOINTS,
            place,
            f"Service {service} has no ready endpoint: virtual server {name} of {place} refuses",
            (said, *told),
            (f"netlab describe service {service.partition(':')[0]}",),
        )
        return


def rule_repair(place: Place, hit: RuleHit) -> tuple[str, ...]:
    run = f"netlab exec {state.exec_target(place)} --"
    if hit.chain.startswith(("KUBE-", "FLANNEL-")) or hit.table == "kube-proxy":
        return ("netlab get rules, netlab describe service: it is what the objects ask for",)
    if "not published" in hit.rule:
        return ("publish the port: `gateway.publish` of the lab's file, and `netlab up` it",)
    if hit.rule.startswith("-") and hit.family in ("ip", "ip6"):
        tool = "iptables-nft" if hit.family == "ip" else "ip6tables-nft"
        words = (tool, "-t", hit.table, "-D", hit.chain, *rule_words(hit.rule))
        return (f"{run} {shlex.join(words)}",)
    at = hit.family, hit.table, hit.chain
    if not hit.rule:
        policy = f"chain {' '.join(at)} {{ policy accept; }}"
        return (f"{run} nft {shlex.quote(policy)}",)
    return (f"{run} {shlex.join(('nft', 'delete', 'rule', *at, 'handle', str(hit.handle)))}",)


def rule_words(rule: str) -> list[str]:
    """Return the words of a rule as iptables-save prints it: what has more than letters, digits,
    `-` and `_` is in double quotes, with a backslash before `"`, `'` and itself.

    Source: iptables libxtables/xtables.c, xtables_save_string, v1.8.9.
    """
    return shlex.split(rule.replace("\\'", "'"))


def missing(cluster: Cluster, names: Names, asked: Asking, journey: Journey) -> Iterator[Cause]:
    """Yield that a Service's rules are not there, when none sent the flow to an endpoint."""
    service = journey.service.partition(":")[0]
    rewritten = any(
        isinstance(step, Rewrite) and step.kind is RewriteKind.DNAT
        for track in journey.tracks
        for step in track.steps
    )
    if not service or rewritten:
        return
    visited = {step.place.netns for track in journey.tracks for step in track.steps}
    node = asked.source.node or next((n for n in cluster.nodes if n.netns in visited), None)
    if node is None:
        return
    namespace, _, name = service.partition("/")
    only = {Owner(False, namespace, name)}
    wrong = [one for one in programmed(cluster, node.name, only=only) if one.state is not State.OK]
    for one in wrong[:1]:
        missing = [rule.text for rule in one.rules if rule.state is State.MISSING]
        what = f"{one.block.table} {one.block.name}"
        yield Cause(
            Kind.RULE_GONE,
            names.place(node.netns),
            f"no rule sent it to an endpoint of Service {service}: in {what} "
            f"{len(missing) or 'some'} of its rules are not there",
            tuple(f"wanted in {what}: {text}" for text in missing[:2]),
            (f"netlab get rules {node.name} --service {service} -o wide", drift.AGENT),
        )
