"""What is sent, from where, to whom: words of a command line made into one conversation."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from netlab import paths, probe
from netlab.cluster import Cluster
from netlab.errors import NotFoundError, UsageError
from netlab.model.kubernetes import Document
from netlab.packets import Flow, Protocol
from netlab.paths import Place
from netlab.sensors.sending import Hearing, Question
from netlab.sensors.token import token
from netlab.sensors.traceswitch import WINDOW
from netlab.targets import service_called
from netlab.telling.selecting import Opening
from netlab.tracing.named import Looked

LookUp = Callable[[Cluster, Place, str], Looked]
SERVICE = ("svc/", "service/", "services/")
DNS_TYPES = {"A": 1, "CNAME": 5, "PTR": 12, "TXT": 16, "AAAA": 28, "SRV": 33}
RESULTS = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")  # RFC 1035, 4.1.1
LARGEST = {Protocol.ICMP: 65507, Protocol.UDP: 65507, Protocol.TCP: WINDOW - 1024}  # bytes


class Destination(NamedTuple):
    """Whom a conversation is with: an address, its port, and a Service if it is one's."""

    place: Place
    title: str
    port: int = 0
    protocol: Protocol = Protocol.ICMP
    service: Document | None = None


class Asking(msgspec.Struct, frozen=True):
    """A conversation to be: who asks whom, and what is said."""

    source: Place
    destination: Destination
    flow: Flow  # its source left to the kernel
    opening: Opening
    token: bytes
    question: Question
    notes: tuple[str, ...] = ()


def asking(
    cluster: Cluster,
    source: str,
    destination: str,
    *,
    protocol: str = "",
    port: int | str = 0,
    http: str = "",
    dns: str = "",
    size: int = 0,
    look_up: LookUp | None = None,
) -> Asking:
    """Return the conversation that the words mean.

    *source*: `[NS/]POD`, `node/NAME`, `master`, `gateway`, `client`, `internet`; *destination*
    these, a Service (`svc/web`, `web`, `web.shop`), or an address; "" with a *http* URL that names
    a host. *port*: a number, or the name of a Service's port. *dns*: `NAME` or `NAME/TYPE`.
    *size*: bytes of the IP packet that asks, which must then not be cut to pieces. *look_up* asks
    the lab's DNS for names of Services, and for those that nothing else has; without one, names of
    Services are known from etcd. Raises NotFoundError, UsageError.
    """
    start = paths.place(cluster, source)
    if not start.netns:
        raise UsageError(f"{source} is nobody's address in this lab", hint="name a pod or a node")
    if http and dns:
        raise UsageError("--http and --dns ask two different questions", hint="give one of them")
    notes: list[str] = []
    url = urlsplit(http if "//" in http else f"//{http}" if http and not destination else http)
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    if http:
        if not http.isascii() or not http.isprintable() or " " in http:
            raise UsageError(f"--http {http!r} is no URL", hint="http://HOST/PATH; blanks are %20")
        destination, port, protocol = _of_url(url.scheme, url.netloc, destination, port, protocol)
    if dns:
        port, protocol = port or 53, protocol or "udp"
    home = start.pod.namespace if start.pod else "default"
    word = destination
    looked = None
    if look_up is not None and _is_asked_for(cluster, word):
        looked = look_up(cluster, start, word)
    if looked is not None and looked.address:
        word = _known_by(cluster, looked.address, word, home)
        notes.append(f"{destination} is {looked.name}, {looked.address}: {looked.why}")
    goal = _destination(cluster, source, word, protocol, port, home)
    if ":" in start.address + goal.place.address:
        words = f"{source} to {destination}: only conversations over IPv4 can be followed"
        raise UsageError(words, hint="netlab probe -6 SRC DST shows the way of a probe by IPv6")
    if goal.service is not None and not destination.startswith(SERVICE) and len(notes) == 0:
        why = looked.why if looked else "names are not asked of DNS"
        notes.append(f"{destination} is taken for Service {goal.title}: {why}")
    mark = token()
    question, opening = _question(goal, mark, http and path, url.netloc, dns, size)
    flow = Flow("", goal.place.address, goal.protocol, 0, goal.port)
    return Asking(start, goal, flow, opening, mark, question, tuple(notes))


def _of_url(
    scheme: str, host: str, destination: str, port: int | str, protocol: str
) -> tuple[str, int | str, str]:
    if scheme not in ("", "http"):
        raise UsageError(f"--http {scheme}://: only plain HTTP is sent", hint="http://HOST/PATH")
    if protocol not in ("", "tcp"):
        raise UsageError(f"HTTP is not spoken over {protocol}")
    name, colon, number = host.partition(":")
    if colon and not (number.isdigit() and 1 <= int(number) <= 65535):
        raise UsageError(f"--http: no port {number!r}", hint="http://HOST:PORT/PATH")
    if not destination:
        if not name:
            raise UsageError("nobody to ask", hint="netlab trace SRC --http http://HOST/PATH")
        destination = name
    return destination, port or (int(number) if number else 0) or 80, "tcp"


