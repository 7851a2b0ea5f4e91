"""The ingress controller as its pods run it: a real etcd, a real nginx, clients that keep on."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import vhost_cases
from etcd_process import EtcdProcess, until
from vhost_cases import ROWS, Row, ingress, path

from netlab import processes
from netlab.capabilities import system
from netlab.controllers.change import Change, Verb
from netlab.errors import NetlabError
from netlab.kernel import netns
from netlab.model.kubernetes import Document
from netlab.store import registry
from netlab.store.etcd import Etcd
from netlab.store.server import wait_healthy

pytestmark = pytest.mark.kernel

ROOT = Path(__file__).parents[2]
NAME = f"nltest-{os.getpid()}-ingress"
ENDPOINTS = {service: f"127.0.1.{at + 1}" for at, service in enumerate(vhost_cases.SERVICES)}
ENDPOINT_PORT = 8000
SECONDS = 10.0


@pytest.fixture(scope="module")
def inside() -> Iterator[str]:
    """A namespace with lo up."""
    try:
        system.nginx()
    except NetlabError as error:
        pytest.skip(f"nginx: {error}")
    netns.create(NAME)
    try:
        with netns.entered(NAME):
            processes.run(["ip", "link", "set", "lo", "up"])
        yield NAME
    finally:
        netns.delete(NAME)


class Server:
    """Answers HTTP on an address with its name, what was asked, and what came with it."""

    def __init__(self, address: str, name: str) -> None:
        self.name = name
        with netns.entered(NAME):
            self.socket = socket.create_server((address, ENDPOINT_PORT))
        self.open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            self.open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, client.makefile("rwb") as stream:
            while first := stream.readline():
                head = first
                while (line := stream.readline()) not in (b"\r\n", b""):
                    head += line
                if b"pgrade: echo" in head:
                    stream.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n"
                                 b"Connection: upgrade\r\n\r\n")  # fmt: skip
                    stream.flush()
                    while line := stream.readline():
                        stream.write(line.upper())
                        stream.flush()
                    return
                body = f"{self.name}\n".encode() + head
                stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                stream.flush()

    def close(self) -> None:
        """As the end of a pod: nothing listens any more, and what is open is cut."""
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for client in self.open:
            try:
                client.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Cluster:
    """Objects in an etcd, and a controller that follows it."""

    def __init__(self, url: str, etcd: Etcd, directory: Path) -> None:
        self.url, self.etcd, self.directory = url, etcd, directory
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        with netns.entered(NAME):
            self.process = subprocess.Popen(
                [sys.executable, "-m", "netlab.ingress", "--directory", str(self.directory),
                 "--etcd", self.url, "--shutdown-grace-period", "0", *arguments],
                cwd=ROOT,
                stderr=(self.directory / "log").open("ab"),
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
        until(lambda: self.healthy(), "the controller is ready")

    def healthy(self) -> bool:
        try:
            return ask("http://127.0.0.1:10254/healthz")[0] == 200
        except OSError:
            return False

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(SECONDS)

    def hold(self, *documents: Document) -> None:
        """Have just these objects."""
        wanted = {registry.registry_key(one): one for one in documents}
        held, _ = registry.objects(self.etcd)
        gone = [one for one in held if registry.registry_key(one) not in wanted]
        changes = [Change(Verb.DELETE, one) for one in gone]
        for key, one in wanted.items():
            verb = Verb.UPDATE if held.get(key) else Verb.CREATE
            clean = {k: v for k, v in one["metadata"].items() if k != "resourceVersion"}
            changes.append(Change(verb, {**one, "metadata": clean}))
        assert registry.write(self.etcd, changes) == []

    def put(self, document: Document) -> None:
        held, _ = registry.objects(self.etcd)
        there = held.get(registry.registry_key(document))
        registry.write(self.etcd, [Change(Verb.UPDATE if there else Verb.CREATE, document)])

    def events(self) -> list[str]:
        held, _ = registry.objects(self.etcd)
        return sorted(f"{one['reason']} x{one['count']}: {one['message']}"
                      for one in held.of("Event") if one["type"] == "Warning")  # fmt: skip


@pytest.fixture(scope="module")
def cluster(inside: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    servers = [Server(address, name) for name, address in ENDPOINTS.items()]
    store = EtcdProcess(within=["ip", "netns", "exec", NAME])
    directory = tmp_path_factory.mktemp("nginx")
    for parent in (directory, *directory.parents):  # of workers that are not root
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    store.start()
    try:
        with netns.entered(NAME):
            etcd = store.client()
            wait_healthy(etcd, SECONDS)
        made = Cluster(f"http://127.0.0.1:{store.port}", etcd, directory)
        made.start()
        yield made
        assert made.stop() == 0
        assert not (directory / "nginx.pid").exists(), "nginx runs on"
    finally:
        store.stop()
        shutil.rmtree(store.directory)
        for server in servers:
            server.close()
        shutil.rmtree(directory, ignore_errors=True)


def slice_of(service: str, *addresses: str) -> Document:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": service,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": ENDPOINT_PORT}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}
                      for address in addresses],
    }  # fmt: skip


SLICES = [slice_of(name, address) for name, address in ENDPOINTS.items()]


def ask(
    url: str, *, host: str = "", headers: dict[str, str] | None = None, verify: str = ""
) -> tuple[int, str, dict[str, str]]:
    """Return status, body and headers of the answer to a GET from inside the namespace."""
    parts = urlsplit(url)
    with netns.entered(NAME):
        raw = socket.create_connection(
            ("127.0.0.1", parts.port or (443 if parts.scheme == "https" else 80)), timeout=SECONDS
        )
    if parts.scheme == "https":
        context = ssl.create_default_context(cadata=verify or None)
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        raw = context.wrap_socket(raw, server_hostname=host or parts.hostname)
    connection = http.client.HTTPConnection("127.0.0.1", timeout=SECONDS)
    connection.sock = raw
    try:
        asked = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        connection.putrequest("GET", asked, skip_host=True)
        for name, value in {"Host": host or parts.netloc, **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


def answered(request: str) -> str:
    """Who answers a request to nginx: a Service, a status, or where a redirect leads."""
    parts = urlsplit(request)
    rest = request.partition("//")[2].partition("/")[2]
    status, body, headers = ask(f"{parts.scheme}://127.0.0.1/{rest}", host=parts.netloc)
    if status == 308:
        return headers["Location"]
    return body.partition("\n")[0] if status == 200 else str(status)


IN_A_ROW = 10  # answers by the new configuration that show that the old one is gone


@contextmanager
def world(cluster: Cluster, name: str) -> Iterator[None]:
    marker = ingress("marker", {f"{name}.marker": [path("Prefix", "/", "root")]})
    cluster.hold(*vhost_cases.objects(name), marker, *SLICES)
    # A worker of before may take a connection still, until it has heard that it is to end.
    asked = [f"http://{name}.marker/"] * IN_A_ROW
    until(lambda: all(answered(one) == "root" for one in asked), f"the world {name}")
    yield


@pytest.mark.parametrize("name", vhost_cases.WORLDS)
def test_nginx_takes_the_route_it_should(cluster: Cluster, name: str) -> None:
    rows: list[Row] = [row for row in ROWS if row.world == name]
    with world(cluster, name):
        for row in rows:
            until(lambda row=row: answered(row.request) == row.answer, f"{row.id}: {row.answer}")


def test_a_pod_is_told_who_asks_and_nothing_that_the_client_made_up(cluster: Cluster) -> None:
    with world(cluster, "paths"):
        forged = {"X-Forwarded-For": "192.0.2.66", "X-Real-IP": "192.0.2.66",
                  "X-Forwarded-Proto": "gopher", "X-Forwarded-Host": "evil", "Proxy": "evil",
                  "X-Forwarded-Port": "1"}  # fmt: skip
        for scheme, port in (("http", "80"), ("https", "443")):
            _, body, _ = ask(f"{scheme}://127.0.0.1/foo", host="paths.example", headers=forged)
            told = dict(line.split(": ", 1) for line in body.splitlines()[2:] if ": " in line)
            assert told["X-Forwarded-For"] == told["X-Real-IP"] == "127.0.0.1"
            assert told["X-Forwarded-Proto"] == scheme
            assert told["X-Forwarded-Host"] == told["Host"] == "paths.example"
            assert told["X-Forwarded-Port"] == port
            assert told["X-Original-Forwarded-For"] == "192.0.2.66"
            assert "Proxy" not in told
            assert "Connection" not in told  # kept alive


def test_a_websocket_passes(cluster: Cluster) -> None:
    with world(cluster, "paths"):
        with netns.entered(NAME):
            client = socket.create_connection(("127.0.0.1", 80), timeout=SECONDS)
        with client, client.makefile("rwb") as stream:
            stream.write(b"GET /foo HTTP/1.1\r\nHost: paths.example\r\n"
                         b"Connection: Upgrade\r\nUpgrade: echo\r\n\r\n")  # fmt: skip
            stream.flush()
            assert stream.readline().startswith(b"HTTP/1.1 101")
            while stream.readline() != b"\r\n":
                pass
            stream.write(b"hello\n")
            stream.flush()
            assert stream.readline() == b"HELLO\n"


class Kept:
    """A client that asks over one connection as fast as it is answered, and never tries again."""

    def __init__(self) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1")
        self.connection.auto_open = 0
        self._connect()
        self.answers: list[str] = []
        self.errors: list[str] = []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _connect(self) -> None:
        self.connection.close()
        with netns.entered(NAME):
            self.connection.sock = socket.create_connection(("127.0.0.1", 80), timeout=SECONDS)

    def _run(self) -> None:
        while not self.ending.is_set():
            try:
                self.connection.request("GET", "/foo", headers={"Host": "paths.example"})
                answer = self.connection.getresponse()
                body = answer.read().decode()
                self.answers.append(body.partition("\n")[0] if answer.status == 200 else "")
                if answer.status != 200:
                    self.errors.append(str(answer.status))
                if answer.will_close:  # as nginx announces after 1000 requests
                    self._connect()
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(repr(error))
                return

    def end(self) -> None:
        self.ending.set()
        self.thread.join(SECONDS)
        self.connection.close()


def test_endpoints_come_and_go_without_a_failed_request(cluster: Cluster) -> None:
    """As in a rolling update: each is announced, serves, is withdrawn, and ends a moment later."""
    with world(cluster, "paths"):
        clients = [Kept() for _ in range(4)]
        try:
            for number in range(10):
                address = f"127.0.2.{number + 1}"
                server = Server(address, f"pod{number}")
                cluster.put(slice_of("a", address))
                until(
                    lambda name=server.name: all(c.answers[-1:] == [name] for c in clients),  # type: ignore[misc]
                    f"{server.name} is asked",
                )
                if number:
                    last.close()  # noqa: F821
                last = server  # noqa: F841
            assert [client.errors for client in clients] == [[], [], [], []]
        finally:
            for client in clients:
                client.end()
            cluster.put(slice_of("a", ENDPOINTS["a"]))


def test_hosts_come_and_go_without_a_failed_request(cluster: Cluster) -> None:
    """Each makes nginx begin again, and end the workers that have the clients' connections."""
    with world(cluster, "paths"):
        clients = [Kept() for _ in range(4)]
        try:
            for number in range(4):
                host = f"more{number}.example"
                cluster.put(ingress(f"more{number}", {host: [path("Prefix", "/", "b")]}, day=20))
                until(lambda host=host: answered(f"http://{host}/") == "b", host)  # type: ignore[misc]
                before = [len(client.answers) for client in clients]
                until(
                    lambda before=before: all(  # type: ignore[misc]
                        len(client.answers) > many + 5 or client.errors
                        for client, many in zip(clients, before, strict=True)
                    ),
                    "all clients go on",
                )
            assert [client.errors for client in clients] == [[], [], [], []]
        finally:
            for client in clients:
                client.end()


