"""What a test asks of a trace, and what a failing assertion shows of it."""

from __future__ import annotations

import msgspec
import pytest
from journey_made import DROP, answered, dropped

from netlab.journeys import Fate
from netlab.testing import evidence
from netlab.testing.answers import Answer, Place
from netlab.testing.calls import Keeper
from netlab.testing.lab import Lab
from netlab.testing.machines import Machine, end
from netlab.testing.tracing import Traced


def test_a_trace_is_true_when_it_was_answered() -> None:
    assert answered()
    assert not dropped()


@pytest.mark.parametrize(
    ("hop", "leg", "passed"),
    [
        ("n1:docker0", "", True),
        ("n1", "", True),
        ("node/n1:docker0", "", True),
        ("a:eth0", "", True),
        ("default/web-1:eth0", "reply", True),
        ("n1:docker0", "reply", False),
        ("n2", "", False),  # a copy that a bridge flooded is nobody's way
        ("n2:docker0", "", False),
        ("shop/a:eth0", "", False),
    ],
)
def test_a_trace_passes(hop: str, leg: str, passed: bool) -> None:
    assert answered().passes(hop, leg=leg) is passed


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, True),
        ({"kind": "dnat"}, True),
        ({"kind": "snat"}, False),
        ({"kind": "un-dnat", "source": "10.96.0.1:80"}, True),
        ({"kind": "un-dnat", "source": "10.96.0.1:81"}, False),
        ({"kind": "dnat", "destination": "10.244.2.2", "at": "n1"}, True),
        ({"kind": "dnat", "destination": "10.244.2.2:8080", "at": "n2"}, False),
        ({"destination": "10.244.2.3"}, False),
    ],
)
def test_a_trace_is_rewritten(asked: dict[str, str], found: bool) -> None:
    assert answered().rewritten(**asked) is found


def test_a_trace_reaches_whom_a_request_was_delivered_to() -> None:
    assert answered().reaches("default/web-1")
    assert answered().reaches("web-1")
    assert not answered().reaches("default/a"), "the reply was delivered there, no request"
    assert not dropped().reaches("web-1")


def test_rules_are_found_by_chain_by_where_they_lead_and_by_their_words() -> None:
    chains = [rule.hit.chain for rule in answered().rules_named("KUBE-SVC-")]
    assert chains == ["KUBE-SERVICES"], "one in KUBE-SVC-WEB did not fit"
    assert answered().rules_named("10.96.0.1/32")
    assert not answered().rules_named("KUBE-SEP-")


def test_a_drop_is_named() -> None:
    found = dropped()
    assert found.dropped and not answered().dropped
    assert found.end is not None and found.end.fate is Fate.DROPPED
    assert found.dropped_by == DROP and answered().dropped_by == ""
    assert found.outcome == f"dropped at n1: {DROP}"


def test_hops_are_those_of_the_first_request() -> None:
    assert answered().hops[:2] == ("default/a:eth0", "n1:docker0")


def test_a_repr_fits_into_what_pytest_shows_of_one() -> None:
    found = dropped()
    assert len(repr(found)) < 240
    assert repr(answered()) == "<trace 1: default/a -> web:80, answered by default/web-1>"


@pytest.mark.parametrize(
    ("target", "given", "meant"),
    [
        ("web", {}, ("web", 0, "")),
        ("web:80", {}, ("web", 80, "")),
        ("web:http", {}, ("web", "http", "")),
        ("dns:53/UDP", {}, ("dns", 53, "udp")),
        ("web", {"port": 80, "protocol": "TCP"}, ("web", 80, "tcp")),
        ("web:80", {"port": 80}, ("web", 80, "")),
    ],
)
def test_a_target_may_have_its_port(
    target: str, given: dict[str, object], meant: tuple[str, int | str, str]
) -> None:
    assert end(target, **{"port": 0, "protocol": "", **given}) == meant  # type: ignore[arg-type]


class Silent(Keeper):
    """A keeper that holds no lab."""

    def __init__(self) -> None:
        self.asked = 0


@pytest.fixture
def lab() -> Lab:
    found = Lab("t", "iptables", Silent())
    found.shown += [answered(), dropped()]
    return found


def test_a_failing_assertion_gets_the_lines_of_the_trace_it_shows(lab: Lab) -> None:
    error = AssertionError(f"assert {dropped()!r}")
    told = evidence.explain(error, [lab])
    assert str(error).splitlines()[2:] == ["SYN", "  n1 docker0", f"  dropped: {DROP}"]
    assert told == {repr(dropped())}


def test_other_errors_stay_as_they_are(lab: Lab) -> None:
    for error in (ValueError(repr(dropped())), AssertionError("assert 1 == 2")):
        before = str(error)
        assert evidence.explain(error, [lab]) == set()
        assert str(error) == before


def test_a_trace_survives_the_way_from_its_keeper() -> None:
    sent = Traced(answered().journey, "web:80", ("SYN",))
    assert msgspec.json.decode(msgspec.json.encode(sent), type=Traced) == sent


def test_answers_and_machines_say_what_they_are(lab: Lab) -> None:
    asked = "default/a -> web 10.96.0.1, 80/tcp"
    good = Answer(asked, "10.96.0.1", "default/web-1", "10.244.1.2")
    bad = Answer(asked, refused="connection refused")
    assert good and not bad
    assert repr(bad) == f"<no answer: {asked}: connection refused>"
    assert "default/web-1, which saw 10.244.1.2" in repr(good)
    pod = Machine(lab, Place("default/a", "default/a", "pod", "n1", "t.n1.default.a", "10.244.1.2"))
    assert repr(pod) == "<pod default/a 10.244.1.2 on n1>"
    assert pod.namespace == "default"
