"""What a keeper asks of a lab from one of its places: HTTP, echoes, connections, traces."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from netlab.errors import UsageError
from netlab.packets import Flow, Protocol
from netlab.testing import names
from netlab.testing.answers import Answer, Response
from netlab.testing.held import Held
from netlab.testing.tracing import Traced

LOOK = 0.002  # seconds between two looks for an answer


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


def trace(held: Held, *, source: str, namespace: str, target: str, asked: dict[str, Any]) -> Traced:
    """Trace a conversation; *asked*: how `tracing.trace` is asked for it."""
    from netlab.testing.tracing import traced

    word = names.meant(held.live.cluster(), target, namespace=namespace).word
    said = target.removeprefix("pod/").removeprefix("svc/")
    return traced(held.live, source, word, said=said, **asked)
