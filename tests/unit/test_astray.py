"""What `why` makes of differences, of listed rules, of errors that no socket was told."""

from __future__ import annotations

import pytest
from fake_lab import FakeLive

from netlab.journeys import End, Fate, Kind, Place, Seen, Track
from netlab.objects import Bridge, Netns, Object, Route, Veth, Vxlan
from netlab.packets import Direction, Flow, Leg, Protocol
from netlab.plan import Op, Verb
from netlab.telling.naming import Names
from netlab.tracing import astray, drift, shot

LISTED = """table netdev x { # handle 1
\tchain c { # handle 1
\t\ttype filter hook ingress device "flannel.1" priority filter; policy accept;
\t\ttcp dport 80 drop # handle 2
\t\ttcp dport 81 accept # handle 3
\t}

\tchain d {
\t\ttype filter hook egress devices = { "eth0", "eth1" } priority filter; policy drop;
\t}
}
"""


def test_what_drops_in_netdev_tables_is_found() -> None:
    head = 'type filter hook egress devices = { "eth0", "eth1" } priority filter; policy drop;'
    assert astray.dropping(LISTED) == [
        ("x", "c", "tcp dport 80 drop", "2"),
        ("x", "d", head, ""),
    ]


BRIDGE = Bridge("n", "docker0", "02:00:00:00:00:01")
TUNNEL = Vxlan("n", "flannel.1", "02:00:00:00:00:02", 1, "192.168.50.11", "eth0", 1450)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (BRIDGE, Bridge("n", "docker0", "02:00:00:00:00:09"), Kind.NEIGHBOUR),
        (BRIDGE, Bridge("n", "docker0", BRIDGE.mac, mtu=1400), Kind.MTU),
        (
            TUNNEL,
            Vxlan("n", "flannel.1", TUNNEL.mac, 1, "192.168.50.19", "eth0", 1450),
            Kind.TUNNEL,
        ),
    ],
    ids=["another MAC", "another MTU", "another local end"],
)
def test_a_link_that_is_otherwise_is_of_the_kind_of_what_differs(
    old: Object, new: Object, kind: Kind
) -> None:
    assert drift.kind_of(Op(Verb.CHANGE, new, old)) is kind


def test_a_namespace_that_is_gone_is_told_before_what_hung_on_it() -> None:
    cable = Veth("t.underlay", "node2", "02:00:00:00:00:03", "", "", "")
    gone = Netns("t.n2")
    names = Names(FakeLive().cluster())
    ops = [Op(Verb.DELETE, cable), Op(Verb.ADD, gone)]
    found = [one.what for one in drift.causes(ops, names)]
    assert found[0].endswith("namespace t.n2 is missing")
    assert "to  of" not in found[1]


@pytest.mark.parametrize("came_back", [True, False])
def test_an_icmp_error_that_the_socket_kept_to_itself_is_told(came_back: bool) -> None:
    pod, gateway = Place("t.n1.default.a", "pod", "default/a", "n1"), Place("t.g", "member", "g")
    flow = Flow("192.168.50.1", "10.244.1.2", Protocol.ICMP)
    seen = [
        Seen(place, 1, "eth0", Direction.IN, flow, 64, 60, icmp="net-unreachable")
        for place in (gateway, *([pod] if came_back else ()))
    ]
    end = End(seen[-1].place, Fate.DELIVERED)
    track = Track("net unreachable", Leg.REPLY, flow, (*seen, end))
    words = "net unreachable from 192.168.50.1"
    assert shot._refused((track,), pod.netns) == (words if came_back else "")


def test_a_route_is_none_that_is_there_already_without_its_namespace() -> None:
    assert not drift._goes_there_anyway(Op(Verb.ADD, Route("no-such", "default", "eth0")))
