"""Pods meet: on the bridge of one node, through VXLAN between two, and nobody rewrites them."""

from __future__ import annotations

import pytest

from netlab.testing import Lab

pytestmark = pytest.mark.netlab("pods.yaml")


def test_pods_of_one_node_meet_on_its_bridge(lab: Lab) -> None:
    trace = lab.pod("a").trace("b:80")
    assert trace.reaches("b")
    assert not trace.passes("n1:flannel.1")
    assert not trace.passes("n1:eth0")


def test_pods_of_two_nodes_meet_through_the_tunnel(lab: Lab) -> None:
    trace = lab.pod("a").trace("c:80")
    assert trace.reaches("c")
    assert trace.passes("n1:flannel.1", leg="request")
    assert trace.passes("n2:flannel.1", leg="reply")


def test_the_underlay_sees_nothing_but_envelopes_between_the_nodes(lab: Lab) -> None:
    trace = lab.pod("a").trace("c:80")
    nodes = {node.address for node in lab.nodes}
    seen = trace.seen("underlay")
    assert seen, trace
    for one in seen:
        assert one.outer is not None, one
        assert {one.outer.source, one.outer.destination} == nodes


@pytest.mark.parametrize("server", ["b", "c"])
def test_the_server_sees_the_senders_own_address(lab: Lab, server: str) -> None:
    sender = lab.pod("a")
    trace = sender.trace(f"{server}:80")
    assert trace and not trace.rewrites
    assert sender.get(f"http://{server}").client == sender.address
