"""What checks of a verification share: a client of etcd, which serves one thread at a time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fake_lab import FakeLive, pod

from netlab.packets import Outcome
from netlab.verify.catalogue import PATHS
from netlab.verify.context import Checked, Context, Failure
from netlab.verify.judgement import verdict_of


class Asked(FakeLive):
    """Counts how many ask at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._asking = 0
        self._lock = threading.Lock()

    def _ask(self) -> None:
        with self._lock:
            self._asking += 1
            self.most = max(self.most, self._asking)
        time.sleep(0.01)  # as etcd's answer takes
        with self._lock:
            self._asking -= 1

    def cluster(self) -> Any:
        self._ask()
        return super().cluster()

    def leases(self) -> Any:
        self._ask()

    def delete(self, documents: Any, **_: Any) -> Any:
        self._ask()


def test_checks_side_by_side_ask_etcd_one_after_the_other() -> None:
    live = Asked()
    context = Context(live, live.cluster(), None, None)  # type: ignore[arg-type]
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(context.refreshed), pool.submit(context.delete, pod("web"))]
        asked += [pool.submit(context.leases), pool.submit(context.own().delete, pod("web"))]
        for each in asked:
            each.result()
    assert live.most == 1


class Sensors:
    """Those of a verification, as far as they tell what they lost."""

    lost = 0


def context_with(sensors: Sensors) -> Context:
    live = Asked()
    return Context(live, live.cluster(), sensors, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "lossy", "calls", "outcome"),
    [
        ("ingress", 1, 2, Outcome.PASS),
        ("ingress", 2, 2, Outcome.FAIL),
        ("ingress", 0, 1, Outcome.FAIL),
        ("lease-in-etcd", 1, 1, Outcome.FAIL),
    ],
)
def test_a_check_that_failed_while_the_sensors_lost_frames_is_made_once_more(
    path: str, lossy: int, calls: int, outcome: Outcome
) -> None:
    """*lossy*: in how many of its calls the sensors lose something."""
    sensors, called = Sensors(), list[int]()

    def check(context: Context) -> Checked:
        called.append(1)
        sensors.lost += len(called) <= lossy
        if lossy == 1 and len(called) == 2:
            return Checked()
        raise Failure("not seen there")

    (proven,) = (one for one in PATHS if one.id == path)
    found = verdict_of(proven, check, context_with(sensors), again=path == "ingress")
    assert (len(called), found.outcome) == (calls, outcome)
    assert any("the sensors lost 1 frames" in line for line in found.evidence) == (
        outcome is Outcome.FAIL and lossy > 0
    )


def test_a_check_with_a_defect_fails_its_path_alone() -> None:
    def spoilt(context: Context) -> Checked:
        raise ValueError("zip() argument 2 is longer")

    context = context_with(Sensors())
    found = verdict_of(PATHS[0], spoilt, context)
    assert (found.path, found.outcome) == (PATHS[0].id, Outcome.FAIL)
    assert found.evidence == ("cannot be checked: ValueError: zip() argument 2 is longer",)
