"""Services of a live lab: programmed, followed, repaired, and gone with their mode."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from labs import Cli, asked, eventually, inside, topology

pytestmark = pytest.mark.lab

MODES = ("iptables", "nftables")
WITHIN = 2.0  # seconds until what somebody broke is whole again

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {tier: web}
  clusterIP: 10.96.0.50
  type: NodePort
  ports: [{port: 80, nodePort: 30050}]
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  selector: {tier: echo}
  clusterIP: 10.96.0.53
  ports: [{port: 53, targetPort: 5353, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {tier: nobody}, clusterIP: 10.96.0.60, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: lb}
spec:
  type: LoadBalancer
  selector: {tier: web}
  clusterIP: 10.96.0.70
  externalTrafficPolicy: Local
  healthCheckNodePort: 31070
  ports: [{port: 80, nodePort: 30070}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.5}]}}
"""


def pod(name: str, node: str, tier: str, port: str) -> str:
    return f"""apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{tier: {tier}}}}}
spec:
  nodeName: {node}
  containers: [{{name: c, ports: [{port}]}}]
"""


PODS = [
    pod("web-1", "n1", "web", "{containerPort: 80}"),
    pod("web-2", "n2", "web", "{containerPort: 80, hostPort: 8080}"),
    pod("echo-1", "n1", "echo", "{containerPort: 5353, protocol: UDP}"),
    pod("echo-2", "n2", "echo", "{containerPort: 5353, protocol: UDP}"),
    pod("client", "n1", "client", "{containerPort: 9}"),
]


def declared(lab: str, *, mode: str = "iptables", without: str = "") -> str:
    first, *rest = topology(lab, pods=0, publish="[30000-32767/tcp]").split("---\n")
    pods = [one for one in PODS if not without or f"name: {without}," not in one]
    return "---\n".join([f"{first}proxyMode: {mode}\n", *rest, *pods, SERVICES])


