"""What the clients of a container are answered; references in its command."""

from __future__ import annotations

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from netlab.pods import conversation
from netlab.pods.conversation import Conversation
from netlab.pods.server import Loop
from netlab.pods.variables import expanded

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
    assert time.monotonic() - began >= conversation.SILENCE / 2  # it began with the connection


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
        assert b'"request":"GET /again HTTP/1.1"' in again
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
    count, most = 20_000, 0
    request = b"GET / HTTP/1.1\r\n\r\n"
    sender = threading.Thread(target=dialogue.client.sendall, args=(request * count,))
    sender.start()
    answers, deadline = bytearray(), time.monotonic() + 30
    turns = 0
    while answers.count(b"HTTP/1.1 200") < count:
        assert time.monotonic() < deadline, f"{answers.count(b'HTTP/1.1 200')} of {count}"
        dialogue.loop.turn(dialogue.loop.now() + 0.01)
        talk = dialogue.conversation
        most = max(most, len(talk.pending) + len(talk._buffer))
        turns += 1
        if turns > 20 and select.select([dialogue.client], [], [], 0)[0]:  # at first it only asks
            answers += dialogue.client.recv(1 << 20)
    sender.join()
    assert most <= 2 * conversation.PENDING_BYTES + 4096


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
