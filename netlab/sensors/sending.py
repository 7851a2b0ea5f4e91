"""Probes sent from real sockets in the sender's namespace, and the answers that come back.

A socket belongs to the namespace it was made in, so the thread is in there only while it makes
one; reading needs no namespace. Nothing here waits: `Sent.answer` looks whether there is one yet.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import msgspec

from netlab.kernel.netns import entered
from netlab.packets import Flow, Protocol
from netlab.sensors import build
from netlab.sensors.dissect import ICMP_NAMES, ICMPV6_NAMES
from netlab.sensors.ports import SINGLE, Ports

IP_RECVERR = 11  # linux/in.h: a connected UDP socket also reports unreachable networks and hosts
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2  # linux/in.h: never cut to pieces (DF), RFC 1191
IPV6_RECVERR, IPV6_MTU_DISCOVER = 25, 23  # linux/in6.h: the same of IPv6
# linux/tcp.h: a socket that is being restored may be told its sequence number; so may a new one
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
TCP_SEND_QUEUE = 2
ECHO_REPLY, ECHO_REPLY_V6 = 0, 129  # ICMP type, RFC 792; ICMPv6 type, RFC 4443
UNREACHABLE, UNREACHABLE_V6 = 3, 1
RECEIVE = 65536  # bytes
_ports = Ports(SINGLE)


# From what was read so far, and whether that is all: what the server says, None: not all yet
Hearing = Callable[[bytes, bool], dict[str, Any] | None]


class Answer(msgspec.Struct, frozen=True):
    """What came back: from whom, what the server said of itself and of us, or who refused."""

    source: str = ""
    says: dict[str, Any] = {}
    refused: str = ""  # `connection refused`, `network is unreachable`

    @property
    def client(self) -> str:
        """The address that the server saw the probe come from."""
        return str(self.says.get("client", ""))


class Sent:
    """A probe on its way. Close it when the answer is there or no longer waited for."""

    def __init__(
        self, sock: socket.socket, flow: Flow, token: bytes, *, heard: Hearing | None = None
    ) -> None:
        self.flow = flow
        self.token = token
        self._heard = heard
        self._socket = sock
        self._unsent = b""
        self._read = b""
        self._answer: Answer | None = None

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Sent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def again(self, token: bytes) -> None:
        """Send once more over UDP, from the same port and with another *token*."""
        self.token, self._answer = token, None
        try:
            self._socket.send(token)
        except OSError as error:
            self.refuse(error)

    def refuse(self, error: OSError) -> None:
        """Take note that the kernel refused to send it."""
        self._answer = Answer(refused=(error.strerror or str(error)).lower())

    def answer(self) -> Answer | None:
        """Return the answer once it has come; sends what could not be sent before."""
        if self._answer is None:
            try:
                self._answer = self._look()
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self.refuse(error)
        return self._answer

    def _look(self) -> Answer | None:
        if self.flow.protocol is Protocol.ICMP:
            return self._echo()
        if self.flow.protocol is Protocol.UDP:
            data = self._socket.recv(RECEIVE)
            says = _said(data) if self._heard is None else self._heard(data, True)
            return Answer(self.flow.destination, says or {})
        return self._line()

    def _echo(self) -> Answer | None:
        """An echo reply with our token; a raw socket hears every ICMP message of its namespace."""
        while True:
            packet, (source, *_) = self._socket.recvfrom(RECEIVE)
            ipv6 = ":" in source
            # Of IPv6 a raw socket hears the message without its header.
            message = packet if ipv6 else packet[(packet[0] & 0xF) * 4 :]
            if self.token not in message:
                continue
            kind, code = message[:2]
            if kind == (ECHO_REPLY_V6 if ipv6 else ECHO_REPLY):
                return Answer(source)
            if kind == (UNREACHABLE_V6 if ipv6 else UNREACHABLE):
                names = ICMPV6_NAMES if ipv6 else ICMP_NAMES
                words = names.get((kind, code), "unreachable").replace("-", " ")
                return Answer(source, refused=f"{words} from {source}")

    def _line(self) -> Answer | None:
        if self._unsent:
            failed = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                raise OSError(failed, os.strerror(failed))
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, OSError) as error:
                if error.errno in (errno.ENOTCONN, errno.EAGAIN):
                    return None  # still connecting
                raise
            self._unsent = self._unsent[sent:]
        part = self._socket.recv(RECEIVE)
        self._read += part
        if self._heard is not None:
            says = self._heard(self._read, not part)
            return None if says is None else Answer(self.flow.destination, says)
        *lines, _ = self._read.split(b"\n")
        # A server that was kept waiting first answers by itself; ours is the line with our token.
        ours = [line for line in lines if self.token in line or not _said(line)]
        if part and not ours:
            return None
        return Answer(self.flow.destination, _said(ours[0] if ours else self._read))


def _said(data: bytes) -> dict[str, Any]:
    """What a server of netlab says; another server's words count as an answer without facts."""
    try:
        said = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return {}
    return said if isinstance(said, dict) else {}


