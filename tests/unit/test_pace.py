"""The stopwatch of convergence."""

from __future__ import annotations

import pytest

from netlab.agent import pace


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(pace.time, "time", lambda: now[0])
    return now


def test_a_change_is_timed_from_when_etcd_told_of_it(clock: list[float]) -> None:
    found = pace.Pace()
    found.heard()
    clock[0] = 100.5
    found.published(moves=True)
    assert found.told() == {"changed": 100.0, "seconds": None, "converging": 0.5}
    clock[0] = 101.0
    found.published(moves=True)  # a consequence of the first is part of it
    found.agreed()
    clock[0] = 109.0
    assert found.told() == {"changed": 100.0, "seconds": 1.0, "converging": None}


def test_what_concerns_no_node_is_no_change(clock: list[float]) -> None:
    found = pace.Pace()
    found.heard()
    found.published(moves=False)
    clock[0] = 200.0
    assert not found.moving
    found.published(moves=True)
    found.agreed()
    assert found.told()["changed"] == 200.0
