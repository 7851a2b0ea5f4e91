"""up, down, plan, status, verify, probe, doctor against fakes: what is printed, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_lab import FakeLive, FakeRoom

from netlab import capabilities
from netlab.capabilities import Capability
from netlab.cli import machine, prove, tables
from netlab.cli.progress import CLEAR, Progress
from netlab.errors import NotFoundError
from netlab.lab.report import Report
from netlab.packets import (
    Direction,
    Flow,
    Hop,
    Leg,
    Outcome,
    Outer,
    Passage,
    Protocol,
    Sighting,
    Verdict,
)

Netlab = Callable[..., "tuple[int, str, str]"]
TOPOLOGY = """\
apiVersion: netlab/v1
kind: Lab
metadata: {name: notes}
underlay: {segments: [{name: lan, cidr: 192.168.50.0/24}]}
nodes: [{name: node1, address: 192.168.50.11}]
network: {Network: 10.244.0.0/16}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
"""


@pytest.fixture
def topology(tmp_path: Path) -> str:
    path = tmp_path / "lab.yaml"
    path.write_text(TOPOLOGY)
    return str(path)


def test_up_says_what_changed(room: FakeRoom, netlab: Netlab, topology: str) -> None:
    room.report = Report(changes=["pod/a"], operations=41, words=["ip link add x"])
    code, out, err = netlab("up", topology)
    assert code == 0
    assert out.startswith("lab notes: 1 object changed, 41 kernel operations; converged in ")
    assert "ip link add x" not in err


def test_up_again_says_that_nothing_changed(netlab: Netlab, topology: str) -> None:
    assert netlab("up", topology)[1].startswith("lab notes: nothing to change; converged in ")


def test_verbose_up_shows_operations_and_times(
    room: FakeRoom, netlab: Netlab, topology: str
) -> None:
    room.report = Report(operations=1, words=["ip link add x"], seconds={"etcd": 0.25})
    for words in (("-v", "up", topology), ("up", "-v", topology)):
        err = netlab(*words)[2]
        assert "ip link add x\n" in err
        assert "   0.250 s  etcd\n" in err


def test_up_that_does_not_converge_fails(room: FakeRoom, netlab: Netlab, topology: str) -> None:
    room.report = Report(converged=False, problems=["node node1: no subnet lease yet"])
    code, out, err = netlab("up", topology)
    assert code == 1
    assert "not converged" in out
    assert "problem: node node1: no subnet lease yet" in err


def test_plan_fails_when_there_is_something_to_do(
    room: FakeRoom, netlab: Netlab, topology: str
) -> None:
    assert netlab("plan", topology)[0] == 0
    room.report = Report(changes=["create pod a/b"], operations=1, words=["ip link add x"])
    code, out, _ = netlab("plan", topology)
    assert (code, out) == (1, "# create pod a/b\nip link add x\n"), "what is no command is no line"


def test_up_refuses_another_lab_than_the_one_named(netlab: Netlab, topology: str) -> None:
    code, _, err = netlab("-L", "other", "up", topology)
    assert code == 2
    assert "the files declare lab notes, not other" in err


def test_every_mistake_is_printed_with_its_place(netlab: Netlab, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(TOPOLOGY.replace("192.168.50.11", "10.0.0.1").replace("10.244.0.0/16", "x"))
    code, out, err = netlab("up", str(path))
    lines = err.splitlines()
    assert (code, out) == (2, "")
    assert [line.startswith(f"{path}:") for line in lines] == [True] * (len(lines) - 1) + [False]
    assert len(lines) >= 3
    assert lines[-1] == f"error: {len(lines) - 1} mistakes in the input; nothing changed"


def test_down_takes_the_named_lab_or_all(room: FakeRoom, netlab: Netlab) -> None:
    room.labs["two"] = FakeLive("two")
    assert netlab("down")[0] == 2
    assert netlab("down", "two")[:2] == (0, "lab two: gone in 0.10 s\n")
    assert netlab("down", "--all")[0] == 0
    assert room.downed == ["two", "notes", "two"]


def test_the_lab_is_chosen_by_option_then_environment(
    room: FakeRoom, netlab: Netlab, monkeypatch: pytest.MonkeyPatch
) -> None:
    room.labs["two"] = FakeLive("two")
    monkeypatch.setenv("NETLAB_LAB", "two")
    for words, lab in (
        (("status",), "two"),
        (("-L", "notes", "status"), "notes"),
        (("status", "-L", "notes"), "notes"),
        (("status", "notes"), "notes"),
        (("-L", "notes", "status", "-L", "two"), "two"),
    ):
        assert netlab(*words)[1].startswith(f"lab {lab}: "), words
    assert netlab("-L", "notes", "status", "two")[0] == 2


def test_a_user_without_a_lab_is_told_of_roots(
    netlab: Netlab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*, create: bool) -> None:
        raise NotFoundError("no lab is running", hint="start one: netlab up FILE")

    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("netlab.rootless.enter", none)
    code, _, err = netlab("get", "pods")
    assert (code, err.splitlines()) == (
        4,
        [
            "error: no lab of yours is running",
            "hint: root's: notes; the same command with sudo works on them",
        ],
    )


def test_status_fails_until_converged(room: FakeRoom, netlab: Netlab) -> None:
    code, out, _ = netlab("status")
    assert code == 0
    assert out.startswith("lab notes: converged\nagent: pid 42, ")
    assert "1/2" in out  # pods of a node: running of placed
    room.labs["notes"].problems = ["node node1: no subnet lease yet"]
    code, out, _ = netlab("status", "-o", "json")
    assert (code, json.loads(out)["converged"]) == (1, False)


FLOW = Flow("10.244.1.2", "10.244.2.3", Protocol.UDP, 40000, 80)
VERDICTS = [
    Verdict(
        "same-pod-lo", Outcome.PASS, "containers meet on lo", ("seen on lo only",), seconds=0.1
    ),
    Verdict(
        "pod-pod-cross-node",
        Outcome.FAIL,
        "pods of two nodes meet through VXLAN",
        ("no answer",),
        last_seen="notes.node1 flannel.1 out",
        expected_next="notes.node1 eth0 out (FDB entry of flannel.1)",
        seconds=1.5,
    ),
    Verdict("nodeport", Outcome.SKIP, "", ("needs Services",)),
    Verdict("ingress", Outcome.SKIP, "", ("needs Services",)),
]


def test_verify_table_fits_a_projector_and_says_where_it_stopped() -> None:
    long = [*VERDICTS, Verdict("x" * 22, Outcome.PASS, "word " * 40, ("hop " * 60,))]
    lines = prove.table(long, width=100)
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert "last seen: notes.node1 flannel.1 out" in text
    assert "expected next: notes.node1 eth0 out (FDB entry of flannel.1)" in text
    assert "skip  needs Services: nodeport, ingress" in text
    assert lines[-1] == "2 passed, 1 failed, 2 skipped"
    assert "\x1b" not in text


def test_verify_shows_the_first_evidence_and_all_of_it_when_asked() -> None:
    verdict = Verdict("a", Outcome.PASS, "title", ("first seen", "then seen", "last seen"))
    assert "    first seen (and 2 more, with -v)" in prove.table([verdict], width=100)
    single = Verdict("b", Outcome.PASS, "title", ("all there is",))
    assert "    all there is" in prove.table([single], width=100)
    lines = prove.table([verdict], width=100, whole=True)
    assert lines[2:5] == ["    first seen", "    then seen", "    last seen"]


def test_colour_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert tables.coloured("x", tables.RED) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert tables.coloured("x", tables.RED) == "x"


def test_probe_shows_every_hop_with_its_time() -> None:
    def passage(device: str, time: int | None, outer: Outer | None = None) -> Passage:
        hop = Hop("notes.node1", device, Direction.OUT, FLOW.source, FLOW.destination)
        if time is None:
            return Passage(Leg.REQUEST, hop)
        seen = Sighting(time, hop.netns, device, Direction.OUT, FLOW, 64, 100, outer=outer)
        return Passage(Leg.REQUEST, hop, seen)

    outer = Outer("192.168.50.11", "192.168.50.12", 1)
    passages = (passage("flannel.1", 1_000_000), passage("eth0", 1_250_000, outer))
    verdict = Verdict(
        "probe", Outcome.PASS, "a to b", passages=(*passages, passage("br-lan", None))
    )
    text = "\n".join(prove.probe_lines(verdict))
    assert "+0.000 ms  node1  flannel.1 out  10.244.1.2 -> 10.244.2.3 ttl 64" in text
    assert "+0.250 ms" in text
    assert "eth0 out       VXLAN 1: 192.168.50.11 -> 192.168.50.12" in text
    assert "br-lan out     not seen" in text


@pytest.mark.parametrize(
    ("legs", "outcome", "words"),
    [
        ((Leg.REQUEST,), Outcome.PASS, "pass (not delivered, as it should be): a to b"),
        ((Leg.REQUEST, Leg.REPLY), Outcome.PASS, "pass: a to b"),
        ((Leg.REQUEST,), Outcome.FAIL, "fail: a to b"),
        ((), Outcome.PASS, "pass: a to b"),
    ],
    ids=str,
)
def test_a_probe_that_is_rightly_stopped_says_so(
    legs: tuple[Leg, ...], outcome: Outcome, words: str
) -> None:
    hop = Hop("notes.node1", "eth0", Direction.OUT, FLOW.source, FLOW.destination)
    verdict = Verdict("probe", outcome, "a to b", passages=tuple(Passage(leg, hop) for leg in legs))
    assert prove.probe_lines(verdict)[0].startswith(words)


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ("web", ("web", 0, "")),
        ("shop/cart-1", ("shop/cart-1", 0, "")),
        ("web:80", ("web", 80, "tcp")),
        ("node/node1:53/UDP", ("node/node1", 53, "udp")),
        ("10.0.0.1:22/tcp", ("10.0.0.1", 22, "tcp")),
        ("web:http", ("web", "http", "")),
        ("shop/cart-1:x-8/UDP", ("shop/cart-1", "x-8", "udp")),
    ],
)
def test_the_end_of_a_flow_is_read(words: str, end: tuple[str, int, str]) -> None:
    assert prove.flow_end(words) == end


def capability(name: str, ok: bool, required: bool) -> Capability:
    return Capability(name, ok, required, "every cable", "seen", "" if ok else "apt install it")


@pytest.mark.parametrize(
    ("found", "code", "last"),
    [
        ([capability("veth", True, True)], 0, "everything is there"),
        (
            [capability("veth", True, True), capability("ip_vs", False, False)],
            0,
            "labs can run here; what is named above needs more",
        ),
        ([capability("veth", False, True)], 3, "1 missing: no lab can run here"),
    ],
    ids=["all", "optional missing", "required missing"],
)
def test_doctor_fails_only_for_what_every_lab_needs(
    netlab: Netlab,
    monkeypatch: pytest.MonkeyPatch,
    found: list[Capability],
    code: int,
    last: str,
) -> None:
    monkeypatch.setattr(capabilities, "tried", lambda: found)
    got, out, _ = netlab("doctor")
    assert (got, out.splitlines()[-1]) == (code, last)
    got, out, _ = netlab("doctor", "-o", "json")
    facts = json.loads(out)
    assert (got, facts["ok"]) == (code, code == 0)
    assert [fact["name"] for fact in facts["capabilities"]] == [c.name for c in found]


def test_doctor_names_the_remedy_of_each_gap() -> None:
    lines = machine.examined([capability("veth", False, True)])
    assert "  veth: apt install it" in lines
    assert max(map(len, lines)) <= 100


def test_progress_is_quiet_in_a_file_unless_it_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.5, 2.5, 2.5, 3.0, 9.0, 9.0])
    monkeypatch.setattr("netlab.cli.progress.time.monotonic", lambda: next(clock))
    with Progress("up notes") as progress:
        for step in ("soon done", "long", "soon after", "longer"):
            progress(step)
    assert capsys.readouterr().err == "up notes: long\nup notes: longer\n"


def test_progress_on_a_terminal_is_one_line_that_goes_away(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("up notes") as progress:
        progress("etcd")
        progress("nodes", "node1")
    assert capsys.readouterr().err == (f"{CLEAR}up notes: etcd{CLEAR}up notes: nodes: node1{CLEAR}")


def test_status_tells_faults_and_changes_with_what_undoes_them(
    room: FakeRoom, netlab: Netlab, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = room.labs["notes"]
    told = live.status()
    told["faults"] = [{"words": "etcd is stopped", "since": "now", "undo": "netlab fault clear"}]
    told["changes"] = [{"words": "node n1 is cordoned", "undo": "netlab uncordon n1"}]
    monkeypatch.setattr(live, "status", lambda *, changes=False: told)
    out = netlab("status")[1]
    assert "fault: etcd is stopped, since now; undo: netlab fault clear\n" in out
    assert "changed: node n1 is cordoned; undo: netlab uncordon n1\n" in out
    assert "pods: 1 of 2 ready\n" in out
    assert "followed by all nodes in 84 ms\n" in out
