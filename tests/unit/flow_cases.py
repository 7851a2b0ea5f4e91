"""The table of packets: its cases as Kubernetes objects, and what netlab decides on its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from netlab import proxy
from netlab.model.kubernetes import Pod, view
from netlab.model.services import EndpointSlice, ProxyNode, Service
from netlab.proxy import Decision, DetectLocal, Mode, Options, Packet, Verdict
from netlab.proxy.addresses import address

TABLE = Path(__file__).parents[1] / "data" / "flows" / "cases.yaml"
MORE = TABLE.with_name("more.yaml")  # rows of our own, in the same words
DETECT_LOCAL = {"bridge-interface": "bridge", "interface-name-prefix": "interface-prefix"}
CNI = "eth9"  # an interface nobody detects pods by

Words = dict[str, Any]


class Row(NamedTuple):
    """One row of the table under one mode, with the objects as they are at that step."""

    case: Words
    flow: Words
    given: Words
    mode: Mode

    @property
    def id(self) -> str:
        return f"{self.case['id']}/{self.flow['name']}/{self.mode}"

    @property
    def decision(self) -> Decision:
        return decision(self.given, self.mode, self.given["proxy"]["node"])

    @property
    def expected(self) -> str | list[str]:
        by_mode: dict[str, str | list[str]] = self.flow.get("expect_by_mode", {})
        expected: str | list[str] = self.flow["expect"]
        return by_mode.get(self.mode, expected)


@cache
def cases(table: Path = TABLE) -> list[Words]:
    loaded = yaml.load(table.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    found: list[Words] = loaded["cases"]
    return found


def rows(table: Path = TABLE) -> Iterator[Row]:
    """Yield the table's rows for each mode, those of the later steps included."""
    for case in cases(table):
        modes = [Mode(one) for one in Mode if one in case["modes_verified"] + case["modes_derived"]]
        for given, flows in steps(case):
            for flow in flows:
                for mode in modes:
                    if mode in flow.get("modes", modes):
                        yield Row(case, flow, given, mode)


def steps(case: Words) -> Iterator[tuple[Words, list[Words]]]:
    """Yield the objects and flows of *case*, then those after each of its changes."""
    given: Words = case["given"]
    yield given, case["flows"]
    for step in case.get("then", ()):
        change = step["change"]
        changed = {one["name"]: one for one in change.get("services", ())}
        gone = change.get("delete_services", ())
        kept = [one for one in given["services"] if one["name"] not in {*changed, *gone}]
        given = {
            **given,
            "services": kept + list(changed.values()),
            "endpoints": {**given["endpoints"], **change.get("endpoints", {})},
            "hostports": [
                *(
                    one
                    for one in given.get("hostports", ())
                    if one["pod"] not in change.get("delete_hostports", ())
                ),
                *change.get("add_hostports", ()),
            ],
        }
        yield given, step["flows"]


def documents(given: Words) -> list[Words]:
    """Return the objects of a case as the API server would list them: Nodes, Services, slices."""
    return [
        *(node_document(one) for one in given["nodes"]),
        *(service_document(one) for one in given["services"]),
        *(
            document
            for one in given["services"]
            for document in slice_documents(one, given["endpoints"].get(one["name"], []))
        ),
        *(pod_document(one) for one in given.get("hostports", ())),
    ]


def service_document(words: Words) -> Words:
    """Return a case's service as Kubernetes has it."""
    namespace, _, name = words["name"].partition("/")
    affinity = words.get("session_affinity", {})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": words.get("labels", {}),
            "annotations": words.get("annotations", {}),
        },
        "spec": {
            "type": words["type"],
            "clusterIP": words["cluster_ips"][0] if words["cluster_ips"] else "",
            "clusterIPs": words["cluster_ips"],
            "ports": [
                {
                    **({"name": one["name"]} if "name" in one else {}),
                    "port": one["port"],
                    "protocol": one["protocol"],
                    "nodePort": one.get("node_port", 0),
                    "targetPort": one["target_port"],
                }
                for one in words["ports"]
            ],
            "externalIPs": words.get("external_ips"),
            "externalTrafficPolicy": words.get("external_traffic_policy", "Cluster"),
            "internalTrafficPolicy": words.get("internal_traffic_policy"),
            "sessionAffinity": affinity.get("type", "None"),
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": affinity.get("timeout_s")}},
            "loadBalancerSourceRanges": words.get("lb_source_ranges"),
            "healthCheckNodePort": words.get("health_check_node_port", 0),
        },
        "status": {
            "loadBalancer": {
                "ingress": [
                    one if isinstance(one, dict) else {"ip": one}
                    for one in words.get("lb_ingress", ())
                ]
            }
        },
    }


def slice_documents(words: Words, endpoints: list[Words]) -> list[Words]:
    """Return the slices of a case's service, one per family."""
    namespace, _, name = words["name"].partition("/")
    ports = [
        {"name": one.get("name", ""), "port": one["target_port"], "protocol": one["protocol"]}
        for one in words["ports"]
    ]
    by_family: dict[str, list[Words]] = {"IPv4": [], "IPv6": []}
    for one in endpoints:
        hints = [{"name": zone} for zone in one.get("hints", ())]
        nodes = [{"name": node} for node in one.get("node_hints", ())]
        by_family["IPv6" if ":" in one["ip"] else "IPv4"].append(
            {
                "addresses": [one["ip"]],
                "nodeName": one["node"],
                "zone": one.get("zone"),
                "conditions": {key: one[key] for key in ("ready", "serving", "terminating")},
                "hints": {"forZones": hints, "forNodes": nodes},
            }
        )
    labels = {"kubernetes.io/service-name": name, **words.get("labels", {})}
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-{which.lower()}",
                "namespace": namespace,
                "labels": labels,
            },
            "addressType": which,
            "endpoints": found,
            "ports": ports,
        }
        for which, found in by_family.items()
    ]


