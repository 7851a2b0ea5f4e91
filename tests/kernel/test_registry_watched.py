"""Objects kept up by a watch: what is read is what etcd has, and etcd is not asked for it."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from etcd_process import EtcdProcess, running, until
from test_registry import change, pod

from netlab.errors import StoreError
from netlab.model.inventory import Inventory
from netlab.store import registry, watch
from netlab.store.etcd import Delete, Etcd, Put
from netlab.store.http import Chunks, Server
from netlab.store.watch import MAIL, Watch

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def process() -> Iterator[EtcdProcess]:
    with running() as process:
        yield process


@pytest.fixture
def etcd(process: EtcdProcess) -> Iterator[Etcd]:
    etcd = process.client()
    etcd.delete_prefix("")
    yield etcd
    etcd.close()


@pytest.fixture
def watched(etcd: Etcd) -> Iterator[Watch]:
    with etcd.watch() as watch:
        yield watch


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the prefixes that etcd is asked for from now on."""
    found: list[str] = []
    original = Etcd.range

    def spy(etcd: Etcd, prefix: str, **how: Any) -> Any:
        found.append(prefix)
        return original(etcd, prefix, **how)

    monkeypatch.setattr(Etcd, "range", spy)
    return found


def key(name: str) -> str:
    return f"/registry/pods/default/{name}"


def value(name: str, **status: str) -> bytes:
    return msgspec.json.encode(pod(name, **status))


def pairs(objects: Inventory) -> list[tuple[str, Any]]:
    return list(zip(objects.keys(), objects, strict=True))


def fresh(process: EtcdProcess) -> list[tuple[str, Any]]:
    """Return what a client that has seen nothing lists."""
    client = process.client()
    try:
        return pairs(registry.objects(client)[0])
    finally:
        client.close()


def seen(etcd: Etcd, watch: Watch) -> list[tuple[str, Any]]:
    return pairs(registry.objects(etcd, watch=watch)[0])


def test_what_the_watch_knows_etcd_is_not_asked(
    process: EtcdProcess, etcd: Etcd, watched: Watch, asked: list[str]
) -> None:
    other = process.client()
    other.put(key("b"), value("b"))
    assert [name for name, _ in seen(etcd, watched)] == [key("b")]
    for ops in (
        [Put(key("a"), value("a")), Put(key("c"), value("c"))],
        [Put(key("b"), value("b", phase="Running"))],
        [Delete(key("a"))],
        [Put("/coreos.com/x", b"")],
    ):
        other.transaction(success=ops)
        etcd.get("/")  # whose answer tells that something is new
        asked.clear()
        found = seen(etcd, watched)
        assert asked == []
        assert found == fresh(process)


def test_own_writes_are_read(etcd: Etcd, watched: Watch, asked: list[str]) -> None:
    registry.objects(etcd, watch=watched)
    for number in range(100):
        registry.write(etcd, [change("create", pod(f"p{number:03}"))])
        assert list(registry.objects(etcd, watch=watched)[0].keys())[-1] == key(f"p{number:03}")
    assert asked == ["/registry/"]


def test_what_is_not_news_is_the_same(etcd: Etcd, watched: Watch) -> None:
    registry.write(etcd, [change("create", pod(name)) for name in "ab"])
    before, _ = registry.objects(etcd, watch=watched)
    assert registry.objects(etcd, watch=watched)[0] is before
    etcd.put("/elsewhere", b"")
    after, revision = registry.objects(etcd, watch=watched)
    assert after is before and revision == etcd.revision
    etcd.put(key("b"), value("b", phase="Running"))
    after, _ = registry.objects(etcd, watch=watched)
    assert after.get(key("a")) is before.get(key("a"))
    assert [one["status"] for one in before] == [{}, {}]
    assert [one["status"] for one in after] == [{}, {"phase": "Running"}]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_is_followed(process: EtcdProcess, etcd: Etcd, seed: int) -> None:
    chance = random.Random(seed)
    other = process.client()
    names = [f"p{number}" for number in range(30)]
    with etcd.watch() as watch:
        for _ in range(60):
            for _ in range(chance.randrange(4)):
                ops: list[Put | Delete] = []
                for name in chance.sample(names, chance.randrange(1, 6)):
                    kind = chance.randrange(6)
                    text = b"{" if kind == 0 else value(name, phase=str(chance.random()))
                    ops.append(Delete(key(name)) if kind < 3 else Put(key(name), text))
                other.transaction(success=ops)
            if chance.random() < 0.1:
                etcd.close()
            etcd.get("/")
            assert seen(etcd, watch) == fresh(process)


