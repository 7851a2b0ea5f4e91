"""A request that a proxy passed on is told so, with the connection it went on by."""

from __future__ import annotations

from typing import Any

import pytest
from journey_made import answered

from netlab.telling.passing import passed_on

TRACKS = answered().journey.tracks
ITSELF = {"server": "10.244.2.2", "serverPort": 8080, "client": "10.244.1.2", "clientPort": 40000}
OTHER = {
    "server": "10.244.3.9", "serverPort": 8000, "client": "10.244.2.2", "clientPort": 52788,
    "protocol": "tcp", "namespace": "shop", "pod": "cart-1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ({}, ""),
        (ITSELF, ""),
        (
            OTHER,
            "default/web-1 passed it on by a connection of its own, "
            "10.244.2.2:52788 -> 10.244.3.9:8000 tcp, to shop/cart-1; "
            "the way there: netlab trace default/web-1 10.244.3.9:8000",
        ),
    ],
    ids=["no words", "itself", "a proxy"],
)
def test_who_answers_tells_whether_it_was_passed_on(says: dict[str, Any], expected: str) -> None:
    assert passed_on(TRACKS, says) == expected


def test_what_was_not_seen_is_not_told() -> None:
    assert passed_on((), OTHER) == ""
