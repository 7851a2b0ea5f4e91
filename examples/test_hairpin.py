"""A pod asks a Service and is its own answer: the packet must come back by the port it left by."""

from __future__ import annotations

import pytest

from netlab.testing import Lab

pytestmark = pytest.mark.netlab("services.yaml", proxy_mode=["iptables", "nftables"])


def test_a_pod_reaches_itself_through_its_service(lab: Lab) -> None:
    trace = lab.pod("a").trace("lonely:80")
    assert trace.reaches("a")
    assert trace.rewritten("dnat", destination=f"{lab.pod('a').address}:80", at="n1")


def test_its_source_is_replaced_or_the_answer_would_never_be_turned_back(lab: Lab) -> None:
    trace = lab.pod("a").trace("lonely:80")
    assert trace.rewritten("snat", at="n1")
    assert trace.rewritten("un-snat", destination=lab.pod("a").address, at="n1")
    response = lab.pod("a").get("http://lonely")
    assert response.by == "default/a"
    assert response.client != lab.pod("a").address


def test_others_see_nothing_of_it(lab: Lab) -> None:
    trace = lab.pod("a").trace("lonely:80")
    assert not trace.passes("n1:flannel.1")
    assert not trace.passes("n1:eth0")
