"""The Services' paths: each claim made false, in both modes, and what verify says of it.

Rules are broken as text while the agent, which would repair them, is stopped. Each row breaks the
claims of several paths that have nothing to do with each other.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from labs import ROOT, Cli, inside, namespaces

pytestmark = pytest.mark.lab

NODES = ("node1", "node2", "node3")
PATHS = (
    *("pod-clusterip", "node-clusterip", "no-endpoints", "nodeport", "affinity", "namespaces"),
    *("endpoints-follow", "selectors"),
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    command = Cli(f"s{os.getpid()}", tmp_path_factory.mktemp("lab"))
    text = (ROOT / "topologies/notes.yaml").read_text()
    text = text.replace("name: notes ", f"name: {command.lab} ")
    # An affinity that a verification can wait for the end of.
    short = "sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}\n"
    assert "sessionAffinity: ClientIP\n" in text
    try:
        command("up", command.file(text.replace("sessionAffinity: ClientIP\n", short)))
        yield command
    finally:
        command("down", code=None)
        assert namespaces(command.lab) == []


def proven(cli: Cli, *ids: str) -> dict[str, dict[str, Any]]:
    document = json.loads(cli("verify", *ids, "-o", "json", code=None).stdout)
    return {path["path"]: path for path in document["paths"]}


def failures(found: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Return what did not pass, with its evidence."""
    return {path: said["evidence"] for path, said in found.items() if said["outcome"] != "pass"}


def address_of(cli: Cli, name: str, namespace: str = "default") -> str:
    return str(cli.get("service", name, "-n", namespace)["spec"]["clusterIP"])


# -- breaking rules as text

Edit = Callable[[str], str | None]  # a line of iptables-save, and what it becomes; None: nothing


def edited(netns: str, edit: Edit) -> None:
    """Put every rule of a namespace that *edit* changes, back changed."""
    before = inside(netns, "iptables-nft-save").splitlines()
    after = [new for line in before if (new := edit(line)) is not None]
    assert after != before, "nothing was broken"
    restore = ["ip", "netns", "exec", netns, "iptables-nft-restore"]
    subprocess.run(restore, input="\n".join([*after, ""]), text=True, check=True)


def every(*edits: Edit) -> Edit:
    """Return all *edits*, one after the other."""

    def edit(line: str) -> str | None:
        for one in edits:
            changed = one(line)
            if changed is None:
                return None
            line = changed
        return line

    return edit


def without(pattern: str) -> Edit:
    return lambda line: None if re.search(pattern, line) else line


def instead(pattern: str, new: str) -> Edit:
    return lambda line: re.sub(pattern, new, line)


def misdirected(cli: Cli) -> Edit:
    """Lead the Service `web` of namespace shop into the chain of default's."""
    saved = inside(cli.netns("node1"), "iptables-nft-save", "-t", "nat")
    found = re.search(r'"default/web:http cluster IP" .*-j (KUBE-SVC-\w+)', saved)
    assert found
    return instead(r'("shop/web:http cluster IP" .*-j )KUBE-SVC-\w+', rf"\1{found[1]}")


def hidden_locally(line: str) -> str:
    """Masquerade what policy Local is to leave as it is."""
    found = re.match(r"-A (KUBE-SVL-\w+) (.*)-j KUBE-SEP", line)
    return f"-A {found[1]} -j KUBE-MARK-MASQ\n{line}" if found else line


class Row(NamedTuple):
    edit: Callable[[Cli], Edit]
    fails: dict[str, tuple[str, str, str]]  # path: parts of evidence, of lastSeen, of expectedNext


ROWS = {
    "rules left out": Row(
        lambda cli: every(
            without(r"-A KUBE-SEP-\w+ -s .* -j KUBE-MARK-MASQ"),  # hairpin
            without(r"-A KUBE-SVC-\w+ ! -s 10.244.0.0/16 .* -j KUBE-MARK-MASQ"),
            without(r"-A KUBE-SERVICES .* -j REJECT"),
            without(r"-A KUBE-EXTERNAL-SERVICES .* -j DROP"),
            without(r"-m recent --rcheck"),
            misdirected(cli),
        ),
        {
            "pod-clusterip": ("request", "veth", "send it to 10.244."),
            # Towards another node flannel's rules masquerade it instead, which does not count.
            "node-clusterip": ("192.168.50.1", "", ""),
            "no-endpoints": ("it went on to", "docker0 in", "nothing: a rule of Service"),
            "nodeport": ("it went on to", "eth0 in", "drops it on node"),
            "affinity": ("flows of one client went to", "", "one endpoint"),
            "namespaces": ("not in fair shares", "", "and nobody else"),
        },
    ),
    "rules that do otherwise": Row(
        lambda cli: every(
            instead(r"--probability 0.1666666\d+", "--probability 0.7"),
            instead(r"-j REJECT --reject-with icmp-port-unreachable", "-j DROP"),
            hidden_locally,
        ),
        {
            "pod-clusterip": ("not in fair shares", "node", "equal shares for 6 endpoints"),
            "no-endpoints": ("-j DROP", "node", "that rejects it"),
            "nodeport": ("request: seen there as 10.244.", "eth0 in", "docker0 out as 198.51."),
        },
    ),
    "others' rules": Row(
        lambda cli: every(
            # Where a proxy would have sent it, but not by a rule of a proxy's.
            lambda line: (
                f"{line}\n-A PREROUTING -d {address_of(cli, 'web')}/32 -p tcp --dport 80 "
                f"-j DNAT --to {last_of_web(cli)}:80"
                if line.startswith(":KUBE-MARK-MASQ")
                else line
            ),
            without(r"-A KUBE-NODEPORTS .*-j KUBE-EXT"),
        ),
        {
            "pod-clusterip": ("no rule of a proxy", "node", "a rule at prerouting that sends it"),
            "nodeport": ("request", "eth0 in", "send it to 10.244."),
        },
    ),
}


