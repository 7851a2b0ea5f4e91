"""Paths by proxy mode: which mode when, back at the end, one table, JSON and JUnit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from netlab import verify as prover
from netlab.cli import matrix as told
from netlab.errors import NetlabError, UsageError
from netlab.packets import Outcome, Verdict
from netlab.verify import PATHS, matrix, turns
from netlab.verify.matrix import Column


class Live:
    """A lab that changes its mode, but to those *broken*."""

    run = Path()  # see `turn`

    def __init__(self, mode: str = "nftables", broken: tuple[str, ...] = ()) -> None:
        self.lab = SimpleNamespace(proxyMode=mode)
        self.broken = broken
        self.served: list[str] = []

    def serve_by(self, mode: str) -> list[str]:
        self.served.append(mode)
        self.lab = SimpleNamespace(proxyMode=mode)
        return ["no rules"] if mode in self.broken else []

    def status(self, *, timeout: float = 1.0) -> dict[str, Any]:
        return {}

    def reread(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Live, "run", tmp_path)


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What was verified: the mode the lab was in, the paths."""
    found: list[tuple[str, list[str]]] = []

    def proven(live: Live, ids: list[str], *, on_result: Any) -> list[Verdict]:
        found.append((live.lab.proxyMode, ids))
        if "boom" in ids:
            raise NetlabError("gone")
        return [Verdict(one, Outcome.PASS, "title", ("seen",), seconds=0.5) for one in ids]

    monkeypatch.setattr(matrix, "proven", proven)
    return found


def in_modes(live: Live, *modes: str, **more: Any) -> list[Column]:
    silent = {"on_mode": lambda _: None, "on_result": lambda _: None, "on_wait": lambda _: None}
    return matrix.in_modes(live, modes, ["nodeport"], **silent, **more)  # type: ignore[arg-type]


def test_the_labs_own_mode_is_first_and_last(verified: list[Any]) -> None:
    live = Live("nftables")
    found = in_modes(live, "iptables", "nftables", "userspace")
    assert [mode for mode, _ in verified] == ["nftables", "iptables", "userspace"]
    assert [column.name for column in found] == ["iptables", "nftables", "userspace"]
    assert live.lab.proxyMode == "nftables"
    assert live.served == ["iptables", "userspace", "nftables"]


def test_a_mode_that_is_lacking_is_not_tried(verified: list[Any]) -> None:
    live = Live("nftables")
    found = in_modes(live, "nftables", "ipvs", lacking={"ipvs": "this kernel lacks ip_vs"})
    assert live.served == []
    assert [column.lacking for column in found] == ["", "this kernel lacks ip_vs"]


def test_a_mode_that_the_lab_does_not_get_into_fails_as_a_whole(verified: list[Any]) -> None:
    live = Live("nftables", broken=("userspace",))
    found = in_modes(live, "nftables", "userspace", "iptables")
    assert [mode for mode, _ in verified] == ["nftables", "iptables"]
    (verdict,) = found[1].verdicts
    assert (verdict.outcome, verdict.evidence) == (Outcome.FAIL, ("userspace: no rules",))
    assert live.lab.proxyMode == "nftables"


def test_it_changes_back_whatever_happens(
    verified: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live("nftables")

    def broken(*_: Any, **__: Any) -> None:
        if live.lab.proxyMode == "iptables":
            raise KeyboardInterrupt

    monkeypatch.setattr(matrix, "proven", broken)
    with pytest.raises(KeyboardInterrupt):
        in_modes(live, "iptables")
    assert live.lab.proxyMode == "nftables"


def test_nobody_else_has_a_turn_until_all_is_done_and_changed_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever waited meanwhile, and was told another one's mode, takes the lab as it then is."""
    live, met = Live("userspace"), []
    monkeypatch.setattr(turns, "WAIT", 0.0)

    def proven(*_: Any, **__: Any) -> list[Verdict]:
        with pytest.raises(NetlabError, match="is being verified by"), turns.turn(live.run, print):
            pass
        met.append(live.lab.proxyMode)
        return []

    monkeypatch.setattr(matrix, "proven", proven)
    monkeypatch.setattr(live, "reread", lambda: setattr(live.lab, "proxyMode", "iptables"))
    in_modes(live, "iptables", "nftables")
    assert met == ["iptables", "nftables"]
    assert live.served == ["nftables", "iptables"]
    with turns.turn(live.run, print):
        pass


def test_which_paths_are_proven() -> None:
    assert {path.id for path in matrix.paths(())} == set(matrix.SERVICE_PATHS)
    assert set(matrix.SERVICE_PATHS) <= {path.id for path in PATHS}
    assert [path.id for path in matrix.paths(["pod-node"])] == ["pod-node"]
    with pytest.raises(UsageError, match="changes the mode itself"):
        matrix.paths(["nodeport", "proxy-modes"])
    with pytest.raises(UsageError):
        matrix.paths(["no-such-path"])


COLUMNS = [
    Column(
        "iptables",
        [
            Verdict("nodeport", Outcome.PASS, "from outside", ("seen it",), seconds=1.5),
            Verdict("ingress", Outcome.SKIP, "names", ("needs an ingress controller",)),
        ],
    ),
    Column(
        "userspace",
        [
            Verdict("nodeport", Outcome.FAIL, "from outside", ("lost",), "here", "there", 12.25),
            Verdict("ingress", Outcome.SKIP, "names", ("needs an ingress controller",)),
        ],
    ),
    Column("ipvs", (), "this kernel lacks ip_vs"),
]


def test_one_table_with_what_failed_and_what_is_lacking_below() -> None:
    assert told.table(COLUMNS, width=100) == [
        "PATH      IPTABLES      USERSPACE     IPVS",
        "nodeport  pass  1.50 s  fail 12.25 s  skip",
        "ingress   skip          skip          skip",
        "",
        "userspace: nodeport: fail",
        "    lost",
        "    last seen: here",
        "    expected next: there",
        "",
        "skip  needs an ingress controller: ingress in iptables, ingress in userspace",
        "skip  this kernel lacks ip_vs: ipvs mode",
        "",
        "1 passed, 1 failed, 2 skipped",
    ]


def test_with_all_evidence_what_passed_is_told_too() -> None:
    found = told.table(COLUMNS, width=100, whole=True)
    at = found.index("iptables: nodeport: pass")
    assert found[at + 1] == "    seen it"


def test_as_json_each_mode_has_its_paths() -> None:
    found = json.loads(json.dumps(prover.columns_as_json(COLUMNS)))
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 1, 2)
    assert [one["mode"] for one in found["modes"]] == ["iptables", "userspace", "ipvs"]
    assert [one["path"] for one in found["modes"][1]["paths"]] == ["nodeport", "ingress"]
    assert found["modes"][2]["lacking"] == "this kernel lacks ip_vs"


def test_as_junit_each_mode_is_a_suite() -> None:
    suites = list(ElementTree.fromstring(prover.columns_as_junit(COLUMNS)))
    assert [one.get("name") for one in suites] == [
        f"netlab verify in {mode} mode" for mode in ("iptables", "userspace", "ipvs")
    ]
    assert [(one.get("tests"), one.get("failures"), one.get("skipped")) for one in suites] == [
        ("2", "0", "1"),
        ("2", "1", "1"),
        ("1", "0", "1"),
    ]
