"""A lab on two machines whose etcd lets in only who shows a certificate, its DNS pods included."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from boxes import FILES, LAB, Box, boxes, converged, name, pods, status, written
from labs import eventually

pytestmark = pytest.mark.lab
HOSTS = ("192.168.56.11", "192.168.56.12")
LOOKUP = """
import random, socket, sys
question = b"".join(bytes([len(p)]) + p.encode() for p in sys.argv[2].split("."))
ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask.settimeout(3)
ask.sendto(b"ab\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0" + question + b"\\0\\0\\1\\0\\1", (sys.argv[1], 53))
print(socket.inet_ntoa(ask.recv(512)[-4:]))
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, and one certificate for each machine: node1, which etcd has too, and node2."""
    directory = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca = ["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=lab", "-days", "2"]
    openssl("req", "-x509", *key, *ca)
    for number, host in enumerate(HOSTS, start=1):
        one = f"node{number}"
        (directory / "ext").write_text(
            f"subjectAltName=IP:{host}\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        openssl(
            "req",
            "-new",
            *key,
            "-keyout",
            f"{one}.key",
            "-out",
            f"{one}.csr",
            "-subj",
            f"/CN={one}",
        )
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
        openssl(
            "x509", "-req", *signed, "-in", f"{one}.csr", "-out", f"{one}.crt", "-extfile", "ext"
        )
    for file in directory.iterdir():
        os.chmod(file, 0o644)
    return directory


def shown(certificates: Path, box: Box) -> list[str]:
    """Return the options that show a machine's certificate."""
    files = {"cafile": "ca.crt", "certfile": f"{box.name}.crt", "keyfile": f"{box.name}.key"}
    return [w for o, f in files.items() for w in (f"--etcd-{o}", str(certificates / f))]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Iterator[tuple[Box, Box]]:
    text = FILES.replace("dns: {replicas: 0}", "dns: {replicas: 2}")
    with boxes(2) as (first, second):
        file = written(tmp_path_factory.mktemp("lab"), text)
        first.netlab("up", "--master", file, *shown(certificates, first))
        etcd = f"https://{HOSTS[0]}:2379"
        second.start_agent("--node", "node2", "--etcd", etcd, *shown(certificates, second))
        for box in (first, second):
            eventually(lambda box=box: converged(box), what=f"{box.name}: {status(box)}")
        yield first, second


def test_both_machines_read_the_lab(two: tuple[Box, Box]) -> None:
    for box in two:
        assert set(pods(box)) == {"node1", "node2"}


def test_a_dns_pod_asks_etcd_as_its_node_does(two: tuple[Box, Box]) -> None:
    for box in two:
        inside = ["ip", "netns", "exec", f"{LAB}.{box.name}.default.{name(web(box))}"]
        words = ["python3", "-c", LOOKUP, "10.96.0.10", "web.default.svc.cluster.local"]
        eventually(
            lambda box=box, words=[*inside, *words]: (
                box.run(*words, code=None).stdout == "10.96.7.7\n"
            )
        )


def web(box: Box) -> dict[str, object]:
    return pods(box)[box.name]


def test_nobody_else_is_let_in(two: tuple[Box, Box], certificates: Path) -> None:
    for url, words in (
        ("http://192.168.56.11:2379", ()),
        ("https://192.168.56.11:2379", ("--etcd-cafile", str(certificates / "ca.crt"))),
    ):
        done = two[1].netlab("join", url, *words, code=1)
        assert "etcd 192.168.56.11:2379" in done.stderr
