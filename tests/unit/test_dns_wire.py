"""DNS messages: whatever bytes come, and names that do not change."""

from __future__ import annotations

import random

import dns.message
import dns.rcode
import pytest
from test_dns_answers import GOOD, answers

from netlab.dns import wire
from netlab.dns.answers import Answers, Forward
from netlab.dns.fixed import FixedNames
from netlab.dns.wire import Malformed

SEED = 20_24


def damaged(good: bytes, chance: random.Random) -> bytes:
    """Return *good* with some bytes changed, left out or put in."""
    data = bytearray(good)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data) or 1)
        match chance.randrange(3):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + chance.randrange(1, 9)]
            case _:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
    return bytes(data)


def test_whatever_is_asked_is_answered_or_passed_over() -> None:
    chance, server = random.Random(SEED), answers()
    whole = dns.message.make_query("_http._tcp.web.shop.svc.cluster.local", "SRV", use_edns=0)
    kinds = set()
    for good in (GOOD, whole.to_wire(), b""):
        for _ in range(1500):
            asked = damaged(good, chance)
            for datagram in (True, False):
                reply = server.answer(asked, datagram=datagram)
                kinds.add(type(reply))
                if isinstance(reply, bytes):
                    assert reply[:2] == asked[:2]
                    assert reply[2] & 0x80
                    dns.message.from_wire(reply)  # or it raises
    assert kinds == {bytes, type(None), Forward}


def test_whatever_is_answered_is_read_or_refused() -> None:
    chance = random.Random(SEED)
    query = dns.message.make_query("a.test", "A")
    reply = dns.message.make_response(query)
    reply.answer = [
        dns.rrset.from_text("a.test.", 5, "IN", "CNAME", "b.test."),
        dns.rrset.from_text("b.test.", 5, "IN", "A", "192.0.2.1"),
        dns.rrset.from_text("b.test.", 5, "IN", "SRV", "0 1 80 a.test."),
    ]
    good = reply.to_wire()
    assert wire.texts(wire.read_answer(good).answers) == ["b.test.", "192.0.2.1", "0 1 80 a.test."]
    read = 0
    for _ in range(4000):
        try:
            wire.texts(wire.read_answer(damaged(good, chance)).answers)
            read += 1
        except Malformed:
            pass
    assert 0 < read < 4000


@pytest.mark.parametrize(
    ("text", "labels"),
    [("", ()), (".", ()), ("Web.Shop", (b"web", b"shop")), ("a.", (b"a",))],
)
def test_a_name(text: str, labels: tuple[bytes, ...]) -> None:
    assert wire.name_of(text) == labels


@pytest.mark.parametrize("text", ["a..b", ".a", "x" * 64, ".".join(["abcdefg"] * 32)])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(Malformed):
        wire.name_of(text)


# -- names that do not change

FIXED = {"example.com": "203.0.113.10", "www.example.com": "203.0.113.10", "a.b.test": "192.0.2.1"}


@pytest.mark.parametrize(
    ("name", "kind", "result", "data"),
    [
        pytest.param("Example.com.", "A", "NOERROR", ["203.0.113.10"], id="a name"),
        pytest.param("example.com.", "AAAA", "NOERROR", [], id="another type"),
        pytest.param("b.test.", "A", "NOERROR", [], id="a name above one"),
        pytest.param("com.", "NS", "NOERROR", [], id="far above"),
        pytest.param("a.example.com.", "A", "NXDOMAIN", [], id="below one"),
        pytest.param("gone.test.", "A", "NXDOMAIN", [], id="no name"),
        pytest.param("10.113.0.203.in-addr.arpa.", "PTR", "NOERROR", ["example.com."], id="back"),
        pytest.param("11.113.0.203.in-addr.arpa.", "PTR", "NXDOMAIN", [], id="nobody's address"),
    ],
)
def test_a_resolver_outside(name: str, kind: str, result: str, data: list[str]) -> None:
    asked = dns.message.make_query(name, kind)
    reply = Answers(FixedNames(FIXED)).answer(asked.to_wire())
    assert isinstance(reply, bytes)
    found = dns.message.from_wire(reply)
    assert dns.rcode.to_text(found.rcode()) == result
    assert [item.to_text() for rrset in found.answer for item in rrset] == data
    assert dns.flags.to_text(found.flags) == "QR RD RA"
    assert bool(found.authority) == (not data)
