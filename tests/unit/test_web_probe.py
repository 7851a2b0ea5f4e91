"""A probe over HTTP is kept by the sensors, in what asks and in what answers."""

from __future__ import annotations

import pytest
from bpf import taken
from frames import ether, ip4, vxlan

from netlab.pods import conversation
from netlab.sensors import sieve
from netlab.sensors.token import TOKEN, token

PROGRAM = sieve.program()
PATHS = ["/", "/cart", "/a/path/of/many/parts"]
FACTS = {"pod": "web-1", "namespace": "default", "container": "c", "node": "node1"}


def request(path: str, mark: bytes) -> bytes:
    target = sieve.http_target(path, mark)
    return f"GET {target} HTTP/1.1\r\nX-Forwarded-For: 203.0.113.20\r\n".encode()


def framed(payload: bytes, *, tunnel: bool) -> bytes:
    packet = ip4("10.244.1.2", "10.244.2.3", payload=payload)
    bare = ether(packet)
    return vxlan(bare, "192.168.50.11", "192.168.50.12") if tunnel else bare


@pytest.mark.parametrize("tunnel", [False, True], ids=["bare", "vxlan"])
@pytest.mark.parametrize("path", PATHS)
def test_a_request_is_kept(path: str, tunnel: bool) -> None:
    frame = framed(request(path, token()), tunnel=tunnel)
    assert taken(PROGRAM, frame)
    assert TOKEN.search(frame)


@pytest.mark.parametrize("tunnel", [False, True], ids=["bare", "vxlan"])
@pytest.mark.parametrize("path", PATHS)
def test_an_answer_of_a_server_is_kept(path: str, tunnel: bool) -> None:
    """Put together by the server's own code: a header more in its answers shows here."""
    body = conversation.answer(
        FACTS,
        "tcp",
        client=("10.244.1.2", 40000),
        server=("10.244.2.3", 80),
        request=request(path, token()),
    )
    assert taken(
        PROGRAM, framed(conversation._response(b"200 OK", body, stays=True), tunnel=tunnel)
    )


def test_what_is_no_probe_is_not_kept() -> None:
    others = (
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /cart?" + b"-" * 200,
        conversation._response(b"200 OK", b"{}" * 200, stays=True),
    )
    assert [taken(PROGRAM, framed(one, tunnel=False)) for one in others] == [0, 0, 0]


def test_a_path_without_room_for_the_token_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        sieve.http_target("/" + "x" * 40, token())
