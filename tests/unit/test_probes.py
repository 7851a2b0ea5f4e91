"""Probes: what a manifest asks for, and what a row of answers comes to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from netlab.probes import Gauge, Probe, Sort, of_pod

PROBE = Probe(uid="u", container="c", sort=Sort.READINESS, address="10.244.1.2", port=80)


def pod(**container: Any) -> dict[str, Any]:
    ports = [{"name": "http", "containerPort": 8080}]
    return {
        "metadata": {"name": "p", "namespace": "default", "uid": "u"},
        "spec": {"containers": [{"name": "c", "ports": ports, **container}]},
        "status": {"podIP": "10.244.1.2"},
    }


def asked(**container: Any) -> list[Probe]:
    return list(of_pod(pod(**container), {"c": 2}, netns="lab.n1.default.p"))


def test_no_probe_is_nothing_to_ask() -> None:
    assert asked() == []
    assert list(of_pod(pod(readinessProbe={"tcpSocket": {"port": 1}}), {}, netns="")) == []


def test_a_page_is_asked_for_at_a_port_by_name() -> None:
    (one,) = asked(readinessProbe={"httpGet": {"path": "ready", "port": "http"}})
    assert (one.address, one.port, one.page) == ("10.244.1.2", 8080, "/ready")
    assert (one.delay, one.period, one.timeout) == (0, 10, 1)
    assert (one.successes, one.failures, one.run) == (1, 3, 2)


def test_a_page_is_the_root_where_none_is_named() -> None:
    (one,) = asked(readinessProbe={"httpGet": {"port": 80}})
    assert one.page == "/"


def test_each_sort_is_a_probe_of_its_own() -> None:
    tcp = {"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 2}
    found = asked(livenessProbe=tcp, readinessProbe=tcp, startupProbe={"exec": {"command": ["a"]}})
    assert {one.sort for one in found} == set(Sort)
    assert [one.argv for one in found if one.sort is Sort.STARTUP] == [("a",)]
    assert {(one.port, one.page, one.failures) for one in found if not one.argv} == {(80, "", 2)}


ROWS: dict[str, tuple[int, int, str, list[bool | None]]] = {
    "one success is enough": (1, 3, "+", [True]),
    "three failures in a row": (1, 3, "+---", [True, True, True, False]),
    "a success in between": (1, 3, "+--+--", [True] * 6),
    "and back again": (1, 2, "+--+", [True, True, False, True]),
    "two successes in a row": (2, 1, "+-++", [None, False, False, True]),
    "not decided at first": (1, 3, "--", [None, None]),
}


@pytest.mark.parametrize(("successes", "failures", "answers", "passed"), ROWS.values(), ids=ROWS)
def test_a_row_of_answers_decides(
    successes: int, failures: int, answers: str, passed: list[bool | None]
) -> None:
    probe = msgspec.structs.replace(PROBE, successes=successes, failures=failures)
    gauge, found, before = Gauge(probe), [], None
    for answer in answers:
        assert gauge.take("" if answer == "+" else "refused") is (gauge.passed is not before)
        before = gauge.passed
        found.append(gauge.passed)
    assert found == passed
