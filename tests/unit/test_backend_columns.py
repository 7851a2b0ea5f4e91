"""flannel's back ends one after another: the lab is put back, and what another one keeps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from netlab.errors import UsageError
from netlab.model import backends
from netlab.model.lab import Backend
from netlab.packets import Outcome, Verdict
from netlab.verify import matrix

PASS = Verdict("pod-node", Outcome.PASS, "pods and nodes", ("seen",))


class Live:
    """A lab that changes its back end, but to *broken*."""

    run = Path()  # see `turn`

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.carried: list[str] = []
        self._have(Backend(VNI=7))

    def _have(self, backend: Backend) -> None:
        self.lab: Any = SimpleNamespace(network=SimpleNamespace(Backend=backend))

    def reread(self) -> None:
        pass

    def carry_by(self, backend: Backend) -> list[str]:
        self.carried.append(backends.title(backend))
        self._have(backend)
        return ["node n1: stays"] if self.carried[-1] == self.broken else []


@pytest.fixture(autouse=True)
def _turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Live, "run", tmp_path)


def by_backends(live: Live, *names: str, **more: Any) -> list[matrix.Column]:
    silent = {"on_name": lambda _: None, "on_result": lambda _: None, "on_wait": lambda _: None}
    return matrix.by_backends(live, names, ["pod-node"], **silent, **more)  # type: ignore[arg-type]


def test_each_back_end_is_asked_the_own_one_first_and_the_lab_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = Live(broken="host-gw")
    monkeypatch.setattr(matrix, "proven", lambda *_, **__: [PASS])
    names = ("vxlan+DirectRouting", "host-gw", "vxlan", "udp")
    found = by_backends(live, *names, lacking={"udp": "no tun"})
    assert live.carried == ["vxlan+DirectRouting", "host-gw", "vxlan"]
    assert live.lab.network.Backend == Backend(VNI=7)
    assert [one.name for one in found] == list(names)
    assert [[verdict.outcome for verdict in one.verdicts] for one in found] == [
        [Outcome.PASS], [Outcome.FAIL], [Outcome.PASS], []
    ]  # fmt: skip
    assert found[1].verdicts[0].evidence == ("host-gw: node n1: stays",)
    assert found[3].lacking == "no tun"


def test_the_lab_is_put_back_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> list[Verdict]:
        raise KeyboardInterrupt

    live = Live()
    monkeypatch.setattr(matrix, "proven", interrupted)
    with pytest.raises(KeyboardInterrupt):
        by_backends(live, "host-gw")
    assert live.carried == ["host-gw", "vxlan"]


def test_the_path_that_changes_the_back_end_is_not_asked_by_each() -> None:
    with pytest.raises(UsageError, match="changes the back end itself"):
        matrix.paths(["backends"])


@pytest.mark.parametrize(
    ("own", "name", "other"),
    [
        (Backend(VNI=7), "vxlan", Backend(VNI=7)),
        (Backend(VNI=7), "vxlan+DirectRouting", Backend(VNI=7, DirectRouting=True)),
        (Backend(VNI=7, DirectRouting=True), "vxlan", Backend(VNI=7)),
        (Backend(VNI=7), "host-gw", Backend(Type="host-gw")),
        (Backend(Type="host-gw"), "vxlan+DirectRouting", Backend(DirectRouting=True)),
    ],
)
def test_another_back_end_keeps_what_of_the_own_it_knows(
    own: Backend, name: str, other: Backend
) -> None:
    assert backends.named(name, own) == other
    assert backends.title(other) == name
