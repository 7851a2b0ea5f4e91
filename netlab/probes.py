"""Probes of containers: what a manifest asks for, and what a row of results comes to.

Pure: `pods.probing` asks, the kubelet acts.
Source: kubernetes pkg/kubelet/prober (v1.34): worker.go, prober.go; pkg/apis/core/v1/defaults.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from netlab.model.kubernetes import Document
from netlab.model.loose import mapping, mappings, number

PERIOD, TIMEOUT = 10, 1  # seconds
SUCCESSES, FAILURES = 1, 3  # in a row


class Sort(StrEnum):
    """What a probe decides: its field is `<sort>Probe`."""

    STARTUP = "startup"
    LIVENESS = "liveness"
    READINESS = "readiness"


class Probe(msgspec.Struct, frozen=True):
    """A question to be asked again and again: a port, a page, or a program's exit code."""

    uid: str  # the pod's
    container: str
    sort: Sort
    address: str
    port: int = 0
    page: str = ""  # of HTTP, with its leading slash; "" asks for no more than a connection
    headers: tuple[tuple[str, str], ...] = ()
    argv: tuple[str, ...] = ()
    sandbox: tuple[str, str] = ("", "")  # namespace and name of the pod, where argv is executed
    netns: str = ""
    delay: int = 0  # seconds
    period: int = PERIOD
    timeout: int = TIMEOUT
    successes: int = SUCCESSES
    failures: int = FAILURES
    run: int = 0  # how often the container was started before

    @property
    def title(self) -> str:
        return self.sort.value.capitalize()


class Gauge:
    """What the answers to one probe come to. `passed`: None before there is a decision."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.passed: bool | None = None
        self.trouble = ""  # of the last answer
        self._row, self._good = 0, False

    def take(self, trouble: str) -> bool:
        """Take an answer, *trouble* being "" for a good one; return whether the decision is new."""
        good = not trouble
        self._row = self._row + 1 if good is self._good and self._row else 1
        self._good, self.trouble = good, trouble
        enough = self.probe.successes if good else self.probe.failures
        if self._row < enough or self.passed is good:
            return False
        self.passed = good
        return True


def of_pod(document: Document, containers: Mapping[str, int], *, netns: str) -> Iterator[Probe]:
    """Yield the probes of the running *containers* of a pod: name to how often it was restarted."""
    status = mapping(document, "status")
    for one in mappings(document, "spec", "containers"):
        if one.get("name") not in containers:
            continue
        for sort in Sort:
            probe = one.get(f"{sort.value}Probe")
            if isinstance(probe, dict):
                yield _probe(document, one, sort, probe, containers[one["name"]], netns, status)


def _probe(
    document: Document,
    container: Mapping[str, Any],
    sort: Sort,
    probe: Mapping[str, Any],
    run: int,
    netns: str,
    status: Mapping[str, Any],
) -> Probe:
    meta = document["metadata"]
    http = mapping(probe, "httpGet")
    # The gRPC service of an image is not here; netlab answers on its port itself.
    tcp = mapping(probe, "tcpSocket") or mapping(probe, "grpc")
    command = mapping(probe, "exec").get("command") or ()
    path = str(http.get("path") or "/") if http else ""
    return Probe(
        uid=meta["uid"],
        container=str(container["name"]),
        sort=sort,
        address=str((http or tcp).get("host") or status.get("podIP") or ""),
        port=_port((http or tcp).get("port"), container),
        page=path if path.startswith("/") or not path else f"/{path}",
        headers=tuple(
            (str(one.get("name")), str(one.get("value", "")))
            for one in mappings(http, "httpHeaders")
        ),
        argv=tuple(map(str, command)),
        sandbox=(meta["namespace"], meta["name"]),
        netns=netns,
        delay=number(probe, "initialDelaySeconds"),
        period=max(1, number(probe, "periodSeconds", PERIOD)),
        timeout=max(1, number(probe, "timeoutSeconds", TIMEOUT)),
        successes=max(1, number(probe, "successThreshold", SUCCESSES)),
        failures=max(1, number(probe, "failureThreshold", FAILURES)),
        run=run,
    )


def _port(value: object, container: Mapping[str, Any]) -> int:
    """Return a port by number or by the name it has in *container*; 0: there is none."""
    if isinstance(value, int):
        return value
    for one in mappings(container, "ports"):
        if value and one.get("name") == value:
            return number(one, "containerPort")
    return int(value) if isinstance(value, str) and value.isdigit() else 0
