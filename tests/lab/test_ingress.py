"""An ingress controller in a lab, from the command line: who is served, what is told, what is left.

What hosts and paths mean is tested against a real nginx in tests/kernel.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from labs import Cli, eventually, namespaces

from netlab.processes import installed

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not installed("nginx"), reason="needs nginx"),
]

LAB = """apiVersion: netlab/v1
kind: Lab
metadata: {name: NAME}
gateway: {publish: ["30000-32767/tcp"]}
dns: {replicas: 0}
nodes: [{name: n1}, {name: n2}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ingress}
spec:
  replicas: 1
  selector: {matchLabels: {app: ingress}}
  template:
    metadata: {labels: {app: ingress}}
    spec:
      nodeName: n1
      containers:
        - name: controller
          image: netlab/ingress:1
          args: ["--publish-service=default/ingress"]
          ports: [{containerPort: 80}]
          readinessProbe: {httpGet: {path: /healthz, port: 10254}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: ingress}
spec:
  type: NodePort
  selector: {app: ingress}
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: nginx, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}
spec: {controller: k8s.io/ingress-nginx}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
    - host: web.example
      http:
        paths:
          - {path: /, pathType: Prefix, backend: {service: {name: web, port: {name: http}}}}
"""
ROUTE = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: broken}
spec:
  tls: [{hosts: [broken.example], secretName: nobodys}]
  rules:
    - host: broken.example
      http:
        paths: [{path: /, pathType: Prefix, backend: {service: {name: gone, port: {number: 80}}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: nginx}
spec: {controllerName: k8s.io/ingress-nginx}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: door}
spec:
  gatewayClassName: nginx
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: routed}
spec:
  parentRefs: [{name: door}]
  hostnames: [routed.example]
  rules: [{backendRefs: [{name: web, port: 80}]}]
"""
TOLD = (
    "SecretNotFound",
    "no Secret default/nobodys",
    "BackendNotFound",
    "no Service default/gone",
)
# Asks over kept connections until it reads something, and never a second time.
CLIENT = """
import http.client, json, select, sys
connection = http.client.HTTPConnection(sys.argv[1], 30080, timeout=10)
connection.connect()
connection.auto_open = 0
asked = failed = 0
while not select.select([sys.stdin], [], [], 0.005)[0]:
    asked += 1
    try:
        connection.request("GET", "/", headers={"Host": "web.example"})
        answer = connection.getresponse()
        answer.read()
        failed += answer.status != 200
        if answer.will_close:  # as nginx announces after 1000 requests
            connection.close()
            connection.connect()
    except (OSError, http.client.HTTPException) as error:
        print(repr(error))
        failed += 1
        break
print(asked, failed)
"""


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    command = Cli(f"i{os.getpid()}", tmp_path_factory.mktemp("lab"))
    try:
        command("up", command.file(LAB.replace("NAME", command.lab)))
        eventually(lambda: status(command, "web.example") == "200", what="the Ingress is served")
        yield command
    finally:
        command("down", code=None)
        assert namespaces(command.lab) == []


def address(cli: Cli, node: str = "n1") -> str:
    (found,) = [one for one in cli.get("nodes")["items"] if one["metadata"]["name"] == node]
    return str(found["status"]["addresses"][0]["address"])


def curl(cli: Cli, host: str, *words: str) -> str:
    """Return what curl prints in the client's namespace, asked for *host*."""
    command = [
        "curl",
        "-s",
        "-m",
        "5",
        *words,
        "-H",
        f"Host: {host}",
        f"http://{address(cli)}:30080/",
    ]
    return subprocess.run(
        ["ip", "netns", "exec", cli.netns("client"), *command], capture_output=True, text=True
    ).stdout


def status(cli: Cli, host: str) -> str:
    return curl(cli, host, "-o", "/dev/null", "-w", "%{http_code}")


