"""The ingress controller's loop: what it outlives, and what it does not."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from netlab.errors import NetlabError, StoreError
from netlab.ingress import controller
from netlab.ingress.controller import Controller
from netlab.vhosts.model import Settings


class Nobody:
    """An etcd that is never asked anything."""

    def __init__(self, *_: Any) -> None:
        pass

    @contextmanager
    def watch(self) -> Iterator[None]:
        yield

    def close(self) -> None:
        pass


@pytest.fixture
def ending() -> Iterator[int]:
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


def run(monkeypatch: pytest.MonkeyPatch, ending: int, *fails: Exception) -> int:
    """Return the exit code of a controller that *fails* in each pass, and is then asked to end."""
    monkeypatch.setattr(controller, "RETRY_FIRST", 0.001)
    made = Controller(None, None, Settings())  # type: ignore[arg-type]
    left = list(fails)

    def follow(*_: Any) -> int:
        if left:
            raise left.pop(0)
        return 0

    monkeypatch.setattr(made, "_follow", follow)
    return made.run(SimpleNamespace(etcd=Nobody), ending)  # type: ignore[arg-type]


def test_a_defect_is_told_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, ending: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        failures = StoreError("away"), KeyError("spec"), KeyError("spec"), TypeError("x")
        assert run(monkeypatch, ending, *failures) == 0
    texts = [(one.message, one.exc_info is not None) for one in caplog.records]
    assert texts == [
        ("away; going on with what is known", False),
        ("unexpected failure; going on with what is served", True),
        ("unexpected failure; going on with what is served", True),
    ]


def test_an_nginx_that_cannot_serve_ends_it(monkeypatch: pytest.MonkeyPatch, ending: int) -> None:
    with pytest.raises(NetlabError, match="no nginx"):
        run(monkeypatch, ending, NetlabError("no nginx"))
