"""A foreign member in the overlay: it joins, exchanges packets, renews, restarts, leaves, expires;
and nodes whose lease, or whose rules, are a foreign flanneld's and kube-proxy's."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from labs import Cli, eventually, inside, ip, topology
from member import ETCD, PREFIX, Member

pytestmark = pytest.mark.lab
ADDRESS, SUBNET = "192.168.50.77", "10.244.240.0/24"


def reaches(netns: str, address: str, *, source: str = "") -> bool:
    words = ["ping", "-qc1", "-W1", *(["-I", source] if source else []), address]
    return not subprocess.run(
        ["ip", "netns", "exec", netns, *words], capture_output=True
    ).returncode


def foreign(cli: Cli) -> list[dict[str, Any]]:
    return list(cli.status()["foreign"])


def pods(cli: Cli) -> dict[str, str]:
    return {p["metadata"]["name"]: p["status"].get("podIP", "") for p in cli.get("pods")["items"]}


@pytest.fixture(params=["vxlan", "host-gw"])
def joined(request: pytest.FixtureRequest, cli: Cli, tmp_path: Any) -> Iterator[tuple[Cli, Member]]:
    """A lab by each back end, and a namespace of nobody's attached to it."""
    text = topology(cli.lab, pods=1)
    backend = f"{{Network: 10.244.0.0/16, Backend: {{Type: {request.param}}}}}"
    cli("up", cli.file(text.replace("{Network: 10.244.0.0/16}", backend)))
    name = f"{cli.lab}box"
    subprocess.run(["ip", "netns", "add", name], check=True)
    cli("attach", name, "--address", ADDRESS)
    yield cli, Member(name, ADDRESS, SUBNET, backend=request.param)
    cli("down")
    subprocess.run(["ip", "netns", "del", name], check=True)


def exchange(cli: Cli, member: Member) -> None:
    """Packets pass between the member's pod and one of each node, both ways."""
    mine, theirs = member.pod(), pods(cli)
    for node in ("n1", "n2"):
        netns, address = cli.netns(node, "default", f"{node}-p1"), theirs[f"{node}-p1"]
        assert reaches(netns, mine), f"{node}-p1 to the member's pod"
        assert reaches(member.netns, address, source=mine), f"the member's pod to {node}-p1"


def routes(cli: Cli, node: str = "n2") -> set[str]:
    return {one["dst"] for one in ip(cli.netns(node), "route")}


def test_a_foreign_member_lives_in_the_overlay(joined: tuple[Cli, Member]) -> None:
    cli, member = joined
    member.device()
    member.take()
    assert eventually(lambda: SUBNET in routes(cli), what="n2 has a route to it") < 2.0
    member.follow()
    exchange(cli, member)
    [told] = foreign(cli)
    assert (told["publicIP"], told["subnet"], told["backend"]) == (ADDRESS, SUBNET, member.backend)
    assert (told["vtepMAC"], told["attached"]) == (member.mac, member.netns)
    assert 86_000 < told["ttl"] <= 86_400 and told["lastError"] == ""
    assert f"{ADDRESS}   {SUBNET}" in cli("status").stdout
    rows = [one.split() for one in cli("get", "leases").stdout.splitlines()]
    assert [SUBNET, "<foreign>", ADDRESS] in [row[:3] for row in rows]
    assert cli.status()["converged"]
    for address in (member.pod(), ADDRESS):
        assert "a foreign machine's" in cli("probe", "n1-p1", address, code=2).stderr
    traced = cli("trace", "n1-p1", member.pod()).stdout
    assert "answered" in traced and "left: by ext_" in traced and "lost" not in traced
    member.inside("ip", "addr", "del", f"{member.pod()}/32", "dev", "lo")
    theirs = f"{member.subnet[2]} is of the foreign member {ADDRESS}, which has {SUBNET}"
    assert cause(cli, "n1-p1", str(member.subnet[2])).startswith(theirs)

    member.renew(ttl=600)  # as flannel does it: a new lease of etcd, the same value
    eventually(lambda: foreign(cli)[0]["ttl"] <= 600, what="the new time is told")
    exchange(cli, member)

    old = member.mac
    member.device()  # a restart whose device did not fit: another MAC
    member.renew()
    member.follow()
    if member.backend == "vxlan":
        assert member.mac != old
        fdb = ("bridge", "fdb", "show", "dev", "flannel.1")
        eventually(lambda: member.mac in inside(cli.netns("n2"), *fdb), what="the new MAC")
        assert old not in inside(cli.netns("n2"), *fdb)
    exchange(cli, member)

    cli("node", "add", "n3")  # who joins later reaches it, too
    eventually(lambda: SUBNET in routes(cli, "n3"), what="n3 has a route to it")
    member.follow()
    assert reaches(cli.netns("n3"), member.pod())
    cli("node", "remove", "n3")

    member.leave()
    assert eventually(lambda: SUBNET not in routes(cli), what="it is forgotten") < 2.0
    assert foreign(cli) == []
    assert not reaches(cli.netns("n1", "default", "n1-p1"), member.pod())