def test_an_endpoint_that_does_not_accept_is_followed_by_the_next(cluster: Cluster) -> None:
    with world(cluster, "paths"):
        cluster.put(slice_of("a", "127.0.3.1", ENDPOINTS["a"], "127.0.3.2"))
        backends = "http://127.0.0.1:10246/configuration/backends"
        until(lambda: "127.0.3.2" in ask(backends)[1], "the endpoints")
        assert {answered("http://paths.example/foo") for _ in range(12)} == {"a"}
        cluster.put(slice_of("a", ENDPOINTS["a"]))


def secret(name: str, certificate: str, key: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "default"},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": certificate, "tls.key": key},
    }


def pair(directory: Path, name: str) -> tuple[str, str]:
    """Return a self-signed certificate for a host, and its key."""
    processes.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
         "-keyout", str(directory / "k"), "-out", str(directory / "c")]
    )  # fmt: skip
    return (directory / "c").read_text(), (directory / "k").read_text()


def served_certificate(host: str) -> dict[str, Any]:
    """Return the names of the certificate that nginx shows for a host."""
    with netns.entered(NAME):
        raw = socket.create_connection(("127.0.0.1", 443), timeout=SECONDS)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(raw, server_hostname=host) as tls:
        shown = tls.getpeercert(binary_form=True) or b""
    done = subprocess.run(
        ["openssl", "x509", "-inform", "DER", "-noout", "-subject"],
        input=shown, capture_output=True,
    )  # fmt: skip
    return {"subject": done.stdout.decode().partition("CN = ")[2].strip()}


