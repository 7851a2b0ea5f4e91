"""Probes asked for real: a port, a page, a program; from a namespace made by hand."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from podplaces import SOON, made

from netlab.pods.control import Port, Served, Servers
from netlab.pods.probing import Probing
from netlab.probes import Probe, Sort

pytestmark = pytest.mark.kernel
pytest_plugins = ["podplaces"]  # the fixtures `rundir` and `place`


@pytest.fixture
def home(place: Callable[[], str]) -> str:
    return place()


@pytest.fixture
def probing(rundir: Path, home: str) -> Iterator[Probing]:
    asked = Probing(rundir, home)
    yield asked
    asked.close()


@pytest.fixture
def server(rundir: Path, home: str) -> Iterator[None]:
    """Somebody who answers on port 80."""
    servers = Servers(rundir)
    ports = (Port(80),)
    one = Served(netns=home, node="n1", namespace="shop", pod="web-0", container="c", ports=ports)
    servers.update([one])
    yield
    servers.close()


def probe(port: int = 0, **fields: Any) -> Probe:
    more = {"sort": Sort.READINESS, "period": 1, "failures": 1, **fields}
    return Probe(uid="u", container="c", address="127.0.0.1", port=port, **more)


def decided(probing: Probing, one: Probe) -> tuple[bool | None, str]:
    """Return what is decided of *one* at last, having been woken by it."""
    probing.set([one])
    deadline = time.monotonic() + SOON
    while True:
        passed, trouble = probing.gauges()[one]
        if passed is not None:
            return passed, trouble
        poll = select.poll()
        poll.register(probing.fileno(), select.POLLIN)
        assert poll.poll((deadline - time.monotonic()) * 1000), "it tells when it is decided"
        probing.heard()


def test_a_port_that_listens_passes_at_once(probing: Probing, server: None) -> None:
    began = time.monotonic()
    assert decided(probing, probe(80)) == (True, "")
    assert time.monotonic() - began < SOON / 2


def test_a_port_that_is_closed_does_not(probing: Probing) -> None:
    assert decided(probing, probe(81)) == (
        False,
        "dial tcp 127.0.0.1:81: connect: connection refused",
    )


def test_a_page_is_judged_by_its_status(probing: Probing, server: None) -> None:
    assert decided(probing, probe(80, page="/healthz")) == (True, "")
    refused = 'Get "http://127.0.0.1:81/": dial tcp 127.0.0.1:81: connect: connection refused'
    assert decided(probing, probe(81, page="/")) == (False, refused)


def test_nobody_at_all_is_given_up_in_time(probing: Probing, home: str) -> None:
    one = Probe(
        *("u", "c", Sort.READINESS, "192.0.2.1", 80),
        period=1,
        failures=1,
    )
    passed, trouble = decided(probing, one)
    assert passed is False
    assert "network is unreachable" in trouble


@pytest.mark.parametrize(
    ("script", "passed", "trouble"),
    [
        pytest.param("exit 0", True, "", id="well"),
        pytest.param("exit 3", False, "exit code 3", id="a code"),
        pytest.param("echo not yet; exit 1", False, "not yet", id="with words"),
        pytest.param(
            "sleep 30", False, 'command "sh -c sleep 30" timed out after 1s', id="too long"
        ),
    ],
)
def test_a_program_is_executed_in_the_pod(
    rundir: Path, probing: Probing, home: str, script: str, passed: bool, trouble: str
) -> None:
    made(rundir, home)
    one = probe(argv=("sh", "-c", script), sandbox=("shop", "web-0"), timeout=1)
    assert decided(probing, one) == (passed, trouble)


def test_what_is_no_longer_asked_is_forgotten(probing: Probing, server: None) -> None:
    one = probe(80)
    assert decided(probing, one)[0]
    probing.set([])
    assert probing.gauges() == {}
