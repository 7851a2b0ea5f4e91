"""A journey made by hand: a pod asks a Service, whose endpoint is on another node."""

from __future__ import annotations

from netlab.journeys import (
    End,
    Fate,
    Journey,
    Place,
    Rewrite,
    RewriteKind,
    Rule,
    Seen,
    Step,
    Track,
)
from netlab.packets import Direction, Flow, Leg, Protocol, RuleHit
from netlab.testing.tracing import Traced
from netlab.testing.ways import Trace

ASKED = Flow("10.244.1.2", "10.96.0.1", Protocol.TCP, 40000, 80)
SENT = Flow("10.244.1.2", "10.244.2.2", Protocol.TCP, 40000, 8080)
POD = Place("t.n1.default.a", "pod", "default/a", "n1")
ENDPOINT = Place("t.n2.default.web-1", "pod", "default/web-1", "n2")
N1, N2 = Place("t.n1", "node", "n1"), Place("t.n2", "node", "n2")
DROP = '-A FORWARD -p tcp -m comment --comment "not today" -j DROP'


def seen(place: Place, device: str, flow: Flow, *, foreign: bool = False) -> Seen:
    return Seen(place, 1, device, Direction.IN, flow, 64, 60, foreign=foreign)


def rule(place: Place, chain: str, text: str, verdict: str, *, fitted: bool = True) -> Rule:
    hit = RuleHit(place.netns, "ip", "nat", "prerouting", "PREROUTING", chain, text, verdict, ASKED)
    return Rule(place, hit, fitted)


def way_in() -> tuple[Step, ...]:
    return (
        seen(POD, "eth0", ASKED),
        seen(N1, "docker0", ASKED),
        rule(N1, "KUBE-SERVICES", "-d 10.96.0.1/32 -j KUBE-SVC-WEB", "jump KUBE-SVC-WEB"),
        rule(N1, "KUBE-SVC-WEB", "-j KUBE-SEP-TWO", "jump KUBE-SEP-TWO", fitted=False),
        Rewrite(N1, RewriteKind.DNAT, ASKED, SENT),
    )


def answered() -> Trace:
    way = (
        *way_in(),
        seen(N1, "flannel.1", SENT),
        seen(N2, "eth1", SENT, foreign=True),
        seen(ENDPOINT, "eth0", SENT),
        End(ENDPOINT, Fate.DELIVERED, "to default/web-1 8080/tcp"),
    )
    back = (
        seen(ENDPOINT, "eth0", SENT.reply),
        Rewrite(N1, RewriteKind.UN_DNAT, SENT.reply, ASKED.reply),
        End(POD, Fate.DELIVERED),
    )
    journey = Journey(
        "default/a",
        "svc/default/web",
        ASKED,
        (Track("SYN", Leg.REQUEST, ASKED, way), Track("SYN ACK", Leg.REPLY, SENT.reply, back)),
        answered=True,
        says={"pod": "web-1", "namespace": "default"},
    )
    return Trace(Traced(journey, "web:80", ("SYN", "  a eth0", "  n1 docker0")))


def dropped() -> Trace:
    way = (
        *way_in(),
        rule(N1, "FORWARD", DROP, "drop"),
        End(N1, Fate.DROPPED, "by filter FORWARD at forward"),
    )
    journey = Journey(
        "default/a", "svc/default/web", ASKED, (Track("SYN", Leg.REQUEST, ASKED, way),)
    )
    return Trace(Traced(journey, "web:80", ("SYN", "  n1 docker0", f"  dropped: {DROP}")), number=2)
