"""The Services that bench/services.py programs, and the namespace it does that in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from netlab.kernel import netns  # noqa: E402
from netlab.model.kubernetes import Document  # noqa: E402
from netlab.proxy import DetectLocal, Mode, Options  # noqa: E402

NETNS = "nlbench-services"
ENDPOINT = "10.244.1.1"
PORT = 8080
NODE: Document = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1"},
    "spec": {"podCIDRs": ["10.244.0.0/24"]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.11"}]},
}


def cluster_ip(number: int) -> str:
    """Return the address of Service *number*, from 10.96.1.0 on."""
    return f"10.96.{number // 250 + 1}.{number % 250 + 1}"


def service(number: int) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"s{number:05}", "namespace": "default", "uid": f"svc-{number}"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip(number),
            "clusterIPs": [cluster_ip(number)],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [
                {"name": "tcp", "port": 80, "targetPort": PORT, "protocol": "TCP"},
            ],
        },
    }


def endpoints(number: int) -> tuple[str, str]:
    """Return the two endpoints Service *number* has at first."""
    return (
        f"10.{100 + number // 10000}.{number // 100 % 100}.{2 * (number % 100) + 1}",
        f"10.{100 + number // 10000}.{number // 100 % 100}.{2 * (number % 100) + 2}",
    )


def endpoint_slice(
    number: int, addresses: Sequence[str], *, port: int = PORT, protocol: str = "TCP"
) -> Document:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"s{number:05}-x",
            "namespace": "default",
            "uid": f"slice-{number}",
            "labels": {"kubernetes.io/service-name": f"s{number:05}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "tcp", "port": port, "protocol": protocol}],
        "endpoints": [
            {"addresses": [address], "conditions": {"ready": True}} for address in addresses
        ],
    }


def cluster(number: int) -> list[Document]:
    """Return *number* Services and their slices."""
    each = range(number)
    return [*map(service, each), *(endpoint_slice(one, endpoints(one)) for one in each)]


def options(mode: Mode) -> Options:
    return Options(
        mode=mode,
        detect_local=DetectLocal.CLUSTER_CIDR,
        pod_cidrs=("10.244.0.0/16",),
        service_cidrs=("10.96.0.0/12",),
    )


@contextmanager
def namespace() -> Iterator[None]:
    """Be in a new namespace with a way for every address, over its own loopback."""
    subprocess.run(["ip", "netns", "del", NETNS], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "add", NETNS], check=True)
    try:
        with netns.entered(NETNS):
            for words in (
                *("link set lo up", f"addr add {ENDPOINT}/32 dev lo"),
                *("addr add 192.168.50.11/24 dev lo", f"route add default dev lo src {ENDPOINT}"),
            ):
                subprocess.run(["ip", *words.split()], check=True)
            yield
    finally:
        subprocess.run(["ip", "netns", "del", NETNS], check=True)
