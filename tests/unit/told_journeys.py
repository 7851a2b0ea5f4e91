"""Journeys as a trace tells them: a pod asks a Service, an endpoint on another node answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from drawn_labs import drawn_lab

from netlab.cluster import Cluster
from netlab.journeys import (
    End,
    Envelope,
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
from netlab.packets import Direction, Flow, Leg, Outer, Protocol, RuleHit
from netlab.world import veth_name

TCP = Protocol.TCP
SERVICE = "10.96.0.10"
ASKED = Flow("10.244.1.100", SERVICE, TCP, 40001, 80)
SERVED = Flow("10.244.1.100", "10.244.2.2", TCP, 40001, 8080)
IN, OUT = Direction.IN, Direction.OUT
SVC = '-d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http cluster IP" -j KUBE-SEP-1'
SEP = '-p tcp -m comment --comment "default/web:http" -j DNAT --to-destination 10.244.2.2:8080'


@dataclass
class Telling:
    """The steps of one packet as they are told, on a clock of its own."""

    time: int
    flow: Flow
    ttl: int = 64
    steps: list[Step] = field(default_factory=list)

    def seen(self, place: Place, device: str, way: Direction, outer: Outer | None = None) -> None:
        self.time += 3_000
        self.steps.append(
            Seen(place, self.time, device, way, self.flow, self.ttl, 60, 1450, outer=outer)
        )

    def rule(self, place: Place, hook: str, chain: str, rule: str, means: str = "") -> None:
        target = rule.rpartition("-j ")[2].partition(" ")[0]
        verdict = {"DROP": "drop", "DNAT": "accept"}.get(target, f"jump {target}")
        hit = RuleHit(place.netns, "ip", "nat", hook, hook, chain, rule, verdict, self.flow)
        self.steps.append(Rule(place, hit, means=means))

    def rewrite(self, place: Place, kind: RewriteKind, after: Flow, means: str = "") -> None:
        self.steps.append(Rewrite(place, kind, self.flow, after, 77, means))
        self.flow = after


def places(lab: str = "t") -> dict[str, Place]:
    return {
        "pod": Place(f"{lab}.n1.default.client-1", "pod", "default/client-1", "n1"),
        "n1": Place(f"{lab}.n1", "node", "n1"),
        "under": Place(f"{lab}.underlay", "member", "underlay"),
        "n2": Place(f"{lab}.n2", "node", "n2"),
        "web": Place(f"{lab}.n2.default.web-2-1", "pod", "default/web-2-1", "n2"),
    }


def veth(pod: str) -> str:
    return veth_name("default", pod)


def request(name: str = "SYN", time: int = 0) -> Track:
    """From the pod client-1 on n1 to web-2-1 on n2, by the Service's address."""
    at = places()
    told = Telling(time, ASKED)
    told.seen(at["pod"], "eth0", OUT)
    told.seen(at["n1"], veth("client-1"), IN)
    told.rule(at["n1"], "prerouting", "KUBE-SERVICES", SVC, "Service default/web:http")
    told.steps.append(
        Rule(
            at["n1"],
            RuleHit("t.n1", "ip", "nat", "prerouting", "prerouting", "KUBE-SVC-1", "x", "x", ASKED),
            fitted=False,
        )
    )
    told.rule(at["n1"], "prerouting", "KUBE-SEP-1", SEP, "endpoint default/web-2-1, 2 of 3, p 0.5")
    told.rewrite(at["n1"], RewriteKind.DNAT, SERVED, "endpoint default/web-2-1")
    told.seen(at["n1"], "docker0", IN)
    told.ttl = 63
    told.seen(at["n1"], "flannel.1", OUT)
    outer = Outer("192.168.50.101", "192.168.50.102", 1, 51123, 8472, 64)
    told.steps.append(Envelope(at["n1"], "flannel.1", outer))
    told.seen(at["n1"], "eth0", OUT, outer)
    told.seen(at["under"], "n1", IN, outer)
    told.seen(at["under"], "n2", OUT, outer)
    told.seen(at["n2"], "eth0", IN, outer)
    told.steps.append(Envelope(at["n2"], "flannel.1", outer, opened=True))
    told.seen(at["n2"], "flannel.1", IN)
    told.ttl = 62
    told.seen(at["n2"], "docker0", OUT)
    told.seen(at["n2"], veth("web-2-1"), OUT)
    told.seen(at["web"], "eth0", IN)
    told.steps.append(End(at["web"], Fate.DELIVERED, "to default/web-2-1 8080/tcp"))
    return Track(name, Leg.REQUEST, ASKED, tuple(told.steps))


