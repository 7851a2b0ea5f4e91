"""Words of `netlab trace` made into one conversation, or one error with a hint and a code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from drawn_labs import pod, service, slice_of
from fake_lab import DOCUMENTS, FakeLive, FakeRoom

from netlab import probe
from netlab.cli import trace as command
from netlab.cluster import Cluster
from netlab.errors import NetlabError, NotFoundError, UsageError
from netlab.packets import Expectation, Flow, Protocol
from netlab.paths import places
from netlab.sensors.traceswitch import WINDOW
from netlab.tracing import shot
from netlab.tracing.asking import Asking, asking, http_answer
from netlab.tracing.named import Looked

Netlab = Callable[..., "tuple[int, str, str]"]
PODS = [pod("pair", "node1", "10.244.1.20"), pod("archive", "node2", "10.244.2.20")]
TWO = [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]
NAMED = pod("named", "node2", "10.244.2.21")
PORTS = [
    {"name": "http", "containerPort": 8080},
    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
]
NAMED["spec"]["containers"] = [{"name": "c", "ports": PORTS}]
EXTRA = [
    *PODS,
    NAMED,
    service("two", "10.96.0.20", ports=TWO),
    service("one", "10.96.0.21", "shop", ports=[{"port": 7000}]),
    service("pair", "10.96.0.22"),  # as a pod is called
    service("none", "None"),
    {**service("away", ""), "spec": {"type": "ExternalName", "externalName": "example.org"}},
    slice_of("two", PODS),
]
MORE = [*DOCUMENTS, *EXTRA]


@pytest.fixture(autouse=True)
def unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be sent: a lab of this name may be there."""

    def opened(*_: object) -> None:
        raise AssertionError("it would be sent")

    monkeypatch.setattr(shot, "watching", opened)


def asked(source: str, destination: str, **words: Any) -> Asking:
    return asking(FakeLive(documents=MORE).cluster(), source, destination, **words)


@pytest.mark.parametrize(
    ("destination", "words", "flow", "title"),
    [
        ("archive", {}, "10.244.2.20 icmp", "default/archive"),
        ("archive", {"port": 80}, "10.244.2.20:80 tcp", "default/archive"),
        ("archive", {"port": 80, "protocol": "udp"}, "10.244.2.20:80 udp", "default/archive"),
        ("10.244.2.20", {"port": 80}, "10.244.2.20:80 tcp", "default/archive"),
        ("10.9.9.9", {"port": 80}, "10.9.9.9:80 tcp", "10.9.9.9"),
        ("node/node2", {"port": 30080}, "192.168.50.12:30080 tcp", "node2"),
        ("named", {"port": "http"}, "10.244.2.21:8080 tcp", "default/named"),
        ("named", {"port": "dns"}, "10.244.2.21:53 udp", "default/named"),
        ("gateway", {}, "192.168.50.1 icmp", "gateway"),
        ("127.0.0.1", {"port": 80}, "127.0.0.1:80 tcp", "default/pair"),
        ("two", {"port": "http"}, "10.96.0.20:80 tcp", "default/two:http"),
        ("two", {"port": "dns"}, "10.96.0.20:53 udp", "default/two:dns"),
        ("two", {"port": 53, "protocol": "udp"}, "10.96.0.20:53 udp", "default/two:dns"),
        ("two", {"protocol": "udp"}, "10.96.0.20:53 udp", "default/two:dns"),
        ("two", {"port": 81}, "10.96.0.20:81 tcp", "default/two"),
        ("two.default", {"port": 80}, "10.96.0.20:80 tcp", "default/two:http"),
        ("two.default.svc.cluster.local", {"port": 80}, "10.96.0.20:80 tcp", "default/two:http"),
        ("one.shop", {}, "10.96.0.21:7000 tcp", "shop/one"),
        ("shop/one", {}, "10.96.0.21:7000 tcp", "shop/one"),
        ("svc/shop/one", {}, "10.96.0.21:7000 tcp", "shop/one"),
        ("pair", {"port": 80}, "10.244.1.20:80 tcp", "default/pair"),
        ("svc/pair", {"port": 80}, "10.96.0.22:80 tcp", "default/pair:http"),
        ("services/pair", {}, "10.96.0.22:80 tcp", "default/pair:http"),
        ("", {"http": "http://two/x"}, "10.96.0.20:80 tcp", "default/two:http"),
        ("", {"http": "archive:8080/x"}, "10.244.2.20:8080 tcp", "default/archive"),
        ("archive", {"http": "/x", "port": 90}, "10.244.2.20:90 tcp", "default/archive"),
        ("archive", {"http": "http://web.example/x"}, "10.244.2.20:80 tcp", "default/archive"),
        ("archive", {"dns": "two"}, "10.244.2.20:53 udp", "default/archive"),
        ("archive", {"dns": "two", "protocol": "tcp"}, "10.244.2.20:53 tcp", "default/archive"),
        ("two", {"dns": "x/AAAA"}, "10.96.0.20:53 udp", "default/two:dns"),
    ],
)  # fmt: skip
def test_words_mean_a_flow(destination: str, words: dict[str, Any], flow: str, title: str) -> None:
    found = asked("pair", destination, **words)
    assert str(found.flow).partition(" -> ")[2] == flow
    assert found.destination.title == title
    assert (found.source.title, found.flow.source) == ("default/pair", "")
    own = "default/pair" if destination == "127.0.0.1" else found.destination.place.title
    assert found.destination.place.title == own


