"""A Lab with one node more, checked as a file is."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from ipaddress import IPv4Network

import msgspec
from msgspec.structs import replace

from netlab import attachments, topology
from netlab.errors import InputError, UsageError
from netlab.model.lab import Lab

_PLACE = re.compile(r"^.*?: nodes\[\d+\]\.?")  # of the text made here; nobody wrote it


def with_node(lab: Lab, name: str, *, address: str = "", labels: Mapping[str, str]) -> Lab:
    """Return *lab* with a node of this name; *address*: "" for the first free one.

    Raises InputError with every mistake.
    """
    if lab.attached and not address:  # of these the document knows nothing
        first = IPv4Network(lab.underlay.segments[0].cidr)
        address = attachments.free_address(lab, first)
    document = msgspec.to_builtins(replace(lab, faults=(), attached=()))
    node = {"name": name, "address": address, "labels": dict(labels)}
    document["nodes"].append({key: value for key, value in node.items() if value})
    text = json.dumps({"apiVersion": lab.apiVersion, "kind": lab.kind, **document})
    try:
        grown = topology.load(["-"], stdin=io.StringIO(text)).require_lab()
    except InputError as error:
        raise InputError(
            [f"node {name}: {_PLACE.sub('', one)}" for one in error.mistakes]
        ) from None
    try:
        return attachments.carried(replace(grown, faults=lab.faults), lab)
    except UsageError as error:
        raise InputError([f"node {name}: {error.message}"]) from None