def test_a_lease_that_runs_out_takes_the_member_with_it(joined: tuple[Cli, Member]) -> None:
    cli, member = joined
    member.device()
    member.take(ttl=10)
    eventually(lambda: SUBNET in routes(cli), what="n2 has a route to it")
    [told] = foreign(cli)
    assert 0 <= told["ttl"] <= 10
    eventually(lambda: SUBNET not in routes(cli), what="the lease has run out")
    assert foreign(cli) == [] and cli.status()["converged"]


UNREACHED = {
    "another back end": (
        '{"PublicIP":"192.168.50.88","PublicIPv6":null,"BackendType":"host-gw"}',
        "its back end is host-gw, the lab's is vxlan",
        False,
    ),
    "no MAC": (
        '{"PublicIP":"192.168.50.88","PublicIPv6":null,"BackendType":"vxlan","BackendData":{}}',
        "it says no VTEP MAC",
        False,
    ),
    "another VNI": (
        '{"PublicIP":"192.168.50.88","PublicIPv6":null,"BackendType":"vxlan",'
        '"BackendData":{"VNI":5,"VtepMAC":"2a:88:25:c9:35:2a"}}',
        "its VNI is 5, the lab's is 1",
        True,
    ),
}


@pytest.mark.parametrize(("value", "why", "way"), UNREACHED.values(), ids=UNREACHED)
def test_a_member_that_is_not_reached_is_told_with_the_reason(
    small: Cli, value: str, why: str, way: bool
) -> None:
    """*way*: whether there is one all the same, as a flanneld would make it."""
    asker = Member(small.netns("master"), "", SUBNET)
    asker.etcdctl("put", asker.key, value)
    try:
        [told] = foreign(small)
        assert (told["lastError"], told["ttl"]) == (why, None)
        said = small("status").stdout
        assert f"foreign node 192.168.50.88 is not reached: {why}" in said and "never" in said
        assert (SUBNET in routes(small)) is way
    finally:
        asker.etcdctl("del", asker.key)
    assert foreign(small) == []