def test_a_bare_name_is_of_the_askers_namespace() -> None:
    mine = service("two", "10.96.0.30", "shop")
    asker = pod("buyer", "node1", "10.244.1.30")
    asker["metadata"]["namespace"] = "shop"
    cluster = FakeLive(documents=[*MORE, mine, asker]).cluster()
    assert asking(cluster, "shop/buyer", "two").destination.title == "shop/two:http"
    assert asking(cluster, "pair", "two", port=80).destination.title == "default/two:http"
    assert asking(cluster, "shop/buyer", "svc/two", port=80).destination.title == "default/two:http"


def test_a_service_by_a_bare_name_is_said() -> None:
    assert asked("pair", "two", port=80).notes == (
        "two is taken for Service default/two:http: names are not asked of DNS",
    )
    assert asked("pair", "svc/two", port=80).notes == asked("pair", "archive").notes == ()


KNOWN = {
    "two": Looked("10.96.0.20", "two.default.svc.cluster.local", "asked of 10.96.0.10"),
    "example.com": Looked("203.0.113.10", "example.com", "asked of 10.96.0.10"),
    "one.shop": Looked("10.9.9.9", "one.shop", "asked of 10.96.0.10"),
}


@pytest.mark.parametrize(
    ("destination", "words", "flow", "title", "note"),
    [
        pytest.param(
            "two", {"port": "http"}, "10.96.0.20:80 tcp", "default/two:http",
            "two is two.default.svc.cluster.local, 10.96.0.20: asked of 10.96.0.10", id="a Service",
        ),
        pytest.param(
            "example.com", {"port": 80}, "203.0.113.10:80 tcp", "internet",
            "example.com is example.com, 203.0.113.10: asked of 10.96.0.10", id="a name outside",
        ),
        pytest.param(
            "one.shop", {"port": 80}, "10.9.9.9:80 tcp", "10.9.9.9",
            "one.shop is one.shop, 10.9.9.9: asked of 10.96.0.10", id="otherwise than etcd says",
        ),
        pytest.param(
            "two.default", {"port": 80}, "10.96.0.20:80 tcp", "default/two:http",
            "two.default is taken for Service default/two:http: nobody answers",
            id="DNS says nothing",
        ),
        pytest.param(
            "archive", {"port": 80}, "10.244.2.20:80 tcp", "default/archive", "", id="a pod"
        ),
        pytest.param(
            "svc/two", {"port": 80}, "10.96.0.20:80 tcp", "default/two:http", "", id="svc/"
        ),
    ],
)  # fmt: skip
def test_names_are_asked_of_the_labs_dns(
    destination: str, words: dict[str, Any], flow: str, title: str, note: str
) -> None:
    def look_up(cluster: Cluster, source: places.Place, word: str) -> Looked:
        assert source.title == "default/pair"
        return KNOWN.get(word, Looked(why="nobody answers"))

    found = asked("pair", destination, look_up=look_up, **words)
    assert str(found.flow).rpartition("-> ")[2] == flow
    assert found.destination.title == title
    assert found.notes == ((note,) if note else ())


def test_a_name_that_dns_does_not_know_either_is_no_destination() -> None:
    with pytest.raises(NotFoundError, match="gone"):
        asked("pair", "gone", look_up=lambda *_: Looked(why="no such name"))


