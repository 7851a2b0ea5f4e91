"""NetworkPolicies in a whole lab: every case by packets, and what no table of pods can tell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pytest
from labs import Cli, namespaces
from policy_cases import CASES, NODES, TITLES, Case, pod
from policy_cases import namespaces as namespaces_of
from policy_packets import KINDS, SENT, answered

from netlab.lab.live import Live
from netlab.model.kubernetes import Document, registry_key

pytestmark = pytest.mark.lab

PLAIN = Case("plain", {}, [], {})


def lab_document(name: str) -> Document:
    return {
        "apiVersion": "netlab/v1",
        "kind": "Lab",
        "metadata": {"name": name},
        "nodes": [{"name": node} for node in NODES.values()],
    }


class Ground:
    """The lab of nine pods, under one case after another."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        self.live = Live(cli.lab)
        self.addresses: Mapping[str, str] = {
            f"{pod.namespace}/{pod.name}": pod.ip for pod in self.live.cluster().pods
        }
        self._held: dict[str, Document] = {}
        self._labelled: set[str] = set()
        self._number = 0

    def netns(self, title: str) -> str:
        namespace, _, name = title.partition("/")
        return self.cli.netns(NODES[name], namespace, name)

    def take(self, case: Case) -> None:
        """Have the lab hold the policies and labels of *case*, and nothing of the one before."""
        policies = {registry_key(one): one for one in case.documents(self.addresses)}
        now = labelled(case)
        others = {title: now[title] for title in {*self._labelled, *case.labels}}
        self.live.delete([one for key, one in self._held.items() if key not in policies])
        self.live.apply([*policies.values(), *others.values()])
        assert self.live.wait(revision=self.live.revision()) == []
        self._held, self._labelled = policies, set(case.labels)

    def check(self, case: Case) -> list[str]:
        """Return the flows that are not as *case* expects."""
        self._number += 1
        found = answered(self.addresses, self.netns, expected=case.expected, number=self._number)
        return [
            f"{flow}: {'answered' if flow in found else 'not answered'}"
            for flow in SENT
            if (flow in found) is not case.expected(flow)
        ]


def labelled(case: Case) -> dict[str, Document]:
    """Return the pods and namespaces as *case* labels them, by what it calls them."""
    found = {one["metadata"]["name"]: one for one in namespaces_of(case)}
    for title in TITLES:
        found[title] = pod(*title.split("/"), protocols=KINDS)
        found[title]["metadata"]["labels"] |= case.labels.get(title, {})
    return found


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Ground]:
    cli = Cli(f"np{worker_id.removeprefix('gw')}", tmp_path_factory.mktemp("lab"))
    documents = [lab_document(cli.lab), *namespaces_of(PLAIN)]
    documents += [pod(*title.split("/"), protocols=KINDS) for title in TITLES]
    # JSON: in YAML as netlab reads it, y is a boolean.
    cli("up", cli.file("---\n".join(f"{json.dumps(one)}\n" for one in documents)))
    try:
        yield Ground(cli)
    finally:
        cli("down")
    assert namespaces(cli.lab) == []


def test_every_case_holds_for_packets(ground: Ground) -> None:
    wrong = {}
    for case in [PLAIN, *CASES]:
        ground.take(case)
        if differing := ground.check(case):
            wrong[case.name] = differing
    assert wrong == {}
