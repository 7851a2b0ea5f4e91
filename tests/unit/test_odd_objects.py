"""Objects that no API server would have let in: they harm nobody else."""

from __future__ import annotations

from typing import Any

import pytest

from netlab.agent.kubeproxy import KubeProxy
from netlab.model.kubernetes import Document, Meta
from netlab.model.services import ProxyNode
from netlab.proxy import Mode, Options

NODE = ProxyNode(metadata=Meta(name="n1"))
SLICE: Document = {
    "kind": "EndpointSlice",
    "metadata": {
        "name": "web-1",
        "namespace": "default",
        "labels": {"kubernetes.io/service-name": "web"},
    },
    "addressType": "IPv4",
    "ports": [{"name": "p", "port": 80}],
    "endpoints": [{"addresses": ["10.244.0.2"]}],
}


def service(name: Any, number: int, **more: Any) -> Document:
    spec = {"clusterIP": f"10.96.0.{number}", "ports": [{"name": "p", "port": 80}]}
    return {"kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec} | (
        more
    )


def ports(*names: str) -> Document:
    listed = [{"name": name, "port": 80 + place} for place, name in enumerate(names)]
    return {"clusterIP": "10.96.0.2", "ports": listed}


ODD = {
    "status is a number": service("odd", 2, status=7),
    "status is a list": service("odd", 2, status=[None]),
    "conditions is a number": service("odd", 2, status={"conditions": 7}),
    "a condition is nothing": service("odd", 2, status={"conditions": [None, 7, "x", []]}),
    "the name is a list": service([], 2),
    "the name is nothing": service("", 2),
    "the name has two lines": service("a\nCOMMIT\n-A INPUT -j DROP", 2),
    "the name ends its comment": service('a" -j DROP', 2),
    "the name has blanks": service("a b", 2),
    "the name is too long": service("a" * 64, 2),
    "the namespace has two lines": {
        "kind": "Service",
        "metadata": {"name": "odd", "namespace": "a\nb"},
        "spec": ports("p"),
    },
    "a port's name has two lines": service("odd", 2, spec=ports("a\nb")),
}


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_the_others_are_served_and_nothing_odd_is_written(mode: Mode, odd: Document) -> None:
    good = service("good", 1)
    alone, beside = KubeProxy(Options(mode=mode)), KubeProxy(Options(mode=mode))
    alone.wanted([good], NODE)
    beside.wanted([good, odd], NODE)
    harmless = odd.get("status") is not None
    assert harmless or (beside.blocks == alone.blocks and len(beside.warnings) == 1)
    assert alone.blocks.keys() <= beside.blocks.keys()
    assert all(len(text.splitlines()) < 2 for text in _texts(beside))
    beside.wanted([good], NODE)
    assert (beside.blocks, beside.warnings) == (alone.blocks, [])


def _texts(proxy: KubeProxy) -> list[str]:
    return [
        one for block in proxy.blocks.values() for one in (block.name, *block.head, *block.lines)
    ]


@pytest.mark.parametrize("mode", list(Mode))
def test_a_port_with_an_odd_name_does_not_take_its_service_along(mode: Mode) -> None:
    proxy, whole = KubeProxy(Options(mode=mode)), KubeProxy(Options(mode=mode))
    proxy.wanted([service("odd", 2, spec=ports("p", "a b"))], NODE)
    whole.wanted([service("odd", 2, spec=ports("p"))], NODE)
    assert proxy.blocks == whole.blocks
    (warning,) = proxy.warnings
    assert "'a b' 81/TCP" in warning


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("seconds", [-1, 0, 86401, 1 << 40])
def test_an_affinity_no_tool_would_take_is_the_usual_one(mode: Mode, seconds: int) -> None:
    def blocks(given: int | None) -> object:
        proxy = KubeProxy(Options(mode=mode))
        config = {"clientIP": {"timeoutSeconds": given}}
        spec = ports("p") | {"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}
        proxy.wanted([service("web", 2, spec=spec), SLICE], NODE)
        return proxy.blocks, proxy.portals

    assert blocks(seconds) == blocks(None) != blocks(600)
