"""What a node's proxy has read of etcd, while somebody goes on writing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from netlab.agent import services
from netlab.agent.services import SERVICES, SLICES, ServiceProxy
from netlab.agent.state import State


@pytest.mark.parametrize("during", [SLICES, "/registry/minions/n1"], ids=["slices", "node"])
@pytest.mark.parametrize("written", [SERVICES, SLICES], ids=["a service", "a slice"])
def test_what_is_heard_between_two_readings_is_read(
    during: str, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = SimpleNamespace(revision=5)
    stored = {SERVICES: "old", SLICES: "old", "/registry/minions/n1": "n1"}

    def objects(etcd: object, *, prefix: str, **_: object) -> tuple[str, int]:
        found = stored[prefix]
        if prefix == during and watch.revision == 5:
            watch.revision, stored[written] = 6, "new"
            if prefix == written:
                found = "new"
        return found, watch.revision

    monkeypatch.setattr(services.registry, "objects", objects)
    proxy = ServiceProxy(State(tmp_path), "n1")
    seen = proxy._read(None, watch)  # type: ignore[arg-type]
    assert seen == (stored[SERVICES], stored[SLICES], "n1")