def test_each_host_shows_its_own_certificate_and_a_broken_one_harms_nobody(
    cluster: Cluster, tmp_path: Path
) -> None:
    one, other = pair(tmp_path, "one.example"), pair(tmp_path, "two.example")
    names = ("one", "two", "bad", "none", "misfit")
    hosts = {f"{name}.example": [path("Prefix", "/", "a")] for name in names}
    tls = [{"hosts": [f"{name}.example"], "secretName": name} for name in names]
    with world(cluster, "hosts"):
        for document in (
            secret("one", *one),
            secret("two", *other),
            secret("bad", one[0], other[1]),
            secret("misfit", *one),
            ingress("tls", hosts, tls=tls),
        ):
            cluster.put(document)
        until(lambda: served_certificate("two.example")["subject"] == "two.example", "the hosts")
        subject = {name: served_certificate(f"{name}.example")["subject"]
                   for name in ("one", "two", "bad", "none", "nobody")}  # fmt: skip
        fake = "Kubernetes Ingress Controller Fake Certificate"
        assert subject == {"one": "one.example", "two": "two.example",
                           "bad": fake, "none": fake, "nobody": fake}  # fmt: skip
        status, body, _ = ask("https://127.0.0.1/", host="one.example", verify=one[0])
        assert (status, body.partition("\n")[0]) == (200, "a")
        until(lambda: len(cluster.events()) == 3, "three events")
        misfit, bad, none = cluster.events()
        assert bad.startswith("SecretInvalid x1: Secret default/bad: no usable certificate")
        assert none == "SecretNotFound x1: no Secret default/none: the default certificate"
        assert misfit == (
            "CertificateMismatch x1: the certificate in Secret default/misfit is not for"
            " misfit.example"
        )
        renewed = pair(tmp_path, "one.example")
        cluster.put(secret("one", *renewed))
        until(lambda: _verified("one.example", renewed[0]), "the new certificate")


