"""What a test may ask its lab's keeper: a table of functions, each of plain arguments."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from netlab import lab as labs
from netlab import topology
from netlab.cluster import Cluster
from netlab.errors import CapabilityError, NetlabError, UsageError
from netlab.lab import Live
from netlab.model.lab import Lab
from netlab.packets import Flow, Protocol, Verdict
from netlab.testing import names
from netlab.testing.answers import Answer, Place, Ran, Response, Service, Texts
from netlab.testing.tracing import Traced

if TYPE_CHECKING:
    from netlab.testing.recording import Recording

LOOK = 0.002  # seconds between two looks for an answer
Document = dict[str, Any]


class Held:
    """The lab this process holds, once it is up."""

    def __init__(self) -> None:
        self.name = ""
        self._live: Live | None = None
        self._recording: Recording | None = None

    @property
    def live(self) -> Live:
        if self._live is None:
            raise NetlabError("the lab is down")
        return self._live

    def up(self, lab: Lab, documents: Sequence[Document]) -> None:
        """Bring it up. Raises CapabilityError, NetlabError when it does not converge."""
        from netlab.cli.options import be_root

        be_root(create=True)
        _require_namespaces()
        self.name = lab.name
        report = labs.up(topology.Declaration(lab=lab, documents=tuple(documents)))
        if not report.converged:
            problems = "; ".join(report.problems) or "it is still changing"
            raise NetlabError(f"lab {lab.name} has not converged: {problems}")
        self._live = labs.connect(lab.name)

    def record(self, *, anew: bool = False) -> Recording | None:
        """Return the recording of what there is in the lab now, begun *anew*; None where the
        kernel does not let us."""
        if self._recording is None and anew:
            from netlab.testing.recording import Recording

            try:
                self._recording = Recording()
            except CapabilityError:
                return None
        if self._recording is not None:
            cluster = self.live.cluster()
            self._recording.begin(cluster) if anew else self._recording.follow(cluster)
        return self._recording

    def rest(self) -> None:
        """Do what there is to do between two deeds."""
        if self._recording is not None:
            self._recording.drain()

    def down(self) -> None:
        """Take it down if it is, or may be, up."""
        if self._recording is not None:
            self._recording.close()
            self._recording = None
        if self.name:
            labs.down(self.name)
            self.name, self._live = "", None


def _require_namespaces() -> None:
    """Raise CapabilityError where even root may make no network namespace, as in containers."""
    from netlab.pods.apart import apart
    from netlab.pods.namespaces import CLONE_NEWNET, unshare

    try:
        apart(lambda: unshare(CLONE_NEWNET))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CapabilityError(
            f"net namespace: {reason}", hint="root with CAP_SYS_ADMIN; see `netlab doctor`"
        ) from error


def up(held: Held, *, lab: Any, documents: list[Document]) -> None:
    held.up(msgspec.convert(lab, Lab), documents)


def down(held: Held) -> None:
    held.down()


def begin(held: Held) -> None:
    """Have a test begin: what was recorded before is not its own."""
    held.record(anew=True)


def places(held: Held) -> list[Place]:
    """Return every pod, node and machine of the lab."""
    cluster = held.live.cluster()
    found = [
        Place(
            pod.title,
            pod.title,
            "pod",
            pod.node,
            pod.netns,
            pod.ip,
            pod.labels,
            pod.phase,
        )
        for pod in cluster.pods
    ]
    found += [
        Place(f"node/{node.name}", node.name, "node", node.name, node.netns, node.address)
        for node in cluster.nodes
    ]
    lab = cluster.lab
    return found + [
        Place(name, name, "member", "", lab.netns(name), names.meant(cluster, name).address)
        for name in names.MEMBERS
    ]


def service(held: Held, *, word: str) -> Service:
    from netlab.testing import service as services

    return services.service(held.live.cluster(), word)


def get(
    held: Held,
    *,
    source: str,
    netns: str,
    namespace: str,
    url: str,
    headers: dict[str, str],
    timeout: float,
) -> Response:
    """Return the response to a GET of *url* from *netns*. Raises OSError, UsageError."""
    from netlab.sensors.asking import fetch

    parts = urlsplit(url)
    try:
        port = parts.port or 80
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or not port:
        raise UsageError(f"{url}: no URL of HTTP", hint="http://web, http://web.shop:8080/path")
    cluster = held.live.cluster()
    address = names.meant(cluster, parts.hostname, namespace=namespace).address
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    began = time.monotonic()
    try:
        found = fetch(
            netns, address, port, host=parts.netloc, path=path, headers=headers, timeout=timeout
        )
    except TimeoutError:
        words = f"{source} -> {url} ({address}:{port}): no answer within {timeout:g} s"
        raise TimeoutError(words) from None
    except OSError as error:
        words = f"{source} -> {url} ({address}:{port}): {(error.strerror or str(error)).lower()}"
        raise OSError(error.errno, words) from error
    said = _said(found.text)
    return Response(
        url,
        found.status,
        found.reason,
        found.headers,
        found.text,
        by=_by(said),
        client=str(said.get("client", "")),
        seconds=round(time.monotonic() - began, 6),
    )


def _said(text: str) -> dict[str, Any]:
    """Return what a server of netlab's says of itself; of another's words nothing."""
    try:
        said = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return said if isinstance(said, dict) and {"pod", "client"} <= said.keys() else {}


def _by(said: Mapping[str, Any]) -> str:
    return f"{said.get('namespace', 'default')}/{said['pod']}" if said.get("pod") else ""


def ping(
    held: Held,
    *,
    source: str,
    netns: str,
    namespace: str,
    target: str,
    size: int,
    dont_fragment: bool,
    timeout: float,
) -> Answer:
    from netlab.sensors.asking import echo

    address = names.meant(held.live.cluster(), target, namespace=namespace).address
    began = time.monotonic()
    found = echo(netns, address, size=size, whole=dont_fragment, timeout=timeout)
    return Answer(
        _asked(source, target, address, f"echo of {size} bytes"),
        found.source,
        refused=found.refused,
        mtu=found.mtu,
        seconds=round(time.monotonic() - began, 6),
    )


def _asked(source: str, target: str, address: str, what: str) -> str:
    """Return `default/a -> web 10.96.0.10, echo of 56 bytes`."""
    said = target.removeprefix("pod/").removeprefix("svc/")
    return f"{source} -> {said if said == address else f'{said} {address}'}, {what}"


def connect(
    held: Held,
    *,
    source: str,
    netns: str,
    namespace: str,
    target: str,
    port: int,
    protocol: str,
    timeout: float,
) -> Answer:
    """Return what came of a line of text sent over TCP, or of a datagram."""
    from netlab.sensors.sending import send
    from netlab.sensors.token import token

    address = names.meant(held.live.cluster(), target, namespace=namespace).address
    asked = _asked(source, target, address, f"{port}/{protocol}")
    began = time.monotonic()
    with send(netns, Flow("", address, Protocol(protocol), 0, port), token()) as sent:
        while (answer := sent.answer()) is None and time.monotonic() - began < timeout:
            time.sleep(LOOK)
    seconds = round(time.monotonic() - began, 6)
    if answer is None:
        return Answer(asked, refused=f"no answer within {timeout:g} s", seconds=seconds)
    return Answer(
        asked,
        answer.source,
        _by(answer.says),
        answer.client,
        answer.refused,
        seconds=seconds,
    )


def execute(held: Held, *, word: str, words: list[str], input: str, timeout: float) -> Ran:
    from netlab.testing.executing import executed

    return executed(held.live, word, words, input=input, timeout=timeout)


def trace(held: Held, *, source: str, namespace: str, target: str, asked: dict[str, Any]) -> Traced:
    """Trace a conversation; *asked*: how `tracing.trace` is asked for it."""
    from netlab.testing.tracing import traced

    word = names.meant(held.live.cluster(), target, namespace=namespace).word
    said = target.removeprefix("pod/").removeprefix("svc/")
    return traced(held.live, source, word, said=said, **asked)


def apply(held: Held, *, source: str, text: str, wait: bool) -> list[str]:
    """Apply *text*, or the files at *source*; return what became of each object."""
    from netlab.cli.change import PAST, title

    declared = _manifests(source, text)
    topology.check(declared, lab=held.live.lab, stored=held.live.documents())
    changes = held.live.apply(declared.documents)
    if wait and changes:
        converged(held, timeout=30.0)
    held.record()
    return [f"{title(change.document)} {PAST[change.verb.value]}" for change in changes]


def delete(
    held: Held, *, source: str, text: str, kind: str, name: str, namespace: str, wait: bool
) -> list[str]:
    """Delete what *text* or the files at *source* name, or the object `KIND NAME`."""
    from netlab.cli.change import PAST, named, title

    if kind:
        asked = named(held.live, kind, (name,) if name else (), namespace)
    else:
        asked = list(_manifests(source, text).documents)
    changes = held.live.delete(asked)
    if wait and changes:
        converged(held, timeout=30.0)
    return [f"{title(change.document)} {PAST[change.verb.value]}" for change in changes]


def _manifests(source: str, text: str) -> topology.Declaration:
    declared = topology.load([source or "-"], stdin=io.StringIO(text))
    if declared.lab is not None:
        raise UsageError("a Lab document", hint="apply and delete take Kubernetes objects")
    return declared


def converged(held: Held, *, timeout: float) -> None:
    """Wait until the lab agrees with what etcd holds now. Raises NetlabError after *timeout* s."""
    live = held.live
    if problems := live.wait(revision=live.revision(), timeout=timeout):
        raise NetlabError(
            f"lab {live.name} has not converged within {timeout:g} s: {'; '.join(problems)}"
        )


def rules(held: Held, *, node: str) -> str:
    from netlab.testing.inspection import rule_set

    cluster = held.live.cluster()
    return rule_set(_netns(cluster, node), cluster.lab.proxyMode)


def _netns(cluster: Cluster, node: str) -> str:
    from netlab.cli.inside import machine

    return machine(cluster, f"node/{node.removeprefix('node/')}")[0]


def verify(held: Held, *, ids: list[str]) -> list[Verdict]:
    from netlab.verify import verify as verified

    return list(verified(held.live, ids or None))


def status(held: Held) -> dict[str, Any]:
    return held.live.status()


def inspect(held: Held) -> Texts:
    """Return what is kept of a failing test."""
    from netlab.testing.inspection import texts

    found = texts(held.live)
    recording = held.record()
    if recording is None:
        return found
    return msgspec.structs.replace(
        found, capture=recording.file(), notes=(*found.notes, *recording.notes())
    )


DEEDS: Mapping[str, Callable[..., object]] = {
    function.__name__: function
    for function in (
        up,
        down,
        begin,
        places,
        service,
        get,
        ping,
        connect,
        execute,
        trace,
        apply,
        delete,
        converged,
        rules,
        verify,
        status,
        inspect,
    )
}
