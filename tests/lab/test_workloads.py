"""Workloads of a running lab: a rolling update nobody notices, probes, a lost node, fixed names."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from labs import Cli, eventually, inside

pytestmark = pytest.mark.lab


def web(image: str, *, probe: str = "") -> str:
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
        - name: c
          image: {image}
          ports: [{{name: http, containerPort: 80}}]
{probe}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, clusterIP: 10.96.7.7, ports: [{{port: 80, targetPort: http}}]}}
"""


ASK = """
import json, socket, sys, time
stop, failed, done = time.monotonic() + 20, [], 0
print("asking", flush=True)
while time.monotonic() < stop:
    try:
        with socket.create_connection((sys.argv[1], 80), 2) as one:
            one.sendall(b"hello\\n")
            assert one.recv(4096)
            done += 1
    except (OSError, AssertionError) as error:
        failed.append(repr(error))
    import select
    if select.select([sys.stdin], [], [], 0.005)[0]:
        break
print(json.dumps({"done": done, "failed": failed}))
"""


def pods(cli: Cli, *words: str) -> list[dict[str, Any]]:
    return list(cli.get("pods", *words)["items"])


def test_no_request_fails_during_a_rolling_update(small: Cli) -> None:
    small("apply", "-f", small.file(web("one"), "web.yaml"))
    before = {pod["metadata"]["uid"] for pod in pods(small, "-l", "app=web")}
    asking = subprocess.Popen(
        [
            *("ip", "netns", "exec", small.netns("n1", "default", "n1-p1")),
            *(sys.executable, "-c", ASK, "10.96.7.7"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asking.stdout is not None
    assert asking.stdout.readline() == "asking\n"
    small("apply", "-f", small.file(web("two"), "web.yaml"))
    told = json.loads(asking.communicate("enough\n", timeout=30)[0])
    after = pods(small, "-l", "app=web")
    assert {pod["spec"]["containers"][0]["image"] for pod in after} == {"two"}
    assert not before & {pod["metadata"]["uid"] for pod in after}
    assert told["failed"] == [] and told["done"] > 20
    events = small("get", "events").stdout
    assert "Scaled down replica set web-" in events and "Killing" in events
    small("delete", "-f", small.file(web("two"), "web.yaml"))
    assert pods(small, "-l", "app=web") == []


def test_a_probe_decides_who_is_an_endpoint(small: Cli) -> None:
    probe = "          readinessProbe: {tcpSocket: {port: %s}, periodSeconds: 1}"
    small("apply", "-f", small.file(web("one", probe=probe % "http"), "web.yaml"))
    bad = small.file(web("two", probe=probe % "81"), "web.yaml")
    done = small("apply", "--no-wait", "-f", bad)
    assert "deployment.apps/web configured" in done.stdout
    eventually(lambda: "Readiness probe failed: dial tcp" in small("get", "events").stdout)
    (one,) = [
        s for s in small.get("endpointslices")["items"] if s["metadata"]["name"][:4] == "web-"
    ]
    ready = [end for end in one["endpoints"] if end["conditions"]["ready"]]
    assert len(ready) == 3, "the old ones go on: maxUnavailable of 3 is none"
    problems = small.status()["problems"]
    assert any("Readiness probe failed" in problem for problem in problems), problems
    small("delete", "-f", bad)


STATEFUL = """
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: c, image: x, command: [sh, -c, "trap 'exit 0' TERM; sleep 99 & wait"]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: daemon}
spec:
  selector: {matchLabels: {app: daemon}}
  template:
    metadata: {labels: {app: daemon}}
    spec: {containers: [{name: c, image: x}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: twice}
spec:
  completions: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: x, command: [sh, -c, exit 0]}]
"""


def test_names_stay_daemons_are_everywhere_and_jobs_end(small: Cli) -> None:
    path = small.file(STATEFUL, "stateful.yaml")
    small("apply", "-f", path)
    found = {pod["metadata"]["name"]: pod for pod in pods(small, "-l", "app=db")}
    assert sorted(found) == ["db-0", "db-1"]
    assert small("exec", "db-1", "--", "hostname").stdout == "db-1\n"
    small("delete", "pod", "db-0")
    again = {pod["metadata"]["name"]: pod for pod in pods(small, "-l", "app=db")}
    assert sorted(again) == ["db-0", "db-1"]
    assert again["db-0"]["metadata"]["uid"] != found["db-0"]["metadata"]["uid"]
    places = sorted(pod["spec"]["nodeName"] for pod in pods(small, "-l", "app=daemon"))
    assert places == ["n1", "n2"]
    eventually(lambda: "Complete" in small("get", "jobs").stdout)
    assert "2/2" in small("get", "jobs").stdout
    small("delete", "-f", path)
    assert [pod["metadata"]["name"] for pod in pods(small)] == ["n1-p1", "n1-p2", "n2-p1", "n2-p2"]


def test_a_node_that_is_cut_off_is_lost_and_comes_back(small: Cli) -> None:
    small("apply", "-f", small.file(web("one"), "web.yaml"))
    cut = pods(small, "-l", "app=web")
    here = [pod for pod in cut if pod["spec"]["nodeName"] == "n2"]
    assert here
    small("link", "down", "n2", code=None)
    try:
        eventually(lambda: "NotReady" in small("get", "nodes").stdout)
        eventually(lambda: {p["spec"]["nodeName"] for p in pods(small, "-l", "app=web")} == {"n1"})
        rules = inside(small.netns("n1"), "iptables-save", "-t", "nat")
        eventually(
            lambda: (
                not any(
                    f"{pod['status']['podIP']}/32"
                    in inside(small.netns("n1"), "iptables-save", "-t", "nat")
                    for pod in here
                )
            ),
            what=rules,
        )
        gone = [small.netns("n2", "default", pod["metadata"]["name"]) for pod in here]
        assert all(Path("/run/netns", one).exists() for one in gone), "it goes on, cut off"
    finally:
        small("link", "up", "n2", code=None)
    eventually(lambda: "NotReady" not in small("get", "nodes").stdout)
    eventually(lambda: not any(Path("/run/netns", one).exists() for one in gone))
    events = small("get", "events", "-A").stdout
    assert "Node n2 status is now: NodeNotReady" in events
    assert "Node n2 status is now: NodeReady" in events
    small("delete", "-f", small.file(web("one"), "web.yaml"))


def test_a_pod_that_fits_nowhere_is_told_of_and_taken_once_it_fits(small: Cli) -> None:
    pod = """
apiVersion: v1
kind: Pod
metadata: {name: picky}
spec:
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: In, values: [ssd]}]}]
  containers: [{name: c, image: x}]
"""
    path = small.file(pod, "picky.yaml")
    small("apply", "--no-wait", "-f", path)
    why = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    eventually(lambda: why in small("get", "events").stdout)
    assert any(why in problem for problem in small.status()["problems"])
    small("label", "node", "n2", "disk=ssd")
    (one,) = [p for p in pods(small) if p["metadata"]["name"] == "picky"]
    assert one["spec"]["nodeName"] == "n2"
    small("label", "node", "n2", "disk-")
    small("delete", "-f", path)
