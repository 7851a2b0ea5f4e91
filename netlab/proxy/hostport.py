"""hostPorts: ports of the node that lead to one of its pods, as frontends.

They are the CNI's (its portmap plugin), not kube-proxy's, and no policy applies: whoever comes to
the node's address is sent to the pod and keeps its source, but for the node's loopback, whose
source can go nowhere, and the pod itself.
Source: containernetworking/plugins plugins/meta/portmap, v1.5; Kubernetes' ContainerPort.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from netlab.model.kubernetes import ENDED, ContainerPort, Pod
from netlab.proxy.addresses import address, family
from netlab.proxy.endpoints import PORTS, Endpoint, Say
from netlab.proxy.frontend import Clients, Frontend, Kind, Policy, ServicePort, Way

WILDCARDS = ("", "0.0.0.0", "::")
WAYS = (Way(Clients.ALL, Policy.CLUSTER, Clients.LOOPBACK),)


def host_ports(pods: Iterable[Pod], node: str, say: Say) -> list[Frontend]:
    """Return the frontends of those of *pods* that run on *node*, in the order of their names.

    *say* is told what is left out since it cannot be used.
    """
    here = [one for one in pods if one.spec.nodeName == node and _has_own_address(one)]
    return [found for one in sorted(here, key=_name) for found in _frontends(one, say)]


def _name(pod: Pod) -> str:
    return pod.name


def _has_own_address(pod: Pod) -> bool:
    """Return whether there is somewhere to lead to; in the host's network, the port is there."""
    ended = pod.status.phase in ENDED
    return bool(pod.status.podIP) and not pod.spec.hostNetwork and not ended


def _frontends(pod: Pod, say: Say) -> Iterator[Frontend]:
    own = address(pod.status.podIP)
    if not own:
        say(f"Pod {pod.name}: podIP: {pod.status.podIP!r} is no address")
        return
    for container in pod.spec.containers:
        for port in container.ports:
            if not port.hostPort:
                continue
            on = "" if port.hostIP in WILDCARDS else address(port.hostIP)
            bad = port.hostPort not in PORTS or port.containerPort not in PORTS
            if bad or (not on and port.hostIP not in WILDCARDS):
                say(f"Pod {pod.name}: hostPort {port.hostIP}:{port.hostPort}: left out")
            elif _fits(port.hostIP, own):
                yield Frontend(
                    _leading(pod, port, own), Kind.HOST_PORT, on, port.hostPort, WAYS, None
                )


def _fits(host_ip: str, own: str) -> bool:
    """Return whether *host_ip* is of the family of *own*; an empty one is of both."""
    return not host_ip or (":" in host_ip) == (":" in own)


def _leading(pod: Pod, port: ContainerPort, own: str) -> ServicePort:
    to = (Endpoint(own, port.containerPort, local=True),)
    meta = pod.metadata
    return ServicePort(
        meta.namespace, meta.name, port.name, port.protocol, family(own), to, (), to, 0
    )
