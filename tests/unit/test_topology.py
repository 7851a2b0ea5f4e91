"""What the loader accepts, fills in, drops and notes."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from netlab import topology
from netlab.model.lab import Backend, Network
from netlab.topology import scalars, tree

DATA = Path(__file__).parents[1] / "data"
TOPOLOGIES = Path(topology.__file__).parents[2] / "topologies"
LAB = "apiVersion: netlab/v1\nkind: Lab\nmetadata: {name: t}\nnodes: [{name: node1}]\n"


def load(text: str) -> topology.Declaration:
    return topology.load(["-"], stdin=io.StringIO(text))


def without_nulls(value: Any) -> Any:
    """Return *value* as an API server keeps it: a field that is null is not there."""
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", sorted((DATA / "manifests").glob("*.yaml")), ids=lambda p: p.stem)
def test_an_unmodified_manifest_passes(path: Path) -> None:
    declared = topology.load([str(path), "-"], stdin=io.StringIO(LAB))
    assert declared.lab is not None
    (first, *others) = yaml.safe_load_all(path.read_text())
    written = [first, *others] if "items" not in (first or {}) else first["items"]
    written = [one for one in written if one is not None]
    assert [one["metadata"]["name"] for one in declared.documents] == [
        one["metadata"]["name"] for one in written
    ]
    for mine, theirs in zip(declared.documents, written, strict=True):
        assert mine.get("spec") == without_nulls(theirs.get("spec"))
        assert mine.get("data") == theirs.get("data")
        assert mine["metadata"].get("labels") == theirs["metadata"].get("labels")


def test_what_a_server_fills_in_is_dropped() -> None:
    (pod,) = topology.load([str(DATA / "manifests" / "pod-from-a-cluster.yaml")]).documents
    assert set(pod) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(pod["metadata"]) == {"name", "namespace", "generateName", "labels"}


def test_namespaced_objects_get_the_default_namespace() -> None:
    declared = load(
        LAB
        + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\n"
        + "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {name: v, namespace: default}\n"
        + "---\napiVersion: example.org/v1\nkind: Thing\nmetadata: {name: t}\n"
    )
    assert [one["metadata"].get("namespace") for one in declared.documents] == [
        "default",
        None,
        None,
    ]


def test_nulls_are_absent_fields() -> None:
    declared = load(
        LAB + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: null, annotations: ~}\n"
        "spec: {nodeName: null, containers: [{name: c, env: null, command: }]}\n"
    )
    assert declared.documents == (
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [{"name": "c"}]},
        },
    )


def test_everything_but_name_and_nodes_may_be_left_out() -> None:
    lab = load(LAB).require_lab()
    assert [(one.name, one.cidr) for one in lab.underlay.segments] == [("lan", "192.168.50.0/24")]
    assert lab.underlay.mtu == 1500
    assert (lab.gateway.address, lab.master.address) == ("192.168.50.1", "192.168.50.2")
    assert [(node.address, node.bridge) for node in lab.nodes] == [("192.168.50.3", "docker0")]
    assert lab.network == Network("10.244.0.0/16", Backend=Backend("vxlan"))
    assert (lab.serviceCIDR, lab.proxyMode) == ("10.96.0.0/12", "iptables")
    assert (lab.outside.internet, lab.outside.client) == ("203.0.113.10/24", "198.51.100.10/24")


def test_left_out_addresses_avoid_the_given_ones() -> None:
    lab = load(
        "apiVersion: netlab/v1\nkind: Lab\nmetadata: {name: t}\n"
        "underlay: {segments: [{cidr: 10.9.0.0/28}]}\nmaster: {address: 10.9.0.2}\n"
        "nodes: [{name: a}, {name: b, address: 10.9.0.1}, {name: c}]\n"
    ).require_lab()
    assert lab.gateway.address == "10.9.0.3"
    assert [node.address for node in lab.nodes] == ["10.9.0.4", "10.9.0.1", "10.9.0.5"]


@pytest.mark.parametrize(
    ("network", "length", "subnets", "pods"),
    [
        pytest.param(Network("10.0.0.0/16"), 24, 255, 253, id="first lease skipped"),
        pytest.param(Network("10.0.0.0/22"), 24, 3, 253, id="/22 still has /24"),
        pytest.param(Network("10.0.0.0/23"), 25, 3, 125, id="/23 has /25"),
        pytest.param(Network("10.0.0.0/28"), 30, 3, 1, id="the smallest"),
        pytest.param(Network("10.0.0.0/8", SubnetLen=16), 16, 255, 1023, id="ports of a bridge"),
        pytest.param(
            Network("10.0.0.0/16", SubnetMin="10.0.0.0", SubnetMax="10.0.4.0"),
            *(24, 5, 253),
            id="limits",
        ),
    ],
)
def test_a_network_tells_its_leases(network: Network, length: int, subnets: int, pods: int) -> None:
    assert (network.subnet_length, network.subnets, network.pods_per_node) == (
        length,
        subnets,
        pods,
    )


def test_as_many_nodes_and_pods_as_the_leases_hold_pass() -> None:
    text = (
        "apiVersion: netlab/v1\nkind: Lab\nmetadata: {name: t}\n"
        "network: {Network: 10.244.0.0/22}\nnodes: [{name: a}, {name: b}, {name: c}]\n"
        "dns: {replicas: 0}\n"
        "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n"
        "  replicas: 759\n  selector: {matchLabels: {app: web}}\n  template:\n"
        "    metadata: {labels: {app: web}}\n    spec: {containers: [{name: web}]}\n"
    )
    assert len(load(text).require_lab().nodes) == 3


SCALARS: dict[str, Any] = {
    **dict.fromkeys(("true", "yes", "On", "y"), True),
    **dict.fromkeys(("False", "no", "OFF", "n"), False),
    **dict.fromkeys(("~", "null", ""), None),
    **dict(zip(("12", "-7", "+3", "-0", "1_000"), (12, -7, 3, 0, 1000), strict=True)),
    **dict(zip(("0x1F", "0o17", "017", "0b11"), (31, 15, 15, 3), strict=True)),
    **dict(zip(("1.5", "1e3", ".5", "08"), (1.5, 1000.0, 0.5, 8.0), strict=True)),
    **{word: word for word in ("22:22", "2024-01-01", "1.2.3", "-", "1e999", "9" * 5000)},
    **{word: word for word in ("yEs", "=", "0x", "_1")},
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items(), ids=[key[:12] for key in SCALARS])
def test_plain_scalars_are_read_as_kubernetes_reads_them(text: str, value: object) -> None:
    read = scalars.plain_scalar(text)
    assert (read, type(read)) == (value, type(value))


def test_quotes_and_tags_keep_text() -> None:
    text = """- "yes"\n- '12'\n- !!str 12\n- !!int '12'\n- |\n  no\n"""
    (root,) = tree.compose(text).roots
    assert tree.plain(root) == ["yes", "12", "12", 12, "no\n"]


def test_anchors_and_merges_are_read() -> None:
    composed = tree.compose(
        "base: &base {a: 1, b: [x]}\nmine: {<<: *base, a: 2}\nboth: {<<: [*base, {c: 3}]}\n"
    )
    assert not composed.slips
    assert tree.plain(composed.roots[0]) == {
        "base": {"a": 1, "b": ["x"]},
        "mine": {"a": 2, "b": ["x"]},
        "both": {"a": 1, "b": ["x"], "c": 3},
    }


def test_json_means_what_json_means() -> None:
    value = {
        "text": 'a "quoted" \\ line\nand \t tab / é 😀 \\ud83d\\ude00',
        "empty": ["", {}, []],
        "numbers": [0, -1, 1.5, 1e-7, 12345678901234567890],
        "words": [True, False, None],
        "a key": {"no": "yes", "1": 1},
    }
    for text in (json.dumps(value), json.dumps(value, indent="\t"), json.dumps(value, indent=1)):
        (root,) = tree.compose(text).roots
        assert tree.plain(root) == value


def test_sources_are_read_in_order_and_once(tmp_path: Path) -> None:
    for name in ("b.yml", "a.json", "c.txt", ".hidden.yaml", "sub/d.yaml", ".git/e.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        thing = path.name.strip(".")
        path.write_text(
            f'{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "{thing[0]}"}}}}'
        )
    sources = [str(tmp_path), "-", str(tmp_path / "b.yml")]
    declared = topology.load(sources, stdin=io.StringIO(LAB))
    assert [one["metadata"]["name"] for one in declared.documents] == ["a", "b", "d"]


def test_objects_without_effect_are_noted() -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
    declared = topology.load(["-"], stdin=io.StringIO(text))
    assert declared.notes == ("<stdin>:1: ConfigMap default/c is kept, but has no effect yet",)
    assert topology.load([str(TOPOLOGIES / "notes.yaml")]).notes == ()


def test_services_and_slices_with_every_field_load() -> None:
    declared = topology.load([str(DATA / "services.yaml")])
    assert len(declared.documents) == 7
    assert declared.notes == ()


BALANCED = {
    "an address": ("LoadBalancer", {"ingress": [{"ip": "203.0.113.5", "ipMode": "Proxy"}]}, True),
    "a name": ("LoadBalancer", {"ingress": [{"hostname": "lb.example.org"}]}, True),
    "leading zeros": ("LoadBalancer", {"ingress": [{"ip": "203.0.113.005"}]}, True),
    "both families": (
        "LoadBalancer",
        {"ingress": [{"ip": "203.0.113.5"}, {"ip": "2001:db8::5", "ports": []}]},
        True,
    ),
    "nothing yet": ("LoadBalancer", {}, False),
    "another type": ("NodePort", {"ingress": [{"ip": "203.0.113.5"}]}, False),
}


@pytest.mark.parametrize(("kind", "given", "kept"), BALANCED.values(), ids=BALANCED)
def test_a_load_balancers_addresses_are_kept_of_a_status(
    kind: str, given: dict[str, Any], kept: bool
) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "s"},
        "spec": {"type": kind, "ports": [{"port": 80}]},
        "status": {"loadBalancer": given, "conditions": [{"type": "x", "status": "True"}]},
    }
    (document,) = topology.load(["-"], stdin=io.StringIO(json.dumps(service))).documents
    assert document.get("status") == ({"loadBalancer": given} if kept else None)
    other = service | {"apiVersion": "serving.knative.dev/v1"}
    (custom,) = topology.load(["-"], stdin=io.StringIO(json.dumps(other))).documents
    assert "status" not in custom


def test_the_notes_lab_is_what_the_notes_draw() -> None:
    declared = topology.load([str(TOPOLOGIES / "notes.yaml")])
    lab = declared.require_lab()
    assert [(node.name, node.address) for node in lab.nodes] == [
        (f"node{n}", f"192.168.50.1{n}") for n in (1, 2, 3)
    ]
    assert (lab.gateway.address, lab.master.address) == ("192.168.50.1", "192.168.50.10")
    pods = sum(
        one["spec"]["replicas"] if one["kind"] == "Deployment" else one["kind"] == "Pod"
        for one in declared.documents
    )
    assert pods >= 12


@pytest.mark.parametrize("name", ["minimal.yaml", "two-segments.yaml", "json"])
def test_every_example_loads(name: str) -> None:
    declared = topology.load([str(TOPOLOGIES / name)])
    assert declared.lab is not None
    assert declared.documents


def test_a_thousand_pods_load_in_a_second(tmp_path: Path) -> None:
    """0.16 s of processor time on the machine this was written on; four times that is a defect."""
    pod = (DATA.parents[1] / "topologies" / "minimal.yaml").read_text().split("---\n")[1]
    nodes = LAB.replace("[{name: node1}]", f"[{', '.join(f'{{name: n{n}}}' for n in range(10))}]")
    pods = [pod.replace("name: a}", f"name: p{n}}}", 1) for n in range(1000)]
    (tmp_path / "t.yaml").write_text("---\n".join([nodes, *pods]))
    began = time.process_time()
    assert len(topology.load([str(tmp_path)]).documents) == 1000
    assert time.process_time() - began < 0.7