@pytest.fixture(scope="module", params=MODES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[tuple[Cli, str]]:
    """A lab with Services, in each mode."""
    mode = str(request.param)
    lab = f"s{worker_id.removeprefix('gw')}x{mode[:3]}"
    command = Cli(lab, tmp_path_factory.mktemp("lab"))
    command("up", command.file(declared(lab, mode=mode)))
    yield command, mode
    command("down")


def answers(netns: str, address: str, port: int = 80, *, count: int = 30) -> set[str]:
    """Return the pods that answered somebody in *netns*."""
    script = (
        "import socket,sys,json\n"
        f"for _ in range({count}):\n"
        f"    with socket.create_connection(({address!r}, {port}), 3) as s:\n"
        "        s.sendall(b'x\\n'); print(json.loads(s.makefile().readline())['pod'])\n"
    )
    return set(inside(netns, "python3", "-c", script).split())


def refused(netns: str, address: str, port: int = 80) -> bool:
    script = (
        "import socket\n"
        f"try: socket.create_connection(({address!r}, {port}), 3)\n"
        "except ConnectionRefusedError: print('refused')\n"
    )
    return "refused" in inside(netns, "python3", "-c", script)


def test_the_cluster_ip_leads_to_every_endpoint(served: tuple[Cli, str]) -> None:
    cli, _ = served
    for place in (cli.netns("n1", "default", "client"), cli.netns("n1"), cli.netns("n2")):
        assert answers(place, "10.96.0.50") == {"web-1", "web-2"}


def test_a_pod_is_seen_by_its_own_address_and_a_node_by_its(served: tuple[Cli, str]) -> None:
    cli, _ = served
    client = cli.get("pod", "client")["status"]["podIP"]
    seen = {asked(cli.netns("n1", "default", "client"), "10.96.0.50")["client"] for _ in range(9)}
    assert seen == {client}


def test_the_node_port_is_on_every_node(served: tuple[Cli, str]) -> None:
    cli, _ = served
    for address in ("192.168.50.101", "192.168.50.102"):
        assert answers(cli.netns("client"), address, 30050) == {"web-1", "web-2"}


def test_a_service_without_endpoints_refuses_at_once(served: tuple[Cli, str]) -> None:
    cli, _ = served
    assert refused(cli.netns("n1", "default", "client"), "10.96.0.60")
    assert refused(cli.netns("n1"), "10.96.0.60")


def test_a_host_port_leads_to_its_pod(served: tuple[Cli, str]) -> None:
    cli, _ = served
    assert answers(cli.netns("n1"), "192.168.50.102", 8080, count=3) == {"web-2"}


def test_the_policy_local_keeps_the_client_and_its_health_check_answers(
    served: tuple[Cli, str],
) -> None:
    cli, _ = served
    for node, name in (("192.168.50.101", "web-1"), ("192.168.50.102", "web-2")):
        assert answers(cli.netns("client"), node, 30070, count=9) == {name}
        said = inside(cli.netns("master"), "curl", "-s", "-m", "3", f"http://{node}:31070/")
        assert json.loads(said)["localEndpoints"] == 1
    assert asked(cli.netns("client"), "192.168.50.101", 30070)["client"] == "198.51.100.10"


BROKEN = {
    "iptables": [
        (
            "a service's chain",
            "iptables-nft -t nat -F {svc}",
            "iptables-nft -t nat -S {svc} | grep -c SEP",
        ),
        ("nat flushed", "iptables-nft -t nat -F", "iptables-nft -t nat -S {svc} | grep SEP"),
        (
            "the jump of PREROUTING",
            "iptables-nft -t nat -D PREROUTING 1",
            "iptables-nft -t nat -S PREROUTING | grep KUBE-SERVICES",
        ),
        (
            "masquerading",
            "iptables-nft -t nat -F KUBE-POSTROUTING",
            "iptables-nft -t nat -S KUBE-POSTROUTING | grep MASQ",
        ),
        (
            "a rule too many",
            "iptables-nft -t nat -I {svc} -j RETURN",
            "! iptables-nft -t nat -S {svc} | grep RETURN",
        ),
        ("everything", "nft flush ruleset", "iptables-nft -t nat -S {svc} | grep SEP"),
    ],
    "nftables": [
        (
            "a service's chain",
            "nft flush chain ip kube-proxy {nft}",
            "nft list chain ip kube-proxy {nft} | grep goto",
        ),
        (
            "the table",
            "nft delete table ip kube-proxy",
            "nft list chain ip kube-proxy {nft} | grep goto",
        ),
        (
            "the map of addresses",
            "nft flush map ip kube-proxy service-ips",
            "nft list map ip kube-proxy service-ips | grep 10.96.0.50",
        ),
        ("everything", "nft flush ruleset", "nft list chain ip kube-proxy {nft} | grep goto"),
    ],
}


def test_what_somebody_breaks_is_whole_within_two_seconds(served: tuple[Cli, str]) -> None:
    cli, mode = served
    node = cli.netns("n1")
    listed = inside(node, "sh", "-c", "iptables-nft-save; nft list ruleset")
    found = [
        line.split()[1]
        for line in listed.splitlines()
        if "default/web cluster IP" in line and line.startswith("-A KUBE-SVC-")
    ]
    names = [
        word for word in listed.split() if word.startswith("service-") and "default/web/" in word
    ]
    chains = {"svc": [*found, ""][0], "nft": [*names, ""][0].strip(",;")}
    for title, broken, whole in BROKEN[mode]:
        inside(node, "nft", "add", "table", "ip", "mine")
        marks = cli.log().count("repaired: ")
        inside(node, "sh", "-c", broken.format(**chains))
        took = eventually(
            lambda whole=whole: (
                subprocess.run(  # type: ignore[misc]
                    ["ip", "netns", "exec", node, "sh", "-c", whole.format(**chains)],
                    capture_output=True,
                ).returncode
                == 0
            ),
            what=f"{mode}: {title}",
        )
        assert took < WITHIN, f"{mode}: {title}: {took:.1f} s"
        eventually(lambda marks=marks: cli.log().count("repaired: ") > marks, what=title)  # type: ignore[misc]
        if title != "everything":
            assert "table ip mine" in inside(node, "nft", "list", "tables"), title
    assert answers(node, "10.96.0.50") == {"web-1", "web-2"}


def test_a_foreign_rule_stays(served: tuple[Cli, str]) -> None:
    cli, _ = served
    node = cli.netns("n2")
    rule = ["INPUT", "-p", "tcp", "-m", "tcp", "--dport", "4242", "-j", "DROP"]
    inside(node, "iptables-nft", "-A", *rule)
    inside(node, "nft", "add table ip mine; add chain ip mine c; add rule ip mine c drop")
    cli("delete", "svc", "nobody")
    cli("apply", "-f", cli.file(SERVICES, "again.yaml"))
    assert "--dport 4242 -j DROP" in inside(node, "iptables-nft", "-S", "INPUT")
    assert "drop" in inside(node, "nft", "list", "table", "ip", "mine")


TALK = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 40000)); s.settimeout(0.1)
s.connect(("10.96.0.53", 53))
import json
end = time.monotonic() + 15
last = None
while time.monotonic() < end:
    try:
        s.send(b"x")
        pod = json.loads(s.recv(4096))["pod"]
    except OSError:
        continue
    if pod != last:
        print(pod, flush=True)
        last = pod
    time.sleep(0.01)
