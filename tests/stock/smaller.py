"""The lab of the notes with less of everything, as an emulated machine is ten times as slow.

All that the paths of Services need is there once, on two nodes.
"""

from __future__ import annotations

from typing import Any

import yaml
from labs import ROOT

NODES = 2
GRACE = 300  # seconds; an emulated node is slow, not lost
LEFT_OUT = {"dns-near", "dns-far", "clock", "db", "agent", "outside", "web-public"}
REPLICAS = {"web": 3, "cart": 2, "controller": 2}


def smaller(name: str) -> str:
    """Return the files of lab *name*, as YAML."""
    documents = yaml.safe_load_all((ROOT / "topologies/notes.yaml").read_text())
    kept = [one for one in documents if one["metadata"]["name"] not in LEFT_OUT]
    for one in kept:
        spec = one.get("spec", {})
        if one["kind"] == "Lab":
            _shrink(one, name)
        if one["kind"] == "Deployment":
            spec["replicas"] = REPLICAS[one["metadata"]["name"]]
        if one["kind"] == "Service" and one["metadata"]["name"] != "web":
            spec["ports"] = [port for port in spec["ports"] if port.get("protocol") != "UDP"]
        if spec.get("nodeName", "") not in ("", "node1"):
            spec["nodeName"] = f"node{NODES}"
    return yaml.safe_dump_all(kept, sort_keys=False)


def _shrink(lab: dict[str, Any], name: str) -> None:
    lab["metadata"]["name"] = name
    lab["nodes"] = lab["nodes"][:NODES]
    lab["nodeLifecycle"]["gracePeriodSeconds"] = GRACE
