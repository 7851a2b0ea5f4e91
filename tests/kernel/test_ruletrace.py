"""Which rule fired, told by the kernel: rules of both tools, real packets, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import handmade
import pytest

from netlab.cluster import Cluster
from netlab.errors import KernelError
from netlab.kernel.netns import entered
from netlab.packets import Flow, Protocol, RuleHit
from netlab.sensors import ruletext, sending, stream
from netlab.sensors.ruletrace import RuleTrace
from netlab.sensors.token import token
from netlab.sensors.traceswitch import PREFIX, Selector, Switch

pytestmark = [pytest.mark.kernel, pytest.mark.stock]

NAME = f"nltest{os.getpid()}"
NODE1, NODE2, POD = f"{NAME}.node1", f"{NAME}.node2", f"{NAME}.node1.default.a"
VIP, A, C = "10.96.0.1", "10.244.1.2", "10.244.2.2"
PATIENCE = 3.0  # seconds
COMMENT = '-m comment --comment "default/web:http cluster IP"'
SERVICE = f"-d 10.96.0.1/32 -p {{0}} {COMMENT} -m {{0}} --dport 80"
IPTABLES = f"""*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-AAAA - [0:0]
:KUBE-SEP-CCCC - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-SERVICES {SERVICE.format("udp")} -j KUBE-SVC-AAAA
-A KUBE-SERVICES {SERVICE.format("tcp")} -j KUBE-SVC-AAAA
-A KUBE-SVC-AAAA -d 10.96.0.99/32 -j RETURN
-A KUBE-SVC-AAAA ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-AAAA -m comment --comment "default/web:http -> 10.244.2.2:80" -j KUBE-SEP-CCCC
-A KUBE-SEP-CCCC -s 10.244.2.2/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-CCCC -p tcp -m tcp -j DNAT --to-destination 10.244.2.2:80
-A KUBE-SEP-CCCC -p udp -m udp -j DNAT --to-destination 10.244.2.2:80
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic" -j MASQUERADE --random-fully
COMMIT
"""
DROPPING = """table ip t {
    chain c { type filter hook prerouting priority -200; ip daddr 10.96.0.3 drop; }
}
"""
NFT = """table ip kube-proxy {
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
    }
    chain endpoint-CCCC-default/web/tcp/http__10.244.2.2/80 {
        meta l4proto tcp dnat to 10.244.2.2:80
    }
    chain service-AAAA-default/web/tcp/http {
        ip daddr 10.96.0.1 tcp dport 80 ip saddr != 10.244.0.0/16 mark set mark or 0x4000
        numgen random mod 1 vmap { 0 : goto endpoint-CCCC-default/web/tcp/http__10.244.2.2/80 }
    }
    chain services {
        ip daddr . meta l4proto . th dport vmap @service-ips
    }
    chain reject-it {
        counter reject
    }
    chain nat-prerouting {
        type nat hook prerouting priority dstnat;
        jump services
    }
    chain filter-forward {
        type filter hook forward priority -110;
        ip daddr 10.96.0.2 jump reject-it
    }
}
add element ip kube-proxy service-ips {
    10.96.0.1 . tcp . 80 : goto service-AAAA-default/web/tcp/http
}
"""


@pytest.fixture(scope="module")
def state() -> Iterator[Cluster]:
    with handmade.two_nodes(NAME) as found:
        yield found


def inside(netns: str, *argv: str, text: str = "") -> str:
    words = ["ip", "netns", "exec", netns, *argv]
    return subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def iptables(state: Cluster) -> Iterator[None]:
    saved = inside(NODE1, "iptables-nft-save")
    inside(NODE1, "iptables-nft-restore", "--noflush", text=IPTABLES)
    yield
    inside(NODE1, "iptables-nft-restore", text=saved)


@pytest.fixture
def forward(state: Cluster) -> Iterator[None]:
    """A chain on both nodes that sees every packet of a flow, and counts those to C."""
    rules = (
        "table ip t { chain c { type filter hook forward priority 0;\n"
        f"meta l4proto icmp accept\nip daddr {C} counter\n}}; }}\n"
    )
    for node in (NODE1, NODE2):
        inside(node, "nft", "-f", "-", text=rules)
    yield
    for node in (NODE1, NODE2):
        inside(node, "nft", "delete table ip t")


@pytest.fixture
def nft(state: Cluster) -> Iterator[None]:
    inside(NODE1, "nft", "-f", "-", text=NFT)
    yield
    inside(NODE1, "nft", "delete table ip kube-proxy")


def traced(
    flow: Flow, *, sender: str = POD, places: tuple[str, ...] = (NODE1,), other: Flow | None = None
) -> list[RuleHit]:
    """Send a probe of *flow*, and one of *other* before it; return what the first one met."""
    mark = token()
    selectors = [Selector(one, mark) for one in (flow, other) if one]
    with RuleTrace(places, selectors) as trace:
        if other is not None:
            answered(sender, other, mark)
        sent = answered(sender, flow, mark)
        assert not trace.lost
        return trace.hits(sent, mark)


def sent_and_answered(sender: str, flow: Flow, mark: bytes) -> tuple[Flow, sending.Answer | None]:
    """Send a probe; return the flow as it was sent, and what came back."""
    with sending.send(sender, flow, mark) as sent:
        deadline = time.monotonic() + PATIENCE
        while (answer := sent.answer()) is None and time.monotonic() < deadline:
            time.sleep(0.001)
        return sent.flow, answer


def answered(sender: str, flow: Flow, mark: bytes) -> Flow:
    sent, answer = sent_and_answered(sender, flow, mark)
    assert answer is not None and not answer.refused, answer
    return sent


def named(hits: list[RuleHit]) -> list[tuple[str, str, str]]:
    return [(hit.chain, hit.rule, hit.verdict) for hit in hits if hit.rule]


def flow(protocol: Protocol = Protocol.TCP, *, to: str = VIP, source: str = "") -> Flow:
    return Flow(source, to, protocol, 0, 0 if protocol is Protocol.ICMP else 80)


JUMP = '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
TO_ENDPOINT = '-m comment --comment "default/web:http -> 10.244.2.2:80" -j KUBE-SEP-CCCC'


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_iptables_rules_are_named_as_iptables_save_prints_them(
    iptables: None, protocol: Protocol
) -> None:
    hits = [hit for hit in traced(flow(protocol)) if hit.table == "nat"]
    service = f"{SERVICE.format(protocol)} -j KUBE-SVC-AAAA"
    dnat = f"-p {protocol} -m {protocol} -j DNAT --to-destination 10.244.2.2:80"
    first = [hit for hit in hits if hit.hook == "prerouting"]
    assert named(first) == [
        ("PREROUTING", JUMP, "jump KUBE-SERVICES"),
        ("KUBE-SERVICES", service, "jump KUBE-SVC-AAAA"),
        ("KUBE-SVC-AAAA", TO_ENDPOINT, "jump KUBE-SEP-CCCC"),
        ("KUBE-SEP-CCCC", dnat, "accept"),
    ]
    assert {(hit.base, hit.incoming, hit.outgoing) for hit in first} == {
        ("PREROUTING", "docker0", "")
    }
    assert {(hit.flow.destination, hit.flow.source) for hit in first} == {(VIP, A)}
    last = [hit for hit in hits if hit.hook == "postrouting"]
    assert last[0].flow.destination == C
    assert last[0].outgoing == "flannel.1"
    returned = ("KUBE-POSTROUTING", "-m mark ! --mark 0x4000/0x4000 -j RETURN", "return")
    assert returned in named(last)


def test_a_processs_packet_is_traced_from_the_output_hook_with_its_mark(iptables: None) -> None:
    hits = [hit for hit in traced(flow(), sender=NODE1) if hit.table == "nat" and hit.rule]
    assert [hit.hook for hit in hits][:1] == ["output"]
    marked = next(hit for hit in hits if hit.chain == "KUBE-MARK-MASQ")
    assert (marked.verdict, marked.mark) == ("continue", 0x4000)
    assert "MASQUERADE" in hits[-1].rule and hits[-1].hook == "postrouting"
    assert "prerouting" not in {hit.hook for hit in hits}


def test_nft_rules_are_named_and_a_maps_element_by_its_verdict(nft: None) -> None:
    hits = [hit for hit in traced(flow()) if hit.table == "kube-proxy"]
    endpoint = "endpoint-CCCC-default/web/tcp/http__10.244.2.2/80"
    assert named(hits) == [
        ("nat-prerouting", "jump services", "jump services"),
        (
            "services",
            "ip daddr . meta l4proto . th dport vmap @service-ips",
            "goto service-AAAA-default/web/tcp/http",
        ),
        (
            "service-AAAA-default/web/tcp/http",
            f"numgen random mod 1 vmap {{ 0 : goto {endpoint} }}",
            f"goto {endpoint}",
        ),
        (endpoint, "meta l4proto tcp dnat to 10.244.2.2:80", "accept"),
    ]
    assert [hit.verdict for hit in hits if not hit.rule] == ["policy accept"]
    assert hits[-1].flow.destination == C  # in filter-forward, behind the rewrite


def test_a_reject_is_told_as_what_it_is(nft: None) -> None:
    mark = token()
    refused = flow(Protocol.UDP, to="10.96.0.2")
    inside(NODE1, "sysctl", "-qw", "net.ipv4.icmp_ratelimit=0")
    with RuleTrace([NODE1], [Selector(refused, mark)]) as trace:
        sent, answer = sent_and_answered(POD, refused, mark)
        hits = trace.hits(sent, mark)
    assert answer is not None and answer.refused
    assert (hits[-1].chain, hits[-1].rule, hits[-1].verdict) == (
        *("reject-it", "counter reject", "drop"),
    )


def test_a_probe_is_known_again_where_it_was_rewritten_and_others_are_left_out(
    iptables: None, forward: None
) -> None:
    hits = traced(flow(), places=(NODE1, NODE2), other=flow(to=C))
    counted = [hit for hit in hits if hit.rule == f"ip daddr {C} counter"]
    assert [(hit.netns, hit.flow.destination) for hit in counted] == [(NODE1, C), (NODE2, C)]
    assert len([hit for hit in hits if hit.chain == "PREROUTING" and hit.rule == JUMP]) == 1


def test_only_the_packets_asked_for_are_traced(iptables: None) -> None:
    mark = token()
    with RuleTrace([NODE1], [Selector(flow(Protocol.UDP), mark)]) as trace:
        answered(POD, flow(Protocol.TCP), mark)
        answered(POD, flow(Protocol.UDP), token())
        answered(POD, flow(Protocol.UDP, to=C), mark)
        assert trace.hits() == []
        answered(POD, flow(Protocol.UDP), mark)
        assert trace.hits() != []


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_one_trace_tells_every_probe_from_others_and_passes_over_what_is_no_probe(
    iptables: None, forward: None, protocol: Protocol
) -> None:
    with RuleTrace([]) as trace:
        trace.add([NODE1])
        sent_many = [(mark := token(), answered(POD, flow(protocol), mark)) for _ in range(3)]
        with stream.Stream(POD, [flow(protocol)], pace=1000) as others:
            assert not any(one.trouble for one in others.end())
        every = trace.hits()
        for mark, sent in sent_many:
            hits = trace.hits(sent, mark)
            assert {hit.flow.source_port for hit in hits} == {sent.source_port}
            assert [hit.chain for hit in hits].count("KUBE-SEP-CCCC") == 1
            assert trace.hits(sent, mark, within=[NODE2]) == []
            assert not trace.dropped(sent, mark)
    ports = {sent.source_port for _, sent in sent_many}
    assert {hit.flow.source_port for hit in every} == ports


def test_a_namespace_added_later_is_traced_from_then_on(iptables: None, forward: None) -> None:
    with RuleTrace([NODE1]) as trace:
        first, later = token(), token()
        before = answered(POD, flow(), first)
        trace.add([NODE1, NODE2])
        after = answered(POD, flow(), later)
        assert {hit.netns for hit in trace.hits(before, first)} == {NODE1}
        assert {hit.netns for hit in trace.hits(after, later)} == {NODE1, NODE2}
    assert tables(NODE1) == tables(NODE2) == []


def test_a_probe_that_a_rule_dropped_is_known_to_be_over(state: Cluster) -> None:
    inside(NODE1, "nft", "-f", "-", text=DROPPING)
    try:
        with RuleTrace([NODE1]) as trace:
            mark = token()
            with sending.send(POD, flow(to="10.96.0.3"), mark) as sent:
                assert trace.dropped(sent.flow, mark)
            with sending.send(POD, flow(to=C), mark) as other:
                assert not trace.dropped(other.flow, mark)
    finally:
        inside(NODE1, "nft", "delete table ip t")


def test_rules_before_all_others_are_named_too(state: Cluster) -> None:
    device = "type filter hook ingress device docker0 priority 0"
    inside(NODE1, "nft", f"add table netdev t; add chain netdev t c {{ {device}; }}")
    inside(NODE1, "nft", "add rule netdev t c meta nftrace set 1")
    inside(NODE1, "nft", f"add rule netdev t c ip daddr {C} counter")
    try:
        hits = [hit for hit in traced(flow(to=C)) if hit.family == "netdev"]
    finally:
        inside(NODE1, "nft", "delete table netdev t")
    assert [(hit.hook, hit.rule) for hit in hits if hit.rule] == [
        ("ingress", "meta nftrace set 1"),
        ("ingress", f"ip daddr {C} counter"),
    ]


def test_a_rule_that_took_anothers_handle_is_named_as_what_it_is(state: Cluster) -> None:
    """A table made again counts its rules' handles from the beginning."""
    seen = []
    with RuleTrace([NODE1]) as trace:
        for word in ("first", "second"):
            table = DROPPING.replace("drop", f'drop comment "{word}"')
            inside(NODE1, "nft", "-f", "-", text=table)
            try:
                mark = token()
                with sending.send(POD, flow(to="10.96.0.3"), mark) as sent:
                    seen += [hit.rule for hit in trace.hits(sent.flow, mark) if hit.table == "t"]
            finally:
                inside(NODE1, "nft", "delete table ip t")
    assert seen == [f'ip daddr 10.96.0.3 drop comment "{word}"' for word in ("first", "second")]


