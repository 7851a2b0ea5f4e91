"""A pod, a node or a machine around them: somewhere to send packets and run programs from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from netlab.errors import UsageError
from netlab.testing.answers import Answer, Place, Ran, Response, Service

if TYPE_CHECKING:
    from netlab.testing.lab import Lab
    from netlab.testing.ways import Trace

TIMEOUT = 2.0  # seconds for an answer; a SYN is sent again after one
HTTP_TIMEOUT = 5.0  # seconds
COMMAND_TIMEOUT = 60.0  # seconds
PING_BYTES = 56  # of data, as ping(8) sends
__tracebackhide__ = True  # pytest: a failure in here is shown where the test called


class Machine:
    """One place of a lab, as it was when it was asked for: a pod that comes again is another."""

    def __init__(self, lab: Lab, place: Place) -> None:
        self._lab = lab
        self.place = place

    @property
    def name(self) -> str:
        """`default/web-1`, `n1`, `client`."""
        return self.place.name

    @property
    def address(self) -> str:
        """Its own address: a pod's, a node's on the underlay."""
        return self.place.address

    @property
    def node(self) -> str:
        """The name of the node a pod is on; a node's own; "" for the machines around them."""
        return self.place.node

    @property
    def netns(self) -> str:
        """The name of its network namespace, for `ip netns exec`."""
        return self.place.netns

    @property
    def labels(self) -> dict[str, str]:
        return self.place.labels

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        where = f" on {self.node}" if self.place.kind == "pod" else ""
        return f"<{self.place.kind} {self.name} {self.address}{where}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Machine) and self.place == other.place

    def __hash__(self) -> int:
        return hash(self.place.word)

    def get(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = HTTP_TIMEOUT
    ) -> Response:
        """Return the response to a real HTTP GET from here, redirects not followed.

        Until the cluster has DNS, the name in *url* is looked up by the plugin: a Service as DNS
        has it (`web`, `web.shop`) by its cluster IP, a pod, node or machine by its address.
        Raises ConnectionRefusedError, TimeoutError, another OSError; NotFoundError for the name.
        """
        return self._lab.keeper.ask(
            "get", Response, **self._who, url=url, headers=dict(headers or {}), timeout=timeout
        )

    def ping(
        self,
        target: str | Machine | Service,
        *,
        size: int = PING_BYTES,
        dont_fragment: bool = False,
        timeout: float = TIMEOUT,
    ) -> Answer:
        """Return what came of one ICMP echo with *size* bytes of data (28 less than its packet)."""
        return self._lab.keeper.ask(
            "ping",
            Answer,
            **self._who,
            target=word(target),
            size=size,
            dont_fragment=dont_fragment,
            timeout=timeout,
        )

    def tcp(
        self, target: str | Machine | Service, port: int, *, timeout: float = TIMEOUT
    ) -> Answer:
        """Return what came of a TCP connection on which a line of text was sent."""
        return self._connect(target, port, "tcp", timeout)

    def udp(
        self, target: str | Machine | Service, port: int, *, timeout: float = TIMEOUT
    ) -> Answer:
        """Return what came of a UDP datagram."""
        return self._connect(target, port, "udp", timeout)

    def _connect(
        self, target: str | Machine | Service, port: int, protocol: str, timeout: float
    ) -> Answer:
        return self._lab.keeper.ask(
            "connect",
            Answer,
            **self._who,
            target=word(target),
            port=port,
            protocol=protocol,
            timeout=timeout,
        )

    def exec(
        self, *words: str, input: str = "", timeout: float = COMMAND_TIMEOUT, check: bool = False
    ) -> Ran:
        """Run a command here and return its `returncode`, `stdout` and `stderr`.

        In a pod it is in all the pod's namespaces, as `netlab exec` has it. *check*: an exit code
        other than 0 fails the test.
        """
        ran = self._lab.keeper.ask(
            "execute", Ran, word=self.place.word, words=list(words), input=input, timeout=timeout
        )
        if check and ran.returncode:
            raise AssertionError(repr(ran))
        return ran

    def trace(
        self,
        target: str | Machine | Service,
        *,
        port: int | str = 0,
        protocol: str = "",
        http: str = "",
        size: int = 0,
        all_rules: bool = False,
    ) -> Trace:
        """Return the way of one conversation from here, packet by packet.

        *target*: a name or address, also `web:80`, `web:http` or `dns:53/udp`; without a port a
        Service's only one, else an ICMP echo. *http*: a path to ask for, `/`. *size*: bytes of the
        IP packet that asks, sent whole or not at all. *all_rules*: those that did not fit, too.
        """
        name, port, protocol = end(word(target), port=port, protocol=protocol)
        return self._lab.trace(
            self, name, port=port, protocol=protocol, http=http, size=size, all_rules=all_rules
        )

    @property
    def _who(self) -> dict[str, str]:
        return {
            "source": self.name,
            "netns": self.place.netns,
            "namespace": self.namespace,
        }

    @property
    def namespace(self) -> str:
        """The Kubernetes namespace in which names are looked up from here."""
        return self.name.partition("/")[0] if self.place.kind == "pod" else "default"


def word(target: str | Machine | Service) -> str:
    """Return the word for *target* that the keeper looks up."""
    if isinstance(target, Machine):
        return f"pod/{target.name}" if target.place.kind == "pod" else target.place.word
    if isinstance(target, Service):
        return f"svc/{target}"
    return target


def end(target: str, *, port: int | str, protocol: str) -> tuple[str, int | str, str]:
    """Return (name, port, protocol) of `NAME[:PORT[/PROTOCOL]]` and what was given beside it.

    Raises UsageError when both say a port, and they differ.
    """
    name, colon, rest = target.rpartition(":")
    if not colon:
        return target, port, protocol.lower()
    said, _, kind = rest.partition("/")
    if port and str(port) != said:
        raise UsageError(f"{target}: two ports, {said} and {port}", hint="name one of them")
    return name, int(said) if said.isdecimal() else said, (protocol or kind).lower()