def reply(name: str = "SYN ACK", time: int = 100_000) -> Track:
    at = places()
    told = Telling(time, SERVED.reply)
    told.seen(at["web"], "eth0", OUT)
    told.seen(at["n2"], veth("web-2-1"), IN)
    told.seen(at["n2"], "docker0", IN)
    told.ttl = 63
    told.seen(at["n2"], "flannel.1", OUT)
    outer = Outer("192.168.50.102", "192.168.50.101", 1, 51999, 8472, 64)
    told.steps.append(Envelope(at["n2"], "flannel.1", outer))
    told.seen(at["n2"], "eth0", OUT, outer)
    told.seen(at["under"], "n2", IN, outer)
    told.seen(at["under"], "n1", OUT, outer)
    told.seen(at["n1"], "eth0", IN, outer)
    told.steps.append(Envelope(at["n1"], "flannel.1", outer, opened=True))
    told.seen(at["n1"], "flannel.1", IN)
    told.ttl = 62
    told.rewrite(at["n1"], RewriteKind.UN_DNAT, ASKED.reply, "Service default/web:http")
    told.seen(at["n1"], "docker0", OUT)
    told.seen(at["n1"], veth("client-1"), OUT)
    told.seen(at["pod"], "eth0", IN)
    told.steps.append(End(at["pod"], Fate.DELIVERED, "to default/client-1 40001/tcp"))
    return Track(name, Leg.REPLY, SERVED.reply, tuple(told.steps))


def conversation(nodes: int = 3) -> tuple[Journey, Cluster]:
    """A TCP connection of a pod to a Service: two packets told in full, two that went the same."""
    cluster = drawn_lab(nodes, 6, names=("client-1",))
    again = request("data 24 bytes", 200_000)
    back = reply("data 180 bytes", 300_000)
    tracks = (
        request(),
        reply(),
        Track(again.name, again.leg, again.flow, again.steps, same_as=0),
        Track(back.name, back.leg, back.flow, back.steps, same_as=1),
    )
    return Journey(
        source="default/client-1",
        destination="default/web",
        flow=ASKED,
        tracks=tracks,
        service="default/web:http",
        endpoint="default/web-2-1 10.244.2.2:8080",
        answered=True,
        seconds=0.41,
    ), cluster


def dropped(name: str = "</script><script>alert(1)</script>") -> tuple[Journey, Cluster]:
    """A packet that a node's rules drop; the pod's name does harm."""
    cluster = drawn_lab(2, 1, names=(name,))
    pod = Place(f"t.n1.default.{name}", "pod", f"default/{name}", "n1")
    node = Place("t.n1", "node", "n1")
    told = Telling(0, ASKED)
    told.seen(pod, "eth0", OUT)
    told.seen(node, veth(name), IN)
    told.seen(node, "br#1;<b>", IN)  # the kernel lets devices be called so
    rule = f'-m comment --comment "{name} <!--" -j DROP'
    told.rule(node, "prerouting", "KUBE-SERVICES", rule, f"no endpoint here: {name}")
    told.steps.append(End(node, Fate.DROPPED, f"by rule {rule}"))
    return Journey(
        source=f"default/{name}",
        destination="default/web",
        flow=ASKED,
        tracks=(Track("SYN", Leg.REQUEST, ASKED, tuple(told.steps)),),
        service="default/web:http",
        notes=(f"a note about {name}",),
        lost=2,
    ), cluster