@pytest.mark.parametrize("small", [0, ruletext.SMALL], ids=["chain-by-chain", "whole-tables"])
def test_a_rule_reads_the_same_from_its_chain_and_from_its_table(
    iptables: None, forward: None, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(ruletext, "SMALL", small)
    listings: list[str] = []
    real = ruletext.run

    def run(argv: Sequence[str], **how: Any) -> Any:
        listings.append(" ".join(argv))
        return real(argv, **how)

    monkeypatch.setattr(ruletext, "run", run)
    rules = named(traced(flow()))
    assert ("KUBE-SVC-AAAA", TO_ENDPOINT, "jump KUBE-SEP-CCCC") in rules
    assert ("c", f"ip daddr {C} counter", "continue") in rules
    assert listings.count("iptables-nft-save -t nat") == bool(small)
    assert ("iptables-nft -t nat -S KUBE-SEP-CCCC" in listings) is not bool(small)


def test_of_tcp_the_opening_packet_is_traced_or_all(iptables: None, forward: None) -> None:
    seen = {}
    for whole in (False, True):
        with RuleTrace([NODE1], [Selector(flow(), whole=whole)]) as trace:
            sent = answered(POD, flow(), token())
            hits = trace.hits(sent)
        seen[whole] = [hit.state for hit in hits if hit.rule == f"ip daddr {C} counter"]
    assert len(seen[False]) == 1
    assert len(seen[True]) > 2


def test_icmp_is_traced_by_its_token(forward: None) -> None:
    hits = traced(flow(Protocol.ICMP, to=C))
    assert ("c", "meta l4proto icmp accept", "accept") in named(hits)


def test_ipv6_is_traced_too() -> None:
    netns = f"{NAME}.six"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    try:
        inside(netns, "ip", "link", "set", "lo", "up")
        rule = "-d ::1/128 -p udp -m udp --dport 9 -j ACCEPT"
        inside(netns, "ip6tables-nft", "-A", "INPUT", *rule.split())
        probed = Flow("::1", "::1", Protocol.UDP, 0, 9)
        mark = token()
        with RuleTrace([netns], [Selector(probed, mark)]) as trace:
            with entered(netns), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                sender.sendto(mark, ("::1", 9))
                port = sender.getsockname()[1]
            (hit,) = trace.hits(Flow("::1", "::1", Protocol.UDP, port, 9), mark)
    finally:
        subprocess.run(["ip", "netns", "delete", netns], check=True)
    assert (hit.rule, hit.family, hit.hook, hit.incoming) == (rule, "ip6", "input", "lo")
    assert str(hit.flow) == f"::1:{port} -> ::1:9 udp"


def test_the_table_says_what_it_traces(state: Cluster) -> None:
    with entered(NODE1):
        made = Switch(
            [
                Selector(Flow("10.0.0.1", "10.0.0.2", Protocol.TCP, 1000, 80)),
                Selector(Flow("", "10.0.0.2", Protocol.UDP, 0, 53), b"netlab:12345678"),
                Selector(Flow("", "10.0.0.3", Protocol.TCP), source_ports=(100, 199)),
                Selector(Flow("fd00::1", "fd00::2", Protocol.TCP, 0, 80), whole=True),
            ]
        )
        listed = inside(NODE1, "nft", "list", "ruleset")
        made.close()
    ipv4 = "ip saddr 10.0.0.1 ip daddr 10.0.0.2 tcp sport 1000 tcp dport 80 tcp flags "
    flags = (r"syn / syn,ack", r"& \(syn \| ack\) == syn")  # nft has put it in both ways
    assert len(re.findall(f"{ipv4}({'|'.join(flags)}) meta nftrace set 1", listed)) == 2
    assert "hook prerouting priority -350" in listed
    assert "hook output priority -350" in listed
    assert listed.count("ip daddr 10.0.0.3 tcp sport 100-199 tcp flags") == 2
    bytes_seen = int.from_bytes(b"netlab:12345", "big")
    udp = f"ip daddr 10.0.0.2 udp dport 53 @th,64,96 {bytes_seen:#x} meta nftrace set 1"
    assert listed.count(udp) == 2
    assert listed.count("ip6 saddr fd00::1 ip6 daddr fd00::2 tcp dport 80 meta nftrace set 1") == 2
    assert "flags owner" in listed


# -- texts


def test_a_table_called_nat_that_is_not_iptables_is_named_in_nfts_words(state: Cluster) -> None:
    saved = inside(NODE2, "iptables-nft-save")
    inside(NODE2, "nft", "flush ruleset")
    inside(NODE2, "nft", "add table ip nat")
    inside(NODE2, "nft", "add chain ip nat c { type filter hook prerouting priority 0; }")
    inside(NODE2, "nft", "add rule ip nat c ip daddr 192.168.50.12 tcp dport { 80, 81 } accept")
    try:
        target = Flow("", "192.168.50.12", Protocol.TCP, 0, 80)
        with RuleTrace([NODE2], [Selector(target)]) as trace:
            sent, _ = sent_and_answered(NODE1, target, token())
            hits = trace.hits(sent)
    finally:
        inside(NODE2, "nft", "delete table ip nat")
        inside(NODE2, "iptables-nft-restore", text=saved)
    assert named(hits) == [("c", "ip daddr 192.168.50.12 tcp dport { 80, 81 } accept", "accept")]


def test_a_rule_that_is_gone_is_named_by_its_handle(iptables: None) -> None:
    with RuleTrace([NODE1], [Selector(flow())]) as trace:
        sent = answered(POD, flow(), token())
        inside(NODE1, "iptables-nft", "-t", "nat", "-F", "KUBE-SEP-CCCC")
        hits = trace.hits(sent)
    gone = [hit.rule for hit in hits if hit.chain == "KUBE-SEP-CCCC"]
    assert len(gone) == 1 and gone[0].startswith("(rule with handle ")


# -- nothing is left


def tables(netns: str) -> list[str]:
    return [line for line in inside(netns, "nft", "list", "tables").splitlines() if PREFIX in line]


def test_traces_end_with_their_user_even_by_an_exception(state: Cluster) -> None:
    trace = RuleTrace([NODE1, NODE2], [Selector(flow())])
    with pytest.raises(KeyboardInterrupt), trace:
        assert len(tables(NODE1)) == len(tables(NODE2)) == 1
        raise KeyboardInterrupt
    assert tables(NODE1) == tables(NODE2) == []


def test_a_namespace_that_is_missing_leaves_no_trace_in_the_others(state: Cluster) -> None:
    with pytest.raises(KernelError), RuleTrace([NODE1, f"{NAME}.none"], [Selector(flow())]):
        pass
    assert tables(NODE1) == []


KILLED = f"""
import sys, time
from netlab.kernel.netns import move
from netlab.packets import Flow, Protocol
from netlab.sensors.traceswitch import Selector, Switch
move({NODE1!r})
switch = Switch([Selector(Flow("", "10.0.0.2", Protocol.TCP, 0, 80))], owned=sys.argv[1] == "owned")
print("there", flush=True)
time.sleep(60)
"""


def killed(how: str) -> None:
    """Have a process that switches traces on, and kill it."""
    words = [sys.executable, "-c", KILLED, how]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        assert len(tables(NODE1)) == 1
        process.send_signal(signal.SIGKILL)


def test_a_killed_process_leaves_no_table(state: Cluster) -> None:
    killed("owned")
    deadline = time.monotonic() + PATIENCE
    while tables(NODE1) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tables(NODE1) == []


def test_what_a_killed_process_left_goes_with_the_next_use_and_nothing_else(
    state: Cluster,
) -> None:
    killed("not owned")
    assert len(tables(NODE1)) == 1  # as on kernels without owners
    inside(NODE1, "nft", "add table ip netlab-trace-mine")
    with RuleTrace([NODE1], [Selector(flow())]):
        assert len(tables(NODE1)) == 2  # its own, and one that only is called alike
    assert len(tables(NODE1)) == 1
    inside(NODE1, "nft", "delete table ip netlab-trace-mine")


ROOTLESS = """
import socket, subprocess
from netlab.capabilities import links
from netlab.packets import Flow, Protocol
from netlab.sensors.ruletrace import _Place
from netlab.sensors.traceswitch import Selector
links.lo_up()
subprocess.run(["iptables-nft", "-A", "OUTPUT", "-p", "udp", "-j", "ACCEPT"], check=True)
place = _Place([Selector(Flow("", "127.0.0.1", Protocol.UDP, 0, 9), b"netlab:12345678")])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.sendto(b"netlab:12345678", ("127.0.0.1", 9))
print([str(hit) for hit in place.hits("here", place.seen())])
"""


def test_traces_are_heard_in_a_user_namespace() -> None:
    words = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", ROOTLESS]
    done = subprocess.run(words, capture_output=True, text=True)
    assert "'here filter OUTPUT: -p udp -j ACCEPT'" in done.stdout, done.stderr
