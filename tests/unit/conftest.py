"""Fake labs in the place of what `netlab.lab` finds, and a way to run the command against them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from fake_lab import FakeLive, FakeRoom

FACE = {  # what the fakes stand for, by module of `netlab.lab`
    "directory": ("names", "chosen"),
    "live": ("connect",),
    "up": ("up",),
    "forecast": ("plan",),
    "down": ("down",),
}


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> FakeRoom:
    """One lab, `notes`, in memory; none of this machine's namespaces, which may be another's."""
    from netlab import rootless

    fake = FakeRoom(FakeLive())
    for home, names in FACE.items():
        for name in names:
            monkeypatch.setattr(f"netlab.lab.{home}.{name}", getattr(fake, name))
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
