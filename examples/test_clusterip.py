"""A pod asks a Service by its cluster IP: which rule decides, and who undoes it in the reply."""

from __future__ import annotations

import pytest

from netlab.testing import Lab

pytestmark = pytest.mark.netlab("services.yaml", proxy_mode=["iptables", "nftables"])
CHAIN = {"iptables": "KUBE-SVC-", "nftables": "service-"}  # of a Service


def test_a_rule_of_the_service_chooses_the_endpoint(lab: Lab) -> None:
    trace = lab.pod("a").trace("web:80")
    assert trace
    assert trace.rules_named(CHAIN[lab.proxy_mode])
    assert trace.rewritten("dnat", at="n1")
    assert any(trace.reaches(endpoint.pod) for endpoint in lab.service("web").endpoints)


def test_the_reply_comes_as_from_the_service(lab: Lab) -> None:
    address = lab.service("web").cluster_ip
    trace = lab.pod("a").trace("web:80")
    assert trace.rewritten("un-dnat", source=f"{address}:80", at="n1")
    (last, *_) = reversed(trace.seen("a:eth0", leg="reply"))
    assert last.flow.source == address


def test_the_cluster_ip_never_leaves_the_senders_node(lab: Lab) -> None:
    address = lab.service("web").cluster_ip
    for _ in range(8):  # to both endpoints, but for one time in 128
        trace = lab.pod("a").trace("web:80")
        assert trace
        assert all(one.flow.destination != address for one in trace.seen("n1:eth0"))


def test_every_endpoint_is_asked_and_sees_the_pods_own_address(lab: Lab) -> None:
    responses = [lab.pod("a").get("http://web") for _ in range(40)]
    assert {one.by for one in responses} == {"default/web-1", "default/web-2"}
    assert {one.client for one in responses} == {lab.pod("a").address}


def test_a_service_without_endpoints_refuses_at_once(lab: Lab) -> None:
    with pytest.raises(ConnectionRefusedError):
        lab.pod("a").get("http://nobody")
    trace = lab.pod("a").trace("nobody:80")
    assert trace.journey.refused == "connection refused"
    assert not trace.passes("n1:flannel.1")
