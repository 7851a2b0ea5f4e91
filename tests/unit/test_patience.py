"""What is waited for on a slow computer."""

from __future__ import annotations

import pytest

from netlab import patience


@pytest.mark.parametrize(
    ("asked", "factor"),
    [
        pytest.param(None, 1.0, id="unset"),
        pytest.param("10", 10.0, id="ten-times"),
        pytest.param("2.5", 2.5, id="a-fraction"),
        pytest.param("0", 1.0, id="never-less"),
        pytest.param("long", 1.0, id="no-number"),
        pytest.param("", 1.0, id="empty"),
    ],
)
def test_waiting_is_multiplied_by_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, factor: float
) -> None:
    monkeypatch.delenv("NETLAB_PATIENCE", raising=False)
    if asked is not None:
        monkeypatch.setenv("NETLAB_PATIENCE", asked)
    assert patience.seconds(2.0) == 2.0 * factor
    assert patience.side_by_side(8) == max(2, int(8 / factor))