# -- whom


def _is_asked_for(cluster: Cluster, word: str) -> bool:
    """Return whether *word* is a name that DNS is to be asked for: no pod, machine or address, and
    not in words that only netlab or kubectl have."""
    if not word or "/" in word:
        return False
    try:
        paths.place(cluster, word)
    except (NotFoundError, UsageError):
        return True
    return False


def _known_by(cluster: Cluster, address: str, word: str, home: str) -> str:
    """Return *word* if it is the Service that has *address*, else the address."""
    service = _service(cluster, word, home)
    own = ((service or {}).get("spec") or {}).get("clusterIP")
    return word if own == address else address


def _destination(
    cluster: Cluster, source: str, word: str, protocol: str, port: int | str, home: str
) -> Destination:
    """Return whom *word* means to *source*, which is somebody in the namespace *home*."""
    service = _service(cluster, word, home)
    if service is not None:
        return _of_service(service, protocol, port)
    if not word:
        raise UsageError("no destination", hint="netlab trace SRC DST[:PORT[/PROTO]]")
    _, goal = probe.ends_of(cluster, source, word)
    if isinstance(port, str):
        named = paths.named_port(goal, port, protocol=protocol)
        port, protocol = named.containerPort, named.protocol
    kind = probe.protocol_of(protocol, port)
    return Destination(goal, goal.title, port, kind)


def _service(cluster: Cluster, word: str, home: str) -> Document | None:
    """Return the Service that *word* means, None if it means something else. A bare name is one of
    the namespace *home*, as DNS has it; `svc/NAME` one of `default`, as kubectl has it.

    Raises NotFoundError for a word that can only mean a Service.
    """
    explicit = word.startswith(SERVICE)
    name = word.partition("/")[2] if explicit else word
    found = service_called(cluster, name, namespace="default" if explicit else home)
    if explicit and found is None:
        known = [f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in
                 cluster.documents.of("Service")]  # fmt: skip
        hint = f"Services: {', '.join(known)}" if known else "the lab has no Services"
        raise NotFoundError(f"no Service {word.partition('/')[2]}", hint=hint)
    if found is None or explicit:
        return found
    try:
        cluster.pod(word)
    except LookupError:
        return None if word.startswith("node/") else found
    return None


def _of_service(service: Document, protocol: str, port: int | str) -> Destination:
    meta, spec = service["metadata"], service.get("spec") or {}
    title = f"{meta['namespace']}/{meta['name']}"
    address = spec.get("clusterIP") or ""
    if address in ("", "None"):
        what = spec.get("type", "") if spec.get("type") == "ExternalName" else "headless"
        raise UsageError(f"Service {title} has no cluster IP ({what})", hint="name one of its pods")
    if protocol == "icmp" and not port:
        return Destination(Place(address), title, 0, Protocol.ICMP, service)
    ports = [
        one
        for one in spec.get("ports") or ()
        if protocol in ("", str(one.get("protocol", "TCP")).lower())
        and port in (0, one["port"], one.get("name"))
    ]
    listed = ", ".join(_port_words(one) for one in spec.get("ports") or ())
    if isinstance(port, int) and port and not ports:
        kind = probe.protocol_of(protocol, port)
        return Destination(Place(address), title, port, kind, service)
    if not ports:
        raise UsageError(f"Service {title} has no port {port}", hint=f"it has {listed}")
    if len(ports) > 1:
        raise UsageError(f"Service {title} has several ports", hint=f"name one of {listed}")
    chosen = ports[0]
    kind = probe.protocol_of(str(chosen.get("protocol", "TCP")), chosen["port"])
    name = f"{title}:{chosen['name']}" if chosen.get("name") else title
    return Destination(Place(address), name, chosen["port"], kind, service)


def _port_words(port: dict[str, Any]) -> str:
    name = f"{port['name']} " if port.get("name") else ""
    return f"{name}{port['port']}/{port.get('protocol', 'TCP')}"


# -- what is said