FOREIGN_NODE = ("{name: n2, address: 192.168.50.102}", "192.168.50.102")
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: p1}, ports: [{port: 80}]}
"""


def declared(lab: str, field: str) -> str:
    node = FOREIGN_NODE[0]
    text = topology(lab, pods=1, extra=SERVICE)
    assert node in text
    return text.replace(node, f"{node[:-1]}, {field}}}")


def cause(cli: Cli, *words: str, code: int | None = 1) -> str:
    """What `netlab why` says is the cause."""
    return str(json.loads(cli("why", *words, "-o", "json", code=code).stdout)["causes"][0]["what"])


def counters_off(saved: str) -> list[str]:
    """The lines of `iptables-save` without its comments and counters."""
    return [one.partition(" [")[0] for one in saved.splitlines() if one[:1] != "#"]


def test_a_foreign_flanneld_gives_a_nodes_pods_their_addresses(cli: Cli) -> None:
    file = cli.file(declared(cli.lab, "flannel: none"))
    waits = "node n2: waits for the lease of a foreign flanneld (flannel: none)"
    assert waits in cli("up", file, code=1).stderr
    status = cli.status()
    assert waits in status["problems"] and status["settled"]
    assert [one["state"] for one in status["nodes"]] == ["Ready", "NotReady"]
    assert pods(cli)["n2-p1"] == ""

    node = cli.netns("n2")
    member = Member(node, FOREIGN_NODE[1], "10.244.66.0/24")
    assert "FLANNEL" not in inside(node, "iptables-save")
    assert "FLANNEL" in inside(cli.netns("n1"), "iptables-save")
    assert "none has taken a lease" in cause(cli, "node/n1", "node/n2:81", code=None)
    member.rules()
    member.mac = "2a:88:25:c9:35:2a"
    member.take()
    eventually(lambda: pods(cli)["n2-p1"], what="its pod has an address")
    assert cause(cli, "n1-p1", "n2-p1").startswith("n2 has no flannel.1: that is its foreign")
    member.device()
    member.renew()
    assert cause(cli, "n2-p1", "n1-p1").startswith("n2 has no route to 10.244.")
    member.follow()
    eventually(lambda: cli.status()["converged"], what="the node has its lease")
    assert pods(cli)["n2-p1"].startswith("10.244.66.") and foreign(cli) == []
    here, there = (cli.netns(one, "default", f"{one}-p1") for one in ("n1", "n2"))
    assert reaches(here, pods(cli)["n2-p1"]) and reaches(there, pods(cli)["n1-p1"])
    assert "nothing to change" in cli("plan", file).stderr
    said = cli("verify", "pod-pod-cross-node", "pod-node", "lease-in-etcd", "egress-masquerade")
    assert "3 passed, 1 skipped" in said.stdout, said.stdout
    assert "a foreign flanneld makes the rules of n2 (flannel: none)" in said.stdout

    # What its flanneld has is its own: nothing is put right, and nothing is taken away.
    theirs = inside(node, "iptables-save")
    inside(node, "ip", "route", "add", "10.99.0.0/16", "dev", "flannel.1")
    inside(node, "ip", "link", "set", "flannel.1", "mtu", "1400")
    inside(node, "ip", "addr", "del", "10.244.66.1/24", "dev", "docker0")  # this is netlab's
    eventually(lambda: "docker0" in str(ip(node, "route", "show", "10.244.66.0/24")))
    assert counters_off(inside(node, "iptables-save")) == counters_off(theirs)
    assert "10.99.0.0/16" in routes(cli) and ip(node, "link", "show", "flannel.1")[0]["mtu"] == 1400

    member.leave()
    gone = "node n2: the lease of its foreign flanneld is gone"
    eventually(lambda: any(gone in one for one in cli.status()["problems"]), what="it is missed")
    assert pods(cli)["n2-p1"].startswith("10.244.66.")  # as on a machine whose flanneld has ended
    eventually(lambda: "10.244.66.0/24" not in routes(cli, "n1"), what="n1 has forgotten it")
    member.take()
    eventually(lambda: cli.status()["converged"], what="it is back")

    # The net-conf changes: it goes on as before until it is started anew.
    changed = declared(cli.lab, "flannel: none").replace(
        "{Network: 10.244.0.0/16}", "{Network: 10.244.0.0/16, Backend: {Type: host-gw}}"
    )
    old = "node n2: its back end is vxlan, the lab's is host-gw: start its foreign flanneld anew"
    assert old in cli("up", cli.file(changed, "changed.yaml"), code=1).stderr
    member.backend = "host-gw"
    member.renew()
    eventually(lambda: cli.status()["converged"], what="it is of the new back end")


def test_a_node_is_handed_over_to_a_foreign_flanneld_and_back(cli: Cli) -> None:
    own, theirs = cli.file(topology(cli.lab, pods=1)), declared(cli.lab, "flannel: none")
    cli("up", own)
    before = pods(cli)
    cli("up", cli.file(theirs.partition("---\napiVersion: v1\nkind: Service")[0], "theirs.yaml"))
    node = cli.netns("n2")
    assert "flannel.1" not in inside(node, "ip", "-br", "link")
    assert "FLANNEL" not in inside(node, "iptables-save")
    assert pods(cli) == before  # the lease is still the node's: its flanneld finds it there
    subnet = next(one["subnet"] for one in cli.status()["nodes"] if one["name"] == "n2")
    member = Member(node, FOREIGN_NODE[1], subnet)
    member.device()
    member.renew()
    member.follow()
    here = cli.netns("n1", "default", "n1-p1")
    eventually(lambda: reaches(here, before["n2-p1"]), what="by the foreign device")
    assert "flannel.1" in cli("up", own, code=1).stderr  # what is not netlab's is in the way
    inside(node, "ip", "link", "del", "flannel.1")
    cli("up", own)
    assert pods(cli) == before and reaches(here, before["n2-p1"])


def test_a_foreign_kube_proxys_rules_are_its_own(cli: Cli) -> None:
    file = cli.file(topology(cli.lab, pods=1, extra=SERVICE))
    cli("up", file)
    node = cli.netns("n2")
    assert "KUBE-SVC" in inside(node, "iptables-save")
    theirs = cli.file(declared(cli.lab, "proxyMode: none"), "theirs.yaml")
    cli("up", theirs)
    assert "KUBE-SVC" not in inside(node, "iptables-save")
    assert "KUBE-SVC" in inside(cli.netns("n1"), "iptables-save")
    assert "the rules of n2 are a foreign kube-proxy's" in cli("get", "rules").stderr
    vip = cli.get("svc", "web")["spec"]["clusterIP"]
    assert not answers(cli, vip)
    assert cause(cli, "n2-p1", "svc/web").startswith(f"no rule of n2 leads {vip} anywhere")

    objects = cli("get", "svc,endpointslices,nodes", "-A", "-o", "json").stdout
    cli("proxy", "-f", "-", "--node", "n2", "--netns", node, input=objects)
    rules = inside(node, "iptables-save")
    assert "KUBE-SVC" in rules and answers(cli, vip)
    inside(node, "iptables", "-t", "nat", "-A", "KUBE-SERVICES", "-j", "RETURN")
    assert "nothing to change" in cli("plan", theirs).stderr
    cli("up", theirs)
    assert inside(node, "iptables-save", "-t", "nat").count("KUBE-SERVICES -j RETURN") == 1
    said = json.loads(cli("verify", "pod-clusterip", "-o", "json", code=None).stdout)
    [verdict] = said if isinstance(said, list) else said["paths"]
    assert verdict["outcome"] == "skip" and "n2" in str(verdict["evidence"])


def answers(cli: Cli, address: str) -> bool:
    there = cli.netns("n2", "default", "n2-p1")
    words = ["bash", "-c", f"echo >/dev/tcp/{address}/80"]
    try:
        done = subprocess.run(
            ["ip", "netns", "exec", there, *words], capture_output=True, timeout=3
        )
    except subprocess.TimeoutExpired:
        return False
    return not done.returncode


# What flanneld v0.28 reads, written down anew: a key of this form, a value that decodes.
KEY = re.compile(
    r"/coreos\.com/network/subnets/(\d+\.\d+\.\d+\.\d+)-(\d+)(?:&([a-f\d:]+)-(\d+))?\Z", re.ASCII
)
BACKENDS = ("{Type: host-gw}", "{Type: udp}", "{Type: vxlan, DirectRouting: true}", "{Type: vxlan}")


def poison(event: dict[str, Any]) -> str:
    """Return why *event* under flannel's prefix would have a flanneld drop its peers, or end."""
    held = event["kv"]
    key = base64.b64decode(held["key"]).decode()
    value = base64.b64decode(held.get("value", "")).decode()
    deleted = event.get("type") == 1
    if key == "/coreos.com/network/config":
        return "the net-conf is gone" if deleted or not json.loads(value).get("Network") else ""
    found = KEY.match(key)
    if found is None or not 0 < int(found[2]) < 32 or not int(found[4] or 1) < 128:
        return "the key does not parse"
    IPv4Network(f"{found[1]}/{found[2]}")  # no host bits
    if found[3]:
        IPv6Network(f"{found[3]}/{found[4]}")
    if deleted:
        return ""
    fields = json.loads(value)
    if not IPv4Address(fields["PublicIP"]):
        return "no PublicIP"
    if fields["PublicIPv6"] is not None and not IPv6Address(fields["PublicIPv6"]):
        return "no PublicIPv6"
    if bool(found[3]) != (fields["PublicIPv6"] is not None):
        return "one family of two"
    halves = ["BackendData", *(["BackendV6Data"] if found[3] else [])]
    if fields.get("BackendType") == "vxlan" and not all(map(is_vtep, map(fields.get, halves))):
        return "no VTEP"
    return "" if held.get("lease") else "no time to live"


