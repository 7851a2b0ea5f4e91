"""The client against a real etcd: keys, transactions, leases, watches, outages."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from etcd_process import EtcdProcess, free_port, running, until

from netlab.errors import StoreError
from netlab.store.etcd import Compare, Delete, Etcd, Put, unchanged, version_is
from netlab.store.watch import Watch

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


def changed(watch: Watch, seconds: float) -> bool:
    """Return whether *watch* tells of a change within *seconds*."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([watch], [], [], left)[0] and watch.drain():
            return True
    return False


def keys(etcd: Etcd, prefix: str = "") -> list[str]:
    return [item.key for item in etcd.range(prefix).items]


def test_a_key_comes_back_with_all_its_numbers(etcd: Etcd) -> None:
    lease = etcd.grant(60)
    first = etcd.put("/a", b"one")
    second = etcd.put("/a", b"\x00two\xff", lease=lease)
    item = etcd.get("/a")
    assert item is not None
    assert (item.key, item.value) == ("/a", b"\x00two\xff")
    assert (item.create_revision, item.mod_revision, item.version) == (first, second, 2)
    assert item.lease == lease
    assert etcd.get("/b") is None


def test_a_prefix_ends_where_it_should(etcd: Etcd) -> None:
    for key in ("/a", "/a/", "/a/1", "/a/\udcff", "/a/\udcff\udcff2", "/a0", "/b"):
        etcd.put(key, b"")
    assert keys(etcd, "/a/") == ["/a/", "/a/1", "/a/\udcff", "/a/\udcff\udcff2"]
    assert keys(etcd, "/a/\udcff") == ["/a/\udcff", "/a/\udcff\udcff2"]
    assert len(keys(etcd, "")) == 7


def test_since_leaves_out_what_was_not_written_since(etcd: Etcd) -> None:
    etcd.put("/a", b"1")
    revision = etcd.put("/b", b"1")
    listing = etcd.range("/", since=revision)
    assert [item.key for item in listing.items] == ["/b"]
    assert (listing.count, listing.revision) == (2, revision)


def test_keys_that_are_not_utf_8_survive(etcd: Etcd) -> None:
    key = b"/poison/\xff\xfe\x00".decode("utf-8", "surrogateescape")
    etcd.put(key, b"x")
    assert keys(etcd, "/poison/") == [key]
    assert etcd.delete(key)
    assert not etcd.delete(key)


def test_delete_prefix_counts_and_leaves_the_rest(etcd: Etcd) -> None:
    for key in ("/a/1", "/a/2", "/b"):
        etcd.put(key, b"")
    assert etcd.delete_prefix("/a/") == 2
    assert keys(etcd) == ["/b"]


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        pytest.param(lambda rev: version_is("/a", 1), True, id="version"),
        pytest.param(lambda rev: version_is("/a", 2), False, id="other-version"),
        pytest.param(lambda rev: version_is("/none", 0), True, id="absent"),
        pytest.param(lambda rev: version_is("/a", 0), False, id="not-absent"),
        pytest.param(lambda rev: unchanged("/a", rev), True, id="mod-revision"),
        pytest.param(lambda rev: unchanged("/a", rev + 1), False, id="other-mod-revision"),
        pytest.param(lambda rev: unchanged("/none", 0), True, id="mod-revision-of-absent"),
        pytest.param(lambda rev: Compare("/a", "create_revision", rev), True, id="created"),
    ],
)
def test_a_transaction_does_one_branch(etcd: Etcd, compare, holds: bool) -> None:
    revision = etcd.put("/a", b"1")
    result = etcd.transaction(
        compare=[compare(revision)],
        success=[Put("/done", b"success"), Delete("/a")],
        failure=[Put("/done", b"failure")],
    )
    done, gone = etcd.get("/done"), etcd.get("/a") is None
    assert bool(result) is holds
    assert result.revision == revision + 1
    assert done is not None
    assert (done.value, gone) == ((b"success", True) if holds else (b"failure", False))


def test_put_if_unchanged_never_overwrites(etcd: Etcd) -> None:
    first = etcd.put_if_unchanged("/a", b"1", mod_revision=0)
    assert first > 0
    assert etcd.put_if_unchanged("/a", b"2", mod_revision=0) == 0
    second = etcd.put_if_unchanged("/a", b"3", mod_revision=first)
    assert second == first + 1
    assert etcd.put_if_unchanged("/a", b"4", mod_revision=first) == 0
    item = etcd.get("/a")
    assert item is not None and item.value == b"3"


def test_each_part_of_transactions_stands_alone(etcd: Etcd) -> None:
    etcd.put("/2", b"old")
    done = etcd.transactions(
        [([version_is(f"/{n}", 0)], [Put(f"/{n}", b"new")]) for n in (1, 2, 3)]
    )
    assert [bool(one) for one in done] == [True, False, True]
    assert [item.value for item in etcd.range("/").items] == [b"new", b"old", b"new"]