"""


def test_a_load_balancers_address_is_the_one_in_the_file(served: tuple[Cli, str]) -> None:
    cli, _ = served
    client = cli.netns("n1", "default", "client")
    assert answers(client, "203.0.113.5") == {"web-1", "web-2"}
    moved = SERVICES.rpartition("---")[2].replace("203.0.113.5", "203.0.113.6")
    cli("apply", "-f", cli.file(moved))
    assert answers(client, "203.0.113.6") == {"web-1", "web-2"}
    rules = inside(cli.netns("n1"), "sh", "-c", "iptables-nft-save; nft list ruleset")
    assert "203.0.113.6" in rules and "203.0.113.5" not in rules
    cli("apply", "-f", cli.file(moved.replace("203.0.113.6", "203.0.113.5")))
    assert cli.get("svc", "lb")["status"] == {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}}


def test_a_udp_client_that_never_stops_follows_its_service(served: tuple[Cli, str]) -> None:
    cli, mode = served
    talk = subprocess.Popen(
        ["ip", "netns", "exec", cli.netns("n1", "default", "client"), sys.executable, "-c", TALK],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert talk.stdout is not None
        first = talk.stdout.readline().strip()
        assert first in ("echo-1", "echo-2")
        began = time.monotonic()
        cli("delete", "pod", first)
        assert talk.stdout.readline().strip() == {"echo-1": "echo-2", "echo-2": "echo-1"}[first]
        assert time.monotonic() - began < 5
    finally:
        talk.kill()
        talk.wait()
        cli("up", cli.file(declared(cli.lab, mode=mode)))


def test_a_relabelled_pod_leaves_its_service(served: tuple[Cli, str]) -> None:
    cli, _ = served
    cli("apply", "-f", cli.file(PODS[1].replace("tier: web", "tier: other"), "relabelled.yaml"))
    place = cli.netns("n1")
    eventually(lambda: answers(place, "10.96.0.50") == {"web-1"})
    cli("apply", "-f", cli.file(PODS[1], "labelled.yaml"))
    eventually(lambda: answers(place, "10.96.0.50") == {"web-1", "web-2"})


def test_a_second_up_changes_nothing(served: tuple[Cli, str]) -> None:
    cli, mode = served
    path = cli.file(declared(cli.lab, mode=mode))
    cli("up", path)
    assert "nothing to change" in cli("up", path).stdout


def test_a_killed_agent_finds_its_rules_again(served: tuple[Cli, str]) -> None:
    cli, mode = served
    path = cli.file(declared(cli.lab, mode=mode))
    before = rules(cli, "n1")
    subprocess.run(["kill", "-9", str(cli.agent_pid())], check=True)
    assert "nothing to change" in cli("up", path).stdout
    assert rules(cli, "n1") == before


ODD = {
    "/registry/services/specs/default/odd": {"spec": 7},
    "/registry/services/specs/default/orphan": {"spec": {"selector": {"tier": "web"}}},
    "/registry/services/specs/default/two": {"status": {"conditions": [7]}, "spec": {}},
    "/registry/endpointslices/default/odd": {"endpoints": 7},
}


def test_what_is_no_object_is_told_and_harms_nobody(served: tuple[Cli, str]) -> None:
    cli, mode = served
    master = cli.netns("master")
    ctl = ("etcdctl", "--endpoints=http://192.168.50.10:2379")
    for key, more in ODD.items():
        _, _, kind, *_, name = key.split("/")
        about = {"kind": "Service", "apiVersion": "v1"}
        if kind == "endpointslices":
            about = {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1"}
        metadata = {"name": name, "namespace": "default"}
        inside(master, *ctl, "put", key, json.dumps({**about, "metadata": metadata, **more}))
    try:
        for key in ODD:
            if not key.endswith("two"):
                eventually(lambda key=key: f'"{key}" is no' in cli.log(), what=key)  # type: ignore[misc]
        cli("delete", "svc", "nobody")
        eventually(lambda: "10.96.0.60" not in "".join(rules(cli, "n1")), within=WITHIN)
        assert "Traceback" not in cli.log()
    finally:
        for key in ODD:
            inside(master, *ctl, "del", key)
        cli("up", cli.file(declared(cli.lab, mode=mode)))


def rules(cli: Cli, node: str) -> list[str]:
    """Return the node's rules, without counts and without what moves of itself."""
    saved = inside(cli.netns(node), "sh", "-c", "iptables-nft-save; nft -s list ruleset")
    return [line for line in saved.splitlines() if not line.startswith(("#", ":"))]


