"""The rooms, and who may import whom: downwards only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

NETLAB = Path(__file__).parents[2] / "netlab"
ROOMS = {
    "data": ["errors", "journeys", "model", "objects", "packets", "patience"],
    "pure": [
        "topology",
        "world",
        "cluster",
        "images",
        "dns",
        "cni",
        "desired",
        "draining",
        "edits",
        "attachments",
        "faults",
        "firewall",
        "stacks",
        "rollout",
        "flannel",
        "balancing",
        "controllers",
        "plan",
        "paths",
        "pcapng",
        "annotation",
        "filters",
        "targets",
        "proxy",
        "policy",
        "telling",
        "picture",
        "probes",
        "vhosts",
        "uplinks",
        "beyond",
    ],
    "edges": [
        "kernel",
        "store",
        "sensors",
        "pods",
        "residents",
        "portals",
        "encapsulation",
        "nameserver",
        "processes",
        "rootless",
        "capabilities",
    ],
    "loops": ["agent", "ingress", "lab", "probe", "recording", "tracing", "verify"],
    "cli": ["cli", "testing", "__main__"],
}
LEVEL = {module: level for level, room in enumerate(ROOMS.values()) for module in room}
# What only the edges may touch: the outside of the program.
OUTSIDE = {"socket", "subprocess", "scapy", "pyroute2", "ctypes"}
FILES = sorted(NETLAB.rglob("*.py"))


def room(file: Path) -> str:
    return file.relative_to(NETLAB).parts[0].removesuffix(".py")


def imported(file: Path, *, lazily: bool = True) -> list[str]:
    """Return the absolute names *file* imports, those for the type checker left out."""
    tree = ast.parse(file.read_text())
    typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    names: list[str] = []
    for node in ast.walk(tree) if lazily else tree.body:
        if node in typing:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_every_module_has_a_room() -> None:
    strangers = {room(file) for file in FILES} - set(LEVEL) - {"__init__"}
    assert strangers == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(NETLAB)))
def test_imports_go_downwards(file: Path) -> None:
    if room(file) == "__init__":
        return
    level = LEVEL[room(file)]
    ours = [name.split(".") for name in imported(file) if name.startswith("netlab.")]
    upwards = {".".join(p) for p in ours if p[1] in LEVEL and LEVEL[p[1]] > level}
    assert upwards == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(NETLAB)))
def test_data_and_pure_rooms_do_not_reach_outside(file: Path) -> None:
    if LEVEL.get(room(file), 0) < list(ROOMS).index("edges"):
        assert OUTSIDE & {name.partition(".")[0] for name in imported(file)} == set()


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    heavy = {"rich", "yaml", "scapy", "msgspec", "netaddr", "click"}
    light = [NETLAB / "__init__.py", NETLAB / "__main__.py", NETLAB / "cli" / "menu.py"]
    found = {name.partition(".")[0] for file in light for name in imported(file, lazily=False)}
    assert found & heavy == set()
