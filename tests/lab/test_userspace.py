"""userspace mode in a live lab: served by a process per node, repaired, changed under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from labs import Cli, asked, eventually, inside, namespaces
from test_services import answers, declared, rules

from netlab import processes

pytestmark = pytest.mark.lab

NODES = ("n1", "n2")
VIP = "10.96.0.50"
WITHIN = 2.0  # seconds until what somebody broke is whole again
LONGEST = 1.0  # seconds without an answer, while the mode is changed
OFTEN = 3  # changes of mode there and back


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[Cli]:
    command = Cli(f"u{worker_id.removeprefix('gw')}x{os.getpid()}", tmp_path_factory.mktemp("lab"))
    command("up", command.file(declared(command.lab, mode="userspace")))
    yield command
    command("down")
    assert namespaces(command.lab) == []
    assert processes.marked(command.run_directory) == {}


def process(cli: Cli, node: str) -> int:
    """Return the pid of the process that serves on *node*."""
    (pid,) = processes.marked(cli.run_directory)[f"portals/{node}"]
    return pid


def test_everybody_is_served_and_the_endpoint_sees_the_node(served: Cli) -> None:
    client, node = served.netns("n1", "default", "client"), served.netns("n2")
    for place in (client, node):
        assert answers(place, VIP, count=6) == {"web-1", "web-2"}
    for address in ("192.168.50.101", "192.168.50.102"):
        assert answers(served.netns("client"), address, 30050, count=6) == {"web-1", "web-2"}
    subnet = served.get("pod", "client")["status"]["podIP"].rpartition(".")[0]
    seen = {asked(client, VIP)["client"] for _ in range(6)}
    assert seen == {f"{subnet}.0", f"{subnet}.1"}


def test_the_policy_local_is_not_known_and_its_health_check_answers(served: Cli) -> None:
    assert answers(served.netns("client"), "192.168.50.101", 30070, count=6) == {"web-1", "web-2"}
    at = "http://192.168.50.101:31070/"
    said = inside(served.netns("master"), "curl", "-s", "-m", "3", at)
    assert json.loads(said)["localEndpoints"] == 1


def test_without_endpoints_a_client_is_let_in_and_out_again(served: Cli) -> None:
    script = (
        "import socket\n"
        "with socket.create_connection(('10.96.0.60', 80), 3) as s: print(s.recv(1))\n"
    )
    said = inside(served.netns("n1", "default", "client"), "python3", "-c", script)
    assert said.strip() == "b''"


def test_a_process_that_dies_is_back_in_two_seconds(served: Cli) -> None:
    first, before = process(served, "n1"), rules(served, "n1")
    os.kill(first, signal.SIGKILL)
    place = served.netns("n1", "default", "client")
    assert eventually(lambda: _answered(place), what="another process") < WITHIN
    assert process(served, "n1") != first
    assert rules(served, "n1") == before


@pytest.mark.parametrize(
    "broken",
    [
        "iptables-nft -t nat -F KUBE-PORTALS-CONTAINER",
        "iptables-nft -t nat -D PREROUTING 1",
        "iptables-nft -t nat -F",
        "nft flush ruleset",
    ],
)
def test_rules_that_somebody_breaks_are_back_in_two_seconds(served: Cli, broken: str) -> None:
    place = served.netns("n1", "default", "client")
    before = rules(served, "n1")
    inside(served.netns("n1"), *broken.split())
    assert eventually(lambda: _answered(place), what=broken) < WITHIN
    eventually(lambda: sorted(rules(served, "n1")) == sorted(before), what=f"all after {broken}")


def _answered(place: str) -> bool:
    script = (
        "import socket\n"
        f"with socket.create_connection(({VIP!r}, 80), 0.3) as s:\n"
        "    s.sendall(b'x\\n'); assert b'web-' in s.recv(999)\n"
    )
    command = ["ip", "netns", "exec", place, sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_what_is_there_is_as_wanted_and_nobody_writes_again(served: Cli) -> None:
    listed = served.get("rules")["items"]
    assert {one["status"]["state"] for one in listed} == {"ok"}
    assert "nothing to change" in served("up", served.file(_declared(served))).stdout


def _declared(cli: Cli, mode: str = "userspace") -> str:
    return declared(cli.lab, mode=mode)


def test_a_trace_goes_on_behind_the_process(served: Cli) -> None:
    found = json.loads(served("trace", "default/client", "svc/web:80", "-o", "json").stdout)
    assert found["answered"]
    first = [one for one in found["packets"] if not one["by"]]
    second = [one for one in found["packets"] if one["by"]]
    into, out = first[0], second[0]
    (rule,) = (one for one in into["steps"] if one.get("means", "").startswith("Service"))
    assert rule["chain"] == "KUBE-PORTALS-CONTAINER" and "default/web" in rule["means"]
    assert (into["steps"][-1]["place"]["name"], into["steps"][-1]["fate"]) == ("n1", "delivered")
    assert out["by"].startswith("the userspace proxy of n1 took it and chose default/web-")
    assert out["flow"]["destination"] in found["endpoint"]
    assert out["steps"][-1]["place"]["name"] == f"default/{found['says']['pod']}"
    assert {one["leg"] for one in second} == {"request", "reply"}
    said = served("trace", "default/client", "svc/web:80").stdout
    assert said.count("the userspace proxy of n1 took it") == 1


def test_of_udp_too(served: Cli) -> None:
    found = json.loads(served("trace", "default/client", "svc/echo:53/UDP", "-o", "json").stdout)
    second = [one for one in found["packets"] if one["by"]]
    assert [one["leg"] for one in second] == ["request", "reply"]
    assert [one["leg"] for one in found["packets"] if not one["by"]] == ["request", "reply"]
    assert second[0]["steps"][-1]["place"]["name"] == f"default/{found['says']['pod']}"


def test_why_tells_what_stops_the_flow_that_the_process_makes(served: Cli) -> None:
    rule = ("OUTPUT", "-p", "tcp", "-d", "10.244.0.0/16", "--dport", "80", "-j", "DROP")
    inside(served.netns("n1"), "iptables-nft", "-I", *rule)
    try:
        said = served("why", "default/client", "svc/web:80", code=1).stdout
        assert "a rule drops it: filter OUTPUT" in said
        assert "verdict drop at output of n1" in said
    finally:
        inside(served.netns("n1"), "iptables-nft", "-D", *rule)
    said = served("why", "default/client", "svc/nobody:80", code=1).stdout
    assert "kind:     no-endpoints" in said and "the userspace proxy of n1" in said


TALK = """
import socket, sys
s = socket.create_connection((%r, 80), 3); f = s.makefile()
for line in sys.stdin:
    s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')
    while f.readline().strip(): pass
    print(f.readline().strip(), flush=True)