def test_an_ingress_of_no_class_gets_the_default_one_and_an_address(cli: Cli) -> None:
    row = cli("get", "ingress").stdout.splitlines()[1].split()
    service = cli.get("service", "ingress")
    assert row[:5] == ["web", "nginx", "web.example", service["spec"]["clusterIP"], "80"]
    shown = cli("describe", "ingress", "web").stdout
    assert "web:http (" in shown
    assert "Scheduled for sync" in shown


def test_a_second_up_changes_nothing(cli: Cli) -> None:
    assert "nothing to change" in cli("up", str(cli.directory / "lab.yaml")).stdout


def test_pods_come_and_go_under_a_kept_connection(cli: Cli) -> None:
    """Each pod of the Deployment is deleted; a client that never asks twice sees none of it."""
    client = subprocess.Popen(
        ["ip", "netns", "exec", cli.netns("client"), "python3", "-c", CLIENT, address(cli)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    first = {one["metadata"]["name"] for one in pods(cli)}
    try:
        for name in sorted(first):
            cli("delete", "pod", name)
            eventually(lambda: len(ready(cli)) == 2, what="two pods are ready")
        assert not first & {one["metadata"]["name"] for one in ready(cli)}
    finally:
        said = client.communicate("enough", timeout=20)[0].split()
    assert said[-1] == "0", said
    assert int(said[-2]) > 20


def pods(cli: Cli) -> list[dict[str, dict[str, object]]]:
    return list(cli.get("pods", "-l", "app=web")["items"])


def ready(cli: Cli) -> list[dict[str, dict[str, object]]]:
    return [
        one
        for one in pods(cli)
        if not one["metadata"].get("deletionTimestamp")
        and any(c["type"] == "Ready" and c["status"] == "True"
                for c in one["status"].get("conditions", []))  # type: ignore[attr-defined]
    ]  # fmt: skip


def test_what_is_wrong_is_told_and_what_is_right_is_served(cli: Cli) -> None:
    file = cli.file(ROUTE, "route.yaml")
    cli("apply", "-f", file)
    eventually(lambda: status(cli, "routed.example") == "200", what="the HTTPRoute is served")
    assert status(cli, "web.example") == "200"

    def told() -> bool:  # an Ingress without a class is looked at once it has the default one
        events = cli("get", "events").stdout
        return all(words in events for words in TOLD)

    eventually(told, what="what is wrong is told in events")

    def accepted() -> bool:
        parents = cli.get("httproute", "routed")["status"]["parents"]
        conditions = [{c["type"]: c["status"] for c in one["conditions"]} for one in parents]
        return conditions == [{"Accepted": "True", "ResolvedRefs": "True"}]

    eventually(accepted, what="the HTTPRoute says that it is accepted")
    door = cli.get("gateway", "door")["status"]
    assert door["listeners"][0]["attachedRoutes"] == 1
    cli("delete", "-f", file)
    eventually(lambda: status(cli, "routed.example") == "404", what="the route is gone")


def test_nothing_of_a_controller_is_left_behind(cli: Cli) -> None:
    """Its files were in a file system of its own, its processes in its sandbox."""
    (pod,) = cli.get("pods", "-l", "app=ingress")["items"]
    place = cli.netns(pod["spec"]["nodeName"], "default", pod["metadata"]["name"])
    inside = os.stat(f"/run/netns/{place}").st_ino
    assert controllers(inside)
    listed = cli("exec", pod["metadata"]["name"], "--", "ls", "/etc/nginx").stdout.split()
    assert {"nginx.conf", "lua", "certificates"} <= set(listed)
    assert "certificates" not in os.listdir("/etc/nginx")
    cli("delete", "deployment", "ingress")
    eventually(lambda: not controllers(inside), what="nginx has ended")
    assert not list(Path("/run/netlab", cli.lab, "sandbox").glob("*/ingress-*"))


def controllers(inside: int) -> list[str]:
    """The processes of nginx and of its follower in the network namespace with this inode."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{entry}/ns/net").st_ino != inside:
                continue
            words = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if words.startswith("nginx: ") or "-m netlab.ingress" in words:
            found.append(words)
    return found
