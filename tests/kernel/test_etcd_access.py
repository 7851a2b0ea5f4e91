"""etcd as it wants to be asked: by TLS with certificates, and by users with passwords."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from etcd_process import free_port, until

from netlab.errors import StoreError, UsageError
from netlab.store import registry, server
from netlab.store.access import Access
from netlab.store.etcd import Etcd

pytestmark = pytest.mark.kernel
HOST = "127.0.0.1"
USES = "extendedKeyUsage=serverAuth,clientAuth"


def openssl(directory: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates() -> Iterator[Path]:
    """ca, etcd and node certificates with their keys; other-ca vouches for none of them."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for one in ("ca", "other-ca"):
            files = ["-keyout", f"{one}.key", "-out", f"{one}.crt"]
            openssl(directory, "req", "-x509", *key, *files, "-subj", f"/CN={one}", "-days", "2")
        for one in ("etcd", "node"):
            files = ["-keyout", f"{one}.key", "-out", f"{one}.csr", "-subj", f"/CN={one}"]
            openssl(directory, "req", "-new", *key, *files)
            (directory / "ext").write_text(f"subjectAltName=IP:{HOST}\n{USES}\n")
            signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
            made = ["-in", f"{one}.csr", "-out", f"{one}.crt", "-extfile", "ext"]
            openssl(directory, "x509", "-req", *signed, *made)
        yield directory


@contextmanager
def running(access: Access, port: int) -> Iterator[None]:
    """Have an etcd that is started as `up --master` starts one."""
    with tempfile.TemporaryDirectory() as directory:
        words = server.arguments(directory, HOST, port, access=access)
        process = subprocess.Popen(
            words,
            env={**os.environ, **server.environment()},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(access.etcd(HOST).healthy, "etcd is healthy")
            yield
        finally:
            process.kill()
            process.wait()


def way(certificates: Path, port: int, *, cert: str = "node", ca: str = "ca") -> Access:
    file = {
        name: str(certificates / f"{cert}.{end}") for name, end in (("cert", "crt"), ("key", "key"))
    }
    return Access(
        urls=(f"https://{HOST}:{port}",),
        cafile=str(certificates / f"{ca}.crt"),
        certfile=file["cert"] if cert else "",
        keyfile=file["key"] if cert else "",
    )


@pytest.fixture(scope="module")
def secured(certificates: Path) -> Iterator[int]:
    """The port of an etcd that wants certificates."""
    port = free_port()
    with running(way(certificates, port, cert="etcd"), port):
        yield port


def test_who_has_a_certificate_reads_writes_and_watches(certificates: Path, secured: int) -> None:
    etcd = way(certificates, secured).etcd("")
    with etcd.watch() as watch:
        etcd.put("/registry/x", b"y" * 500_000)  # more than one TLS record
        until(watch.drain, "the watch hears of it")
        assert watch.revision == etcd.revision
        found = etcd.get("/registry/x")
        assert found is not None and len(found.value) == 500_000
        told: list[str] = []
        assert not registry.objects(etcd, watch=watch, warn=told.append)[0]
        assert told  # that it is no object
    assert etcd.keep_alive(etcd.grant(60)) > 0


@pytest.mark.parametrize(
    ("cert", "ca", "scheme"),
    [("", "ca", "https"), ("node", "other-ca", "https"), ("node", "ca", "http")],
    ids=["no certificate of our own", "etcd's is of another authority", "no TLS"],
)
def test_who_cannot_show_the_right_thing_is_refused(
    certificates: Path, secured: int, cert: str, ca: str, scheme: str
) -> None:
    access = way(certificates, secured, cert=cert, ca=ca)
    access = msgspec.structs.replace(access, urls=(f"{scheme}://{HOST}:{secured}",))
    with pytest.raises(StoreError, match=f"etcd {HOST}:{secured}"):
        access.etcd("").get("x")


def test_a_file_that_is_no_certificate_is_named(certificates: Path) -> None:
    access = way(certificates, 1)
    for name, value in (("cafile", "ext"), ("keyfile", "ca.key"), ("certfile", "ext")):
        wrong = msgspec.structs.replace(access, **{name: str(certificates / value)})
        with pytest.raises(UsageError, match=f"--etcd-{'certfile' if name == 'keyfile' else name}"):
            wrong.etcd("")


@pytest.mark.parametrize("order", [1, -1], ids=["the second", "the first"])
def test_the_first_of_several_that_answers_is_asked(
    certificates: Path, secured: int, order: int
) -> None:
    access = way(certificates, secured)
    several = (f"https://{HOST}:1", f"https://{HOST}:{secured}")[::order]
    etcd = msgspec.structs.replace(access, urls=several).etcd("")
    etcd.put("two", b"2")
    with etcd.watch() as watch:
        etcd.put("two", b"3")
        until(watch.drain, "the watch hears of it")


@pytest.fixture(scope="module")
def guarded() -> Iterator[int]:
    """The port of an etcd with users: root, and node whose password is 'secret'."""
    port = free_port()
    access = Access(urls=(f"http://{HOST}:{port}",))
    with running(access, port):
        etcd = access.etcd("")
        for path, fields in (
            ("user/add", {"name": "root", "password": "toor"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("user/add", {"name": "node", "password": "secret"}),
            ("user/grant", {"user": "node", "role": "root"}),
            ("enable", {}),
        ):
            etcd._call(f"/auth/{path}", fields)
        yield port


def user(port: int, name: str, password: str) -> Etcd:
    return Access(urls=(f"http://{HOST}:{port}",), username=name, password=password).etcd("")


def test_a_user_with_the_password_reads_writes_and_watches(guarded: int) -> None:
    etcd = user(guarded, "node", "secret")
    with etcd.watch() as watch:
        etcd.put("k", b"v")
        until(watch.drain, "the watch hears of it")
    etcd._token = "forgotten.1"  # as when etcd was started again, or it was not used for long
    found = etcd.get("k")
    assert found is not None and found.value == b"v"


@pytest.mark.parametrize(
    ("name", "password"), [("node", "wrong"), ("nobody", "secret"), ("", "")], ids=str
)
def test_nobody_else_does(guarded: int, name: str, password: str) -> None:
    with pytest.raises(StoreError) as caught:
        user(guarded, name, password).get("k")
    assert not name or "--etcd-username" in (caught.value.hint or "")


def test_a_login_where_nobody_is_asked_for_one_is_no_error() -> None:
    port = free_port()
    with running(Access(urls=(f"http://{HOST}:{port}",)), port):
        etcd = user(port, "node", "secret")
        etcd.put("k", b"v")
        found = etcd.get("k")
        assert found is not None and found.value == b"v"
