"""A client of HTTP and HTTPS in a namespace of the lab: one request, and what came of it."""

from __future__ import annotations

import socket
from typing import Any

import msgspec

from netlab.kernel.netns import entered
from netlab.packets import Flow
from netlab.sensors.ports import SINGLE, Ports

SECONDS = 3.0  # of each wait
_ports = Ports(SINGLE)


class Reply(msgspec.Struct, frozen=True):
    """What came back, with the flow it came by; `problem` if nothing did.

    `says`: what a server of netlab's says of itself.
    """

    flow: Flow
    status: int = 0
    headers: dict[str, str] = {}
    says: dict[str, Any] = {}
    problem: str = ""


def ask(
    netns: str, flow: Flow, target: str, *, host: str = "", trusted: str | None = None
) -> Reply:
    """Send `GET target` from *netns* along *flow*, whose source is left to the kernel.

    *host*: the Host asked for, and the name in TLS; *trusted*: over TLS, the server's certificate
    checked against these, as PEM.
    """
    place = f"{flow.destination}:{flow.destination_port}"
    with entered(netns):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sent = flow
    try:
        with sock:
            sock.settimeout(SECONDS)
            _ports.bind(sock, (netns, flow), to=flow.destination_port)
            sock.connect((flow.destination, flow.destination_port))
            source, port = sock.getsockname()
            sent = msgspec.structs.replace(flow, source=source, source_port=port)
            stream = sock if trusted is None else _tls(sock, host, trusted)
            with stream:
                request = (
                    f"GET {target} HTTP/1.1\r\nHost: {host or place}\r\nConnection: close\r\n\r\n"
                )
                stream.sendall(request.encode())
                received = b""
                while part := stream.recv(65536):
                    received += part
    except OSError as error:
        return Reply(sent, problem=str(error).lower())
    return _read(sent, received)


def _tls(sock: socket.socket, host: str, trusted: str) -> socket.socket:
    import ssl

    context = ssl.create_default_context(cadata=trusted)
    return context.wrap_socket(sock, server_hostname=host)


def _read(flow: Flow, received: bytes) -> Reply:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if not first.startswith("HTTP/1.") or not words[1].isdigit():
        return Reply(flow, problem=f"it answered {received[:40]!r}")
    headers = {name.lower(): value.strip() for name, _, value in (o.partition(":") for o in lines)}
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        said = {}
    return Reply(flow, int(words[1]), headers, said if isinstance(said, dict) else {})
