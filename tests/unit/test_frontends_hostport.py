"""hostPorts as frontends."""

from __future__ import annotations

from typing import Any

import pytest
from service_objects import HERE, NODE, THERE

from netlab import proxy
from netlab.model.kubernetes import Pod, view
from netlab.model.services import ProxyNode, Service
from netlab.proxy import Decision, Kind, Options, Verdict


def pod(name: str = "a", **others: Any) -> dict[str, Any]:
    port = {"containerPort": 8080, "hostPort": 9000, **others.pop("port", {})}
    spec = {"nodeName": HERE, "containers": [{"name": "c", "ports": [port]}]}
    return {
        "metadata": {
            "name": name,
            "namespace": "default",
        },
        "spec": {**spec, **others.pop("spec", {})},
        "status": {"podIP": "10.244.1.5", "phase": "Running", **others},
    }


def decide(*pods: dict[str, Any], services: tuple[Any, ...] = ()) -> Decision:
    given = [view(one, Service) for one in services]
    views = [view(one, Pod) for one in pods]
    return proxy.decision(given, [], view(NODE, ProxyNode), Options(), pods=views)


@pytest.mark.parametrize(
    ("source", "to", "masqueraded"),
    [
        ("203.0.113.2", "192.168.50.11", False),
        ("192.168.50.11", "192.168.50.11", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("10.244.1.5", "192.168.50.11", True),
        ("203.0.113.2", "192.168.50.12", None),
    ],
)
def test_a_host_port_leads_to_its_pod(source: str, to: str, masqueraded: bool | None) -> None:
    found = proxy.outcome(decide(pod()), proxy.Packet(source, to, 9000), local={"192.168.50.11"})
    if masqueraded is None:
        assert found.verdict is Verdict.NO_MATCH
    else:
        assert found.endpoints == {"10.244.1.5:8080": masqueraded}


@pytest.mark.parametrize(
    ("changed", "warnings"),
    [
        (pod(port={"hostPort": 0}), 0),
        (pod(port={"hostPort": 70000}), 1),
        (pod(port={"hostIP": "eth0"}), 1),
        (pod(port={"hostIP": "::"}), 0),
        (pod(podIP=""), 0),
        (pod(podIP="x"), 1),
        (pod(phase="Failed"), 0),
        (pod(spec={"nodeName": THERE}), 0),
        (pod(spec={"hostNetwork": True}), 0),
    ],
    ids=str,
)
def test_no_host_port(changed: dict[str, Any], warnings: int) -> None:
    found = decide(changed)
    assert found.frontends == ()
    assert len(found.warnings) == warnings


def test_pods_share_a_host_port_if_address_or_protocol_differ() -> None:
    pods = [
        pod("a", port={"hostIP": "0.0.0.0"}),
        pod("b", port={"hostIP": "192.168.50.11"}),
        pod("c", port={"protocol": "UDP"}),
        pod("z"),
    ]
    found = decide(*reversed(pods))
    assert [one.service.name for one in found.frontends] == ["a", "b", "c"]
    assert len(found.warnings) == 1


def test_a_node_port_goes_before_a_host_port() -> None:
    port = {"port": 80, "nodePort": 9000}
    service = {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [port]},
    }
    found = decide(pod(), services=(service,))
    assert [one.kind for one in found.frontends] == [Kind.CLUSTER_IP, Kind.NODE_PORT]