def is_vtep(data: Any) -> bool:
    return data is not None and bool(data["VNI"]) and len(data["VtepMAC"].split(":")) == 6


def history(cli: Cli) -> list[dict[str, Any]]:
    """Return every change under flannel's prefix since the lab's etcd began."""
    asker = ["ip", "netns", "exec", cli.netns("master"), "timeout", "2", "etcdctl"]
    asker += [f"--endpoints={ETCD}", "watch", "--rev=1", "--prefix", PREFIX, "-w", "json"]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    said = subprocess.run(asker, env=environment, capture_output=True, text=True).stdout
    return [event for line in said.splitlines() for event in json.loads(line)["Events"]]


def test_nothing_that_netlab_writes_makes_a_flanneld_drop_its_peers(cli: Cli) -> None:
    text = topology(cli.lab, pods=1)
    file = cli.file(text)
    cli("up", file)
    for backend in BACKENDS:
        other = f"{{Network: 10.244.0.0/16, Backend: {backend}}}"
        cli("up", cli.file(text.replace("{Network: 10.244.0.0/16}", other), "other.yaml"))
        asker = Member(cli.netns("master"), "", SUBNET)
        own = next(one for one in cli.status()["nodes"] if one["name"] == "n1")["subnet"]
        key = f"{PREFIX}/subnets/{own.replace('/', '-')}"
        asker.etcdctl("del", key)  # this one is ours, and netlab's answer is what counts
        eventually(lambda: cli.status()["converged"], what=f"by {backend}")
    cli("verify", "lease-in-etcd", "node-join")
    cli("node", "add", "n3")
    cli("node", "stop", "n1")
    cli("node", "start", "n1")
    cli("node", "remove", "n3")
    for backend in ("vxlan", "host-gw"):
        two = f"{{Network: 10.244.0.0/16, EnableIPv6: true, Backend: {{Type: {backend}}}}}"
        cli("up", cli.file(text.replace("{Network: 10.244.0.0/16}", two), "two.yaml"))
    moved = text.replace("192.168.50.102", "192.168.50.112")
    cli("up", cli.file(moved, "moved.yaml"))
    smaller = moved.replace("10.244.0.0/16}", "10.245.0.0/20, SubnetLen: 26}")
    cli("up", cli.file(smaller, "smaller.yaml"))
    theirs = smaller.replace("112}", "112, flannel: none}")
    cli("up", cli.file(theirs, "theirs.yaml"), code=None)
    events = history(cli)
    assert len(events) > 30 and {event.get("type", 0) for event in events} == {0, 1}
    kinds = {
        json.loads(base64.b64decode(one["kv"].get("value", "e30="))).get("BackendType")
        for one in events
    }
    assert kinds >= {"vxlan", "host-gw", None}
    assert any(b"&" in base64.b64decode(event["kv"]["key"]) for event in events)
    assert [wrong for event in events if (wrong := poison(event))] == []


