"""When a conversation that was sent is given up, with sensors that this test plays."""

from __future__ import annotations

import time
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest
from drawn_labs import drawn_lab
from watched import Watch, tcp

from netlab.packets import Flow, Protocol
from netlab.sensors.sending import Answer
from netlab.telling import selecting
from netlab.telling.naming import Names
from netlab.tracing import relayed, shot, wires


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


@pytest.mark.parametrize(
    ("answer", "led", "refused"),
    [
        (Answer("10.96.0.10"), True, relayed.CLOSED),
        (Answer("10.96.0.10"), False, ""),  # it answers nothing, but it is nobody's proxy
        (Answer("10.96.0.10", {"pod": "web-1"}), True, ""),
        (
            Answer("10.96.0.10", refused="connection reset by peer"),
            True,
            "connection reset by peer",
        ),
        (None, True, None),
    ],
)
def test_who_is_let_in_and_out_again_is_not_answered(
    answer: Answer | None, led: bool, refused: str | None
) -> None:
    names, watch = Names(drawn_lab(2, 2)), Watch()
    to = "10.244.1.1:20000" if led else "10.244.1.3:20000"
    watch.seen("t.n1 veth1 in", tcp("10.244.1.2:40001", "10.96.0.10:80"))
    watch.seen("t.n1 docker0 in", tcp("10.244.1.2:40001", to))
    flow = Flow("10.244.1.2", "10.96.0.10", Protocol.TCP, 40001, 80)
    opening = selecting.Opening(Protocol.TCP, 0x10000)
    chosen = selecting.chosen(opening, [flow], watch.caught, [], tunnel_port=8472)
    found = relayed.heard(answer, chosen, {20000: "default/web:http"}, names)
    assert (found.refused if found else None) == refused
