"""The agent as a service of systemd: the unit's text, and where it is put."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from netlab.errors import CapabilityError
from netlab.lab import unit

WORDS = ["agent", "--node", "node2", "--etcd", "http://192.168.56.11:2379", "--uplink", "eth1"]


def fields(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_the_unit_runs_the_agent_with_these_words() -> None:
    found = fields(unit.text(WORDS, "node2 of lab demo"))
    assert shlex.split(found["ExecStart"]) == [sys.executable, "-m", "netlab", *WORDS]
    assert found["Description"].endswith("this machine is node2 of lab demo")


def test_the_pods_outlive_the_service_and_mistakes_are_not_repeated() -> None:
    found = fields(unit.text(WORDS, "node2"))
    assert found["KillMode"] == "process"
    assert found["Restart"] == "on-failure"
    assert found["RestartPreventExitStatus"].split() == ["2", "3"]


def test_a_percent_sign_is_no_specifier() -> None:
    found = fields(unit.text(["agent", "--etcd-cafile", "/a 100%h/ca.crt"], "x"))
    assert "'/a 100%%h/ca.crt'" in found["ExecStart"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / unit.NAME
    file.write_text(unit.text(WORDS, "node2 of lab demo"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(file)],
        capture_output=True,
        text=True,
    )
    assert unit.NAME not in done.stderr, done.stderr
    broken = file.read_text().replace("KillMode=process", "KillMode=gently")
    file.write_text(broken)
    said = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True)
    assert "gently" in said.stderr or "KillMode" in said.stderr


def test_without_systemd_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit, "RUNNING", tmp_path / "none")
    monkeypatch.setattr(unit, "UNITS", tmp_path)
    with pytest.raises(CapabilityError, match="systemd does not run"):
        unit.install("text")
    assert list(tmp_path.iterdir()) == []
    assert not unit.remove()


def test_it_is_enabled_and_started_and_goes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("RUNNING", "UNITS"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(unit, name, tmp_path / name)
    monkeypatch.setattr(unit, "SECRETS", tmp_path / "etc/agent.env")
    monkeypatch.setattr(unit.processes, "run", lambda words, **_: done.append(" ".join(words)))
    unit.install("text", password="it's")
    assert (tmp_path / "UNITS" / unit.NAME).read_text() == "text"
    assert (tmp_path / "etc/agent.env").stat().st_mode & 0o077 == 0
    assert done == [
        "systemctl daemon-reload",
        f"systemctl enable {unit.NAME}",
        f"systemctl restart {unit.NAME}",
    ]
    assert unit.remove()
    assert list((tmp_path / "UNITS").iterdir()) == [] and not (tmp_path / "etc/agent.env").exists()
    assert f"systemctl disable --now {unit.NAME}" in done


def test_a_password_is_read_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNNING", "UNITS"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(unit, name, tmp_path / name)
    monkeypatch.setattr(unit, "SECRETS", tmp_path / "agent.env")
    monkeypatch.setattr(unit.processes, "run", lambda words, **_: None)
    unit.install("text", password='a"b\\c$d')
    said = ["sh", "-c", f'. {tmp_path}/agent.env; printf %s "$NETLAB_ETCD_PASSWORD"']
    assert subprocess.run(said, capture_output=True, text=True).stdout == 'a"b\\c$d'


@pytest.mark.parametrize(
    ("text", "password", "refused", "runs"),
    [
        ("text", "p", "", True),
        ("another", "p", "", False),
        ("text", "", "", False),
        ("text", "p", "is-active", False),
        ("text", "p", "is-enabled", False),
    ],
    ids=["as it is", "another text", "another password", "stopped", "not at a boot"],
)
def test_a_service_that_runs_as_it_is_needs_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    password: str,
    refused: str,
    runs: bool,
) -> None:
    def run(words: list[str], **_: bool) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, int(refused in words))

    for name in ("RUNNING", "UNITS"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(unit, name, tmp_path / name)
    monkeypatch.setattr(unit, "SECRETS", tmp_path / "agent.env")
    monkeypatch.setattr(unit.processes, "run", run)
    assert not unit.runs("text")
    unit.install("text", password="p")
    assert unit.runs(text, password=password) is runs


def test_a_password_that_is_no_more_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RUNNING", "UNITS"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(unit, name, tmp_path / name)
    monkeypatch.setattr(unit, "SECRETS", tmp_path / "agent.env")
    monkeypatch.setattr(unit.processes, "run", lambda words, **_: None)
    unit.install("text", password="p")
    unit.install("text")
    assert not (tmp_path / "agent.env").exists()
