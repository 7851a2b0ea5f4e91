"""What needs no root: what clients are answered, references in commands, logs, processes."""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netlab import processes
from netlab.errors import CapabilityError, NetlabError, NotFoundError
from netlab.pods import conversation
from netlab.pods.conversation import Conversation
from netlab.pods.logs import Collector, log_path, logs
from netlab.pods.server import Loop
from netlab.pods.variables import expanded
from netlab.pods.waiting import until
from netlab.pods.watching import Watcher

FACTS = {"pod": "web-0", "namespace": "shop", "container": "c", "node": "n1", "hostname": "web-0"}


class Dialogue:
    """A client, and the conversation it has, served by a loop in this very thread."""

    def __init__(self) -> None:
        self.loop = Loop()
        listening = socket.create_server(("127.0.0.1", 0))
        self.client = socket.create_connection(listening.getsockname())
        self.client.settimeout(5)
        accepted, peer = listening.accept()
        listening.close()
        self.closed: list[Conversation] = []
        self.conversation = Conversation(
            self.loop, accepted, peer, facts=FACTS, protocol="tcp", closed=self.closed.append
        )
        self.loop.begun(self.conversation)

    def heard(self, enough: Callable[[bytes], bool], within: float = 5.0) -> bytes:
        """Return what the client is sent until that is *enough*, or the end of the stream."""
        data, deadline = b"", time.monotonic() + within
        while not enough(data):
            assert time.monotonic() < deadline, f"only {data!r}"
            self.loop.turn(self.loop.now() + 0.02)
            if select.select([self.client], [], [], 0)[0]:
                piece = self.client.recv(65536)
                if not piece:
                    return data
                data += piece
        return data


@pytest.fixture
def dialogue() -> Iterator[Dialogue]:
    made = Dialogue()
    yield made
    made.conversation.close()
    made.client.close()


def lines(count: int) -> Callable[[bytes], bool]:
    return lambda data: data.count(b"\n") >= count


def test_plain_client_is_answered_at_its_first_bytes(dialogue: Dialogue) -> None:
    dialogue.client.sendall(b"probe-17\x00\xff")
    answer = json.loads(dialogue.heard(lines(1)))
    host, port = dialogue.client.getsockname()
    assert answer == {
        **FACTS,
        "client": host,
        "clientPort": port,
        "server": "127.0.0.1",
        "serverPort": dialogue.client.getpeername()[1],
        "protocol": "tcp",
        "request": "probe-17.\xff",
    }


def test_each_line_is_answered_and_the_end_too(dialogue: Dialogue) -> None:
    dialogue.client.sendall(b"one\ntwo\nthr")
    assert [json.loads(a)["request"] for a in dialogue.heard(lines(2)).splitlines()] == [
        "one.",
        "two.",
    ]
    dialogue.client.sendall(b"ee\nrest")
    dialogue.client.shutdown(socket.SHUT_WR)
    answers = dialogue.heard(lambda _: False).splitlines()
    assert [json.loads(a)["request"] for a in answers] == ["three.", "rest"]
    assert dialogue.closed == [dialogue.conversation]


def test_rest_of_an_answered_first_line_is_no_new_line(dialogue: Dialogue) -> None:
    dialogue.client.sendall(b"fir")
    dialogue.heard(lines(1))
    dialogue.client.sendall(b"st\nsecond\n")
    assert [json.loads(a)["request"] for a in dialogue.heard(lines(1)).splitlines()] == ["second."]


def test_silent_client_is_answered_after_a_while(dialogue: Dialogue) -> None:
    began = time.monotonic()
    assert json.loads(dialogue.heard(lines(1)))["request"] == ""
    assert time.monotonic() - began >= conversation.SILENCE


