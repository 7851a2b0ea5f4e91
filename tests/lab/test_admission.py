"""Pods that name a node which does not take them up."""

from __future__ import annotations

import pytest
from labs import Cli, eventually, namespaces

pytestmark = pytest.mark.lab

PINNED = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: n1
  {more}
  containers: [{{name: c, image: x, ports: [{{containerPort: 80, hostPort: {port}}}]}}]
"""
NO_PORTS = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"


def pinned(name: str, *, port: int = 8080, more: str = "") -> str:
    return PINNED.format(name=name, port=port, more=more)


def test_a_second_pod_for_one_host_port_fails_and_never_runs(small: Cli) -> None:
    small("apply", "-f", small.file(pinned("first")))
    told = small("apply", "-f", small.file(pinned("second"), "second.yaml"), code=1)
    assert NO_PORTS in told.stderr
    status = small.get("pod", "second")["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "NodePorts")
    assert status["message"] == f"Pod was rejected: {NO_PORTS}"
    assert "podIP" not in status
    assert small.netns("n1", "default", "second") not in namespaces(small.lab)
    assert small.get("pod", "first")["status"]["phase"] == "Running"
    (event,) = [one for one in small.get("events")["items"] if one["reason"] == "NodePorts"]
    assert (event["type"], event["message"], event["source"]["host"]) == ("Warning", NO_PORTS, "n1")
    assert event["involvedObject"]["name"] == "second"
    # It stays so when the port is free, and another of its name gets it.
    small("delete", "pod", "first", "--grace-period", "0", code=1)
    assert small.get("pod", "second")["status"]["phase"] == "Failed"
    small("delete", "pod", "second")
    small("apply", "-f", small.file(pinned("second"), "second.yaml"))
    small("delete", "pod", "second", "--grace-period", "0")


def test_a_node_takes_no_pod_that_chooses_others(small: Cli) -> None:
    expression = "matchExpressions: [{key: disk, operator: Exists}]"
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    more = f"affinity: {{nodeAffinity: {{{required}: {{nodeSelectorTerms: [{{{expression}}}]}}}}}}"
    small("apply", "-f", small.file(pinned("elsewhere", more=more)), code=1)
    assert small.get("pod", "elsewhere")["status"]["reason"] == "NodeAffinity"
    small("delete", "pod", "elsewhere")
    eventually(lambda: small.status()["converged"])
