"""`verify` on whole labs, and what it says of one that the agent may not repair meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from labs import ROOT, Cli, inside, namespaces

pytestmark = pytest.mark.lab
RUNNING = ("clock", "coredns-", "controller-")  # pods of the notes that run programs


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The notes' own lab, under a name of this module's."""
    command = Cli(f"v{os.getpid()}", tmp_path_factory.mktemp("lab"))
    text = (ROOT / "topologies/notes.yaml").read_text()
    try:
        command("up", command.file(text.replace("name: notes ", f"name: {command.lab} ")))
        yield command
    finally:
        command("down", code=None)
        assert namespaces(command.lab) == []


def proven(cli: Cli, *ids: str, code: int = 0) -> dict[str, Any]:
    """Return the verdicts by path."""
    document = json.loads(cli("verify", *ids, "-o", "json", code=code).stdout)
    return {path["path"]: path for path in document["paths"]}


@contextmanager
def agent_stopped(cli: Cli) -> Iterator[None]:
    """Nothing is repaired meanwhile."""
    pid = cli.agent_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def traces(cli: Cli) -> list[str]:
    """What a verification might leave behind."""
    ports = inside(cli.netns("underlay"), "ip", "-br", "link").split()
    sandboxes = Path("/run/netlab", cli.lab, "sandbox").glob("*/*")
    return [
        *(name for name in namespaces(cli.lab) if "guest" in name),
        *(port for port in ports if "guest" in port),
        *(
            path.name
            for path in sandboxes
            if not path.name.startswith(("clock", "coredns-", "controller-"))
        ),
    ]


def test_every_path_of_the_notes_passes_or_is_a_named_skip(notes: Cli) -> None:
    found = proven(notes)
    assert {name for name, path in found.items() if path["outcome"] == "fail"} == set()
    passed = {name for name, path in found.items() if path["outcome"] == "pass"}
    assert passed == {
        "same-pod-lo", "same-pod-ports", "pod-pod-same-node", "pod-pod-cross-node",
        "unique-pod-ip", "lease-in-etcd", "node-join", "pod-node", "flat-no-nat",
        "clusterip-outside", "egress-masquerade", "firewall", "replicas",
        "pod-clusterip", "node-clusterip", "no-endpoints", "nodeport", "affinity", "namespaces",
        "endpoints-follow", "selectors", "proxy-modes", "backends", "dns-service", "externalname",
        "headless", "ingress", "network-policy", "node-lost", "daemonset", "loadbalancer",
    }  # fmt: skip
    for path in found.values():
        assert path["evidence"], path
        assert path["outcome"] != "skip" or path["evidence"][0].startswith("needs ")
    assert traces(notes) == []


def test_a_verification_that_is_interrupted_leaves_nothing(notes: Cli) -> None:
    """SIGINT while the stranger of node-join is plugged in."""
    process = notes.start("verify", "node-join")
    watcher = subprocess.Popen(
        ["sh", "-c", f"until ls /run/netns | grep -q {notes.lab}.guest; do :; done"]
    )
    try:
        watcher.wait(timeout=20)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
    finally:
        watcher.kill()
        watcher.wait()
    assert process.returncode != 0 or "pass" in (process.communicate()[0] or "")
    assert traces(notes) == []
    assert len(json.loads(notes("get", "leases", "-o", "json").stdout)["items"]) == 3


def nodes_of(cli: Cli) -> list[str]:
    return [cli.netns(f"node{number}") for number in (1, 2, 3)]


def everywhere(cli: Cli, *words: str) -> None:
    for netns in nodes_of(cli):
        inside(netns, *words)


def drop_fdb(cli: Cli) -> None:
    for netns in nodes_of(cli):
        for line in inside(netns, "bridge", "fdb", "show", "dev", "flannel.1").splitlines():
            inside(netns, "bridge", "fdb", "del", line.split()[0], "dev", "flannel.1")


BROKEN = [
    pytest.param(
        drop_fdb, ["pod-pod-cross-node", "flat-no-nat"],
        "flannel.1 out", "FDB entry of flannel.1", id="fdb",
    ),
    pytest.param(
        lambda cli: everywhere(cli, "iptables-nft", "-t", "nat", "-F", "FLANNEL-POSTRTG"),
        ["egress-masquerade"], "docker0 in", "FLANNEL-POSTRTG masquerades", id="masquerade",
    ),
    pytest.param(
        lambda cli: inside(cli.netns("gateway"), "nft", "delete", "table", "ip", "firewall"),
        ["firewall"], "", "", id="firewall",
    ),
    pytest.param(
        lambda cli: everywhere(cli, "iptables-nft", "-t", "nat", "-I", "POSTROUTING", "-o",
                               "docker0", "-j", "MASQUERADE"),
        ["flat-no-nat", "pod-pod-same-node"], "", "", id="needless-nat",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("breaks", "paths", "last", "why"), BROKEN)
def test_a_broken_lab_fails_the_paths_that_depend_on_it(
    notes: Cli, breaks: Callable[[Cli], object], paths: list[str], last: str, why: str
) -> None:
    with agent_stopped(notes):
        breaks(notes)
        found = proven(notes, *paths, code=1)
    try:
        first = found[paths[0]]
        outcomes = {name: path["outcome"] for name, path in found.items()}
        assert outcomes == dict.fromkeys(paths, "fail")
        assert first["lastSeen"].endswith(last)
        assert why in first["expectedNext"]
    finally:
        everywhere_healed(notes)


def everywhere_healed(cli: Cli) -> None:
    """Take away what the agent would not, as it is not its own; then let it repair the rest."""
    rule = "-t nat -D POSTROUTING -o docker0 -j MASQUERADE"
    for netns in nodes_of(cli):
        command = f"ip netns exec {netns} iptables-nft {rule}"
        subprocess.run(command.split(), check=False, capture_output=True)
    cli("up", str(cli.directory / "lab.yaml"))


def test_an_unknown_path_is_wrong_usage_and_names_the_nearest(notes: Cli) -> None:
    done = notes("verify", "pod-pod-crossnode", code=2)
    assert "pod-pod-cross-node" in done.stderr


@pytest.mark.parametrize(("file", "name"), [("minimal", "minimal"), ("two-segments", "rooms")])
def test_other_labs_pass_what_they_have(cli: Cli, file: str, name: str) -> None:
    text = (ROOT / f"topologies/{file}.yaml").read_text()
    assert f"name: {name}" in text
    cli("up", cli.file(text.replace(f"name: {name}", f"name: {cli.lab}", 1)))
    found = proven(cli)
    assert {name for name, path in found.items() if path["outcome"] == "fail"} == set()
    assert {"pod-pod-same-node", "egress-masquerade", "firewall"} <= {
        name for name, path in found.items() if path["outcome"] == "pass"
    }
