"""Spans of time as Kubernetes' configuration writes them."""

from __future__ import annotations

import pytest

from netlab.model.durations import seconds


@pytest.mark.parametrize(
    ("text", "length"),
    [("0", 0), ("0s", 0), ("90s", 90), ("15m0s", 900), ("1h30m", 5400), ("2h0m1s", 7201)],
)
def test_a_duration_is_read_as_go_reads_it(text: str, length: int) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize(
    "text", ["", "1", "s", "1d", "-1s", "1.5s", "1s1h", "1s ", "\u0661s", "ms"]
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        seconds(text)