def test_write_all_fits_an_etcd_with_its_own_limits() -> None:
    with running(options=["--max-txn-ops=128"]) as process:
        etcd = process.client()
        with pytest.raises(StoreError, match="too many operations"):
            etcd.transaction(success=[Put(f"/k/{n}", b"") for n in range(129)])
        etcd.write_all(
            [
                *(Put(f"/k/{n:03}", b"first") for n in range(300)),
                Delete("/k/001"),
                Put("/k/002", b"last"),
                Delete("/k/002"),
                Put("/k/002", b"very last"),
            ]
        )
        items = {item.key: item.value for item in etcd.range("/k/").items}
        assert len(items) == 299
        assert "/k/001" not in items
        assert items["/k/002"] == b"very last"
        again = etcd.get("/k/002")
        assert again is not None and again.version == 1, "it was deleted in between"


def test_a_listing_of_many_megabytes_comes_whole(etcd: Etcd) -> None:
    etcd.write_all([Put(f"/big/{n:04}", bytes([n % 256]) * 4000) for n in range(2000)])
    items = etcd.range("/big/").items
    assert len(items) == 2000
    assert all(item.value == bytes([n % 256]) * 4000 for n, item in enumerate(items))


def test_a_revoked_lease_takes_its_keys_along(etcd: Etcd) -> None:
    lease = etcd.grant(60)
    etcd.put("/leased", b"", lease=lease)
    assert 55 <= etcd.time_to_live(lease) <= 60
    etcd.revoke(lease)
    assert etcd.get("/leased") is None
    assert etcd.time_to_live(lease) == -1


def test_a_lease_that_is_kept_alive_writes_nothing(etcd: Etcd) -> None:
    lease = etcd.grant(60)
    etcd.put("/leased", b"", lease=lease)
    before = etcd.range("/leased").revision
    for _ in range(3):  # over one connection
        assert etcd.keep_alive(lease) == 60
    assert etcd.range("/leased").revision == before
    etcd.revoke(lease)
    assert etcd.keep_alive(lease) == 0
    assert etcd.get("/leased") is None


def test_a_refusal_names_etcd_and_its_reason(etcd: Etcd) -> None:
    with pytest.raises(StoreError, match=r"etcd 127\.0\.0\.1:\d+: .*lease not found"):
        etcd.revoke(12345)
    with pytest.raises(StoreError, match="lease not found"):
        etcd.put("/a", b"", lease=12345)


def test_a_404_of_etcds_own_is_not_taken_for_a_wrong_prefix(process: EtcdProcess) -> None:
    with pytest.raises(StoreError, match="lease not found"):
        process.client().revoke(12345)


def test_nobody_there_is_an_error_with_the_address() -> None:
    port = free_port()
    with pytest.raises(StoreError, match=rf"etcd 127\.0\.0\.1:{port}: .*refused"):
        Etcd("127.0.0.1", port).get("/a")
    assert not Etcd("127.0.0.1", port).healthy()
    with pytest.raises(StoreError, match="refused"):
        Etcd("127.0.0.1", port).watch(["/a"])


