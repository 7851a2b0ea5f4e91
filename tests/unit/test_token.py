"""The marks that probes carry."""

from __future__ import annotations

from netlab.sensors.token import MARK, TOKEN, token
from netlab.sensors.traceswitch import TOKEN_SEEN


def test_tokens_are_told_apart_by_what_a_rule_trace_shows_of_them() -> None:
    made = [token() for _ in range(20_000)]
    assert len({one[:TOKEN_SEEN] for one in made}) == len(made)
    assert all(TOKEN.fullmatch(one) for one in made)


def test_another_mark_is_no_probes() -> None:
    assert MARK not in token(b"stream:")
