"""The ports of one node that its pods have, and whether another pod can have what it asks for.

A port without a hostIP is one at all addresses. In the node's own network every port of a
container is one of the node.
Source: kubernetes pkg/scheduler/framework/types.go, HostPortInfo; core/v1 defaults.go,
defaultHostNetworkPorts (v1.34).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from netlab.model.kubernetes import Document
from netlab.model.loose import mappings

EVERYWHERE = ("", "0.0.0.0", "::")


class HostPort(NamedTuple):
    """*address*: "" for all of the node."""

    address: str
    protocol: str
    number: int


def host_ports(pod: Document) -> list[HostPort]:
    """Return the ports of its node that *pod* asks for."""
    on_host = pod["spec"].get("hostNetwork") is True
    found = []
    for container in mappings(pod, "spec", "containers"):
        for port in mappings(container, "ports"):
            number = port.get("hostPort") or (port.get("containerPort") if on_host else 0)
            if isinstance(number, int) and number:
                address = str(port.get("hostIP") or "")
                address = "" if address in EVERYWHERE else address
                found.append(HostPort(address, str(port.get("protocol") or "TCP"), number))
    return found


class HostPorts:
    """The ports that are taken."""

    def __init__(self) -> None:
        self._addresses: dict[tuple[str, int], set[str]] = {}  # by protocol and number

    def take(self, pod: Document) -> None:
        """Let *pod* have what it asks for."""
        for one in host_ports(pod):
            self._addresses.setdefault((one.protocol, one.number), set()).add(one.address)

    def conflict(self, wanted: Iterable[HostPort]) -> bool:
        """Return whether somebody has one of those *wanted*, at that address or at all."""
        return any(self._is_taken(one) for one in wanted)

    def _is_taken(self, one: HostPort) -> bool:
        held = self._addresses.get((one.protocol, one.number), set())
        return bool(held) and (not one.address or bool(held & {"", one.address}))
