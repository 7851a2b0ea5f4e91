"""Images that netlab has a program for; all others stay labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from netlab import images, topology
from netlab.cluster import cluster
from netlab.model.kubernetes import Container

NOTES = Path(__file__).parents[2] / "topologies" / "notes.yaml"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param("netlab/dns", "netlab.nameserver", id="bare"),
        pytest.param("netlab/ingress:1.2", "netlab.ingress", id="tag"),
        pytest.param(
            "docker.io/netlab/dns:v1@sha256:0abc", "netlab.nameserver", id="registry and digest"
        ),
        pytest.param("localhost:5000/netlab/dns", "netlab.nameserver", id="registry with a port"),
        pytest.param("example/netlab/dns", "", id="another's of that name"),
        pytest.param("netlab/dnsmasq", "", id="a longer name"),
        pytest.param("nginx:1.25", "", id="a label"),
        pytest.param("", "", id="none"),
    ],
)
def test_the_program_of_an_image(image: str, expected: str) -> None:
    command = images.runnable(Container("c", image=image)).command
    assert command[-1:] == ([expected] if expected else [])


def test_a_command_of_its_own_wins() -> None:
    container = Container("c", image="netlab/dns", command=["sleep", "1"])
    assert images.runnable(container) is container


def test_a_program_finds_who_it_is_and_where_etcd_is() -> None:
    found = images.environment(
        Container("c", image="netlab/dns:1"),
        etcd={"NETLAB_ETCD": "http://192.168.50.10:2379"},
        namespace="kube-system",
        pod="coredns-1",
        address="10.244.1.2",
        node="node1",
    )
    assert found["NETLAB_ETCD"] == "http://192.168.50.10:2379"
    assert (found["POD_NAMESPACE"], found["POD_NAME"]) == ("kube-system", "coredns-1")
    assert (found["POD_IP"], found["NODE_NAME"]) == ("10.244.1.2", "node1")
    other = images.environment(
        Container("c", image="nginx"),
        etcd={"NETLAB_ETCD": "m"},
        namespace="n",
        pod="p",
        address="a",
        node="o",
    )
    assert other == {}


def test_a_placed_pod_runs_its_images_program() -> None:
    lab = topology.load([str(NOTES)]).lab
    assert lab is not None
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {"nodeName": "node1", "containers": [{"name": "d", "image": "netlab/dns"}]},
    }
    (pod,) = cluster(lab, [document], leases={}).pods
    assert pod.containers[0].command[-1] == "netlab.nameserver"
