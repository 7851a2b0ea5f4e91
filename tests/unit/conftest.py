"""A fake lab in the place of `netlab.lab`, and a way to run one command line against it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
from fake_lab import FakeLive, FakeRoom


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> FakeRoom:
    """One lab, `notes`, in memory; none of this machine's namespaces, which may be another's."""
    import netlab
    from netlab import rootless

    fake = FakeRoom(FakeLive())
    monkeypatch.setitem(sys.modules, "netlab.lab", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(netlab, "lab", fake, raising=False)
    monkeypatch.setattr(rootless, "enter", lambda *, create: None)
    monkeypatch.setattr("netlab.kernel.netns.DIRECTORY", str(tmp_path_factory.mktemp("netns")))
    monkeypatch.delenv("NETLAB_LAB", raising=False)
    return fake


@pytest.fixture
def netlab(room: FakeRoom, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command line in this process, against the fake lab."""
    from netlab.cli.program import run

    def ran(*words: str) -> Ran:
        capsys.readouterr()
        code = run(list(words))
        return Ran(code, *capsys.readouterr())

    return ran
