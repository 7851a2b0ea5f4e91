"""`netlab proxy` as somebody at a shell uses it, in a namespace of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netlab.cli.proxy import proxy
from netlab.kernel import netns

pytestmark = pytest.mark.kernel

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "services.yaml"
DEADLINE = 20.0  # seconds for what takes one
AS_NODE = ("--node", "node-1", "--detect-local", "cluster-cidr=10.244.0.0/16")
MODES = ("iptables", "nftables")

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.244.1.11]}]
ports: [{name: "", port: 8080}]
"""


@pytest.fixture
def place() -> Iterator[str]:
    name = f"nltestproxy{os.getpid()}"
    netns.create(name)
    yield name
    netns.delete(name)


def netlab(
    *words: str, code: int = 0, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "netlab", "proxy", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def rules(place: str) -> str:
    """Return all rules of *place*, without counts."""
    script = "iptables-nft-save; ip6tables-nft-save; nft -s list ruleset"
    out = subprocess.run(
        ["ip", "netns", "exec", place, "sh", "-c", script],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return "\n".join(line for line in out.splitlines() if not line.startswith(("#", ":")))


def eventually(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.parametrize("mode", MODES)
def test_a_second_run_changes_nothing_and_cleanup_leaves_nothing(place: str, mode: str) -> None:
    words = ("-f", str(GOLDEN), *AS_NODE, "--netns", place, "--proxy-mode", mode)
    assert "blocks written" in netlab(*words).stdout
    assert netlab(*words).stdout.startswith(f"{mode}: nothing to change in ")
    assert "blocks removed" in netlab("--cleanup", "--netns", place).stdout
    assert "KUBE" not in rules(place) and "kube" not in rules(place)
    assert netlab("--cleanup", "--netns", place).stdout == "nothing to remove\n"


@pytest.mark.parametrize("mode", MODES)
def test_the_other_mode_leaves_nothing(place: str, mode: str) -> None:
    words = ("-f", str(GOLDEN), *AS_NODE, "--netns", place, "--proxy-mode")
    netlab(*words, mode)
    alone = rules(place)
    netlab(*words, *(one for one in MODES if one != mode))
    netlab(*words, mode)
    left = [line for line in rules(place).splitlines() if line not in alone.splitlines()]
    assert [line for line in left if "KUBE" in line or "kube" in line] == []


@pytest.mark.parametrize("mode", MODES)
def test_a_dry_run_prints_what_makes_the_same_rules(place: str, mode: str) -> None:
    words = ("-f", str(GOLDEN), *AS_NODE, "--proxy-mode", mode)
    text = netlab(*words, "--dry-run").stdout
    assert rules(place) == ""
    by_hand = f"{place}b"
    netns.create(by_hand)
    try:
        if mode == "nftables":
            subprocess.run(
                ["ip", "netns", "exec", by_hand, "nft", "-f", "-"],
                input=text,
                text=True,
                check=True,
            )
        else:
            subprocess.run(
                ["ip", "netns", "exec", by_hand, "iptables-nft-restore", "--noflush"],
                input=text,
                text=True,
                check=True,
            )
        netlab(*words, "--netns", place)
        mine, theirs = rules(place), rules(by_hand)
        assert sorted(mine.splitlines()) == sorted(theirs.splitlines())
    finally:
        netns.delete(by_hand)


@pytest.mark.parametrize("mode", MODES)
def test_what_changed_in_the_files_is_applied(place: str, mode: str, tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    words = ("-f", str(file), "--netns", place, "--proxy-mode", mode)
    file.write_text(SERVICE)
    netlab(*words)
    assert "10.244.1.11" in rules(place)
    file.write_text(SERVICE.replace("10.244.1.11", "10.244.1.12"))
    done = netlab(*words)
    assert "written" in done.stdout and "removed" in done.stdout
    assert "10.244.1.11" not in rules(place) and "10.244.1.12" in rules(place)


@pytest.mark.parametrize("mode", MODES)
def test_foreign_rules_stay(place: str, mode: str, tmp_path: Path) -> None:
    script = (
        "iptables-nft -A INPUT -p tcp --dport 4242 -j DROP;"
        "iptables-nft -t nat -N MINE; iptables-nft -t nat -A PREROUTING -j MINE;"
        "nft add table ip mine; nft add chain ip mine c; nft add rule ip mine c drop"
    )
    subprocess.run(["ip", "netns", "exec", place, "sh", "-c", script], check=True)
    before = rules(place)
    netlab("-f", str(GOLDEN), *AS_NODE, "--netns", place, "--proxy-mode", mode)
    assert set(before.splitlines()) <= set(rules(place).splitlines())
    netlab("--cleanup", "--netns", place)
    assert set(before.splitlines()) <= set(rules(place).splitlines())


def test_watch_follows_the_files_and_repairs(place: str, tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(SERVICE)
    watching = subprocess.Popen(
        [sys.executable, "-m", "netlab", "proxy", "-f", str(file), "--netns", place, "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(lambda: "10.244.1.11" in rules(place), "the first rules")
        file.write_text(SERVICE.replace("10.244.1.11", "10.244.1.12"))
        eventually(lambda: "10.244.1.12" in rules(place), "the changed file")
        file.write_text("kind: [")
        script = "iptables-nft -t nat -F KUBE-SERVICES"
        subprocess.run(["ip", "netns", "exec", place, "sh", "-c", script], check=True)
        eventually(lambda: "-A KUBE-SERVICES -d 10.96.0.10" in rules(place), "the repair")
    finally:
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=DEADLINE)
    assert watching.returncode == 130
    assert out.count("blocks written") >= 2
    assert f"{file}:" in err and "not followed until they are right" in err
    assert "10.244.1.12" in rules(place)  # a proxy that ends leaves its rules


BAD = [
    (("-f", "/nowhere.yaml"), 2, "/nowhere.yaml: does not exist"),
    ((), 2, "no objects given"),
    (("--cleanup", "-f", "x"), 2, "--cleanup with objects"),
    (("-f", "{file}", "--dry-run", "--watch"), 2, "more than one of"),
    (("-f", "{file}", "--detect-local", "magic"), 2, "no such way"),
    (("-f", "{file}", "--detect-local", "cluster-cidr"), 2, "needs a prefix"),
    (("-f", "{file}", "--detect-local", "cluster-cidr=10.244.0.0", "--dry-run"), 2, "no prefix"),
    (("-f", "{file}", "--detect-local", "bridge", "--dry-run"), 2, "needs a name"),
    (("-f", "{file}", "--nodeport-addresses", "primary,10.0.0.0/8", "--dry-run"), 2, "primary"),
    (("-f", "{file}", "--nodeport-addresses", "home", "--dry-run"), 2, "home"),
    (("-f", "{file}", "--service-cidr", "10.96/12", "--dry-run"), 2, "10.96/12"),
    (("-f", "{file}", "--proxy-mode", "userspace"), 2, "userspace"),
    (("-f", "{file}", "--localhost-nodeports", "perhaps"), 2, "perhaps"),
    (("-f", "{file}", "--netns", "nltestnowhere"), 4, "no network namespace nltestnowhere"),
    (("-f", "-", "--watch"), 2, "standard input"),
]


@contextmanager
def watching(place: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """`netlab proxy --watch` in *place*, once it has programmed it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "netlab", "proxy", "--netns", place, "--watch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        while "written" not in (line := process.stdout.readline()):
            assert line, "it ended"
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_beside_a_proxy_that_stays_no_other_writes(place: str, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(SERVICE)
    with watching(place, "-f", str(path)) as one:
        before = rules(place)
        for words in (("-f", str(GOLDEN)), ("--cleanup",), ("-f", str(GOLDEN), "--watch")):
            said = netlab(*words, "--netns", place, code=1).stderr
            assert f"--watch -f {path} (pid {one.pid})" in said
        assert rules(place) == before


@pytest.mark.parametrize("mode", MODES)
def test_rules_of_another_mode_that_come_later_go(place: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(SERVICE)
    other = next(one for one in MODES if one != mode)
    text = netlab("-f", str(GOLDEN), "--dry-run", "--proxy-mode", other, *AS_NODE).stdout
    tool = ("nft", "-f", "-") if other == "nftables" else ("iptables-nft-restore", "--noflush")
    text = text if other == "nftables" else text[: text.index("COMMIT\n") + len("COMMIT\n")]
    with watching(place, "-f", str(path), "--proxy-mode", mode):
        before = kube_names(place)
        subprocess.run(["ip", "netns", "exec", place, *tool], input=text, text=True, check=True)
        assert kube_names(place) != before
        eventually(lambda: kube_names(place) == before, f"{other} rules stay")


def kube_names(place: str) -> set[str]:
    """Return the chains of iptables mode and the tables of nftables mode in *place*."""
    words = set(rules(place).split())
    return {one for one in words if one.startswith(("KUBE-", "kube-proxy"))}


@pytest.mark.parametrize(("words", "code", "said"), BAD, ids=lambda value: str(value)[:60])
def test_a_wrong_command_line(words: tuple[str, ...], code: int, said: str, tmp_path: Path) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(SERVICE)
    done = netlab(*(word.format(file=file) for word in words), code=code)
    assert said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


WRONG_FILES = [
    ("spec: {clusterIP: 10.96.0.10, ports: [{port: eighty}]}", "spec.ports[0].port"),
    ("spec: {clusterIP: 10.96.0.10, portz: []}", "spec.portz"),
    ("spec: {type: Magic}", "spec.type"),
    ("spec: []", "spec"),
]


@pytest.mark.parametrize(("spec", "field"), WRONG_FILES, ids=lambda value: str(value)[:40])
def test_a_wrong_object_is_named_by_file_line_and_field(
    place: str, spec: str, field: str, tmp_path: Path
) -> None:
    file = tmp_path / "objects.yaml"
    file.write_text(f"apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n{spec}\n")
    done = netlab("-f", str(file), "--netns", place, code=2)
    assert f"{file}:4: {field}" in done.stderr, done.stderr
    assert rules(place) == ""


def test_an_address_that_cannot_be_used_harms_nobody_else(place: str) -> None:
    text = SERVICE + (
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: odd}\n"
        "spec: {clusterIP: 10.96.0.300, ports: [{port: 80}]}\n"
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"
        "metadata: {name: web-2, labels: {kubernetes.io/service-name: web}}\n"
        "addressType: IPv4\nendpoints: [{addresses: ['10.244.001.012']}, {addresses: ['x y']}]\n"
        "ports: [{name: '', port: 8080}]\n"
    )
    done = netlab("-f", "-", "--netns", place, stdin=text)
    assert "'10.96.0.300' is no address" in done.stderr
    assert "'x y' is no address" in done.stderr
    assert "10.244.1.12:8080" in rules(place) and "10.96.0.10" in rules(place)


def test_the_examples_of_the_help_work_when_they_are_pasted(place: str, tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    for name in ("services.yaml", "objects/all.yaml"):
        (tmp_path / name).write_text(GOLDEN.read_text())
    (tmp_path / "kubectl").write_text(f"#!/bin/sh\ncat {GOLDEN}\n")
    (tmp_path / "kubectl").chmod(0o755)
    lines = [line.strip() for line in proxy.example.strip().splitlines()]
    assert len(lines) >= 5
    for line in lines:
        asked = line.replace("--netns n1", f"--netns {place}").replace("--node n1", "--node node-1")
        if "--watch" in asked:
            asked = f"timeout -s INT 2 {asked}"
        elif "-f objects" not in asked and "-f services" in asked:
            asked += " --node node-1"
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {asked}"],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{tmp_path}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode in ((124, 130) if "--watch" in asked else (0,)), asked + done.stderr
