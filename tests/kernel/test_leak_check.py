"""The leak check itself: a test that leaves something behind fails, and only such a test."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).parents[2]
HEAD = "import os, subprocess, pytest\npytestmark = pytest.mark.kernel\n"
LEAKS = [
    pytest.param(
        HEAD + "def test_leaves():\n    subprocess.run(['ip', 'netns', 'add', 'nltest-leak'])\n",
        "namespace left behind: nltest-leak",
        id="namespace",
    ),
    pytest.param(
        HEAD
        + "def test_leaves():\n"
        + "    env = {**os.environ, 'NETLAB_PROCESS': '/run/netlab/nltest-leak:x'}\n"
        + "    subprocess.Popen(['sleep', '60'], env=env, start_new_session=True)\n",
        "NETLAB_PROCESS=/run/netlab/nltest-leak:x",
        id="process",
    ),
    pytest.param(
        HEAD + "def test_leaves():\n    os.makedirs('/run/netlab/nltest-leak')\n",
        "file below /run/netlab left behind: nltest-leak",
        id="file",
    ),
    pytest.param(
        HEAD
        + "def make():\n    subprocess.run(['ip', 'netns', 'add', 'nltest-leak'])\n"
        + "@pytest.fixture(scope='module')\ndef lab():\n    make()\n    yield\n"
        + "def test_uses(lab): pass\ndef test_uses_it_too(lab): pass\n",
        "namespace left behind: nltest-leak",
        id="fixture of a module",
    ),
]
CLEAN = (
    HEAD
    + "def ip(*words): subprocess.run(['ip', 'netns', *words], check=True)\n"
    + "@pytest.fixture(scope='module')\n"
    + "def lab():\n    ip('add', 'nltest-leak')\n    yield\n    ip('del', 'nltest-leak')\n"
    + "def test_uses(lab): pass\ndef test_uses_it_too(lab): pass\n"
)


def outcome(directory: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run *body* as a test of its own, under the same conftest; undo what it left."""
    shutil.copy(ROOT / "tests" / "conftest.py", directory)
    (directory / "test_it.py").write_text(body)
    settings = ["-o", "markers=kernel", "-p", "no:cacheprovider", "-q"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    try:
        return subprocess.run(
            [sys.executable, "-m", "pytest", *settings, str(directory)],
            cwd=directory,
            env={**environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "NETLAB_ALONE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        undo()


def undo() -> None:
    if Path("/run/netns/nltest-leak").exists():
        subprocess.run(["ip", "netns", "del", "nltest-leak"], check=True)
    if Path("/run/netlab/nltest-leak").exists():
        os.rmdir("/run/netlab/nltest-leak")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = Path("/proc", pid, "environ").read_bytes()
        except OSError:
            continue
        if b"NETLAB_PROCESS=/run/netlab/nltest-leak:x" in environment.split(b"\0"):
            os.kill(int(pid), 9)


@pytest.mark.parametrize(("body", "said"), LEAKS)
def test_what_is_left_behind_fails_its_test(tmp_path: Path, body: str, said: str) -> None:
    done = outcome(tmp_path, body)
    assert done.returncode == 1, done.stdout
    assert said in done.stdout
    assert "1 error" in done.stdout


def test_what_becomes_of_a_lab_that_was_up_before_is_nobody_s_leak(tmp_path: Path) -> None:
    body = (
        HEAD
        + "def test_meanwhile():\n"
        + "    subprocess.run(['ip', 'netns', 'add', 'nltest-leak.n1.default.reborn'])\n"
        + "    env = {**os.environ, 'NETLAB_PROCESS': '/run/netlab/nltest-leak:x'}\n"
        + "    subprocess.Popen(['sleep', '60'], env=env, start_new_session=True)\n"
    )
    os.makedirs("/run/netlab/nltest-leak")
    try:
        done = outcome(tmp_path, body)
    finally:
        subprocess.run(["ip", "netns", "del", "nltest-leak.n1.default.reborn"], check=True)
    assert done.returncode == 0, done.stdout


def test_a_fixture_that_cleans_up_passes(tmp_path: Path) -> None:
    done = outcome(tmp_path, CLEAN)
    assert done.returncode == 0, done.stdout
