"""Blocks of iptables mode in a namespace: written, read, changed, beside others' rules."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from service_objects import NODE

from netlab.agent.kubeproxy import KubeProxy
from netlab.errors import CapabilityError, KernelError
from netlab.kernel import generation, iptables, netns
from netlab.model.kubernetes import Document, view
from netlab.model.services import ProxyNode
from netlab.processes import run
from netlab.processes.commands import installed
from netlab.proxy import Mode, Options, iptables_text
from netlab.proxy import iptables as renderer
from netlab.proxy.addresses import Family
from netlab.proxy.objects import Objects
from netlab.proxy.programme import Programme
from netlab.proxy.ruleset import Block, Key, Sort, Step, difference

pytestmark = pytest.mark.kernel

V4, V6 = Family.IPV4, Family.IPV6
SERVICES = (V4, Sort.CHAIN, "nat", "KUBE-SERVICES")
FOREIGN = """\
*filter
:THEIRS - [0:0]
-A INPUT -s 192.0.2.1/32 -j DROP
-A FORWARD -m comment --comment "as in -j KUBE-FORWARD" -j THEIRS
-A THEIRS -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
*nat
:KUBE-KUBELET-CANARY - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j RETURN
-A POSTROUTING -s 172.17.0.0/16 -j MASQUERADE
COMMIT
"""


@pytest.fixture(autouse=True)
def inside() -> Iterator[str]:
    """The test's thread is in a namespace of its own."""
    name = f"nltest-{os.getpid()}-iptables"
    netns.create(name)
    try:
        with netns.entered(name):
            yield name
    finally:
        netns.delete(name)


