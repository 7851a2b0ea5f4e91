"""Machines of their own without a tunnel between them: a node more, behind another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from boxes import FILES, LAB, Box, boxes, converged, joined, status, written
from labs import eventually

pytestmark = pytest.mark.lab
BACKENDS = {
    "host-gw": "{Type: host-gw}",
    "vxlan+DirectRouting": "{Type: vxlan, DirectRouting: true}",
}


@pytest.fixture(scope="module", params=BACKENDS)
def two(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Box, Box]]:
    """Both machines in a lab by that back end."""
    backend = BACKENDS[request.param]
    files = FILES.replace("\ndns:", f"\nnetwork: {{Backend: {backend}}}\ndns:", 1)
    with boxes(2) as (first, second):
        first.netlab("up", "--master", written(Path(tmp_path_factory.mktemp("lab")), files))
        joined(second)
        eventually(lambda: all(map(converged, (first, second))), what=f"{status(first)}")
        yield first, second


@pytest.mark.parametrize("path", ["node-join", "daemonset"])
def test_a_node_more_is_reached_without_a_tunnel(two: tuple[Box, Box], path: str) -> None:
    for box in two:
        before = [one.out("sh", "-c", "ip route | sort; ip neigh show proxy") for one in two]
        said = json.loads(box.netlab("verify", path, "-o", "json", code=None).stdout)
        (found,) = said["paths"]
        assert found["outcome"] == "pass", found["evidence"]
        hops = [(one["netns"], one["device"]) for one in found["hops"] if one["leg"] == "request"]
        assert not [device for _, device in hops if device.startswith("flannel")]
        crossed = {netns for netns, device in hops if device == "eth1"}
        assert crossed == {f"{LAB}.node1", f"{LAB}.node2"}
        eventually(
            lambda before=before: (  # type: ignore[misc]
                [one.out("sh", "-c", "ip route | sort; ip neigh show proxy") for one in two]
                == before
            ),
            what="both machines as they were",
        )