def test_more_than_is_kept_is_listed(
    process: EtcdProcess, etcd: Etcd, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "EVENTS_KEPT", 150)
    other = process.client()
    with etcd.watch() as few:
        registry.objects(etcd, watch=few)
        for first in (0, 100):
            names = [f"p{first + number}" for number in range(100)]
            other.transaction(success=[Put(key(name), value(name)) for name in names])
        etcd.get("/")
        assert seen(etcd, few) == fresh(process)
        assert asked == ["/registry/"] * 3
        other.put(key("q"), value("q"))
        etcd.get("/")
        assert seen(etcd, few)[-1][0] == key("q")
        assert asked == ["/registry/"] * 3


def test_what_was_read_is_not_kept(etcd: Etcd, watched: Watch, asked: list[str]) -> None:
    registry.objects(etcd, watch=watched)
    before = watched.revision
    etcd.put(key("p"), value("p"))
    assert watched.reaches(etcd.revision, seconds=2.0)
    known = watched.since(before)
    assert known is not None and len(known) == 1
    assert len(seen(etcd, watched)) == 1
    assert watched.since(before) is None
    assert asked == ["/registry/"]


def test_what_machines_ask_each_other_is_no_change(
    etcd: Etcd, watched: Watch, asked: list[str]
) -> None:
    seen(etcd, watched)
    before = watched.revision
    for number in range(3):
        etcd.put(f"{MAIL}asked/n1/{number}", b"{}")
    assert not watched.wait(0.3)
    assert watched.reaches(etcd.revision, seconds=2.0)
    assert watched.since(before) == []
    etcd.put(key("p"), value("p"))
    assert watched.wait(2.0)
    assert len(seen(etcd, watched)) == 1
    assert asked == ["/registry/"]


def test_a_watch_on_some_keys_is_no_witness(etcd: Etcd, asked: list[str]) -> None:
    with etcd.watch(["/registry/"]) as watch:
        for number in range(3):
            etcd.put(key(f"p{number}"), value(f"p{number}"))
            assert len(seen(etcd, watch)) == number + 1
        assert watch.since(watch.revision) is None
        assert not watch.reaches(watch.revision, seconds=0.0)
    assert asked == ["/registry/"] * 3