def documents(services: Iterable[int], *, endpoints: int = 2) -> list[Document]:
    """Return Services of both families with ready endpoints, by their numbers."""
    found: list[Document] = []
    for number in services:
        name, high, low = f"s{number}", number >> 8, number & 255
        addresses = [f"10.96.{high}.{low}", f"fd00:96::{number:x}"]
        ports = [{"port": 80, "protocol": "TCP", "nodePort": 30000 + number}]
        spec = {"type": "NodePort", "clusterIPs": addresses, "ports": ports}
        metadata = {"name": name, "namespace": "default"}
        found.append({"kind": "Service", "metadata": metadata, "spec": spec})
        for family in V4, V6:
            pods = [f"10.{128 + one}.{high}.{low}" for one in range(endpoints)]
            if family is V6:
                pods = [f"fd00:{one + 1}::{number:x}" for one in range(endpoints)]
            labels = {"kubernetes.io/service-name": name}
            slice_ = {
                "kind": "EndpointSlice",
                "metadata": {"name": f"{name}-{family}", "namespace": "default", "labels": labels},
                "addressType": str(family),
                "ports": [{"port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [pod], "conditions": {}} for pod in pods],
            }
            found.append(slice_)
    return found


class Node:
    """A node's wanted blocks, as its objects change."""

    def __init__(self, *families: Family) -> None:
        self._objects = Objects(view(NODE, ProxyNode), Options(mode=Mode.IPTABLES))
        situations = [self._objects.situations[family] for family in families]
        self._programmes = [Programme(renderer, one) for one in situations]

    def take(self, found: list[Document]) -> list[Step]:
        changed = self._objects.take(found)
        return [step for one in self._programmes for step in one.update(changed)]

    @property
    def blocks(self) -> dict[Key, Block]:
        return {key: block for one in self._programmes for key, block in one.blocks.items()}


def saved(tool: str = "iptables-nft") -> list[str]:
    return run([f"{tool}-save"]).stdout.splitlines()


def rules(table: str, chain: str) -> list[str]:
    return run(["iptables-nft", "-t", table, "-S", chain]).stdout.splitlines()[1:]


def load(text: str) -> None:
    run(["iptables-nft-restore", "--noflush"], input=text)


def chain(name: str, *lines: str, table: str = "nat") -> Block:
    return Block(V4, Sort.CHAIN, table, name, (), lines)


def jumps(name: str, *lines: str, table: str = "nat") -> Block:
    return Block(V4, Sort.JUMPS, table, name, (), lines)


# ------------------------------------------------------------------------------ written and read


def test_what_is_written_is_what_is_read_through_all_changes() -> None:
    node = Node(V4, V6)
    scaled = [*documents([1, 3]), *documents([2], endpoints=3)]
    emptied = [*documents([1]), *documents([2, 3, 4], endpoints=0)]
    for found in (documents([1, 2, 3]), scaled, emptied, documents([4]), []):
        steps = node.take(found)
        assert steps != []
        iptables.write(steps)
        assert iptables.read(Family) == node.blocks
    iptables.write([Step(None, block) for block in node.blocks.values()])
    assert iptables.read(Family) == {}
    for tool in ("iptables-nft", "ip6tables-nft"):
        assert not any("KUBE" in line for line in saved(tool))


def test_one_family_is_written_and_read_alone() -> None:
    node = Node(V6)
    iptables.write(node.take(documents([1])))
    assert iptables.read([V6]) == node.blocks
    assert iptables.read([V4]) == {}


def test_nothing_is_read_where_nothing_is() -> None:
    assert iptables.read(Family) == {}
    assert iptables.counters(Family) == {}


def test_a_missing_tool_reads_nothing_and_cannot_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(iptables_text.TOOLS, V4, "nltest-no-iptables")
    assert iptables.read([V4]) == {}
    with pytest.raises(CapabilityError, match="nltest-no-iptables-restore"):
        iptables.write([Step(chain("KUBE-SVC-A"), None)])


def test_many_services_are_loaded_in_portions_and_edited_in_place() -> None:
    """The lines that stay keep their counts, so they were not written again."""
    node = Node(V4)
    steps = node.take(documents(range(1, 2001)))
    assert len(iptables_text.transactions(steps)) > 10
    iptables.write(steps)
    assert iptables.read([V4]) == node.blocks
    run(["ip", "link", "set", "lo", "up"])
    send_udp("127.0.0.1")  # to the last line of all
    assert packets_met(SERVICES) == {len(node.blocks[SERVICES].lines) - 1: 1}
    services = [*documents(range(2, 1500)), *documents([1500], endpoints=0)]
    iptables.write(node.take([*services, *documents(range(1501, 2002))]))
    assert iptables.read([V4]) == node.blocks
    assert packets_met(SERVICES) == {len(node.blocks[SERVICES].lines) - 1: 1}


# ------------------------------------------------------------------------------- beside others'


def test_jumps_stand_before_others_rules_in_their_order() -> None:
    load(FOREIGN)
    iptables.write([Step(chain("KUBE-SERVICES"), None), Step(chain("KUBE-POSTROUTING"), None)])
    first = jumps("PREROUTING", "-p tcp -j KUBE-SERVICES", "-j KUBE-POSTROUTING")
    iptables.write([Step(first, None)])
    theirs = "-A PREROUTING -m addrtype --dst-type LOCAL -j RETURN"
    ours = [f"-A PREROUTING {line}" for line in first.lines]
    assert rules("nat", "PREROUTING") == [*ours, theirs]
    second = jumps("PREROUTING", *first.lines[::-1], "-p udp -j KUBE-SERVICES")
    load("*nat\n-I PREROUTING 1 -s 192.0.2.9/32 -j ACCEPT\nCOMMIT\n")
    assert iptables.read([V4])[first.key] == first
    iptables.write([Step(second, first)])
    before = "-A PREROUTING -s 192.0.2.9/32 -j ACCEPT"
    ours = [f"-A PREROUTING {line}" for line in second.lines]
    assert rules("nat", "PREROUTING") == [*ours, before, theirs]
    iptables.write([Step(None, second)])
    assert rules("nat", "PREROUTING") == [before, theirs]


def test_others_rules_survive_everything() -> None:
    load(FOREIGN)
    theirs = [line for line in FOREIGN.splitlines() if line[:1] in ("-", ":")]
    node = Node(V4)
    iptables.write(node.take(documents([1, 2])))
    assert iptables.read([V4]) == node.blocks
    assert [line for line in saved() if line in theirs] == theirs
    iptables.write(node.take([]))
    iptables.write([Step(None, block) for block in iptables.read([V4]).values()])
    left = [line for line in saved() if line[:1] in ("-", ":") and " ACCEPT [" not in line]
    assert sorted(left) == sorted(theirs)


def test_what_others_changed_is_repaired_from_a_reading() -> None:
    node = Node(V4)
    iptables.write(node.take(documents([1, 2])))
    run(["iptables-nft", "-t", "nat", "-F"])
    run(["iptables-nft", "-N", "KUBE-SVC-OLD"])
    run(["iptables-nft", "-A", "INPUT", "-j", "KUBE-SVC-OLD"])
    steps = list(difference(node.blocks, iptables.read([V4])))
    assert len(steps) > 10
    iptables.write(steps)
    assert iptables.read([V4]) == node.blocks


def test_a_jump_that_others_removed_keeps_nothing_from_being_written() -> None:
    old = [chain("KUBE-SERVICES", "-j RETURN"), jumps("OUTPUT", "-j KUBE-SERVICES")]
    iptables.write([Step(block, None) for block in old])
    run(["iptables-nft", "-t", "nat", "-F", "OUTPUT"])
    new = [chain("KUBE-SERVICES", "-j ACCEPT"), jumps("OUTPUT", "-p tcp -j KUBE-SERVICES")]
    iptables.write([Step(one, was) for one, was in zip(new, old, strict=True)])
    assert iptables.read([V4]) == {block.key: block for block in new}


def test_what_others_removed_already_need_not_go() -> None:
    old = [chain("KUBE-SVC-A"), chain("KUBE-SVC-B"), jumps("OUTPUT", "-j KUBE-SVC-A")]
    iptables.write([Step(block, None) for block in old])
    run(["iptables-nft", "-t", "nat", "-F", "OUTPUT"])
    run(["iptables-nft", "-t", "nat", "-X", "KUBE-SVC-A"])
    iptables.write([Step(None, block) for block in old])
    assert iptables.read([V4]) == {}


def test_a_long_chain_that_others_changed_is_written_whole() -> None:
    lines = tuple(f"-d 10.96.0.{number}/32 -j RETURN" for number in range(150))
    old, new = chain("KUBE-SERVICES", *lines), chain("KUBE-SERVICES", *lines[1:])
    iptables.write([Step(old, None)])
    run(["iptables-nft", "-t", "nat", "-F", "KUBE-SERVICES"])
    iptables.write([Step(new, old)])
    assert iptables.read([V4]) == {new.key: new}


def test_a_chain_that_others_jump_to_cannot_go_but_all_else_is_done() -> None:
    old, gone = chain("KUBE-SVC-A", "-j KUBE-SEP-A"), chain("KUBE-SEP-A", "-j RETURN")
    iptables.write([Step(block, None) for block in (old, gone)])
    load("*nat\n:THEIRS - [0:0]\n-A THEIRS -j KUBE-SEP-A\nCOMMIT\n")
    new = chain("KUBE-SVC-A", "-j ACCEPT")
    with pytest.raises(KernelError, match=r"cannot write chain KUBE-SEP-A of table nat: .*busy"):
        iptables.write([Step(new, old), Step(None, gone)])
    assert iptables.read([V4]) == {block.key: block for block in (new, gone)}
    assert rules("nat", "THEIRS") == ["-A THEIRS -j KUBE-SEP-A"]


# ----------------------------------------------------------------------------------- refused

REFUSED = {
    "option": ("--frob 3 -j RETURN", 'unknown option "--frob"'),
    "address": ("-s 300.1.1.1/32 -j RETURN", "host/network `300.1.1.1' not found"),
    "target": ("-d 10.0.0.1/32 -j NOWHERE", "Chain 'NOWHERE' does not exist"),
    "kernel": (
        "-j REJECT --reject-with icmp-port-unreachable",
        "RULE_APPEND failed (Invalid argument): rule in chain KUBE-SERVICES",
    ),
}


def with_line(block: Block | None, line: str) -> Block | None:
    """Return KUBE-SERVICES with one more *line*, and any other block as it is."""
    if block is None or block.key != SERVICES:
        return block
    return Block(*block.key, (), (*block.lines, line))


@pytest.mark.parametrize(("line", "words"), REFUSED.values(), ids=REFUSED)
def test_a_line_that_is_refused_is_named_and_changes_nothing(line: str, words: str) -> None:
    node = Node(V4)
    iptables.write(node.take(documents([1])))
    before = [line for line in saved() if line[:1] != "#"]
    steps = [step for step in node.take(documents([1, 2])) if step.new and step.new.table == "nat"]
    bad = [Step(with_line(step.new, line), step.old) for step in steps]
    with pytest.raises(KernelError) as caught:
        iptables.write(bad)
    where = "iptables-nft-restore: cannot write chain KUBE-SERVICES of table nat"
    assert caught.value.message == f"{where}: {words}"
    assert caught.value.hint == f"the line was: -A KUBE-SERVICES {line}"
    assert [line for line in saved() if line[:1] != "#"] == before


# ---------------------------------------------------------------------- commits and counters


def test_what_is_written_is_counted_as_our_own() -> None:
    node = Node(V4, V6)
    since = generation.generation()
    iptables.write(node.take(documents([1, 2])))
    iptables.write(node.take(documents([1])))
    assert generation.generation() > since + 6
    assert generation.here().unchanged(since)
    run(["iptables-nft", "-A", "INPUT", "-j", "ACCEPT"])
    assert not generation.here().unchanged(since)


def send_udp(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"12345678", (address, 9))


def packets_met(wanted: Key) -> dict[int, int]:
    """Return how many packets the lines of a block met, those that met none left out."""
    counted = iptables.counters([V4]).items()
    return {line: packets for (key, line), (packets, _) in counted if key == wanted and packets}


def test_counters_tell_which_rule_a_packet_met() -> None:
    tracked = "-m conntrack --ctstate NEW -j RETURN"  # else there is no conntrack, hence no NAT
    lines = ("-d 127.0.0.1/32 -j RETURN", "-d 127.0.0.2/32 -j RETURN", tracked)
    services, output = chain("KUBE-SERVICES", *lines), jumps("OUTPUT", "-j KUBE-SERVICES")
    load("*nat\n-A OUTPUT -s 192.0.2.1/32 -j ACCEPT\nCOMMIT\n")
    iptables.write([Step(services, None), Step(output, None)])
    run(["ip", "link", "set", "lo", "up"])
    send_udp("127.0.0.2")
    size = 20 + 8 + 8  # bytes: IP, UDP, payload
    assert iptables.counters([V4]) == {
        (services.key, 0): (0, 0),
        (services.key, 1): (1, size),
        (services.key, 2): (0, 0),
        (output.key, 0): (1, size),
    }


@pytest.mark.skipif(not installed("iptables-legacy"), reason="no iptables-legacy")
def test_legacy_tables_of_the_threads_namespace_are_told(inside: str) -> None:
    assert iptables.legacy_tables(V4) == iptables.legacy_tables(V6) == []
    proxy, node = KubeProxy(Options()), view(NODE, ProxyNode)
    assert proxy.agree([], node).problems == []
    if run(["iptables-legacy", "-t", "mangle", "-S"], check=False).returncode:
        pytest.skip("this kernel has no legacy tables")
    assert iptables.legacy_tables(V4) == ["mangle"]
    assert iptables.legacy_tables(V6) == []
    (problem,) = proxy.agree([], node).problems
    assert problem.startswith("iptables-legacy has tables here (mangle), ")
    netns.create(f"{inside}-2")
    try:
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(netns.move, f"{inside}-2").result()
            assert elsewhere.submit(iptables.legacy_tables, V4).result() == []
    finally:
        netns.delete(f"{inside}-2")
