"""The cases of tests/data/policies: policies, and what is to be expected of every flow under them.

See tests/data/policies/README.md for the words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_network
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from netlab.model.inventory import Inventory, inventory
from netlab.model.kubernetes import Document

DIRECTORY = Path(__file__).parents[1] / "data" / "policies"
NAMESPACES, PODS = ("x", "y", "z"), ("a", "b", "c")
TITLES = [f"{namespace}/{pod}" for namespace in NAMESPACES for pod in PODS]
PROTOCOLS, PORTS = ("TCP", "UDP", "SCTP"), (80, 81)
NODES = {pod: f"n{number}" for number, pod in enumerate(PODS, 1)}
ADDRESSES = {
    title: f"10.244.{PODS.index(title[2]) + 1}.{NAMESPACES.index(title[0]) + 2}" for title in TITLES
}
ADDRESSES6 = {
    title: "fd00:{}:{}:{}::{}".format(*one.split(".")) for title, one in ADDRESSES.items()
}
# What a case written for IPv4 says of no pod in particular, and what says the same by IPv6.
BY_IPV6 = {
    "0.0.0.0/0": "::/0",
    "10.0.0.0/8": "fd00::/8",
    "203.0.113.0/24": "2001:db8::/32",
    "fd00::/8": "10.0.0.0/8",
    "fd00:1::/64": "10.1.0.0/16",
}


class Asked(NamedTuple):
    """A flow from one pod to another."""

    source: str  # `x/a`
    destination: str
    protocol: str
    port: int


FLOWS = [Asked(*one) for one in product(TITLES, TITLES, PROTOCOLS, PORTS)]


class Case(NamedTuple):
    name: str
    policies: Mapping[str, Any]  # specs by `namespace/name`
    expect: list[str]
    labels: Mapping[str, Mapping[str, str]]
    ipv6: bool = False

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses of the pods that the flows are between."""
        return ADDRESSES6 if self.ipv6 else ADDRESSES

    def by_ipv6(self) -> Case:
        """Return the same case with flows by IPv6."""
        return self._replace(name=f"{self.name}-by-ipv6", ipv6=True)

    def expected(self, flow: Asked) -> bool:
        """Return whether *flow* is to arrive."""
        if flow.source == flow.destination:
            return True
        found = True
        for line in self.expect:
            verb, source, _, destination, *ports = line.split()
            assert verb in ("allow", "deny"), line
            if (
                _fits(source, flow.source)
                and _fits(destination, flow.destination)
                and (not ports or any(_is_port(one, flow) for one in ports))
            ):
                found = verb == "allow"
        return found

    def documents(self, addresses: Mapping[str, str]) -> list[Document]:
        """Return the policies as documents, for pods with *addresses*."""
        return [
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": {"namespace": name.split("/")[0], "name": name.split("/")[1]},
                "spec": _filled(spec, addresses, BY_IPV6 if self.ipv6 else {}),
            }
            for name, spec in self.policies.items()
        ]

    def inventory(self) -> Inventory:
        """Return all objects there are under this case."""
        documents = self.documents(self.addresses)
        return inventory([*documents, *namespaces(self), *map(self.pod, TITLES)])

    def pod(self, title: str) -> Document:
        """Return the pod called *title*, running."""
        namespace, _, name = title.partition("/")
        document = pod(namespace, name)
        document["metadata"]["labels"] |= self.labels.get(title, {})
        document["status"] = {"phase": "Running", "podIP": ADDRESSES[title]}
        if self.ipv6:
            both = ADDRESSES[title], ADDRESSES6[title]
            document["status"]["podIPs"] = [{"ip": one} for one in both]
        return document


def _fits(pattern: str, title: str) -> bool:
    if pattern == "*":
        return True
    return all(
        part == "*" or one in part.split(",")
        for part, one in zip(pattern.split("/"), title.split("/"), strict=True)
    )


def _is_port(word: str, flow: Asked) -> bool:
    return word in (flow.protocol, str(flow.port), f"{flow.protocol}/{flow.port}")


def _filled(value: Any, addresses: Mapping[str, str], others: Mapping[str, str]) -> Any:
    """Return *value* with addresses for `${x/a}`, their node's network for `${x/a/24}`.

    A network is a /24, by IPv6 a /64. *others*: other texts, and what stands for each.
    """
    if isinstance(value, dict):
        return {key: _filled(one, addresses, others) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, addresses, others) for one in value]
    if not isinstance(value, str):
        return value

    def prefixed(found: re.Match[str]) -> str:
        address = addresses[found[1]]
        length = {"32": 128, "24": 64}[found[2]] if ":" in address else int(found[2])
        return f"{address}/{length}"

    value = re.sub(r"\$\{(\w/\w)\}/(\d+)", prefixed, others.get(value, value))
    value = re.sub(
        r"\$\{(\w/\w)/(24)\}", lambda it: str(ip_network(prefixed(it), strict=False)), value
    )
    return re.sub(r"\$\{(\w/\w)\}", lambda it: addresses[it[1]], value)


def pod(namespace: str, name: str, *, protocols: Collection[str] = PROTOCOLS) -> Document:
    """Return a pod as it is declared, with ports of *protocols*."""
    ports = [
        {"containerPort": number, "protocol": protocol, "name": _port_name(name, protocol, number)}
        for number, protocol in product(PORTS, protocols)
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"pod": name}},
        "spec": {"nodeName": NODES[name], "containers": [{"name": "c", "ports": ports}]},
    }


def _port_name(pod: str, protocol: str, number: int) -> str:
    if protocol == "TCP":
        return "web" if number == (81 if pod == "c" else 80) else "other"
    return f"{'web' if number == 80 else 'other'}-{protocol.lower()}"


def namespaces(case: Case) -> list[Document]:
    """Return the namespaces as they are declared under *case*."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"ns": name, **case.labels.get(name, {})}},
        }
        for name in NAMESPACES
    ]


def cases() -> Iterator[Case]:
    """Yield every case there is."""
    for file in sorted(DIRECTORY.glob("*.yaml")):
        for one in yaml.safe_load(file.read_text()):
            yield Case(one["name"], one["policies"], one["expect"], one.get("labels", {}))


CASES = list(cases())
IN_BOTH = [*CASES, *(case.by_ipv6() for case in CASES)]
