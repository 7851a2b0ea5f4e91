"""When a conversation that was sent is given up, with sensors that this test plays."""

from __future__ import annotations

import time
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest

from netlab.sensors.sending import Answer
from netlab.tracing import shot, wires


def watched(kept: Any) -> Any:
    capture = SimpleNamespace(kept=kept, wait=lambda _: None, flush=lambda: None)
    watch = SimpleNamespace(capture=capture, dropped=lambda: False)
    return SimpleNamespace(watch=watch)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shot, "NEVER_QUIET", 0.05)
    monkeypatch.setattr(wires, "drained", lambda times: None)


def test_a_port_on_which_others_never_stop_ends_it_all_the_same() -> None:
    numbers = count()
    began = time.monotonic()

    def kept() -> int:
        assert time.monotonic() - began < 5, "it goes on for ever"
        return next(numbers)

    sent = cast(Any, SimpleNamespace(answer=lambda: None))
    assert shot.followed(watched(kept), sent, cast(Any, None), 0.05) is None


def test_an_answer_ends_it_though_others_never_stop() -> None:
    answers = iter([None, None, Answer("10.244.2.2")])
    sent = cast(Any, SimpleNamespace(answer=lambda: next(answers)))
    found = shot.followed(watched(count().__next__), sent, cast(Any, None), 10)
    assert found == Answer("10.244.2.2")