def last_of_web(cli: Cli) -> str:
    pods = cli.get("pods", "-l", "app=web")["items"]
    return str(pods[-1]["status"]["podIP"])


def no_foreign_rules(cli: Cli) -> None:
    """Take away what is not the agent's to remove."""
    for node in NODES:
        nat = ("iptables-nft", "-t", "nat")
        while "DNAT" in inside(cli.netns(node), *nat, "-S", "PREROUTING"):
            inside(cli.netns(node), *nat, "-D", "PREROUTING", "1")


@pytest.mark.parametrize("name", ROWS)
def test_a_false_claim_about_services_fails(lab: Cli, name: str) -> None:
    row, pid = ROWS[name], lab.agent_pid()
    edit = row.edit(lab)
    os.kill(pid, signal.SIGSTOP)
    try:
        for node in NODES:
            edited(lab.netns(node), edit)
        found = proven(lab, *row.fails)
    finally:
        os.kill(pid, signal.SIGCONT)
        no_foreign_rules(lab)
    lab("up", str(lab.directory / "lab.yaml"))
    for path, (evidence, last, following) in row.fails.items():
        said = found[path]
        shown = json.dumps({key: said[key] for key in ("evidence", "lastSeen", "expectedNext")})
        assert said["outcome"] == "fail", shown
        assert evidence in " ".join(said["evidence"]), shown
        assert last in said["lastSeen"], shown
        assert following in said["expectedNext"], shown


def test_clients_that_cannot_leave_a_pod_that_died_fail_endpoints_follow(lab: Cli) -> None:
    """Rules of somebody else's lead everybody to one pod, which dies."""
    to = f"{last_of_web(lab)}"
    for node in NODES:
        for protocol, port in (("tcp", "80"), ("udp", "443")):
            rule = f"-d {address_of(lab, 'web')} -p {protocol} --dport {port} -j DNAT --to {to}"
            words = ["iptables-nft", "-t", "nat", "-I", "PREROUTING", *rule.split()]
            inside(lab.netns(node), *words)
    try:
        said = proven(lab, "endpoints-follow")["endpoints-follow"]
    finally:
        no_foreign_rules(lab)
    assert said["outcome"] == "fail"
    assert "gets no answer any more" in said["evidence"][0], said
    assert "led to another endpoint" in said["expectedNext"]
    assert proven(lab, "endpoints-follow")["endpoints-follow"]["outcome"] == "pass"


def test_an_affinity_ends_with_its_timeout(lab: Cli) -> None:
    said = proven(lab, "affinity")["affinity"]
    assert said["outcome"] == "pass"
    assert re.search(r"after 1 s of silence \d+ of \d+ clients moved", " ".join(said["evidence"]))


def test_all_of_it_holds_in_nftables_mode_too_and_is_seen_to_fail(lab: Cli) -> None:
    lab("up", str(lab.directory / "lab.yaml"), "--proxy-mode", "nftables")
    try:
        found = proven(lab, *PATHS)
        assert failures(found) == {}
        rules = " ".join(line for said in found.values() for line in said["evidence"])
        assert "vmap @service-ips -> goto service-" in rules
        assert "masquerade fully-random" in rules
        pid = lab.agent_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            for node in NODES:
                inside(lab.netns(node), "nft", "flush chain ip kube-proxy masquerading")
                inside(lab.netns(node), "nft", "flush map ip kube-proxy no-endpoint-services")
            found = proven(lab, "node-clusterip", "no-endpoints")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert {said["outcome"] for said in found.values()} == {"fail"}, found
        assert "not as default/nobody" in found["no-endpoints"]["evidence"][0]
    finally:
        lab("up", str(lab.directory / "lab.yaml"), "--proxy-mode", "iptables")
    assert failures(proven(lab, *PATHS)) == {}