@pytest.mark.parametrize(
    ("key", "value", "lease"),
    [
        ("subnets/foo", "{}", 7),
        ("subnets/10.244.1.0-32", '{"PublicIP":"192.168.50.1","PublicIPv6":null}', 7),
        ("subnets/10.244.1.0-24", '{"PublicIP"', 7),
        ("subnets/10.244.1.0-24", '{"PublicIP":"","PublicIPv6":null}', 7),
        ("subnets/10.244.1.7-24", '{"PublicIP":"192.168.50.1","PublicIPv6":null}', 7),
        ("subnets/10.244.1.0-24", '{"PublicIP":"192.168.50.1","PublicIPv6":null}', 0),
        ("subnetsX/10.244.1.0-24", "{}", 7),
        ("subnets/10.244.1.0-24&fc00::-64", '{"PublicIP":"192.168.50.1","PublicIPv6":null}', 7),
        ("subnets/10.244.1.0-24", '{"PublicIP":"192.168.50.1","PublicIPv6":"fd00::1"}', 7),
        ("config", "{}", 0),
    ],
)
def test_what_flannel_does_not_read_is_known_for_it(key: str, value: str, lease: int) -> None:
    raw = {"key": f"{PREFIX}/{key}", "value": value}
    held: dict[str, Any] = {k: base64.b64encode(v.encode()).decode() for k, v in raw.items()}
    try:
        assert poison({"kv": held | ({"lease": lease} if lease else {})})
    except ValueError:
        pass  # it does not decode
