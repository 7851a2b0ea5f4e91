"""What must agree between Services: cluster addresses and node ports once, in their ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from netlab.controllers.allocation import addresses
from netlab.model.kubernetes import Document
from netlab.model.services import NO_CLUSTER_IP
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
    cidr: object,
    mistakes: Mistakes,
    *,
    key: Key,
) -> None:
    """Note cluster addresses outside *cidr*, and what two Services both name.

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
        for claim in _claims(piece.document):
            if wrong := _outside(claim, cidr):
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
    if address != NO_CLUSTER_IP and not values.address(address):
        yield _Claim(str(address), ("spec", "clusterIP"), "the clusterIP")
    for index, port in items(spec.get("ports")):
        number = port.get("nodePort")
        if isinstance(number, int) and number:
            yield _Claim(number, ("spec", "ports", index, "nodePort"), "a node port")
    number = spec.get("healthCheckNodePort")
    if isinstance(number, int) and number:
        yield _Claim(number, ("spec", "healthCheckNodePort"), "a node port")


def _outside(claim: _Claim, cidr: object) -> str:
    if not isinstance(claim.value, str) or values.network(cidr):
        return ""
    allowed = addresses(str(cidr))
    if int(IPv4Address(claim.value)) in allowed:
        return ""
    if IPv4Address(claim.value) in IPv4Network(str(cidr)):
        return values.host_in(IPv4Address(claim.value), IPv4Network(str(cidr)))
    return f"{claim.value} is outside serviceCIDR {cidr} (an address of it, or leave it out)"
