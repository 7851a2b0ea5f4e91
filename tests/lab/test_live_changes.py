"""scale, label, cordon, drain, taint, rollout on a running lab, in kubectl's words."""

from __future__ import annotations

import json

import pytest
from labs import Cli, inside, topology

pytestmark = pytest.mark.lab
WEB = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
"""


@pytest.fixture
def files(small: Cli) -> str:
    """The module's lab with a Deployment and its Service, as declared; returns the files."""
    path = small.file(topology(small.lab, extra=WEB), "web.yaml")
    small("up", path)
    return path


def pods_on(cli: Cli, node: str) -> list[str]:
    items = cli.get("pods", "-A")["items"]
    return sorted(p["metadata"]["name"] for p in items if p["spec"].get("nodeName") == node)


def undos(cli: Cli) -> list[str]:
    return [one["undo"] for one in cli.status()["changes"]]


def test_scaling_is_listed_and_up_brings_the_declared_number_back(small: Cli, files: str) -> None:
    done = small("scale", "deployment/web", "--replicas", "4", "--current-replicas", "2")
    assert done.stdout == "deployment.apps/web scaled\n"
    assert small.get("deployment", "web")["spec"]["replicas"] == 4
    rules = inside(small.netns("n1"), "iptables-save", "-t", "nat")
    ends = [line for line in rules.splitlines() if '"default/web"' in line and "-j DNAT" in line]
    assert len(ends) == 4
    assert undos(small) == ["netlab scale deployment/web --replicas 2"]
    refused = small("scale", "deploy/web", "--replicas", "3", "--current-replicas", "2", code=1)
    assert "Expected replicas to be 2, was 4" in refused.stderr
    small("up", files)
    assert small.get("deployment", "web")["spec"]["replicas"] == 2 and undos(small) == []
    assert small("plan", files).stdout == ""


def test_a_label_moves_a_pod_out_of_a_service_and_back(small: Cli, files: str) -> None:
    done = small("label", "pod", "n1-p1", "tier=db", "app=web", "--overwrite")
    assert done.stdout == "pod/n1-p1 labeled\n"
    address = small.get("pod", "n1-p1")["status"]["podIP"]
    assert address in inside(small.netns("n2"), "iptables-save", "-t", "nat")
    assert undos(small) == [
        "netlab label pod n1-p1 app=p1 --overwrite",
        "netlab label pod n1-p1 tier-",
    ]
    for undo in undos(small):
        small(*undo.split()[1:])
    assert address not in inside(small.netns("n2"), "iptables-save", "-t", "nat")
    assert undos(small) == []
    assert small("annotate", "pods", "--all", "why=x").stdout.count(" annotated\n") >= 4
    assert "already has a value" in small("annotate", "pod", "n1-p1", "why=y", code=1).stderr
    small("annotate", "pods", "-l", "app", "why-")


def test_a_drained_node_keeps_no_pod_and_refuses_naked_ones_first(small: Cli, files: str) -> None:
    before = pods_on(small, "n1")
    refused = small("drain", "n1", code=1)
    assert refused.stdout == "node/n1 cordoned\n"
    assert "(use --force to override): default/n1-p1, default/n1-p2" in refused.stderr
    assert pods_on(small, "n1") == before
    done = small("drain", "n1", "--force", "--ignore-daemonsets")
    assert done.stdout.endswith("node/n1 drained\n") and "pod/n1-p1 evicted\n" in done.stdout
    assert pods_on(small, "n1") == []
    assert len([name for name in pods_on(small, "n2") if name.startswith("web-")]) == 2
    assert "Ready,SchedulingDisabled" in small("get", "nodes").stdout
    assert undos(small) == ["netlab uncordon n1", *[f"netlab up {files}"] * 2]
    assert small("uncordon", "node/n1").stdout == "node/n1 uncordoned\n"
    assert small("uncordon", "n1").stdout == "node/n1 already uncordoned\n"
    small("up", files)
    assert {"n1-p1", "n1-p2"} <= set(pods_on(small, "n1"))


def test_taints_are_set_listed_and_removed(small: Cli, files: str) -> None:
    small("taint", "node", "n1", "dedicated=db:NoSchedule")
    taints = small.get("node", "n1")["spec"]["taints"]
    assert taints == [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]
    assert undos(small) == ["netlab taint node n1 dedicated:NoSchedule-"]
    small(*undos(small)[0].split()[1:])
    assert "taints" not in small.get("node", "n1")["spec"]


def test_a_restart_replaces_every_pod(small: Cli, files: str) -> None:
    before = {name for node in ("n1", "n2") for name in pods_on(small, node)}
    assert small("rollout", "restart", "deploy/web").stdout == "deployment.apps/web restarted\n"
    done = small("rollout", "status", "deployment/web")
    assert done.stdout.endswith('deployment "web" successfully rolled out\n')
    after = {name for node in ("n1", "n2") for name in pods_on(small, node)}
    assert len({name for name in after & before if name.startswith("web-")}) == 0
    assert small("up", files).stdout.startswith(f"lab {small.lab}: nothing to change")
    history = small("rollout", "history", "deployment/web").stdout.splitlines()
    assert history[1].split() == ["REVISION", "CHANGE-CAUSE"] and len(history[2:-1]) == 2
    assert small("rollout", "undo", "deploy/web").stdout == "deployment.apps/web rolled back\n"
    template = small.get("deployment", "web")["spec"]["template"]
    assert "annotations" not in template["metadata"]


def test_status_in_json_lines_tells_each_change(small: Cli, files: str) -> None:
    watching = small.start("status", "-w", "-o", "json")
    assert watching.stdout is not None
    first = json.loads(watching.stdout.readline())
    assert first["settled"] and first["pods"]["ready"] == first["pods"]["wanted"]
    small("scale", "deployment/web", "--replicas", "3")
    seen = [json.loads(watching.stdout.readline())]
    more = first["pods"]["ready"] + 1
    while not (seen[-1]["settled"] and seen[-1]["pods"]["ready"] == more):
        seen.append(json.loads(watching.stdout.readline()))
    watching.terminate()
    watching.wait()
    took = seen[-1]["convergence"]["seconds"]
    assert took is not None and 0 < took < 20
    small("up", files)


def test_what_is_deleted_though_declared_is_listed_and_comes_back(small: Cli, files: str) -> None:
    small("delete", "pod", "n1-p1", "--grace-period", "0")
    small("delete", "service", "web")
    gone = [one["words"] for one in small.status()["changes"]]
    assert gone == ["pod n1-p1 is gone, though declared", "service web is gone, though declared"]
    assert undos(small) == [f"netlab up {files}"] * 2
    small(*undos(small)[0].split()[1:])
    assert undos(small) == []
    assert small.get("pod", "n1-p1")["status"]["phase"] == "Running"
    assert "nothing to change" in small("up", files).stdout