def test_a_silent_peer_is_given_up_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        etcd = Etcd("127.0.0.1", listener.getsockname()[1], timeout=0.3)
        began = time.monotonic()
        with pytest.raises(StoreError, match="timed out"):
            etcd.get("/a")
        assert 0.3 <= time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="not-http"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", id="not-an-object"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", id="bad-length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", id="bad-chunk"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", id="cut-short"),
        pytest.param(b"HTTP/1.1 503 no\r\nContent-Length: 2\r\n\r\nno", id="status"),
    ],
)
def test_an_answer_that_is_no_etcds_is_a_store_error(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(StoreError, match="etcd 127"):
            Etcd("127.0.0.1", listener.getsockname()[1], timeout=1.0).get("/a")
        thread.join()


def test_the_gateways_prefix_is_found_by_trying(process: EtcdProcess, etcd: Etcd) -> None:
    # etcd 3.4 serves /v3beta as 3.3 does; a later one only /v3.
    other = Etcd(process.host, process.port, prefixes=("/v9", "/v3beta", "/v3"))
    other.put("/a", b"1")
    assert other.get("/a") == etcd.get("/a") is not None
    with other.watch(["/a"]) as watch:
        etcd.put("/a", b"2")
        assert changed(watch, 2.0)


def test_a_client_outlives_a_killed_etcd() -> None:
    with running() as process:
        etcd = process.client()
        etcd.put("/a", b"1")
        connections = etcd.connections
        process.stop(signal.SIGKILL)
        with pytest.raises(StoreError):
            etcd.get("/a")
        process.start()
        back = until(etcd.healthy, "etcd answers again")
        item = etcd.get("/a")
        assert item is not None and item.value == b"1"
        assert etcd.connections > connections
        assert back < 2.0


def test_a_restart_between_two_calls_is_not_noticed() -> None:
    with running() as process:
        etcd = process.client()
        etcd.put("/a", b"1")
        process.stop()
        process.ready()
        assert etcd.get("/a") is not None


def test_a_watch_tells_of_every_prefix_and_of_nothing_else(etcd: Etcd) -> None:
    with etcd.watch(["/a/", "/b/"]) as watch:
        assert not changed(watch, 0.2), "the acknowledgements are no change"
        etcd.put("/c/1", b"")
        assert not changed(watch, 0.2)
        for change in (
            lambda: etcd.put("/a/1", b""),
            lambda: etcd.put("/b/1", b""),
            lambda: etcd.delete("/a/1"),
        ):
            change()
            assert changed(watch, 2.0)
            assert not watch.drain()


def test_nothing_is_lost_between_watch_and_listing(etcd: Etcd) -> None:
    for number in range(50):
        with etcd.watch(["/a/"]) as watch:
            etcd.put("/a/1", str(number).encode())
            assert changed(watch, 2.0)


def test_a_watch_tells_of_a_large_value(etcd: Etcd) -> None:
    with etcd.watch(["/a/"]) as watch:
        etcd.put("/a/1", b"x" * 1_000_000)
        assert changed(watch, 2.0)
        etcd.put("/a/1", b"y")
        assert changed(watch, 2.0)


def test_a_watch_tells_of_a_lease_that_runs_out(etcd: Etcd) -> None:
    lease = etcd.grant(1)
    etcd.put("/a/1", b"", lease=lease)
    with etcd.watch(["/a/"]) as watch:
        assert changed(watch, 5.0)
        assert etcd.get("/a/1") is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_watch_ends_with_its_etcd(number: int) -> None:
    with running() as process:
        watch = process.client().watch(["/a/"])
        process.stop(number)
        with pytest.raises(StoreError, match="watch"):
            changed(watch, 2.0)
        watch.close()


# -- in namespaces of their own


def in_netns(name: str) -> None:
    """Move the calling thread into the namespace called *name*."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        assert libc.setns(descriptor, 0x40000000) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(descriptor)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def apart() -> Iterator[tuple[EtcdProcess, str, str]]:
    """An etcd at 192.0.2.1 in one namespace, and another namespace cabled to it."""
    here, there = f"nltest-{os.getpid()}-a", f"nltest-{os.getpid()}-b"
    process = EtcdProcess("192.0.2.1", within=["ip", "netns", "exec", there])
    try:
        for name in (here, there):
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", here, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", there)
        for name, address in ((there, "192.0.2.1/24"), (here, "192.0.2.2/24")):
            ip("-n", name, "address", "add", address, "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        process.start()
        yield process, here, there
    finally:
        process.stop()
        for name in (here, there):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
        shutil.rmtree(process.directory)


def run_in(name: str, work) -> None:
    """Run *work* in a thread that is in the namespace *name*; raise what it raises."""
    failures: list[BaseException] = []

    def body() -> None:
        try:
            in_netns(name)
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def test_a_cut_network_ends_the_watch_and_a_mended_one_heals(
    apart: tuple[EtcdProcess, str, str],
) -> None:
    process, here, there = apart

    def work() -> None:
        etcd = process.client()
        until(etcd.healthy, "etcd answers across the cable")
        watch = etcd.watch(["/a/"])
        etcd.put("/a/1", b"")
        assert changed(watch, 2.0)
        # Not the own end: then the kernel would know at once.
        ip("-n", there, "address", "delete", "192.0.2.1/24", "dev", "cable")
        began = time.monotonic()
        with pytest.raises(StoreError):
            changed(watch, 6.0)
        assert time.monotonic() - began < 4.0
        with pytest.raises(StoreError):
            etcd.put("/a/1", b"")
        ip("-n", there, "address", "add", "192.0.2.1/24", "dev", "cable")
        assert until(etcd.healthy, "etcd answers again") < 2.5
        with etcd.watch(["/a/"]) as again:
            etcd.put("/a/1", b"")
            assert changed(again, 2.0)

    run_in(here, work)


def test_etcd_listens_on_its_address_alone(apart: tuple[EtcdProcess, str, str]) -> None:
    process, here, _ = apart
    run_in(here, lambda: until(process.client().healthy, "etcd answers") and None)
    # `ip netns exec` became etcd, so its view of /proc is that namespace's.
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]
    ]
    listening = {line[1] for line in lines if line[3] == "0A"}
    address = socket.inet_aton("192.0.2.1")[::-1].hex().upper()
    assert listening == {f"{address}:{process.port + n:04X}" for n in (0, 1)}