@pytest.mark.parametrize(
    ("source", "destination", "words", "error", "hint"),
    [
        ("nobody", "archive", {}, "no pod default/nobody", "did you mean node/node2"),
        ("10.9.9.9", "archive", {}, "10.9.9.9 is nobody's address in this lab", "name a pod"),
        ("pair", "archve", {}, "no pod default/archve", "did you mean archive"),
        ("pair", "svc/tow", {"port": 80}, "no Service tow", "default/two"),
        ("pair", "svc/none/x", {}, "no Service none/x", "default/two"),
        ("pair", "two", {}, "Service default/two has several ports", "http 80/TCP, dns 53/UDP"),
        ("pair", "two", {"port": "htp"}, "Service default/two has no port htp", "http 80/TCP"),
        ("pair", "two", {"port": "http", "protocol": "udp"}, "has no port http", "http 80/TCP"),
        ("pair", "none", {"port": 80}, "default/none has no cluster IP (headless)", "its pods"),
        ("pair", "away", {"port": 80}, "has no cluster IP (ExternalName)", "its pods"),
        ("pair", "archive", {"port": "http"}, "default/archive has no port http", "none of its"),
        ("pair", "named", {"port": "htp"}, "default/named has no port htp", "it has http 8080/TCP"),
        ("pair", "named", {"port": "dns", "protocol": "tcp"}, "has no port dns/tcp", "dns 53/UDP"),
        ("pair", "node/node2", {"port": "http"}, "no port 'http'", "only ports of pods and"),
        ("pair", "", {}, "no destination", "netlab trace SRC DST[:PORT[/PROTO]]"),
        ("pair", "224.0.0.1", {}, "224.0.0.1 is no single machine's address", ""),
        ("pair", "archive", {"port": 80, "protocol": "icmp"}, "icmp takes no port", ""),
        ("pair", "archive", {"protocol": "tcp"}, "tcp needs a port", ""),
        ("pair", "archive", {"port": 80, "protocol": "sctp"}, "SCTP are not possible yet", "udp"),
        ("pair", "archive", {"http": "/", "dns": "x"}, "ask two different questions", "one of"),
        ("pair", "", {"http": "https://two/"}, "only plain HTTP is sent", "http://HOST/PATH"),
        ("pair", "", {"http": "http://two:0/"}, "no port '0'", "http://HOST:PORT/PATH"),
        ("pair", "", {"http": "http://two:99999/"}, "no port '99999'", "http://HOST:PORT/PATH"),
        ("pair", "", {"http": "http://two:/"}, "no port ''", "http://HOST:PORT/PATH"),
        ("pair", "", {"http": "http:///x"}, "nobody to ask", "--http http://HOST/PATH"),
        ("pair", "archive", {"http": "/", "protocol": "udp"}, "HTTP is not spoken over udp", ""),
        ("pair", "archive", {"http": "/a b"}, "is no URL", "http://HOST/PATH"),
        ("pair", "archive", {"http": "/\r\nX: y"}, "is no URL", "http://HOST/PATH"),
        ("pair", "archive", {"dns": "two/XX"}, "no type XX", "A, CNAME"),
        ("pair", "archive", {"dns": "a..b"}, "'a..b' is no name", "NAME or NAME/TYPE"),
        ("pair", "archive", {"dns": "x" * 64}, "is no name", "NAME or NAME/TYPE"),
        ("pair", "archive", {"dns": ".".join(["x" * 62] * 5)}, "is no name", "NAME/TYPE"),
        ("pair", "archive", {"dns": "ü" * 60}, "is no name", "NAME or NAME/TYPE"),
        ("pair", "archive", {"dns": "x", "protocol": "icmp"}, "icmp takes no port", ""),
        ("pair", "archive", {"size": 20}, "--size 20 is not possible", "to 65507 bytes"),
        ("pair", "archive", {"size": 65536}, "--size 65536 is not possible", "to 65507 bytes"),
        ("pair", "archive", {"size": 65000, "port": 80}, "is not possible", "to 64512 bytes"),
    ],
)  # fmt: skip
def test_words_that_mean_nothing_are_told(
    source: str, destination: str, words: dict[str, Any], error: str, hint: str
) -> None:
    with pytest.raises(NetlabError) as raised:
        asked(source, destination, **words)
    missing = error.startswith(("no pod ", "no Service "))
    assert isinstance(raised.value, NotFoundError if missing else UsageError)
    assert error in str(raised.value)
    assert hint in (raised.value.hint or "")


@pytest.mark.parametrize("protocol", ["icmp", "udp", "tcp"])
@pytest.mark.parametrize("size", [100, 1450, 9000])
def test_a_packet_is_made_as_long_as_asked(protocol: str, size: int) -> None:
    port = 0 if protocol == "icmp" else 80
    found = asked("pair", "archive", protocol=protocol, port=port, size=size)
    headers = {"icmp": 28, "udp": 28, "tcp": 52}[protocol]
    assert len(found.question.payload) + headers == size
    assert found.question.whole
    assert found.token in found.question.payload


