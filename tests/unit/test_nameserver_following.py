"""The thread that follows a cluster's objects goes on, whatever comes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netlab.errors import StoreError
from netlab.model.inventory import Inventory
from netlab.nameserver import following
from netlab.nameserver.following import Follower
from netlab.store.access import Access

SOON = 10.0  # seconds


class Silent:
    """An etcd that tells of no change."""

    @contextmanager
    def watch(self) -> Iterator[int]:
        reading, writing = os.pipe()
        try:
            yield reading
        finally:
            os.close(reading)
            os.close(writing)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("error", [StoreError, KeyError], ids=["etcd away", "strange object"])
def test_names_are_followed_again_after(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(following, "AGAIN_FIRST", 0.01)
    monkeypatch.setattr(following.registry, "objects", lambda *_, **__: (Inventory(), 1))
    published = threading.Event()
    failures = [error("it fails") for _ in range(3)]

    def publish(objects: Inventory, revision: int) -> None:
        if failures:
            raise failures.pop()
        published.set()

    follower = Follower(Access(urls=("http://127.0.0.1:1",)), publish)
    monkeypatch.setattr(follower, "_etcd", Silent())
    follower.start()
    assert published.wait(SOON)
    said = capsys.readouterr().err
    assert said.count("it fails") == 1, "told once"