def _question(
    goal: Destination, mark: bytes, path: str, host: str, dns: str, size: int
) -> tuple[Question, Opening]:
    payload = b""
    heard: Hearing | None = None
    if path:
        payload = _http_request(path, host or goal.title.rpartition("/")[2], mark)
        heard = http_answer
    elif dns:
        payload = _dns_query(dns, tcp=goal.protocol is Protocol.TCP)
        heard = _dns_heard(goal.protocol, payload)
    if size:
        payload = _filled(payload or mark, size, goal.protocol)
    if goal.protocol is Protocol.TCP:
        sequence = secrets.randbelow(2**32 // WINDOW - 1) + 1
        opening = Opening(Protocol.TCP, sequence=sequence * WINDOW)
        return Question(payload, opening.sequence, bool(size), heard), opening
    question = Question(payload, None, bool(size), heard)
    return question, Opening(goal.protocol, payload=(payload or mark)[:32])


def _http_request(path: str, host: str, mark: bytes) -> bytes:
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: netlab",
        f"X-Netlab-Trace: {mark.decode()}",
        "Accept: */*",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", ""]).encode()


def http_answer(data: bytes, ended: bool) -> dict[str, Any] | None:
    """Return what an HTTP response says once it is whole: `status`, `reason`, `bytes`, and what a
    server of netlab's says of itself; None as long as more is to come. RFC 9112."""
    head, parted, body = data.partition(b"\r\n\r\n")
    if not parted:
        return {"garbled": data[:80].decode("latin-1")} if ended else None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in
               (line.partition(":") for line in lines)}  # fmt: skip
    length = headers.get("content-length", "")
    if not ended and not (length.isdigit() and len(body) >= int(length)):
        return None
    version, _, rest = first.partition(" ")
    status, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/") or not status.isdigit():
        return {"garbled": first[:80]}
    said: dict[str, Any] = {}
    try:
        document = msgspec.json.decode(body)
        said = document if isinstance(document, dict) else {}
    except msgspec.DecodeError:
        pass
    return {**said, "status": int(status), "reason": reason, "bytes": len(body)}


def _dns_query(words: str, *, tcp: bool) -> bytes:
    """Return a query (RFC 1035, 4.1) with recursion desired. Raises UsageError."""
    name, _, kind = words.partition("/")
    if kind.upper() not in ("", *DNS_TYPES):
        raise UsageError(f"--dns: no type {kind}", hint=f"one of {', '.join(DNS_TYPES)}")
    try:
        labels = [label.encode("idna" if not label.isascii() else "ascii")
                  for label in name.rstrip(".").split(".")]  # fmt: skip
    except UnicodeError:  # too long, or with what no name may have
        labels = []
    lengths = [len(label) for label in labels]
    if not 0 < sum(lengths) + len(lengths) < 255 or any(not 0 < one < 64 for one in lengths):
        raise UsageError(f"--dns: {name!r} is no name", hint="NAME or NAME/TYPE: web/A")
    number = secrets.token_bytes(2)
    asked = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    message = number + b"\1\0\0\1\0\0\0\0\0\0" + asked
    message += DNS_TYPES[kind.upper() or "A"].to_bytes(2, "big") + b"\0\1"
    return len(message).to_bytes(2, "big") + message if tcp else message


def _dns_heard(protocol: Protocol, query: bytes) -> Hearing:
    """Return what reads an answer to *query*: of the same number, and with the bit QR."""
    skipped = 2 if protocol is Protocol.TCP else 0
    number = query[skipped : skipped + 2]

    def heard(data: bytes, ended: bool) -> dict[str, Any] | None:
        message = data[skipped:]
        if skipped and not ended and len(data) < skipped + int.from_bytes(data[:2], "big"):
            return None
        if len(message) < 12 or message[:2] != number or not message[2] & 0x80:
            return {"garbled": data[:80].decode("latin-1")}
        code = message[3] & 0xF
        words = RESULTS[code] if code < len(RESULTS) else str(code)
        return {"rcode": words, "answers": int.from_bytes(message[6:8], "big")}

    return heard


def _filled(payload: bytes, size: int, protocol: Protocol) -> bytes:
    """Return *payload* made so long that the IP packet has *size* bytes. Raises UsageError."""
    headers = 20 + {Protocol.ICMP: 8, Protocol.UDP: 8, Protocol.TCP: 32}[protocol]  # IP, transport
    if not headers + len(payload) + 2 <= size <= LARGEST[protocol]:
        smallest = headers + len(payload) + 2
        raise UsageError(
            f"--size {size} is not possible", hint=f"{smallest} to {LARGEST[protocol]} bytes"
        )
    if b"\r\n\r\n" in payload:
        filler = b"X-Filler: " + b"x" * (size - headers - len(payload) - 12) + b"\r\n\r\n"
        return payload[:-2] + filler
    rest = size - headers - len(payload)
    return payload + b" " + b"x" * (rest - 2) + (b"\n" if protocol is Protocol.TCP else b"x")
