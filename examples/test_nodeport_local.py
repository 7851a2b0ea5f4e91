"""externalTrafficPolicy: what the server sees of a client outside, and which nodes answer."""

from __future__ import annotations

import pytest

from netlab.testing import Lab

pytestmark = pytest.mark.netlab("services.yaml", proxy_mode=["iptables", "nftables"])
CLUSTER, LOCAL = 30080, 30081  # node ports of web and local
DROPS = {"iptables": "default/local has no local endpoints", "nftables": "@no-endpoint-nodeports"}


def test_cluster_hides_the_client_behind_the_node(lab: Lab) -> None:
    node = lab.node("n1")
    trace = lab.client.trace(f"{node.address}:{CLUSTER}")
    assert trace
    assert trace.rewritten("snat", at="n1")
    assert lab.client.get(f"http://{node.address}:{CLUSTER}").client != lab.client.address


def test_local_keeps_the_clients_address(lab: Lab) -> None:
    node = lab.node("n2")
    trace = lab.client.trace(f"{node.address}:{LOCAL}")
    assert trace.reaches("web-2")
    assert not trace.rewritten("snat")
    response = lab.client.get(f"http://{node.address}:{LOCAL}")
    assert (response.by, response.client) == ("default/web-2", lab.client.address)


def test_local_drops_in_silence_on_a_node_without_endpoint(lab: Lab) -> None:
    trace = lab.client.trace(f"{lab.node('n1').address}:{LOCAL}")
    assert not trace
    assert trace.dropped
    assert DROPS[lab.proxy_mode] in trace.dropped_by
    assert not trace.passes("n2")
