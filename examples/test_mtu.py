"""How large a packet may be: VXLAN's envelope takes 50 bytes of the underlay's 1500."""

from __future__ import annotations

import pytest

from netlab.testing import Lab

pytestmark = pytest.mark.netlab("pods.yaml")
UNDERLAY = 1500  # bytes
PODS = UNDERLAY - 50  # IP 20, UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348)
ICMP = 28  # bytes of headers around the data of an echo: IP 20, ICMP 8


def test_a_packet_as_large_as_the_pods_mtu_arrives_whole(lab: Lab) -> None:
    assert lab.pod("a").ping("c", size=PODS - ICMP, dont_fragment=True)


def test_a_larger_one_is_refused_by_the_pods_own_card(lab: Lab) -> None:
    answer = lab.pod("a").ping("c", size=PODS - ICMP + 1, dont_fragment=True)
    assert not answer
    assert answer.mtu == PODS


def test_without_the_flag_it_goes_in_two_pieces(lab: Lab) -> None:
    assert lab.pod("a").ping("c", size=PODS, dont_fragment=False)


def test_the_largest_packet_fills_the_underlay(lab: Lab) -> None:
    trace = lab.pod("a").trace("c:53/udp", size=PODS)
    assert trace
    (first, *_) = trace.seen("n1:eth0", leg="request")
    assert first.outer is not None
    assert first.length == PODS  # of the packet inside
    assert first.mtu == UNDERLAY


@pytest.mark.parametrize("pod", ["a", "b", "c"])
def test_every_pods_card_knows_it(lab: Lab, pod: str) -> None:
    shown = lab.pod(pod).exec("ip", "-oneline", "link", "show", "eth0", check=True)
    assert f" mtu {PODS} " in shown.stdout
