"""What must agree between Services: cluster addresses and node ports once, in their ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from netlab.controllers.allocation import addresses
from netlab.model.kubernetes import Document
from netlab.model.lab import like
from netlab.model.services import EXTERNAL_NAME, NO_CLUSTER_IP
from netlab.topology import values
from netlab.topology.declared import Piece
from netlab.topology.labrules import items
from netlab.topology.mistakes import Mistakes
from netlab.topology.podrules import mapping
from netlab.topology.tree import Path

Key = Callable[[Document], tuple[str, ...]]


class _Claim(NamedTuple):
    """An address or node port that a Service names, and where."""

    value: str | int
    path: Path
    what: str


def check_services(
    pieces: Sequence[Piece],
    stored: Iterable[Document],
    cidrs: Sequence[str],
    mistakes: Mistakes,
    *,
    key: Key,
) -> None:
    """Note cluster addresses outside *cidrs*, families the lab has not, and what two Services both
    name.

    *cidrs*: where cluster addresses come from, one of each family; [] where that is not known.

    *stored*: the live lab's objects, which have what they have; *key* tells the same object.
    """
    declared = {key(piece.document) for piece in pieces}
    owners: dict[str | int, tuple[object, str]] = {}
    for document in stored:
        if _is_service(document) and key(document) not in declared:
            for claim in _claims(document):
                owners.setdefault(claim.value, (key(document), _name(document)))
    for piece in pieces:
        if not _is_service(piece.document):
            continue
        mine = key(piece.document)
        if cidrs:
            _check_families(piece, cidrs, mistakes)
        for claim in _claims(piece.document):
            if wrong := _outside(claim, cidrs):
                mistakes.at(piece.origin, claim.path, wrong)
            place = f"{piece.origin.source}:{piece.origin.line(claim.path)}"
            text = f"{_name(piece.document)} ({place})"
            owner, where = owners.setdefault(claim.value, (mine, text))
            if owner != mine:
                said = f"{claim.value} is also {claim.what} of {where}"
                mistakes.at(piece.origin, claim.path, f"{said} (another one, or leave it out)")


def _is_service(document: Document) -> bool:
    return bool(document["kind"] == "Service" and document["apiVersion"] == "v1")


def _name(document: Document) -> str:
    metadata = document["metadata"]
    return f"Service {metadata.get('namespace', '')}/{metadata['name']}"


def _claims(document: Document) -> Iterator[_Claim]:
    spec = mapping(document, "spec")
    address = spec.get("clusterIP")
    if address != NO_CLUSTER_IP and _is_address(address):
        yield _Claim(str(address), ("spec", "clusterIP"), "the clusterIP")
    several = spec.get("clusterIPs")
    if isinstance(several, list) and len(several) == 2 and _is_address(several[1]):
        yield _Claim(str(several[1]), ("spec", "clusterIPs", 1), "a clusterIP")
    for index, port in items(spec.get("ports")):
        number = port.get("nodePort")
        if isinstance(number, int) and number:
            yield _Claim(number, ("spec", "ports", index, "nodePort"), "a node port")
    number = spec.get("healthCheckNodePort")
    if isinstance(number, int) and number:
        yield _Claim(number, ("spec", "healthCheckNodePort"), "a node port")


def _is_address(value: object) -> bool:
    return not values.address(value) or not values.address6(value)


def _check_families(piece: Piece, cidrs: Sequence[str], mistakes: Mistakes) -> None:
    """Note what a lab of one family cannot give."""
    spec = mapping(piece.document, "spec")
    manual = spec.get("clusterIP") == NO_CLUSTER_IP and not spec.get("selector")
    if len(cidrs) > 1 or manual or spec.get("type") == EXTERNAL_NAME:
        return  # a manual one's user gives the endpoints, of whatever family
    families = spec.get("ipFamilies")
    only = "the lab has IPv4 only"
    if isinstance(families, list) and "IPv6" in families:
        path: Path = ("spec", "ipFamilies", families.index("IPv6"))
        mistakes.at(piece.origin, path, f"{only} (IPv4)")
    if spec.get("ipFamilyPolicy") == "RequireDualStack":
        text = f"{only} (SingleStack or PreferDualStack)"
        mistakes.at(piece.origin, ("spec", "ipFamilyPolicy"), text)


def _outside(claim: _Claim, cidrs: Sequence[str]) -> str:
    if not isinstance(claim.value, str) or not cidrs:
        return ""
    cidr, field = like(claim.value, cidrs), "serviceCIDR6" if ":" in claim.value else "serviceCIDR"
    if not cidr:
        return f"{claim.value} is IPv6, but the lab has IPv4 only (an address of {cidrs[0]})"
    address, network = ip_address(claim.value), ip_network(cidr)
    if int(address) in addresses(cidr):
        return ""
    if address in network:
        return values.host_in(address, network)
    return f"{claim.value} is outside {field} {cidr} (an address of it, or leave it out)"