@pytest.mark.parametrize(
    ("request_head", "status", "stays"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"200", True, id="get"),
        pytest.param(b"GET /a/b?c HTTP/1.1\nHost: x\n\n", b"200", True, id="bare-newlines"),
        pytest.param(b"GET / HTTP/1.0\r\n\r\n", b"200", False, id="1.0"),
        pytest.param(
            b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", b"200", True, id="1.0-keep-alive"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"200", False, id="close"),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"200", True, id="body"),
        pytest.param(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"200",
            False,
            id="chunked",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400", False, id="negative-length"
        ),
        pytest.param(b"GET /\r\n\r\n", b"400", False, id="no-version"),
        pytest.param(b"GET / HTTP/1.1\r\nA: " + b"a" * 40000, b"431", False, id="endless-head"),
    ],
)
def test_http(dialogue: Dialogue, request_head: bytes, status: bytes, stays: bool) -> None:
    dialogue.client.sendall(request_head)
    answer = dialogue.heard(lambda data: data.endswith(b"}\n"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert f"Content-Length: {len(body)}".encode() in head
    if status == b"200":
        assert json.loads(body)["pod"] == "web-0"
    if stays:
        dialogue.client.sendall(b"GET /again HTTP/1.1\r\n\r\n")
        again = dialogue.heard(lambda data: data.endswith(b"}\n"))
        assert b"GET /again" in again
    else:
        assert b"Connection: close" in head
        assert dialogue.heard(lambda _: False) == b""


def test_head_has_the_length_but_no_body(dialogue: Dialogue) -> None:
    dialogue.client.sendall(b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n")
    head, _, body = dialogue.heard(lambda _: False).partition(b"\r\n\r\n")
    assert (b"Content-Length: 0" not in head, body) == (True, b"")


def test_request_in_pieces_is_one_request(dialogue: Dialogue) -> None:
    for byte in b"GET / HTTP/1.1\r\nHost: x\r\n\r":
        dialogue.client.sendall(bytes([byte]))
        dialogue.loop.turn(dialogue.loop.now())
    assert not select.select([dialogue.client], [], [], 0)[0]
    dialogue.client.sendall(b"\n")
    assert dialogue.heard(lambda data: data.endswith(b"}\n")).startswith(b"HTTP/1.1 200")


def test_thousands_of_requests_at_once_are_all_answered_in_bounded_memory(
    dialogue: Dialogue,
) -> None:
    count, most = 5000, 0
    request = b"GET / HTTP/1.1\r\n\r\n"
    sender = threading.Thread(target=dialogue.client.sendall, args=(request * count,))
    sender.start()
    answers, deadline = bytearray(), time.monotonic() + 30
    while answers.count(b"HTTP/1.1 200") < count:
        assert time.monotonic() < deadline, f"{answers.count(b'HTTP/1.1 200')} of {count}"
        dialogue.loop.turn(dialogue.loop.now() + 0.01)
        most = max(most, len(dialogue.conversation.pending))
        if select.select([dialogue.client], [], [], 0)[0]:
            answers += dialogue.client.recv(1 << 20)
    sender.join()
    assert most <= conversation.PENDING_BYTES + 4096


def test_endless_line_is_not_kept(dialogue: Dialogue) -> None:
    dialogue.client.sendall(b"first\n")
    dialogue.heard(lines(1))
    for _ in range(20):
        dialogue.client.sendall(b"x" * 60000)
        dialogue.loop.turn(dialogue.loop.now() + 0.05)
    assert len(dialogue.conversation._buffer) <= conversation.LINE_BYTES
    dialogue.client.sendall(b"\nlast\n")
    assert json.loads(dialogue.heard(lines(1)))["request"] == "last."


def test_idle_client_is_left(dialogue: Dialogue) -> None:
    now = dialogue.loop.now()
    assert not dialogue.conversation.expired(now + conversation.IDLE - 1)
    assert dialogue.conversation.expired(now + conversation.IDLE + 1)


def test_client_that_resets_ends_only_its_own_conversation(dialogue: Dialogue) -> None:
    dialogue.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    dialogue.client.sendall(b"GET / HT")
    dialogue.client.close()
    deadline = time.monotonic() + 5
    while not dialogue.closed:
        assert time.monotonic() < deadline
        dialogue.loop.turn(dialogue.loop.now() + 0.02)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$(A) and $(B)", "1 and 2"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(A)", "$(A)"),
        ("$A costs 5$", "$A costs 5$"),
        ("$(A", "$(A"),
    ],
)
def test_references_are_expanded(text: str, result: str) -> None:
    assert expanded(text, {"A": "1", "B": "2"}) == result


# -- logs


