"""Every mistake of the input carries file, line and field, and all come in one run.

The rows are in tests/data/bad/*.txt: a text and the exact mistakes it must give.
"""

from __future__ import annotations

import copy
import io
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from netlab import topology
from netlab.errors import InputError

DATA = Path(__file__).parents[1] / "data"
HEAD = "apiVersion: netlab/v1\nkind: Lab\nmetadata: {name: t}\n"
LAB = HEAD + "nodes: [{name: node1}, {name: node2, labels: {disk: ssd}}]\n"


def rows(*paths: Path) -> Iterator[object]:
    for path in paths or sorted((DATA / "bad").glob("*.txt")):
        for row in path.read_text().split("\n=== ")[1:]:
            name, _, body = row.partition("\n")
            lines = body.splitlines(keepends=True)
            text = "".join(line for line in lines if not line.startswith("!!! "))
            expected = [line[4:].rstrip("\n") for line in lines if line.startswith("!!! ")]
            text = text.removesuffix("\n\n") + "\n" if text.endswith("\n\n") else text
            if path.stem in ("objects", "services", "policies", "doubts"):
                text += "---\n" + LAB
            elif path.stem == "lab" and "kind: Lab" not in text:
                text += HEAD
            yield pytest.param(text, expected, id=f"{path.stem}: {name}")


