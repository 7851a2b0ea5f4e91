"""Health-check node ports: HTTP servers that tell load balancers whether to send here.

They are in the namespace of whoever sets them, at the addresses that have NodePorts. The proxy's
own health has a port of its own, at all addresses, which load balancers ask about Services whose
traffic policy is Cluster.
Source: kubernetes pkg/proxy/healthcheck/service_health.go and proxy_health.go, v1.34. There a port
whose address is taken when its Service comes stays closed; here it is tried again each time.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping

from netlab.agent.answers import Answer, Answers
from netlab.balancing.listeners import HEALTHZ_PORT
from netlab.controllers.change import now
from netlab.kernel.addresses import local_addresses
from netlab.processes.holder import holder
from netlab.proxy.addresses import Family, socket_address
from netlab.proxy.frontend import HealthCheck
from netlab.proxy.options import Situation

BACKLOG = 128  # connections not yet accepted, per port
EVERYWHERE = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}
NUMBER = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}

Place = tuple[Family, str, int]  # where a port is: address and number


class HealthChecks:
    """The health-check node ports of one node. `close` closes them all."""

    def __init__(self) -> None:
        self._answers: Answers | None = None  # while there are ports
        self._problems: dict[Place, tuple[int, str]] = {}  # of the last `set`: errno and words

    def set(
        self,
        checks: Iterable[HealthCheck],
        situations: Mapping[Family, Situation],
        *,
        own: Answer | None = None,
    ) -> list[str]:
        """Have *checks* answered from now on, and no others; return which cannot be, and why.

        *own*: what is answered about the proxy itself.
        The calling thread is in the node's namespace. Those that cannot be are tried again the
        next time.
        """
        addresses: dict[Family, list[str]] = {}
        wanted: dict[Place, tuple[str, Answer]] = {}
        if own is not None:
            place = (Family.IPV4, EVERYWHERE[Family.IPV4], HEALTHZ_PORT)
            wanted[place] = (f"the proxy's health: port {HEALTHZ_PORT}", own)
        problems: list[str] = []
        for check in checks:
            if check.family not in addresses:
                addresses[check.family] = listening_addresses(situations[check.family])
            if not addresses[check.family]:
                problems.append(f"{_title(check)}: the node has no address for NodePorts")
            for address in addresses[check.family]:
                told = Answer(check.status, check.headers, check.body)
                wanted[check.family, address, check.port] = (_title(check), told)
        self._shut(wanted.keys())
        before, self._problems = self._problems, {}
        for place, (title, told) in wanted.items():
            if self._answers is not None and place in self._answers.names:
                self._answers.say(place, told)
                continue
            try:
                self._open(place, told)
            except OSError as error:
                number, words = before.get(place, (None, ""))
                if number != error.errno:
                    words = _refusal(place, error)
                self._problems[place] = (error.errno or 0, words)
                problems.append(f"{title}: {words}")
        return problems

    def close(self) -> None:
        """Close all ports, and end the thread that served them."""
        if self._answers is not None:
            self._answers.close()
            self._answers = None

    def _shut(self, wanted: Iterable[Place]) -> None:
        """Close the ports that are not *wanted*; without any, the thread is not either."""
        if self._answers is None:
            return
        for place in set(self._answers.names) - set(wanted):
            self._answers.shut(place)
        if not self._answers.names:
            self.close()

    def _open(self, place: Place, told: Answer) -> None:
        family, address, port = place
        sock = socket.socket(NUMBER[family], socket.SOCK_STREAM)
        try:
            # Not to wait for connections of the port's last time.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is Family.IPV6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
            sock.listen(BACKLOG)
            if self._answers is None:
                self._answers = Answers()
            self._answers.open(place, sock, told)
        except BaseException:
            sock.close()
            raise


def proxy_health() -> Answer:
    """Return what kube-proxy answers about itself while its rules are as they should be."""
    time = now()
    body = f'{{"lastUpdated": "{time}","currentTime": "{time}", "nodeEligible": true}}'
    headers = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
    return Answer(200, headers, body)


def listening_addresses(situation: Situation) -> list[str]:
    """Return where health checks listen: at the addresses of the namespace that have NodePorts."""
    if situation.node_ports.everywhere:
        return [EVERYWHERE[situation.family]]
    # Link-local addresses mean nothing without their link.
    own = [one for one in local_addresses(situation.family) if not one.startswith("fe80:")]
    return sorted(one for one in own if situation.node_ports.on(one))


def _title(check: HealthCheck) -> str:
    return f"Service {check.namespace}/{check.name}: health check port {check.port}"


def _refusal(place: Place, error: OSError) -> str:
    _, address, port = place
    words = os.strerror(error.errno or 0).lower()
    who = holder(port)
    return f"{socket_address(address, port)}: {words}" + (f" by {who}" if who else "")