"""


@contextmanager
def talking(place: str) -> Iterator[Any]:
    """One connection to the Service, and a function that says something on it."""
    talk = subprocess.Popen(
        ["ip", "netns", "exec", place, sys.executable, "-c", TALK % VIP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def say() -> str:
        assert talk.stdin is not None and talk.stdout is not None
        talk.stdin.write("\n")
        talk.stdin.flush()
        return talk.stdout.readline()

    try:
        yield say
    finally:
        talk.kill()
        talk.communicate()


def test_a_killed_agents_connections_go_on(served: Cli) -> None:
    with talking(served.netns("n1", "default", "client")) as say:
        assert "web-" in say()
        running = process(served, "n1")
        os.kill(served.agent_pid(), signal.SIGKILL)
        assert "nothing to change" in served("up", served.file(_declared(served))).stdout
        assert process(served, "n1") == running
        assert "web-" in say()


LOAD = """
import socket, sys, time
to, end = (%r, 80), time.monotonic() + 120
while time.monotonic() < end:
    began = time.monotonic()
    try:
        with socket.create_connection(to, 0.5) as s:
            s.sendall(b'x\\n')
            ok = b'web-' in s.recv(999)
    except OSError:
        ok = False
    print(began, int(ok), flush=True)
    time.sleep(0.005)
"""


@contextmanager
def load(place: str) -> Iterator[list[tuple[float, bool]]]:
    """Have one new connection after the other made; what came of each is there afterwards."""
    told: list[tuple[float, bool]] = []
    running = subprocess.Popen(
        ["ip", "netns", "exec", place, sys.executable, "-c", LOAD % VIP],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline()
    try:
        yield told
    finally:
        running.terminate()
        out, _ = running.communicate()
        for line in out.splitlines():
            at, _, ok = line.partition(" ")
            told.append((float(at), ok == "1"))


def longest_without(told: list[tuple[float, bool]]) -> float:
    """Return the longest time, in seconds, in which no new connection was answered."""
    good = [at for at, ok in told if ok]
    return max(later - at for at, later in pairwise(good))


def test_the_mode_is_changed_there_and_back_under_load(cli: Cli) -> None:
    cli("up", cli.file(_declared(cli, "iptables")))
    place = cli.netns("n1", "default", "client")
    with load(place) as told, load(cli.netns("n2")) as told_node:
        for _ in range(OFTEN):
            with talking(place) as say:
                assert "web-" in say()
                cli("up", cli.file(_declared(cli, "userspace")))
                for node in NODES:
                    there = "\n".join(rules(cli, node))
                    assert "KUBE-SERVICES" not in there and "KUBE-PORTALS-HOST" in there
                assert "web-" in say(), "what rules had sent on survives"
            cli("up", cli.file(_declared(cli, "iptables")))
            for node in NODES:
                there = "\n".join(rules(cli, node))
                assert "KUBE-PORTALS" not in there and "KUBE-SERVICES" in there
            assert not [one for one in processes.marked(cli.run_directory) if "portals" in one]
        time.sleep(LONGEST)  # a failure to come would show
    for found in (told, told_node):
        assert len(found) > 100
        assert longest_without(found) < LONGEST


def test_verification_in_every_mode_is_one_table(cli: Cli) -> None:
    cli("up", cli.file(_declared(cli, "nftables")))
    paths = ("pod-clusterip", "node-clusterip", "nodeport", "no-endpoints")
    done = cli("verify", *paths, "--proxy-mode", "all")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["PATH", "IPTABLES", "NFTABLES", "IPVS", "USERSPACE"]
    rows = {line.split()[0]: line.split() for line in lines[: len(paths)]}
    assert set(rows) == set(paths)
    assert all(row.count("pass") >= 3 and "fail" not in row for row in rows.values())
    if {"skip"} & {word for row in rows.values() for word in row}:
        assert "skip  proxy mode ipvs needs " in done.stdout
    assert cli.status()["converged"]
    there = "\n".join(rules(cli, "n1"))
    assert "kube-proxy" in there and "KUBE-" not in there, "it is in its own mode again"
    assert "pass" in cli("verify", "nodeport", "--proxy-mode", "userspace").stdout
    assert (
        "changes the mode itself"
        in cli("verify", "proxy-modes", "--proxy-mode", "all", code=2).stderr
    )
