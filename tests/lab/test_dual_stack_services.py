"""Services of two families, in the modes that write rules: cluster IPs, node ports, names."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from labs import Cli, asked, eventually, inside, namespaces, topology

pytestmark = pytest.mark.lab

SERVICES = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: p2}
  ipFamilyPolicy: RequireDualStack
  ports: [{port: 80, nodePort: 30050}]
---
apiVersion: v1
kind: Service
metadata: {name: six}
spec: {selector: {app: p2}, ipFamilies: [IPv6], ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: heads}
spec: {clusterIP: None, selector: {app: p2}, ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ipFamilies: [IPv6], ports: [{port: 80}]}
"""


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Iterator[Cli]:
    lab = f"s{worker_id.removeprefix('gw')}x{request.param[0]}"
    command = Cli(lab, tmp_path_factory.mktemp("lab"))
    text = topology(lab, publish="[30000-32767/tcp]", extra=SERVICES)
    dual = f"network: {{Network: 10.244.0.0/16, EnableIPv6: true}}\nproxyMode: {request.param}\n"
    command("up", command.file(text.replace("network: {Network: 10.244.0.0/16}\n", dual)))
    yield command
    command("down")
    assert namespaces(lab) == []


def addresses(cli: Cli, name: str) -> list[str]:
    return list(cli.get("service", name)["spec"]["clusterIPs"])


def pods(cli: Cli) -> dict[str, str]:
    """Return the IPv6 addresses of the pods."""
    return {
        pod["metadata"]["name"]: pod["status"]["podIPs"][1]["ip"]
        for pod in cli.get("pods")["items"]
    }


def test_each_service_has_what_it_asks_for(both: Cli) -> None:
    ipv4, ipv6 = addresses(both, "web")
    assert ipv4.startswith("10.") and ipv6.startswith("fd00:10:96::")
    assert [":" in one for one in addresses(both, "six")] == [True]
    slices = both.get("endpointslices")["items"]
    kinds = sorted(
        (one["metadata"]["labels"]["kubernetes.io/service-name"], one["addressType"])
        for one in slices
        if one["metadata"]["namespace"] == "default"
    )
    assert kinds == [
        *(("heads", "IPv4"), ("heads", "IPv6"), ("nobody", "IPv6")),
        *(("six", "IPv6"), ("web", "IPv4"), ("web", "IPv6")),
    ]


@pytest.mark.parametrize("name", ["web", "six"])
def test_a_cluster_ip_of_ipv6_leads_to_every_endpoint(both: Cli, name: str) -> None:
    client, address = both.netns("n1", "default", "n1-p1"), addresses(both, name)[-1]
    met = set()

    def every() -> bool:
        told = asked(client, address)
        assert told["client"] == pods(both)["n1-p1"]  # no masquerade between pods
        met.add(told["pod"])
        return met == {"n1-p2", "n2-p2"}

    eventually(every, what="both endpoints have answered")


def test_an_endpoint_reaches_itself_and_its_neighbour_by_its_service(both: Cli) -> None:
    address, met = addresses(both, "web")[1], {}

    def every() -> bool:
        told = asked(both.netns("n1", "default", "n1-p2"), address)
        met[told["pod"]] = told["client"]
        return len(met) == 2

    eventually(every, what="both endpoints have answered")
    assert met["n2-p2"] == pods(both)["n1-p2"] and met["n1-p2"] != pods(both)["n1-p2"]


@pytest.mark.parametrize("node", ["fd00:192:168:50::101", "fd00:192:168:50::102"])
def test_a_node_port_of_ipv6_is_open_to_the_outside(both: Cli, node: str) -> None:
    told = asked(both.netns("client"), node, 30050)
    assert told["pod"] in ("n1-p2", "n2-p2")
    assert told["client"].startswith("fd00:10:244:")  # masqueraded


def test_who_has_no_endpoints_refuses(both: Cli) -> None:
    code = "import socket,sys\ntry: socket.create_connection((sys.argv[1], 80), 3)\n"
    code += "except ConnectionRefusedError: print('refused')"
    client = both.netns("n1", "default", "n1-p1")
    out = inside(client, "python3", "-c", code, addresses(both, "nobody")[0])
    assert out.strip() == "refused"


@pytest.mark.parametrize("name", ["web", "six", "heads"])
def test_names_have_addresses_of_both_families(both: Cli, name: str) -> None:
    code = "import json,socket,sys\n"
    code += "found = socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM)\n"
    code += "print(json.dumps(sorted({one[4][0] for one in found})))"
    full = f"{name}.default.svc.cluster.local"
    told = json.loads(both("exec", "n1-p1", "--", "python3", "-c", code, full).stdout)
    if name == "heads":
        assert [":" in one for one in told].count(True) == 2 == len(told) - 2
    else:
        assert told == sorted(addresses(both, name))
