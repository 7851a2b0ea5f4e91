"""The paths of the notes, proven on machines of their own: two boxes play the nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from boxes import LAB, ROOT, Box, boxes, converged, joined, status, written
from labs import eventually

pytestmark = pytest.mark.lab
PREFIX = ("192.168.50.", "192.168.56.")


def notes() -> tuple[str, str]:
    """Return topologies/notes.yaml for two machines, the first of them the master's, too: the lab
    and its objects."""
    text = (ROOT / "topologies" / "notes.yaml").read_text().replace(*PREFIX)
    lab, *objects = yaml.safe_load_all(text.replace("nodeName: node3", "nodeName: node2"))
    lab["metadata"]["name"] = LAB
    lab["master"] = {"address": "192.168.56.11"}
    lab["nodes"] = lab["nodes"][:2]
    return yaml.safe_dump(lab), yaml.safe_dump_all(objects)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Box]]:
    """Both machines; what is declared comes when both are there, so that both have pods."""
    directory = tmp_path_factory.mktemp("lab")
    lab, objects = notes()
    with boxes(2) as (first, second):
        first.netlab("up", "--master", written(directory, lab))
        joined(second)
        eventually(lambda: converged(first), what="the first machine converges")
        second.netlab("apply", "-f", written(directory, objects, "objects.yaml"))
        eventually(lambda: all(map(converged, (first, second))), what=f"{status(first)}")
        yield first, second


def verified(box: Box, *words: str) -> dict[str, dict[str, Any]]:
    """Return what `netlab verify` says of each path."""
    said = box.netlab("verify", *words, "-o", "json", code=None)
    assert said.stdout, said.stderr
    return {one["path"]: one for one in json.loads(said.stdout)["paths"]}


@pytest.fixture(scope="module")
def found(two: tuple[Box, Box]) -> dict[str, dict[str, Any]]:
    """What one verification says, told by the machine that is not the master's."""
    return verified(two[1])


PROVEN = (
    *("same-pod-lo", "same-pod-ports", "pod-pod-same-node", "pod-pod-cross-node", "unique-pod-ip"),
    *("lease-in-etcd", "pod-node", "flat-no-nat", "pod-clusterip", "node-clusterip"),
    *("no-endpoints", "nodeport", "affinity", "namespaces", "network-policy"),
    *("endpoints-follow", "replicas", "selectors", "headless"),
)


@pytest.mark.parametrize("path", PROVEN)
def test_a_path_of_the_notes_is_proven_across_machines(
    found: dict[str, dict[str, Any]], path: str
) -> None:
    assert found[path]["outcome"] == "pass", found[path]["evidence"]
    assert all(line.startswith(("node1: ", "node2: ")) for line in found[path]["evidence"])


def test_no_path_fails(found: dict[str, dict[str, Any]]) -> None:
    assert [one for one in found.values() if one["outcome"] == "fail"] == []
