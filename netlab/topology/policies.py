"""The fields of NetworkPolicy, complete as of Kubernetes v1.34, and what must agree within one.

Source: k8s.io/api networking/v1/types.go; kubernetes pkg/apis/networking/validation/validation.go,
ValidateNetworkPolicySpec; apimachinery pkg/apis/meta/v1/validation, ValidateLabelSelector.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from netlab.model.policies import Direction
from netlab.topology import values
from netlab.topology.labrules import Say, items
from netlab.topology.podrules import mapping
from netlab.topology.servicefields import target_port
from netlab.topology.shapes import LABELS, STRINGS, Each, Fields
from netlab.topology.tree import Path


def cidr(value: Any) -> str:
    """Accept a prefix in CIDR notation, with bits behind it, as Kubernetes does."""
    if wrong := values.string(value):
        return wrong
    if _network(value) is None:
        return f"{value} is not a prefix (such as 203.0.113.0/24)"
    return "" if "/" in value else f"{value} has no prefix length ({value}/32)"


_SELECTOR = Fields(
    {
        "matchLabels": LABELS,
        "matchExpressions": Each(
            Fields(
                {
                    "key": values.string,
                    "operator": values.one_of(values.SELECTOR_OPERATORS),
                    "values": STRINGS,
                },
                required=("key", "operator"),
            )
        ),
    }
)
_PEER = Fields(
    {
        "podSelector": _SELECTOR,
        "namespaceSelector": _SELECTOR,
        "ipBlock": Fields({"cidr": cidr, "except": Each(cidr)}, required=("cidr",)),
    }
)
_PORT = Fields(
    {
        "protocol": values.one_of(values.PROTOCOLS),
        "port": target_port,
        "endPort": values.port,
    }
)
POLICY_SPEC = Fields(
    {
        "podSelector": _SELECTOR,
        "policyTypes": Each(values.one_of(tuple(Direction))),
        "ingress": Each(Fields({"from": Each(_PEER), "ports": Each(_PORT)})),
        "egress": Each(Fields({"to": Each(_PEER), "ports": Each(_PORT)})),
    }
)


def check(document: dict[str, Any], say: Say) -> None:
    """Say everything in which *document*, a NetworkPolicy, contradicts itself."""
    spec = mapping(document, "spec")
    _check_selector(mapping(spec, "podSelector"), ("spec", "podSelector"), say)
    types = spec.get("policyTypes")
    if isinstance(types, list) and len(types) > len(Direction):
        say(("spec", "policyTypes"), f"has {len(types)} items (at most Ingress and Egress)")
    for path, rule, peers in _rules(spec):
        for index, port in items(rule.get("ports")):
            _check_port(port, (*path, "ports", index), say)
        for index, peer in items(rule.get(peers)):
            _check_peer(peer, (*path, peers, index), say)


def _rules(spec: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """Yield each rule with its place, and what its peers are called."""
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in items(spec.get(direction)):
            yield ("spec", direction, index), rule, peers


def _check_port(port: dict[str, Any], path: Path, say: Say) -> None:
    first, last = port.get("port"), port.get("endPort")
    if last is None:
        return
    if first is None:
        say((*path, "endPort"), "has no port it is the end of (port: the first of the range)")
    elif isinstance(first, str):
        say((*path, "endPort"), f"cannot follow {first}, a name (port: a number)")
    elif isinstance(first, int) and isinstance(last, int) and last < first:
        say((*path, "endPort"), f"{last} is before port {first} ({first} or more)")


def _check_peer(peer: dict[str, Any], path: Path, say: Say) -> None:
    if not peer:
        say(path, "is nobody (podSelector, namespaceSelector or ipBlock; {} as podSelector: all)")
    selectors = [name for name in ("podSelector", "namespaceSelector") if name in peer]
    if "ipBlock" in peer and selectors:
        say(path, f"has ipBlock and {selectors[0]} (two peers: one of each)")
    for name in selectors:
        _check_selector(mapping(peer, name), (*path, name), say)
    block = mapping(peer, "ipBlock")
    whole, excepted = _network(block.get("cidr")), block.get("except")
    for index, one in enumerate(excepted if isinstance(excepted, list) else ()):
        inner = _network(one)
        if whole is not None and inner is not None and not _is_part(inner, whole):
            where: Path = (*path, "ipBlock", "except", index)
            say(where, f"{one} is no part of {block['cidr']} (a smaller prefix inside it)")


def _check_selector(selector: dict[str, Any], path: Path, say: Say) -> None:
    for index, one in items(selector.get("matchExpressions")):
        where: Path = (*path, "matchExpressions", index)
        operator, listed = one.get("operator"), one.get("values")
        if isinstance(one.get("key"), str) and (wrong := values.label_key(one["key"])):
            say((*where, "key"), f"{one['key']} {wrong}")
        if operator in ("In", "NotIn") and not listed:
            say((*where, "values"), f"is empty ({operator} needs one at least)")
        if operator in ("Exists", "DoesNotExist") and listed:
            say((*where, "values"), f"has no meaning for {operator} (leave it out)")
        for number, value in enumerate(listed if isinstance(listed, list) else ()):
            if isinstance(value, str) and (wrong := values.label_value(value)):
                say((*where, "values", number), wrong)


def _network(value: Any) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(value, strict=False) if isinstance(value, str) else None
    except ValueError:
        return None


def _is_part(inner: IPv4Network | IPv6Network, whole: IPv4Network | IPv6Network) -> bool:
    """Return whether *inner* is in *whole*, and smaller."""
    return (
        inner.version == whole.version
        and inner.prefixlen > whole.prefixlen
        and inner.network_address in whole
    )
