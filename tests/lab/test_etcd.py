"""Leases, poison and outages: flannel's ways, without flannel's weaknesses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from labs import Cli, asked, eventually, inside, ip, topology

pytestmark = pytest.mark.lab
PREFIX = "/coreos.com/network/subnets"


def etcdctl(cli: Cli, *words: str) -> str:
    return subprocess.run(
        [
            "ip",
            "netns",
            "exec",
            cli.netns("master"),
            "etcdctl",
            "--endpoints=http://192.168.50.10:2379",
            *words,
        ],
        env={**os.environ, "ETCDCTL_API": "3"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def leases(cli: Cli) -> dict[str, str]:
    lines = etcdctl(cli, "get", "--prefix", PREFIX).splitlines()
    return dict(zip(lines[::2], lines[1::2], strict=True))


def key_of(cli: Cli, address: str) -> str:
    return next(k for k, v in leases(cli).items() if f'"PublicIP":"{address}"' in v)


def overlay_routes(cli: Cli, node: str) -> set[str]:
    return {r["dst"] for r in ip(cli.netns(node), "route") if r.get("dev") == "flannel.1"}


def test_etcd_listens_on_the_masters_address_alone(small: Cli) -> None:
    listening = inside(small.netns("master"), "ss", "-Hltn").splitlines()
    local = {line.split()[3].rpartition(":")[0] for line in listening}
    assert local == {"192.168.50.10"}


def test_a_lease_is_written_byte_for_byte_as_flannel_writes_it(small: Cli) -> None:
    found = leases(small)
    assert len(found) == 2
    for value in found.values():
        fields = json.loads(value)
        mac = fields["BackendData"]["VtepMAC"]
        assert value == (
            f'{{"PublicIP":"{fields["PublicIP"]}","PublicIPv6":null,"BackendType":"vxlan",'
            f'"BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}'
        )


def test_pods_are_kept_as_kubernetes_json(small: Cli) -> None:
    value = etcdctl(small, "get", "--print-value-only", "/registry/pods/default/n1-p1")
    pod = json.loads(value)
    assert pod["kind"] == "Pod" and pod["status"]["podIP"].startswith("10.244.")


POISON = [
    (f"{PREFIX}/foo", "{}"),
    (f"{PREFIX}/10.244.250.0-32", '{"PublicIP":"192.168.50.66"}'),
    (f"{PREFIX}/10.244.251.0-24", '{"PublicIP"'),
    (f"{PREFIX}/10.244.252.0-24", '{"PublicIP":""}'),
    (f"{PREFIX}/10.244.253.7-24", '{"PublicIP":"192.168.50.67","BackendType":"vxlan"}'),
]


@pytest.mark.parametrize(("key", "value"), POISON)
def test_poison_never_drops_peers(small: Cli, key: str, value: str) -> None:
    before = overlay_routes(small, "n1")
    assert before
    marks = small.log().count(f'etcd key "{key}"')
    etcdctl(small, "put", key, value)
    try:
        eventually(lambda: small.log().count(f'etcd key "{key}"') > marks, what="a warning")
        assert overlay_routes(small, "n1") == before
    finally:
        etcdctl(small, "del", key)


def test_a_foreign_lease_is_programmed_and_cleaned(small: Cli) -> None:
    value = (
        '{"PublicIP":"192.168.50.77","PublicIPv6":null,"BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"2a:88:25:c9:35:2a"}}'
    )
    etcdctl(small, "put", f"{PREFIX}/10.244.240.0-24", value)
    took = eventually(lambda: "10.244.240.0/24" in overlay_routes(small, "n2"))
    assert took < 2.0
    etcdctl(small, "del", f"{PREFIX}/10.244.240.0-24")
    took = eventually(lambda: "10.244.240.0/24" not in overlay_routes(small, "n2"))
    assert took < 2.0
    node = small.netns("n2")
    assert "2a:88:25:c9:35:2a" not in inside(node, "bridge", "fdb", "show", "dev", "flannel.1")
    assert "10.244.240.0" not in inside(node, "ip", "neigh", "show", "dev", "flannel.1")


@pytest.mark.parametrize("harm", ["deleted", "overwritten", "without a TTL"])
def test_an_own_lease_is_taken_back(small: Cli, harm: str) -> None:
    key = key_of(small, "192.168.50.102")
    value = leases(small)[key]
    if harm == "deleted":
        etcdctl(small, "del", key)
    elif harm == "overwritten":
        etcdctl(small, "put", key, value.replace("192.168.50.102", "192.168.50.200"))
    else:
        etcdctl(small, "put", key, value)

    def restored() -> bool:
        lines = json.loads(etcdctl(small, "get", key, "-w", "json")).get("kvs", [])
        return bool(lines) and leases(small).get(key) == value and lines[0].get("lease", 0) != 0

    assert eventually(restored, what=f"the lease of n2 is back after being {harm}") < 2.0
    eventually(lambda: small.status()["converged"])


@pytest.mark.parametrize("harm", ["deleted", "without a TTL"])
def test_a_nodes_sign_of_life_is_put_again(small: Cli, harm: str) -> None:
    key = "/netlab/alive/n2"
    etcdctl(small, *(("del", key) if harm == "deleted" else ("put", key, "")))

    def restored() -> bool:
        found = json.loads(etcdctl(small, "get", key, "-w", "json")).get("kvs", [])
        return bool(found) and found[0].get("lease", 0) != 0

    eventually(restored, what=f"n2 gives its sign of life again after it was {harm}")
    eventually(lambda: small.status()["converged"])


def test_the_vtep_mac_survives_the_device(small: Cli) -> None:
    node = small.netns("n1")
    before = ip(node, "link", "show", "flannel.1")[0]["address"]
    inside(node, "ip", "link", "del", "flannel.1")
    eventually(lambda: "flannel.1" in inside(node, "ip", "-br", "link"))
    assert ip(node, "link", "show", "flannel.1")[0]["address"] == before


def test_an_etcd_outage_leaves_forwarding_alone_and_heals(cli: Cli) -> None:
    cli("up", cli.file(topology(cli.lab)))
    pods = {p["metadata"]["name"]: p["status"]["podIP"] for p in cli.get("pods")["items"]}
    source = cli.netns("n1", "default", "n1-p1")
    etcd = cli.etcd_pid()
    os.kill(etcd, signal.SIGSTOP)
    try:
        quiet = cli.status()  # no loop has asked etcd anything since
        assert not quiet["converged"] and not quiet["etcd"]["ready"], quiet["problems"]
        assert asked(source, pods["n2-p1"])["pod"] == "n2-p1"
        # Drift is repaired without etcd, too.
        route = next(iter(overlay_routes(cli, "n1")))
        inside(cli.netns("n1"), "ip", "route", "del", route)
        assert eventually(lambda: route in overlay_routes(cli, "n1")) < 2.0
        eventually(lambda: any(n["lastError"] for n in cli.status()["nodes"]))
        assert asked(source, pods["n2-p1"])["pod"] == "n2-p1"
    finally:
        os.kill(etcd, signal.SIGCONT)
    assert eventually(lambda: cli.status()["converged"]) < 2.0
    os.kill(etcd, signal.SIGKILL)
    eventually(lambda: cli.status()["etcd"]["pid"] not in (0, etcd), what="etcd is started again")
    eventually(lambda: cli.status()["converged"])
    assert asked(source, pods["n2-p1"])["pod"] == "n2-p1"


def test_an_etcd_that_starts_slowly_is_heard_of_when_it_is_there(cli: Cli) -> None:
    cli("up", cli.file(topology(cli.lab)))
    first = cli.etcd_pid()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: cli.status()["etcd"]["pid"] not in (0, first), what="etcd is started again")
    second = cli.etcd_pid()
    os.kill(second, signal.SIGSTOP)
    try:
        time.sleep(1.5)  # longer than a loop waits for etcd at its start
        assert not cli.status()["converged"]
    finally:
        os.kill(second, signal.SIGCONT)
    assert eventually(lambda: cli.status()["converged"]) < 2.0
    cli("apply", "-f", "-", input=LATE)
    assert cli.get("pod", "late")["status"]["phase"] == "Running"


LATE = """
apiVersion: v1
kind: Pod
metadata: {name: late}
spec: {nodeName: n1, containers: [{name: c}]}
"""


def test_a_lab_whose_etcd_lost_everything_says_so_until_it_is_declared_again(cli: Cli) -> None:
    file = cli.file(topology(cli.lab))
    cli("up", file)
    first = cli.etcd_pid()
    shutil.rmtree(cli.run_directory / "etcd")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: cli.status()["etcd"]["pid"] not in (0, first), what="etcd is started again")
    eventually(lambda: any("lost node" in problem for problem in cli.status()["problems"]))
    cli("up", file)
    eventually(lambda: cli.status()["converged"], within=5.0)  # heartbeats are counted anew, too
    assert "nothing to change" in cli("up", file).stdout


def test_a_malformed_object_does_not_stop_the_controllers(cli: Cli) -> None:
    file = cli.file(topology(cli.lab))
    cli("up", file)
    etcdctl(
        cli,
        "put",
        "/registry/pods/default/bad",
        '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad","namespace":"default"}}',
    )
    etcdctl(cli, "put", "/registry/pods/default/n1-p1", "{")
    eventually(lambda: "default/n1-p1" in cli.log(), what="one warning")
    cli("apply", "-f", "-", input=LATE)
    assert "converged" in cli("up", file).stdout  # n1-p1 is made again over what was there
    pods = {p["metadata"]["name"]: p["status"]["phase"] for p in cli.get("pods")["items"]}
    assert pods["n1-p1"] == "Running" and "bad" not in pods
    assert cli.log().count("default/bad") == 1


def test_a_node_cut_off_and_back_hears_of_what_it_missed(cli: Cli) -> None:
    cli("up", cli.file(topology(cli.lab)))
    underlay = cli.netns("underlay")
    inside(
        underlay,
        "nft",
        "add table bridge cut; add chain bridge cut f "
        "{ type filter hook forward priority 0; }; add rule bridge cut f iifname n1 drop; "
        "add rule bridge cut f oifname n1 drop",
    )
    value = (
        '{"PublicIP":"192.168.50.77","PublicIPv6":null,"BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"2a:88:25:c9:35:2a"}}'
    )
    etcdctl(cli, "put", f"{PREFIX}/10.244.240.0-24", value)
    eventually(lambda: "10.244.240.0/24" in overlay_routes(cli, "n2"))
    assert "10.244.240.0/24" not in overlay_routes(cli, "n1")
    eventually(lambda: not cli.status()["nodes"][0]["online"], what="n1 knows it is cut off")
    assert "10.244.240.0/24" not in overlay_routes(cli, "n1")
    assert len(overlay_routes(cli, "n1")) == 1
    inside(underlay, "nft", "delete table bridge cut")
    assert eventually(lambda: "10.244.240.0/24" in overlay_routes(cli, "n1")) < 2.0