def test_a_quiet_store_is_listed_now_and_then(
    etcd: Etcd, watched: Watch, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.write(etcd, [change("create", pod("a"))])
    registry.objects(etcd, watch=watched)
    registry.write(etcd, [change("delete", pod("a"))])
    assert seen(etcd, watched) == []
    monkeypatch.setattr(registry, "LISTED_EVERY", 0.0)
    registry.objects(etcd, watch=watched)
    assert asked == ["/registry/"] * 2
    etcd.put(key("p"), value("p"))
    assert len(seen(etcd, watched)) == 1
    assert asked == ["/registry/"] * 2, "not while there is news"


def test_a_connection_made_anew_is_listed(etcd: Etcd, watched: Watch, asked: list[str]) -> None:
    """It may lead to another etcd."""
    registry.objects(etcd, watch=watched)
    asked.clear()
    etcd.close()
    etcd.get("/")
    registry.objects(etcd, watch=watched)
    assert asked != []


def test_a_watch_that_lags_is_not_believed(
    etcd: Etcd, watched: Watch, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.objects(etcd, watch=watched)
    etcd.put(key("p"), value("p"))
    monkeypatch.setattr(registry, "ECHO_WITHIN", 0.01)
    monkeypatch.setattr(Watch, "drain", lambda _: False)
    assert len(seen(etcd, watched)) == 1
    assert asked == ["/registry/"] * 2
    monkeypatch.undo()
    etcd.put(key("q"), value("q"))
    assert len(seen(etcd, watched)) == 2


def test_an_unreadable_value_is_no_object_until_it_is_readable(etcd: Etcd, watched: Watch) -> None:
    warnings: list[str] = []

    def names() -> list[str]:
        found, _ = registry.objects(etcd, watch=watched, warn=warnings.append)
        return [one["metadata"]["name"] for one in found]

    etcd.put(key("b"), value("b"))
    assert names() == ["b"]
    etcd.put(key("a"), b"{")
    assert names() == names() == ["b"]
    assert len(warnings) == 1
    etcd.put(key("b"), b"{")
    assert names() == []
    etcd.put(key("b"), value("b"))
    etcd.put(key("a"), value("a"))
    assert names() == ["a", "b"]


def test_a_killed_etcd_ends_it() -> None:
    with running() as process:
        etcd = process.client()
        watch = etcd.watch()
        registry.objects(etcd, watch=watch)
        process.stop()
        with pytest.raises(StoreError):
            registry.objects(etcd, watch=watch)
        watch.close()


# -- a stream that etcd would not send


ACKNOWLEDGED = '{"result":{"header":{"revision":"7"},"created":true}}'


def event(revision: int, name: str = "a", *, version: int = 1) -> str:
    item = {"key": f"/{name}".encode(), "mod_revision": str(revision), "version": str(version)}
    notice = {"header": {"revision": str(revision)}, "events": [{"kv": item}]}
    return msgspec.json.encode({"result": notice}).decode()


@contextmanager
def told(pieces: Sequence[bytes], *, close: bool = False) -> Iterator[Watch]:
    """A watch whose server sends *pieces* of an HTTP body, each on its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for piece in pieces:
                sock.sendall(piece)
            if not close:
                done.wait(10.0)
            sock.close()

        done = threading.Event()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            port = listener.getsockname()[1]
            options = {"path": "/", "body": b"", "count": 1, "timeout": 2.0, "whole": True}
            with Watch(Server((("127.0.0.1", port),)), **options) as watch:
                yield watch
        finally:
            done.set()
            thread.join()


def chunk(*lines: str) -> bytes:
    text = "".join(line + "\n" for line in lines).encode()
    return b"%x\r\n%s\r\n" % (len(text), text)


def heard(watch: Watch, revision: int) -> None:
    assert watch.reaches(revision, seconds=2.0)


def test_lines_and_chunks_do_not_keep_to_each_other() -> None:
    text = "".join(line + "\n" for line in (event(11), event(12))).encode()
    split = [b"1\r\n%c\r\n" % byte for byte in text]
    two = chunk(event(9, "b"), event(10, version=0))
    with told([chunk(ACKNOWLEDGED, event(8)), two, *split]) as watch:
        heard(watch, 12)
        found = watch.since(7)
        assert found is not None
        assert [(one.key, one.mod_revision, one.version) for one in found] == [
            *(("/a", 8, 1), ("/b", 9, 1), ("/a", 10, 0), ("/a", 11, 1), ("/a", 12, 1)),
        ]
        assert [one.mod_revision for one in watch.since(10) or ()] == [11, 12]
        assert watch.since(12) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_chunked_body_may_come_in_pieces_of_any_size(size: int) -> None:
    stream = b"3\r\nabc\r\n1;name=value\r\n\n\r\nC\r\nde\r\nfghijklm\r\n"
    chunks = Chunks(stream[:size])
    body = chunks.take()
    for at in range(size, len(stream), size):
        body += chunks.take(stream[at : at + size])
    assert body == b"abc\nde\r\nfghijklm"
    with pytest.raises(ConnectionError):
        chunks.take(b"0\r\n\r\n")


UNKNOWN = {
    "a gap": ([8, 10, 11], 7, None),
    "the revision before a gap": ([8, 10, 11], 8, None),
    "after a gap": ([8, 10, 11], 9, [10, 11]),
    "several of one revision": ([8, 8, 9, 9], 8, [9, 9]),
    "before the watch": ([8], 6, None),
    "not heard yet": ([8], 9, None),
}


@pytest.mark.parametrize(("revisions", "since", "known"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_may_be_missing_is_not_known(
    revisions: list[int], since: int, known: list[int] | None
) -> None:
    with told([chunk(ACKNOWLEDGED), chunk(*map(event, revisions))]) as watch:
        heard(watch, revisions[-1])
        until(lambda: not watch.drain(), "all of it was sent at once")
        found = watch.since(since)
        assert (found if found is None else [one.mod_revision for one in found]) == known


ENDS = {
    "canceled": chunk('{"result":{"header":{},"canceled":true,"compact_revision":"5"}}'),
    "error": chunk('{"error":{"grpc_code":14,"message":"gone"}}'),
    "garbage": chunk("{"),
    "bad chunk": b"zz\r\n",
    "last chunk": b"0\r\n\r\n",
    "closed": b"",
}


@pytest.mark.parametrize("last", ENDS.values(), ids=ENDS)
def test_a_stream_that_cannot_go_on_is_an_error(last: bytes) -> None:
    with (
        pytest.raises(StoreError, match="watch"),
        told([chunk(ACKNOWLEDGED, event(8)), last], close=not last) as watch,
    ):
        watch.reaches(9, seconds=2.0)


@pytest.mark.parametrize("first", ENDS.values(), ids=ENDS)
def test_a_stream_that_never_began_is_an_error(first: bytes) -> None:
    with pytest.raises(StoreError, match="watch"), told([first], close=True):
        pass


def test_what_is_late_is_not_waited_for() -> None:
    with told([chunk(ACKNOWLEDGED)]) as watch:
        assert not watch.reaches(8, seconds=0.05)
        assert watch.reaches(7, seconds=0.0)