def mistakes(tmp_path: Path, text: str, name: str = "t.yaml") -> list[str]:
    """Return the mistakes of *text* as a file, without the directory it is in."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        topology.load([str(tmp_path / name)])
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.mistakes]


@pytest.mark.parametrize(("text", "expected"), list(rows()))
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert expected, "a row without expected mistakes proves nothing"
    assert mistakes(tmp_path, text) == [f"t.yaml:{line}" for line in expected]


@pytest.mark.parametrize(("text", "expected"), list(rows(DATA / "doubts.txt")))
def test_what_will_wait_is_accepted_with_a_note(
    tmp_path: Path, text: str, expected: list[str]
) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    notes = topology.load([str(path)]).notes
    assert notes == tuple(f"{path}:{line}; its pods wait" for line in expected)


def test_a_control_character_is_not_text(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "a: 1\nb: \x01\n") == [
        "t.yaml:2: not text: control characters are not allowed (YAML or JSON in UTF-8)"
    ]


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [("a\\e[2Jb", "a\\x1b[2Jb"), ("a\\nb", "a\\nb"), ("\\u202e", "\\u202e")],
)
def test_what_is_quoted_cannot_write_on_the_terminal(
    tmp_path: Path, quoted: str, shown: str
) -> None:
    (line,) = mistakes(tmp_path, HEAD + f'nodes: [{{name: "{quoted}"}}]\n')
    assert f"nodes[0].name: {shown} is not an RFC 1123 label" in line


def test_a_mistake_is_of_readable_length(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, HEAD + f"nodes: [{{name: a, address: {'1.' * 90000}}}]\n")
    assert len(line) < 700
    assert line.startswith("t.yaml:4: nodes[0].address: 1.1.")
    assert line.endswith("192.168.50.11)")


def test_json_mistakes_have_lines(tmp_path: Path) -> None:
    text = json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"container": []}},
        indent=2,
    )
    assert mistakes(tmp_path, text, "p.json") == [
        "p.json:7: spec.containers: is missing (a list is required)",
        "p.json:8: spec.container: unknown field (did you mean containers?)",
    ]


def test_all_mistakes_of_all_files_come_in_one_run(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: [\n")
    (tmp_path / "b.yaml").write_text(HEAD + "nodes: [{nam: node1}]\n")
    (tmp_path / "c.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: A}\n")
    with pytest.raises(InputError) as caught:
        topology.load([str(tmp_path), str(tmp_path / "none.yaml")])
    places = [line.split(": ")[0].replace(f"{tmp_path}/", "") for line in caught.value.mistakes]
    assert places == ["a.yaml:2", "b.yaml:4", "b.yaml:4", "c.yaml:1", "c.yaml:3", "none.yaml"]


def test_a_broken_file_hides_no_namespace(tmp_path: Path) -> None:
    """What another file declares is unknown while one file cannot be read: no false mistakes."""
    (tmp_path / "a.yaml").write_text(
        LAB + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: s, namespace: shop}\n"
    )
    (tmp_path / "b.yaml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop\n")
    with pytest.raises(InputError) as caught:
        topology.load([str(tmp_path)])
    assert [line.replace(f"{tmp_path}/", "") for line in caught.value.mistakes] == [
        "b.yaml:4: not YAML: did not find expected ',' or '}' (a bracket or a comma is missing)"
    ]


def test_unreadable_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.yaml").write_bytes(b"a: \0\n")
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    (tmp_path / "huge.yaml").write_bytes(b"#" * ((16 << 20) + 1))
    names = ["none.yaml", "empty", "zero.yaml", "latin.yaml", "huge.yaml"]
    with pytest.raises(InputError) as caught:
        topology.load([str(tmp_path / name) for name in names] + ["-"])
    assert [line.replace(f"{tmp_path}/", "") for line in caught.value.mistakes] == [
        "none.yaml: does not exist (a file, a directory, or - for standard input)",
        "empty: holds no *.yaml, *.yml, *.json file",
        "zero.yaml: a binary file (YAML or JSON in UTF-8)",
        "latin.yaml:2: not text (YAML or JSON in UTF-8)",
        "huge.yaml: larger than 16 MiB (a smaller file)",
        "<stdin>: there is no standard input to read (name a file)",
    ]


def test_standard_input_is_named_in_mistakes() -> None:
    with pytest.raises(InputError) as caught:
        topology.load(["-"], stdin=io.StringIO("kind: Pod\n"))
    assert caught.value.mistakes == ["<stdin>:1: apiVersion: is missing (such as v1)"]


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        pytest.param(bomb(20), "more than 1000000 values, aliases expanded", id="alias bomb"),
        pytest.param("[" * 100_000, "nested deeper than 100 levels", id="brackets"),
        pytest.param("- " * 100_000, "nested deeper than 100 levels", id="dashes"),
        pytest.param(
            "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 5000)),
            "nested deeper than 100 levels",
            id="aliases one in another",
        ),
    ],
)
def test_hostile_text_is_refused_quickly(tmp_path: Path, text: str, wrong: str) -> None:
    began = time.process_time()
    (only,) = mistakes(tmp_path, text)
    assert wrong in only
    assert time.process_time() - began < 1.0


def test_no_lab_is_told_with_what_to_add(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n")
    declared = topology.load([str(path)])
    with pytest.raises(InputError) as caught:
        topology.require_lab(declared, ["p.yaml"])
    (only,) = caught.value.mistakes
    assert only.startswith("p.yaml: there is no Lab document (add one: apiVersion: netlab/v1, ")


def test_live_objects_count_when_a_manifest_is_applied(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text(HEAD + "nodes: [{name: node1}]\nnetwork: {SubnetLen: 29}\n")  # 5 pods
    live = topology.load([str(lab)]).require_lab()
    web = tmp_path / "web.yaml"
    web.write_text(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n"
        "spec:\n  replicas: 4\n  selector: {matchLabels: {app: web}}\n  template:\n"
        "    metadata: {labels: {app: web}}\n    spec: {containers: [{name: web}]}\n"
    )
    declared = topology.load([str(web)])
    shop = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    pods: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{n}", "namespace": "shop"}}
        for n in range(2)
    ]
    made = {**pods[1], "metadata": {**pods[1]["metadata"], "ownerReferences": [{"kind": "Job"}]}}
    topology.check(declared, lab=live, stored=[shop, pods[0], made])
    with pytest.raises(InputError) as caught:
        topology.check(declared, lab=live, stored=pods)
    assert caught.value.mistakes == [
        f"{web}:3: metadata.namespace: Namespace shop is not declared "
        "(known: default, kube-system)",
    ]
    assert topology.check(declared, lab=live, stored=[shop, *pods]) == [
        f"{web}:5: spec.replicas: node node1 gets 6 pods, but holds 5 (a lease of /29); "
        "its pods wait"
    ]


def test_live_services_keep_what_they_have(tmp_path: Path) -> None:
    lab = tmp_path / "lab.yaml"
    lab.write_text(LAB + "serviceCIDR: 10.97.0.0/16\n")
    live = topology.load([str(lab)]).require_lab()
    web = tmp_path / "web.yaml"
    web.write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n"
        "spec:\n  type: NodePort\n  clusterIP: 10.97.0.9\n  ports: [{port: 80, nodePort: 30001}]\n"
    )
    declared = topology.load([str(web)])
    topology.check(declared, lab=live, stored=declared.documents)
    other = {**declared.documents[0], "metadata": {"name": "db", "namespace": "default"}}
    with pytest.raises(InputError) as caught:
        topology.check(declared, lab=live, stored=[other])
    assert caught.value.mistakes == [
        f"{web}:6: spec.clusterIP: 10.97.0.9 is also the clusterIP of Service default/db "
        "(another one, or leave it out)",
        f"{web}:7: spec.ports[0].nodePort: 30001 is also a node port of Service default/db "
        "(another one, or leave it out)",
    ]
    before = copy.deepcopy(declared.documents[0])  # what it had, another may have now
    before["spec"] |= {"clusterIP": "10.97.0.8", "ports": [{"port": 80, "nodePort": 30002}]}
    web.write_text(
        web.read_text()
        + "---\napiVersion: v1\nkind: Service\nmetadata: {name: heir}\n"
        + "spec: {type: NodePort, clusterIP: 10.97.0.8, ports: [{port: 80, nodePort: 30002}]}\n"
    )
    topology.check(topology.load([str(web)]), lab=live, stored=[before])
    with pytest.raises(InputError) as caught:
        topology.check(declared, lab=msgspec.structs.replace(live, serviceCIDR="10.98.0.0/16"))
    assert "10.97.0.9 is outside serviceCIDR 10.98.0.0/16" in caught.value.mistakes[0]


def mutated(value: object, rng: random.Random) -> object:
    """Return *value* with one random part replaced by something of another form."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        index = rng.randrange(len(value))
        return [mutated(one, rng) if n == index else one for n, one in enumerate(value)]
    odd = [None, True, -1, 2.5, "", "x y", [], {}, [None], {"a": None}, 10**30, "0.0.0.0/0"]
    return rng.choice([*odd, [[]], {"name": []}, [{"name": {}}], "255.255.255.255", "1.1.1.1/33"])