def test_an_http_request_is_made_as_long_as_asked() -> None:
    found = asked("pair", "archive", http="/x", size=1000)
    assert len(found.question.payload) + 52 == 1000
    assert found.question.payload.endswith(b"\r\n\r\n")
    assert found.question.payload.count(b"\r\n\r\n") == 1


def test_a_connection_begins_with_a_number_of_its_own() -> None:
    numbers = {asked("pair", "archive", port=80).opening.sequence for _ in range(20)}
    assert len(numbers) > 15
    assert all(one and one % WINDOW == 0 and 0 < one < 2**32 for one in numbers)


def test_what_opens_is_what_is_sent() -> None:
    echo = asked("pair", "archive")
    assert (echo.question.payload, echo.opening.payload) == (b"", echo.token[:32])
    query = asked("pair", "archive", dns="two")
    assert query.question.payload.startswith(query.opening.payload)
    assert query.opening.sequence is None


def test_an_http_request_names_the_host_and_carries_the_mark() -> None:
    found = asked("pair", "", http="http://two/a?b=c")
    request = found.question.payload.decode()
    assert request.startswith("GET /a?b=c HTTP/1.1\r\nHost: two\r\n")
    assert found.token.decode() in request
    assert b"\r\nHost: archive\r\n" in asked("pair", "archive", http="/").question.payload


# -- answers


@pytest.mark.parametrize(
    ("data", "ended", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", False, None),
        (b"HTTP/1.1 200 OK\r\nContent-Le", False, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", False, (200, "OK", 2)),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False, None),
        (b"HTTP/1.1 404 Not Found\r\n\r\nx", True, (404, "Not Found", 1)),
        (b"HTTP/1.0 204\r\nContent-Length: 0\r\n\r\n", False, (204, "", 0)),
    ],
)
def test_an_http_answer_is_read(data: bytes, ended: bool, said: tuple[Any, ...] | None) -> None:
    found = http_answer(data, ended)
    assert (found and (found["status"], found["reason"], found["bytes"])) == said


@pytest.mark.parametrize("data", [b"\x15\x03\x01", b"SSH-2.0-x\r\n\r\n", b""])
def test_what_is_no_http_is_garbled(data: bytes) -> None:
    found = http_answer(data, True)
    assert found is not None and set(found) == {"garbled"}


def test_a_server_of_netlabs_says_who_it_is() -> None:
    body = b'{"pod":"web-1","client":"10.244.1.2"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    found = http_answer(head + body, False)
    assert found is not None and (found["pod"], found["status"]) == ("web-1", 200)


def answer_to(query: bytes, *, flags: int = 0x8180, answers: int = 1) -> bytes:
    return query[:2] + flags.to_bytes(2, "big") + b"\0\1" + answers.to_bytes(2, "big") + query[8:]


@pytest.mark.parametrize(("code", "word"), [(0, "NOERROR"), (3, "NXDOMAIN"), (11, "11")])
def test_a_dns_answer_is_read(code: int, word: str) -> None:
    found = asked("pair", "archive", dns="two")
    assert found.question.heard is not None
    said = found.question.heard(answer_to(found.question.payload, flags=0x8180 | code), True)
    assert said == {"rcode": word, "answers": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda query: b'{"pod":"dns-far","namespace":"default"}',
        lambda query: query,  # its echo
        lambda query: bytes([query[0] ^ 1]) + answer_to(query)[1:],
        lambda query: answer_to(query)[:11],
        lambda query: b"",
    ],
    ids=["JSON", "the query itself", "another number", "cut off", "nothing"],
)
def test_what_is_no_answer_of_dns_is_garbled(change: Callable[[bytes], bytes]) -> None:
    found = asked("pair", "archive", dns="two")
    assert found.question.heard is not None
    said = found.question.heard(change(found.question.payload), True)
    assert said is not None and set(said) == {"garbled"}


def test_a_dns_answer_over_tcp_is_waited_for() -> None:
    found = asked("pair", "archive", dns="two", protocol="tcp")
    heard, query = found.question.heard, found.question.payload
    assert heard is not None
    assert int.from_bytes(query[:2], "big") == len(query) - 2
    answer = query[:2] + answer_to(query[2:])
    assert [heard(answer[:length], False) for length in (0, 1, 2, 12, len(answer) - 1)] == [
        None
    ] * 5
    assert heard(answer, False) == {"rcode": "NOERROR", "answers": 1}