@pytest.fixture
def collector() -> Iterator[Collector]:
    watcher = Watcher()
    made = Collector(watcher)
    yield made
    made.close()
    watcher.close()


def test_log_keeps_what_was_written_while_nobody_collected(tmp_path: Path) -> None:
    path = log_path(tmp_path, "shop", "web", "c")
    watcher = Watcher()
    first = Collector(watcher)
    writer = first.log(path).writer()
    os.write(writer, b"before\n")
    assert until(lambda: path.read_text() == "before\n", within=5)
    first.close()
    os.write(writer, b"meanwhile\n")
    second = Collector(watcher)
    second.log(path)
    os.write(writer, b"after\n")
    assert until(lambda: path.read_text() == "before\nmeanwhile\nafter\n", within=5)
    second.close()
    watcher.close()
    os.close(writer)


def test_log_is_bounded_and_its_end_is_kept(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netlab.pods.logs.LOG_BYTES", 100_000)
    path = log_path(tmp_path, "shop", "web", "c")
    writer = collector.log(path).writer()
    for number in range(40):
        os.write(writer, b"%9d\n" % number * 1000)
    os.write(writer, b"end\n")
    os.close(writer)
    assert until(lambda: path.read_bytes().endswith(b"end\n"), within=5)
    sizes = [file.stat().st_size for file in path.parent.glob("c.log*")]
    assert len(sizes) == 2
    assert max(sizes) <= 100_000
    text = "".join(logs(tmp_path, "shop", "web", "c"))
    assert "       39\n" in text
    assert "        0\n" not in text


def test_last_lines_span_both_files(tmp_path: Path) -> None:
    path = log_path(tmp_path, "shop", "web", "c")
    path.parent.mkdir(parents=True)
    path.with_suffix(".log.1").write_text("1\n2\n")
    path.write_text("3\n")
    assert "".join(logs(tmp_path, "shop", "web", "c", tail=2)) == "2\n3\n"
    assert "".join(logs(tmp_path, "shop", "web", "c", tail=0)) == ""
    assert "".join(logs(tmp_path, "shop", "web", "c")) == "1\n2\n3\n"


def test_following_goes_on_in_the_next_file_and_ends_with_the_pod(tmp_path: Path) -> None:
    path = log_path(tmp_path, "shop", "web", "c")
    path.parent.mkdir(parents=True)
    path.write_text("1\n")
    seen: list[str] = []
    reader = threading.Thread(
        target=lambda: seen.extend(logs(tmp_path, "shop", "web", "c", follow=True)), daemon=True
    )
    reader.start()
    assert until(lambda: seen == ["1\n"], within=5)
    os.link(path, path.with_suffix(".log.1"))
    path.with_suffix(".log.0").write_text("2\n")
    os.replace(path.with_suffix(".log.0"), path)
    assert until(lambda: seen == ["1\n", "2\n"], within=5)
    path.unlink()
    path.with_suffix(".log.1").unlink()
    path.parent.rmdir()
    reader.join(5)
    assert not reader.is_alive()


def test_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="container c of pod shop/web has no log"):
        next(logs(tmp_path, "shop", "web", "c"))


# -- processes


@pytest.fixture
def rundir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    processes.end_all(tmp_path, grace=0)


def test_process_is_found_by_role_and_its_children_are_not(rundir: Path) -> None:
    script = "sleep 60 & setsid sleep 60 & echo $$ > pids; wait"
    pid = processes.spawn(
        rundir, "a/b", ["sh", "-c", script], stdout=rundir / "out", cwd=str(rundir)
    )
    assert until(lambda: len(processes.strays(rundir, "a/b")) == 3, within=5)
    assert processes.marked(rundir)["a/b"][0] == pid
    assert processes.marked(rundir / "other") == {}


