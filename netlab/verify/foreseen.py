"""What a decision lets one expect of a call: who answers it, and as whom the caller is seen.

Beside the decision it takes the kernel into account, and that answers find back only by the node
that translated the call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from netlab.model.modes import Mode
from netlab.proxy import Decision, Outcome, Packet, ServicePort, Situation, Verdict, outcome
from netlab.proxy.addresses import family, is_loopback
from netlab.proxy.packet import is_bound
from netlab.sensors.calls import ICMP, Came
from netlab.verify.stage import UPLINK, Stage
from netlab.verify.waysin import NODE_OF, WORLD, Caller, Sight, Sights, Way, source_of


def foreseen(
    stage: Stage, made: Mapping[str, Decision], way: Way, caller: Caller
) -> tuple[Sights, bool]:
    """Return what is to be seen of calls, and whether all of a client's meet one endpoint."""
    source = source_of(stage, way, caller)
    local = stage.own("here")
    situation = made["here"].situations[family(way.address)]
    on_node = way.address in local or is_loopback(way.address)
    bound = is_bound(made["here"], situation, way.address)
    if caller is Caller.LOOPBACK and not (on_node or bound or situation.route_localnet):
        return frozenset({Sight(Came.UNSENDABLE)}), False
    node = NODE_OF[caller]
    found = _outcome(stage, made, node, way, caller, source)
    if found.verdict is Verdict.NO_MATCH and on_node and node != "here":
        node = "here"
        found = _outcome(stage, made, node, way, caller, source)
    affine = any(one.affinity for one in _served(made[node], way))
    match found.verdict:
        case Verdict.ENDPOINTS:
            return (
                frozenset(
                    _at_endpoint(stage, way, caller, node, text, masqueraded, situation)
                    for text, masqueraded in found.endpoints.items()
                ),
                affine,
            )
        case Verdict.REJECTED:
            return frozenset({Sight(Came.REFUSAL)}), False
        case Verdict.DROPPED:
            return frozenset({Sight(Came.SILENCE)}), False
        case Verdict.CLOSED:
            return frozenset({Sight(Came.CLOSED if way.protocol == "TCP" else Came.SILENCE)}), False
    return frozenset({_untouched(stage, way, caller, on_node)}), False


def _outcome(
    stage: Stage, made: Mapping[str, Decision], node: str, way: Way, caller: Caller, source: str
) -> Outcome:
    """Return what the rules of *node* are to do with the first packet of a call."""
    pod = caller in (Caller.POD, Caller.OTHER_POD) and node == NODE_OF[caller]
    process = caller in (Caller.NODE, Caller.LOOPBACK)
    by = "" if process else stage.bridge if pod else UPLINK
    packet = Packet(source, way.address, way.port, way.protocol, by, bridged=pod)
    return outcome(made[node], packet, local=stage.own(node))


def _served(made: Decision, way: Way) -> Iterator[ServicePort]:
    for one in made.frontends:
        if (one.port, one.service.protocol) == (way.port, way.protocol) and one.address in (
            "",
            way.address,
        ):
            yield one.service


def _at_endpoint(
    stage: Stage,
    way: Way,
    caller: Caller,
    node: str,
    endpoint: str,
    masqueraded: bool,
    situation: Situation,
) -> Sight:
    """Return what comes of a call that *node* sends to *endpoint*."""
    if situation.mode is Mode.USERSPACE:  # a process of the node's calls in the caller's place
        return Sight(Came.ANSWER, endpoint, "node")
    address = endpoint.rpartition(":")[0].strip("[]")
    at_here = address in stage.here.endpoints or address in stage.own("here")
    process = caller in (Caller.NODE, Caller.LOOPBACK)
    if address in stage.own(node) and not process:
        masqueraded = False  # what is delivered here never comes to where sources are replaced
    wired = caller is Caller.LOOPBACK and address not in stage.own("here")
    if wired and not situation.route_localnet:
        # The kernel sends nothing from 127.0.0.1 over a wire; only of a datagram does it say so,
        # unless ip_vs has it by then.
        told = way.protocol == "UDP" and situation.mode is not Mode.IPVS
        return Sight(Came.UNSENDABLE if told else Came.SILENCE)
    if wired and not masqueraded:
        return Sight(Came.SILENCE)  # nor does anybody take it
    back = node in (NODE_OF[caller], "here" if at_here else "there")
    if not (masqueraded or back):
        return Sight(Came.SILENCE)  # the answer takes another way, and nobody knows it
    return Sight(Came.ANSWER, endpoint, "node" if masqueraded or process else "client")


def _untouched(stage: Stage, way: Way, caller: Caller, on_node: bool) -> Sight:
    """Return what comes of a call that no proxy touches."""
    if on_node:
        return Sight(Came.REFUSAL)
    if way.address in stage.own("there"):
        return Sight(Came.ANSWER, WORLD) if way.protocol == ICMP else Sight(Came.REFUSAL)
    if caller is Caller.LOOPBACK:
        return Sight(Came.SILENCE)
    return Sight(Came.ANSWER, WORLD)