class Question(msgspec.Struct, frozen=True):
    """What a probe says beside its token: nothing more, if all is empty.

    *payload*: instead of the token, which it should begin with or hold; *sequence*: the number its
    TCP connection begins with; *whole*: it must not be cut to pieces on its way (DF); *heard*:
    tells from what was read whether it is the answer.
    """

    payload: bytes = b""
    sequence: int | None = None
    whole: bool = False
    heard: Hearing | None = None


def send(
    netns: str,
    flow: Flow,
    token: bytes,
    question: Question | None = None,
    *,
    ports: Ports = _ports,
) -> Sent:
    """Send a probe of *flow* from *netns*: an ICMP echo, a UDP datagram, a TCP connection.

    A source port of 0 is chosen (of *ports*) and to be read from the returned probe's flow.
    Raises KernelError when there is no such namespace.
    """
    asked = question or Question()
    with entered(netns):
        if flow.protocol is Protocol.ICMP:
            return _send_echo(flow, token, asked)
        kind = socket.SOCK_DGRAM if flow.protocol is Protocol.UDP else socket.SOCK_STREAM
        sock = socket.socket(_family(flow), kind | socket.SOCK_NONBLOCK)
        return _send_payload(sock, netns, flow, token, asked, ports)


def _family(flow: Flow) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in flow.destination else socket.AF_INET


def _never_cut(sock: socket.socket) -> None:
    """Have what *sock* sends not be cut to pieces."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_DO)
    else:
        sock.setsockopt(socket.SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)


def _send_echo(flow: Flow, token: bytes, asked: Question) -> Sent:
    family = _family(flow)
    number = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, number)
    sent = Sent(sock, flow, token)
    try:
        if asked.whole:
            _never_cut(sock)
        if flow.source:
            sock.bind((flow.source, 0))
        ident = struct.unpack("=H", os.urandom(2))[0]
        ipv6 = family == socket.AF_INET6
        message = build.echo_request(asked.payload or token, ident=ident, ipv6=ipv6)
        sock.sendto(message, (flow.destination, 0))
    except OSError as error:
        sent.refuse(error)
    return sent


def _send_payload(
    sock: socket.socket, netns: str, flow: Flow, token: bytes, asked: Question, ports: Ports
) -> Sent:
    """Connect, so that the kernel tells us of ICMP errors and chooses the address now."""
    sent = Sent(sock, flow, token, heard=asked.heard)
    try:
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        else:
            sock.setsockopt(socket.SOL_IP, IP_RECVERR, 1)
        if asked.whole:
            _never_cut(sock)
        if asked.sequence is not None:
            begin_with(sock, asked.sequence)
        if flow.source_port:
            sock.bind((flow.source, flow.source_port))
        else:
            to = flow.destination_port
            ends = (netns, flow.destination, to, flow.protocol)
            ports.bind(sock, ends, address=flow.source, to=to)
        failed = sock.connect_ex((flow.destination, flow.destination_port))
        source, source_port = sock.getsockname()[:2]
        sent.flow = msgspec.structs.replace(flow, source=source, source_port=source_port)
        if failed not in (0, errno.EINPROGRESS):
            raise OSError(failed, os.strerror(failed))
        if flow.protocol is Protocol.UDP:
            sock.send(asked.payload or token)
        else:
            sent._unsent = asked.payload or token + b"\n"
    except OSError as error:
        sent.refuse(error)
    return sent


def begin_with(sock: socket.socket, sequence: int) -> None:
    """Have a TCP socket that is not connected yet begin with the number *sequence*, not 0.

    Source: net/ipv4/tcp.c, TCP_QUEUE_SEQ; net/ipv4/tcp_ipv4.c, tcp_v4_connect, which keeps a
    number that is set. Raises OSError.
    """
    for option, value in (
        (TCP_REPAIR, 1),
        (TCP_REPAIR_QUEUE, TCP_SEND_QUEUE),
        (TCP_QUEUE_SEQ, sequence),
        (TCP_REPAIR, 0),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, struct.pack("I", value))
