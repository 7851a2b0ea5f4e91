"""Which requests the path `ingress` asks of a controller."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from vhost_cases import ingress, objects, path

from netlab import vhosts
from netlab.cluster import PodState
from netlab.model.inventory import Inventory, inventory
from netlab.model.kubernetes import Container, ContainerPort
from netlab.verify import webrequests
from netlab.verify.context import Context
from netlab.vhosts.model import Settings

PEM = "-----BEGIN CERTIFICATE-----\n"


def secret(**data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "pair", "namespace": "default"},
        "type": "kubernetes.io/tls",
        "stringData": data,
    }


A = ("10.244.1.2", 8080)


def pod(address: str = A[0], *, command: tuple[str, ...] = ()) -> PodState:
    listening = Container("app", command=list(command), ports=[ContainerPort(A[1], protocol="TCP")])
    return PodState("default", "a-0", "n1", "", "", address, "Running", (listening,), {})


def asked(documents: Inventory, pods: list[PodState], *ends: tuple[str, int]) -> list[str]:
    """Return the schemes of what is asked of an Ingress whose Service has *ends*."""
    cluster = SimpleNamespace(documents=documents, pods=pods)
    context = cast(Context, SimpleNamespace(cluster=cluster, pods=pods))
    routing = vhosts.routing(documents, Settings())
    found = webrequests.wanted_of(context, routing, dict.fromkeys(routing.backends, ends))
    return [one.scheme for one in found]


def served(*more: dict[str, Any], **spec: Any) -> Inventory:
    one = ingress("one", {"one.example": [path("Prefix", "/", "a")]}, **spec)
    shared = objects("hosts")
    return inventory([*shared.of("IngressClass"), *shared.of("Service"), one, *more])


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        ([secret(**{"tls.crt": PEM, "tls.key": PEM})], ["http", "https"]),
        ([], ["http"]),
        ([secret(**{"tls.crt": "hello", "tls.key": PEM})], ["http"]),
        ([secret(**{"tls.crt": PEM})], ["http"]),
    ],
    ids=["sound", "missing", "no PEM", "without a key"],
)
def test_only_a_known_certificate_is_asked_for(
    secrets: list[dict[str, Any]], expected: list[str]
) -> None:
    tls = [{"hosts": ["one.example"], "secretName": "pair"}]
    assert asked(served(*secrets, tls=tls), [pod()], A) == expected


@pytest.mark.parametrize(
    ("pods", "ends", "expected"),
    [
        ([pod()], [A], ["http"]),
        ([pod(command=("sleep", "9"))], [A], []),
        ([pod()], [A, (A[0], 9)], []),
        ([pod()], [], []),
        ([pod("10.244.1.3")], [A], ["http"]),
    ],
    ids=["netlab's own", "a program", "another port", "nobody", "no pod's address: to be seen"],
)
def test_what_cannot_say_who_it_is_is_not_asked(
    pods: list[PodState], ends: list[tuple[str, int]], expected: list[str]
) -> None:
    assert asked(served(), pods, *ends) == expected