# -- the command line


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ("web", ("web", 0, "")),
        ("web:80", ("web", 80, "")),
        ("web:80/UDP", ("web", 80, "udp")),
        ("web:http", ("web", "http", "")),
        ("web:http-alt/tcp", ("web", "http-alt", "tcp")),
        ("shop/web:80", ("shop/web", 80, "")),
        ("svc/shop/web", ("svc/shop/web", 0, "")),
        ("web/udp", ("web", 0, "udp")),
        ("node/node1:30080/udp", ("node/node1", 30080, "udp")),
        ("10.0.0.1:53/udp", ("10.0.0.1", 53, "udp")),
    ],
)
def test_a_destination_is_taken_apart(words: str, end: tuple[str, int | str, str]) -> None:
    assert command.flow_end(words) == end


BAD = [
    (("trace", "pair"), 2, "no destination"),
    (("trace", "pair", "archive:0"), 2, "archive:0: no port 0"),
    (("trace", "pair", "archive:65536"), 2, "no port 65536"),
    (("trace", "pair", "archive:8o"), 2, "no port '8o'"),
    (("trace", "pair", "archive:\u0663"), 2, "no port"),
    (("trace", "pair", "archive:80/quic"), 2, "no protocol 'quic'"),
    (("trace", "pair", ":80"), 2, "a target and a port belong there"),
    (("trace", "pair", "archive:"), 2, "a target and a port belong there"),
    (("trace", "pair", "archive", "--size", "0"), 2, "Invalid value for '--size'"),
    (("trace", "pair", "archive", "--size", "7"), 2, "--size 7 is not possible"),
    (("trace", "pair", "archive", "-o", "svg"), 2, "Invalid value for '-o'"),
    (("trace", "pair", "--http", "https://archive/"), 2, "only plain HTTP is sent"),
    (("trace", "pair", "--http", "http://nobody/"), 4, "no pod default/nobody"),
    (("trace", "pair", "archive", "--dns", ""), 2, "--dns: NAME[/TYPE] is empty"),
    (("trace", "pair", "archive", "--http", ""), 2, "--http: URL is empty"),
    (("trace", "nobody", "archive"), 4, "no pod default/nobody"),
    (("trace", "pair", "svc/nothing"), 4, "no Service nothing"),
    (("trace", "-L", "no-such-lab", "pair", "archive"), 4, "no lab called no-such-lab"),
    (("why", "pair", "two"), 2, "Service default/two has several ports"),
    (("why", "pair"), 2, "no destination"),
    (("why", "pair"), 2, "netlab why SRC DST"),
    (("why", "", "archive"), 2, "no source"),
    (("trace", "pair", "archive:80/"), 2, "no protocol ''"),
    (("why", "pair", "nobody"), 4, "no pod default/nobody"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD, ids=lambda value: str(value)[:50])
def test_bad_words_are_one_error_with_its_code(
    room: FakeRoom, netlab: Netlab, words: tuple[str, ...], code: int, said: str
) -> None:
    room.labs["notes"].stored = list(MORE)
    done = netlab(*words)
    assert (done[0], done[1]) == (code, ""), done
    assert said in done[2]
    assert done[2].count("error: ") == 1 and "Traceback" not in done[2]


def test_a_flow_of_nobodys_is_left_to_the_kernel() -> None:
    assert asked("node/node1", "10.9.9.9", port=80).flow == Flow(
        "", "10.9.9.9", Protocol.TCP, 0, 80
    )


def test_an_ipv6_address_is_told_to_be_one() -> None:
    target, port, protocol = command.flow_end("fd00::1")
    with pytest.raises(UsageError, match="only IPv4"):
        places.place(FakeLive().cluster(), target)
    assert (port, protocol) == (0, "")


@pytest.mark.parametrize("form", ["html", "mermaid"])
def test_a_picture_is_of_one_flow(netlab: Callable[..., Any], form: str) -> None:
    done = netlab("trace", "--attach", "port 80", "--flows", "2", "-o", form)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: -o {form} tells one flow\nhint: --flows 1")


def test_a_probe_asks_a_port_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    flows: list[Flow] = []

    def watched(_: Cluster, expectation: Expectation) -> list[str]:
        flows.append(expectation.flow)
        raise InterruptedError

    monkeypatch.setattr(probe, "watched", watched)
    for port, protocol in (("http", ""), ("dns", "udp"), (8080, "tcp")):
        with pytest.raises(InterruptedError):
            probe.probe(FakeLive(documents=MORE), "pair", "named", port=port, protocol=protocol)
    assert [(one.protocol, one.destination_port) for one in flows] == [
        (Protocol.TCP, 8080),
        (Protocol.UDP, 53),
        (Protocol.TCP, 8080),
    ]