def test_the_mode_is_changed_while_connections_live(cli: Cli) -> None:
    text = declared(cli.lab)
    cli("up", cli.file(text))
    client = cli.netns("n1", "default", "client")
    script = (
        "import socket,sys\n"
        "s = socket.create_connection(('10.96.0.50', 80), 3); f = s.makefile()\n"
        "for line in sys.stdin:\n"
        "    s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n"
        "    while f.readline().strip(): pass\n"
        "    print(f.readline().strip(), flush=True)\n"
    )
    talk = subprocess.Popen(
        ["ip", "netns", "exec", client, sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert talk.stdin is not None and talk.stdout is not None

    def say() -> Any:
        assert talk.stdin is not None and talk.stdout is not None
        talk.stdin.write("\n")
        talk.stdin.flush()
        return talk.stdout.readline()

    try:
        assert "web-" in say()
        for mode, left in (("nftables", "KUBE-"), ("iptables", "kube-proxy")):
            cli("up", cli.file(declared(cli.lab, mode=mode)))
            for node in ("n1", "n2"):
                assert left not in "\n".join(rules(cli, node)), f"{left} is left"
            assert answers(client, "10.96.0.50") == {"web-1", "web-2"}
            assert "web-" in say(), f"the connection did not survive the change to {mode}"
    finally:
        talk.kill()
        talk.wait()


def test_a_refused_service_is_not_programmed(cli: Cli) -> None:
    text = declared(cli.lab)
    cli("up", cli.file(text))
    other = SERVICES.split("---")[2].replace("nobody", "late").replace("10.96.0.60", "10.96.0.50")
    done = cli("apply", "-f", cli.file(other, "late.yaml"), code=None)
    assert done.returncode != 0
    assert "10.96.0.50" in done.stderr
    assert answers(cli.netns("n1"), "10.96.0.50") == {"web-1", "web-2"}


def test_nodes_come_with_all_services_and_go_without_a_word(cli: Cli) -> None:
    two = declared(cli.lab)
    last = "{name: n2, address: 192.168.50.102}\n"
    three = two.replace(last, f"{last}  - {{name: n3, address: 192.168.50.103}}\n")
    for _ in range(4):
        cli("up", cli.file(three))
        assert answers(cli.netns("n3"), "10.96.0.50") == {"web-1", "web-2"}
        cli("up", cli.file(two))
    assert "Traceback" not in cli.log()
