"""What a proxy wants after a pass that failed, and after its node became another."""

from __future__ import annotations

import pytest

from netlab.agent.kubeproxy import KubeProxy
from netlab.model.kubernetes import Document, Meta, view
from netlab.model.services import ProxyNode
from netlab.proxy import Mode, Options
from netlab.proxy.objects import Objects
from netlab.proxy.programme import Programme

NODE = ProxyNode(metadata=Meta(name="n1"))


def node(address: str) -> ProxyNode:
    status = {"addresses": [{"type": "InternalIP", "address": address}]}
    return view({"kind": "Node", "metadata": {"name": "n1"}, "status": status}, ProxyNode)


def balancer(name: str, number: int) -> Document:
    return {
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": f"10.96.0.{number}",
            "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 31000 + number,
            "ports": [{"port": 80}],
        },
    }


def ports(proxy: KubeProxy) -> list[int]:
    return sorted(check.port for check in proxy.health_checks)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize(("owner", "method"), [(Objects, "take"), (Programme, "update")])
def test_what_a_failed_pass_took_is_taken_again(
    mode: Mode, owner: type, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = balancer("first", 1), balancer("second", 2)
    proxy, whole = KubeProxy(Options(mode=mode)), KubeProxy(Options(mode=mode))
    proxy.wanted([first], NODE)
    real = getattr(owner, method)

    def failing(*given: object) -> None:
        real(*given)
        raise TypeError("a defect")

    with monkeypatch.context() as patched, pytest.raises(TypeError):
        patched.setattr(owner, method, failing)
        proxy.wanted([second], NODE)
    proxy.wanted([second], NODE)
    whole.wanted([second], NODE)
    assert proxy.blocks == whole.blocks
    assert ports(proxy) == [31002]


@pytest.mark.parametrize("mode", list(Mode))
def test_a_service_that_goes_when_the_node_changes_is_gone(mode: Mode) -> None:
    first, second = balancer("first", 1), balancer("second", 2)
    proxy = KubeProxy(Options(mode=mode))
    proxy.wanted([first, second], node("192.0.2.1"))
    assert ports(proxy) == [31001, 31002]
    proxy.wanted([second], node("192.0.2.2"))
    assert ports(proxy) == [31002]