def _verified(host: str, certificate: str) -> bool:
    try:
        return ask("https://127.0.0.1/", host=host, verify=certificate)[0] == 200
    except ssl.SSLError:
        return False


def test_what_nginx_refuses_does_not_take_the_rest_down(cluster: Cluster) -> None:
    """Nothing that is checked on its way in gets that far; so it is made here by hand."""
    with world(cluster, "paths"):
        odd = ingress("odd", {"x" * 5000 + ".example": [path("Prefix", "/", "a")]}, day=9)
        cluster.put(odd)
        until(lambda: any("nginx refuses" in text for text in cluster.events()), "an event")
        assert answered("http://paths.example/foo") == "a"


def test_a_controller_begins_again_after_its_end(
    cluster: Cluster,
) -> None:
    with world(cluster, "paths"):
        assert cluster.process is not None
        cluster.process.kill()
        cluster.process.wait()
        until(lambda: not cluster.healthy(), "nginx ends with its controller")
        cluster.start()
        assert answered("http://paths.example/foo") == "a"


def test_no_worker_outlives_the_master(cluster: Cluster) -> None:
    """They would serve on, and the next nginx would find its ports taken."""
    with world(cluster, "paths"):
        process = cluster.process
        assert process is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        (master,) = map(int, children.split())
        os.kill(master, signal.SIGKILL)
        assert process.wait(10) == 1
        assert not cluster.healthy()
        cluster.start()
        assert answered("http://paths.example/foo") == "a"


def test_without_nginx_the_pod_is_told_what_to_install(cluster: Cluster, tmp_path: Path) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod",
           "metadata": {"name": "c", "namespace": "default", "uid": "u"},
           "spec": {"containers": [{"name": "c"}]}, "status": {}}  # fmt: skip
    with world(cluster, "paths"):
        cluster.put(pod)
        with netns.entered(NAME):
            done = subprocess.run(
                [sys.executable, "-c", "from netlab.ingress import server, __main__ as m;"
                 "server.MODULE_FILES = ('/nonexistent/mod-http-lua.conf',);"
                 f"raise SystemExit(m.main(['--directory', '{tmp_path}']))"],
                env={**os.environ, "NETLAB_ETCD": cluster.url, "POD_NAME": "c",
                     "POD_NAMESPACE": "default"},
                cwd=ROOT, capture_output=True, text=True,
            )  # fmt: skip
        assert done.returncode == 3
        said = (
            "nginx's module /nonexistent/mod-http-lua.conf is not there"
            " (hint: install the packages nginx, libnginx-mod-http-lua)"
        )
        assert done.stderr == f"netlab.ingress: {said}\n"
        assert cluster.events() == [f"Failed x1: {said}"]