EXAMPLES = Path(topology.__file__).parents[2] / "topologies"


def test_an_ingress_of_a_class_that_is_not_there_is_accepted_with_a_note(tmp_path: Path) -> None:
    def ingress(name: str) -> str:
        return (
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: web}\nspec:\n"
            f"  ingressClassName: {name}\n"
            "  defaultBackend: {service: {name: web, port: {number: 80}}}\n"
        )

    path = tmp_path / "t.yaml"
    path.write_text(ingress("traefik"))
    live = topology.load([str(EXAMPLES / "minimal.yaml")]).require_lab()
    nginx = {"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass"}
    stored = [{**nginx, "metadata": {"name": "nginx"}}]
    line = f"{path}:5: spec.ingressClassName: there is no IngressClass traefik"
    declared = topology.load([str(path)])
    assert topology.check(declared, lab=live, stored=stored) == [
        f"{line} (known: nginx); nobody serves it"
    ]
    path.write_text(f"{ingress('traefik')}---\n{(EXAMPLES / 'minimal.yaml').read_text()}")
    assert topology.load([str(path)]).notes == (f"{line} (known: none); nobody serves it",)
    path.write_text(ingress("nginx"))
    assert topology.check(topology.load([str(path)]), lab=live, stored=stored) == []


MUTATED = [EXAMPLES / "notes.yaml", EXAMPLES / "two-segments.yaml", DATA / "services.yaml"]


@pytest.mark.parametrize("example", MUTATED, ids=lambda path: path.stem)
def test_no_odd_value_escapes_as_another_error(tmp_path: Path, example: Path) -> None:
    name, text = example.stem, example.read_text()
    if "kind: Lab" not in text:
        text += f"---\n{LAB}"
    documents = list(yaml.load_all(text, Loader=yaml.CSafeLoader))
    rng = random.Random(name)
    refused = 0
    for _ in range(200):
        changed = documents
        for _ in range(rng.randint(1, 3)):
            changed = [
                mutated(one, rng) if n == rng.randrange(len(documents)) else one
                for n, one in enumerate(changed)
            ]
        path = tmp_path / "t.yaml"
        path.write_text(yaml.dump_all(changed, Dumper=yaml.CSafeDumper))
        try:
            topology.load([str(path)])
        except InputError as error:
            refused += 1
            assert all(line.startswith(f"{path}:") for line in error.mistakes)
    assert refused > 100