def pod_document(words: Words) -> Words:
    """Return the pod that has a case's hostPort."""
    port = {
        "containerPort": words["container_port"],
        "hostPort": words["host_port"],
        "hostIP": words["host_ip"],
        "protocol": words["protocol"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": words["pod"].replace(":", "-"), "namespace": "default"},
        "spec": {"nodeName": words["node"], "containers": [{"name": "c", "ports": [port]}]},
        "status": {"podIP": words["pod"], "phase": "Running"},
    }


def node_document(words: Words) -> Words:
    """Return a case's node."""
    labels = {"topology.kubernetes.io/zone": words["zone"]} if words.get("zone") else {}
    addresses = [{"type": "InternalIP", "address": one} for one in words["ips"]]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": words["name"], "labels": labels},
        "spec": {"podCIDRs": words.get("pod_cidrs")},
        "status": {"addresses": addresses},
    }


def service(words: Words) -> Service:
    return view(service_document(words), Service)


def slices(words: Words, endpoints: list[Words]) -> list[EndpointSlice]:
    return [view(one, EndpointSlice) for one in slice_documents(words, endpoints)]


def pod(words: Words) -> Pod:
    return view(pod_document(words), Pod)


def node(words: Words) -> ProxyNode:
    return view(node_document(words), ProxyNode)


def options(words: Words, mode: Mode) -> Options:
    """Return a case's proxy options."""
    detect, listed = words["detect_local"], words["nodeport_addresses"]
    how = detect["mode"]
    return Options(
        mode=mode,
        detect_local=DetectLocal(DETECT_LOCAL.get(how, how)),
        pod_cidrs=tuple(detect.get("cidrs", ())),
        interface=detect.get("bridge") or detect.get("prefix") or "",
        masquerade_all=words["masquerade_all"],
        node_port_addresses=tuple(listed) if isinstance(listed, list) else (),
        localhost_node_ports=words["localhost_nodeports"],
        service_cidrs=tuple(words.get("service_cidrs", ())),
    )


def decision(given: Words, mode: Mode, on: str) -> Decision:
    """Return what the proxy on the node *on* decides about *given*."""
    services = [service(one) for one in given["services"]]
    found = [
        one
        for words in given["services"]
        for one in slices(words, given["endpoints"].get(words["name"], []))
    ]
    where = next(one for one in given["nodes"] if one["name"] == on)
    pods = [pod(one) for one in given.get("hostports", ())]
    return proxy.decision(services, found, node(where), options(given["proxy"], mode), pods=pods)


def packet(flow: Words, first: str) -> Packet:
    """Return the packet that *flow* sends, as the node *first* sees it."""
    where, _, protocol = flow["to"].partition("/")
    host, _, port = where.rpartition(":")
    origin = flow["from"]
    inside = origin["kind"] in ("node", "localhost") and origin.get("node", first) == first
    return Packet(
        address(origin["ip"]),
        address(host.strip("[]")),
        int(port),
        protocol.upper(),
        "" if inside else origin.get("iface", CNI),
    )


def outcome(row: Row) -> proxy.Outcome:
    """Return what becomes of the row's packet, on its own node and on the one it is sent to."""
    first = _first_node(row)
    sent = packet(row.flow, first)
    for name in dict.fromkeys((first, *_other_nodes(row, sent, first))):
        local = _addresses(row.given, name)
        # At a node it was not sent from, a packet comes in by an interface.
        here = (
            sent
            if name == first
            else Packet(sent.source, sent.address, sent.port, sent.protocol, CNI)
        )
        found = proxy.outcome(decision(row.given, row.mode, name), here, local=local)
        if found.verdict is not Verdict.NO_MATCH:
            return found
    return proxy.Outcome(Verdict.NO_MATCH)


def _first_node(row: Row) -> str:
    origin, tested = row.flow["from"], row.given["proxy"]["node"]
    if "via" in row.flow:
        return str(row.flow["via"])
    every = row.case.get("proxy_on") == "every-node"
    return str(origin.get("node", tested)) if every else str(tested)


def _other_nodes(row: Row, sent: Packet, first: str) -> list[str]:
    if row.case.get("proxy_on") != "every-node":
        return []
    names = [str(one["name"]) for one in row.given["nodes"] if one["name"] != first]
    return [one for one in names if sent.address in _addresses(row.given, one)]


def _addresses(given: Words, name: str) -> set[str]:
    where = next(one for one in given["nodes"] if one["name"] == name)
    return {address(one) for one in (*where["ips"], *where.get("also_owns", ()))}


def masquerades(expected: bool | Mapping[str, bool | None] | None) -> dict[str, bool]:
    """Return what is expected per endpoint; `*` stands for all of them, none for left open."""
    if isinstance(expected, bool):
        return {"*": expected}
    return {one: it for one, it in (expected or {}).items() if it is not None}
