"""A rule that drops, as a network policy has: nothing arrives, and the trace says whose it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netlab.testing import Lab

pytestmark = pytest.mark.netlab("pods.yaml")
WORDS = "c takes nothing from a"


@pytest.fixture
def policy(lab: Lab) -> Iterator[None]:
    """On c's node, a's packets to c are dropped."""
    node, sender, server = lab.node("n2"), lab.pod("a"), lab.pod("c")
    rule = ["FORWARD", "-s", sender.address, "-d", server.address]
    rule += ["-m", "comment", "--comment", WORDS, "-j", "DROP"]
    node.exec("iptables", "-I", *rule, check=True)
    yield
    node.exec("iptables", "-D", *rule, check=True)


@pytest.mark.usefixtures("policy")
def test_the_trace_names_the_rule_that_drops(lab: Lab) -> None:
    trace = lab.pod("a").trace("c:80")
    assert not trace
    assert trace.end is not None and trace.end.place.name == "n2"
    assert WORDS in trace.dropped_by
    assert trace.passes("n2:flannel.1") and not trace.passes("c")


@pytest.mark.usefixtures("policy")
def test_others_are_not_concerned(lab: Lab) -> None:
    assert lab.pod("b").tcp("c", 80)
    assert not lab.pod("a").tcp("c", 80, timeout=1)


def test_without_it_all_is_well(lab: Lab) -> None:
    assert lab.pod("a").trace("c:80").reaches("c")