def test_own_start_time_tells_a_program_from_a_session_it_has_made(rundir: Path) -> None:
    become = (
        "import os, sys; start = open('/proc/self/stat').read().rpartition(')')[2].split()[19];"
        "env = {'NETLAB_PROCESS': os.environ['NETLAB_PROCESS'], 'NETLAB_PROCESS_START': start};"
        "os.execve(sys.executable, ['python', '-c', sys.argv[1]], env)"
    )
    daemon = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid(); os.execv('/bin/sleep', ['sleep', '60'])\n"
        "time.sleep(60)"
    )
    pid = processes.spawn(
        rundir, "program", [sys.executable, "-c", become, daemon], stdout=rundir / "out"
    )
    assert until(lambda: len(processes.strays(rundir, "program")) == 2, within=5)
    assert until(lambda: _is_sleep(rundir), within=5)
    assert processes.marked(rundir) == {"program": [pid]}
    for stray in processes.strays(rundir, "program"):
        processes.end(stray, grace=0)


def _is_sleep(rundir: Path) -> bool:
    pids = processes.strays(rundir, "program")
    return any(Path(f"/proc/{pid}/comm").read_text() == "sleep\n" for pid in pids)


def test_ended_child_is_neither_alive_nor_a_zombie(rundir: Path) -> None:
    pid = processes.spawn(rundir, "x", ["true"], stdout=rundir / "out")
    assert until(lambda: processes.marked(rundir) == {} and not _exists(pid), within=5)


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_alive_is_false_for_another_process_of_that_pid(rundir: Path) -> None:
    pid = processes.spawn(rundir, "x", ["sleep", "60"], stdout=rundir / "out")
    start = processes.start_time(pid)
    assert start is not None
    assert processes.alive(pid, start)
    assert not processes.alive(pid, start + 1)
    processes.end(pid, grace=0, start=start + 1)
    assert processes.alive(pid, start)
    processes.end(pid, grace=0, start=start)
    assert not processes.alive(pid, start)


def test_process_that_ignores_sigterm_is_killed_after_the_grace(rundir: Path) -> None:
    pid = processes.spawn(
        rundir, "x", ["sh", "-c", "trap '' TERM; echo ready; sleep 60"], stdout=rundir / "out"
    )
    assert until(lambda: (rundir / "out").read_text() == "ready\n", within=5)
    began = time.monotonic()
    processes.end(pid, grace=0.2)
    assert 0.2 <= time.monotonic() - began < 3
    assert processes.marked(rundir) == {}


def test_end_all_ends_every_role_and_names_them(rundir: Path) -> None:
    for role in ("one", "two", "spared"):
        processes.spawn(rundir, role, ["sleep", "60"], stdout=rundir / "out")
    assert processes.end_all(rundir, spare=("spared",)) == ["one", "two"]
    assert list(processes.marked(rundir)) == ["spared"]


def test_forked_copy_of_a_marked_process_does_not_count(rundir: Path) -> None:
    script = "import os, time\nif os.fork() == 0: time.sleep(60)\ntime.sleep(60)"
    pid = processes.spawn(rundir, "x", [sys.executable, "-c", script], stdout=rundir / "out")
    assert until(lambda: len(processes.strays(rundir, "x")) == 2, within=5)
    assert processes.marked(rundir) == {"x": [pid]}
    for stray in processes.strays(rundir, "x"):
        processes.end(stray, grace=0)


def test_command_output_is_returned() -> None:
    done = processes.run(["sh", "-c", "cat; echo err >&2; exit 3"], input="in", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "in", "err\n")


def test_failed_command_says_why() -> None:
    with pytest.raises(NetlabError, match=r"^sh -c 'echo no luck >&2; exit 1': no luck$"):
        processes.run(["sh", "-c", "echo no luck >&2; exit 1"])


def test_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netlab.processes.commands._PATH", "/nowhere")
    with pytest.raises(CapabilityError, match="install the package iproute2") as caught:
        processes.run(["bridge", "link"])
    assert caught.value.exit_code == 3


def test_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(NetlabError, match=r"not done after 0\.1 s"):
        processes.run(["sleep", "50"], timeout=0.1)


def test_command_is_logged_as_a_line_that_does_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "netlab.commands")
    text = "a 'quoted' 100%\n\\back\tslash\n"
    first = processes.run(["cat", "-"], input=text)
    pasted = subprocess.run(["sh", "-c", caplog.messages[-1]], capture_output=True, text=True)
    assert pasted.stdout == first.stdout == text
    assert processes.pasteable(["ip", "link"], netns="demo.n1") == "ip netns exec demo.n1 ip link"
