"""Which machines of the underlay keep a place for which others as neighbours."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from netlab import world
from netlab.model.faults import Fault, Sort
from netlab.model.lab import Lab
from netlab.objects import Neighbor, Object
from netlab.topology import labdoc

DOCUMENT: dict[str, Any] = {
    "apiVersion": "netlab/v1",
    "kind": "Lab",
    "metadata": {"name": "t"},
    "underlay": {
        "segments": [
            {"name": "near", "cidr": "192.168.50.0/24", "router": "192.168.50.254"},
            {"name": "far", "cidr": "192.168.60.0/24", "router": "192.168.60.254"},
        ]
    },
    "gateway": {"address": "192.168.50.1"},
    "master": {"address": "192.168.50.10"},
    "balancer": {"address": "192.168.50.5", "pool": ["192.168.50.200-192.168.50.210"]},
    "nodes": [
        {"name": "n1", "address": "192.168.50.11"},
        {"name": "n2", "address": "192.168.50.12"},
        {"name": "n3", "address": "192.168.60.11"},
    ],
}
NEAR = {f"192.168.50.{n}" for n in (1, 5, 10, 11, 12, 254)}


def lab(*faults: Fault) -> Lab:
    return replace(labdoc.lab_from(DOCUMENT), faults=faults)


def places(objects: list[Object], link: str = world.UPLINK) -> set[str]:
    return {
        one.address
        for one in objects
        if isinstance(one, Neighbor) and one.link == link and not one.mac
    }


@pytest.mark.parametrize(
    ("address", "others"),
    [
        ("192.168.50.1", NEAR - {"192.168.50.1"}),
        ("192.168.50.5", NEAR - {"192.168.50.5"}),
        ("192.168.50.11", NEAR - {"192.168.50.11"}),
        ("192.168.60.11", {"192.168.60.254"}),
    ],
    ids=["gateway", "balancer", "node", "node of another segment"],
)
def test_a_machine_keeps_a_place_for_all_of_its_segment(address: str, others: set[str]) -> None:
    assert places(world.machine_addressing(lab(), "t.one", address)) == others


def test_the_router_between_segments_keeps_one_for_all() -> None:
    objects = world.underlay_objects(lab())
    assert places(objects, "br-near") == NEAR - {"192.168.50.254"}
    assert places(objects, "br-far") == {"192.168.60.11"}


def test_a_node_that_is_switched_off_keeps_its_place() -> None:
    objects = world.machine_addressing(lab(Fault(Sort.NODE_STOP, "n2")), "t.n1", "192.168.50.11")
    assert "192.168.50.12" in places(objects)
