"""What `why` says would repair something: lines for a shell, of names that others chose."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import frames
import pytest
from watched import Watch, hit, tcp

from netlab import topology
from netlab.cluster import Cluster
from netlab.journeys import End, Fate, Place, Seen, Track
from netlab.lab.forecast import foreseen
from netlab.packets import Direction, Flow, Leg, Outer, Protocol, RuleHit
from netlab.tracing import ruled, state, told
from netlab.tracing.stops import Stop, stop

NODE = Place("t.n1", "node", "n1")
FLOW = Flow("10.244.1.2", "10.244.2.2", Protocol.TCP, 40000, 80)
SAID = """it's "q" $(echo gone) `id` back\\slash"""
RULES = [  # as iptables-nft -S prints them, v1.8.9
    ("-j DROP", ["-j", "DROP"]),
    ('-m comment --comment "a b" -j DROP', ["-m", "comment", "--comment", "a b", "-j", "DROP"]),
    (r'--comment "it\'s \"q\" $(echo gone) `id` back\\slash"', ["--comment", SAID]),
    ('--comment "$(echo gone)" -j DROP', ["--comment", "$(echo gone)", "-j", "DROP"]),
]


@pytest.mark.parametrize(("rule", "words"), RULES)
def test_a_rule_s_words_are_those_that_were_given(rule: str, words: list[str]) -> None:
    assert ruled.rule_words(rule) == words


def stopped(*, hits: tuple[RuleHit, ...] = ()) -> Stop:
    track = Track("SYN", Leg.REQUEST, FLOW, (End(NODE, Fate.DROPPED),))
    return stop(track, End(NODE, Fate.DROPPED))._replace(hits=hits)


@pytest.mark.parametrize(("rule", "words"), RULES)
def test_a_shell_reads_the_repair_as_the_tool_s_words(rule: str, words: list[str]) -> None:
    one = hit(f"forward: {rule} -> drop", table="filter")
    (line,) = ruled.rule_repair(stopped().place, one)
    printed = subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True)
    head = ["netlab", "exec", "node/n1", "--", "iptables-nft", "-t", "filter", "-D", "forward"]
    assert printed.stdout.splitlines() == [*head, *words]


def test_a_chain_s_odd_name_is_quoted() -> None:
    one = hit("odd;true: tcp dport 80 drop -> drop", table="filter", handle=7)
    (line,) = ruled.rule_repair(stopped().place, one)
    assert shlex.split(line)[4:] == ["nft", "delete", "rule", "ip", "filter", "odd;true",
                                     "handle", "7"]  # fmt: skip


@pytest.fixture(scope="module")
def two_segments() -> Cluster:
    found = Path(__file__).parents[2] / "topologies" / "two-segments.yaml"
    return foreseen(topology.load([str(found)]))


def test_a_port_belongs_to_the_bridge_of_its_own_segment(two_segments: Cluster) -> None:
    lab = two_segments.lab
    bridges = {
        lab.segment_of(node.address).name: state.segment_bridge(two_segments, node.name)
        for node in two_segments.nodes
    }
    assert bridges == {one.name: f"br-{one.name}" for one in lab.underlay.segments}


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_next_hop_s_mtu_is_read_in_an_envelope_too(wrapped: bool) -> None:
    quoted = tcp("10.244.1.2:1", "10.244.2.2:2")
    error = frames.ip4("10.244.2.1", "10.244.1.2", "icmp", (3, 4), quoted[:28], options=b"\1" * 4)
    at = 24 + 6
    error = error[:at] + (1400).to_bytes(2, "big") + error[at + 2 :]
    watch = Watch()
    ends = ("192.168.50.12", "192.168.50.11") if wrapped else None
    watch.seen("t.n2 eth0 out", error, wrapped=ends)
    one = watch.caught[0]
    outer = Outer(*ends, 1) if ends else None
    seen = Seen(*(NODE, 1, "eth0", Direction.OUT, one.sighting.flow, 64, len(error)), outer=outer,
                frame=one.frame)  # fmt: skip
    assert told.next_mtu(seen) == 1400
