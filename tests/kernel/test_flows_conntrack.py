"""What a pass of the proxy does to flows that are there already, with the table's own cases."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from flow_cases import cases
from flows import connections, proxying, table
from flows.breakage import Mistaken, without
from flows.packets import PROTOCOLS, Packet
from flows.traffic import Traffic, token

from netlab.agent import kubeproxy
from netlab.kernel import conntrack
from netlab.kernel.netns import entered
from netlab.proxy import Mode
from netlab.proxy.addresses import Family

pytestmark = pytest.mark.kernel

Words = dict[str, Any]
CASES = {case["id"]: case for case in cases()}
PREFIX = f"nltest{os.getpid()}"
CLIENT = "203.0.113.2"
WITHOUT_SLICES = "172.30.1.9"
UNSLICED = {  # a Service that nobody has made a slice for yet
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "unsliced", "namespace": "ns2"},
    "spec": {
        "clusterIP": WITHOUT_SLICES,
        "clusterIPs": [WITHOUT_SLICES],
        "ports": [{"name": "p0", "protocol": "UDP", "port": 8000}],
    },
}

# The facts of the table's case, in its order: how each flow was sent, and how translated.
ADDRESSES = ("172.30.1.1", "192.168.99.100", "1.2.3.4")
LOCAL = ("192.168.0.2", "192.168.99.11")
Sent = tuple[str, str, int, str]  # protocol, address, port, translated to; "" not at all


def sent(protocol: str, port: int, *to: str, at: tuple[str, ...] = ADDRESSES) -> list[Sent]:
    return [(protocol, address, port, one) for address in at for one in to]


FACTS = (
    sent("udp", 8000, "10.240.0.4:9090"),
    sent("udp", 8000, "10.240.1.5:9090"),
    sent("udp", 8000, "10.240.2.6:9090"),
    sent("udp", 8000, "10.240.0.4:8080"),
    sent("udp", 8000, ""),
    sent("udp", 32000, "10.240.0.4:9090", at=LOCAL),
    sent("udp", 32000, "10.240.1.5:9090", "10.240.2.6:9090", at=LOCAL),
    sent("udp", 3000, "10.240.0.4:9090", ""),
    sent("tcp", 8000, "10.240.0.4:9090", "10.240.1.5:9090", "10.240.2.6:9090", ""),
    sent("sctp", 8000, "10.240.0.4:9090", "10.240.1.5:9090", "10.240.2.6:9090", ""),
    sent("udp", 8000, "", at=(WITHOUT_SLICES,)),
)


@pytest.mark.parametrize("mode", table.BY_RULES)
def test_udp_entries_go_selectively(mode: Mode, tmp_path: Path) -> None:
    case = CASES["conntrack-selective"]
    facts = [(one["entry"], one["deleted"]) for one in case["entry_facts"]]
    flows = {
        one: (words, deleted, 40000 + 100 * number + position)
        for number, ((words, deleted), some) in enumerate(zip(facts, FACTS, strict=True))
        for position, one in enumerate(some)
    }
    with table.standing(_with_client(case), PREFIX) as traffic:
        node, server = (traffic.world.places[one] for one in ("test-node", "10.240.0.4"))
        with connections.listening(server, 9090):  # a reset would end its flows
            _remember(traffic, {one: port for one, (_, _, port) in flows.items()})
        with entered(node.netns):
            before = _remembered()
            assert {port for _, _, port in flows.values()} <= before
            proxying.programme(case["given"], mode, node, tmp_path, beside=[UNSLICED])
            left = _remembered()
    wrong = [
        f"{one}: {words}: {'kept' if port in left else 'deleted'}"
        for one, (words, deleted, port) in flows.items()
        if (port in left) == deleted
    ]
    assert not wrong, "\n".join(wrong)


def _with_client(case: Words) -> Words:
    """The case with a flow, so that its topology has the client."""
    origin = {"kind": "external", "ip": CLIENT}
    return {**case, "flows": [{"from": origin, "to": "172.30.1.1:8000/udp"}]}


def _remember(traffic: Traffic, ports: dict[Sent, int]) -> None:
    """Have the tested node remember flows, by their source ports, translated by foreign rules."""
    node, outside = traffic.world.places[traffic.world.tested], traffic.world.outside
    rules = [f"{one[0]} sport {port} dnat to {one[3]}" for one, port in ports.items() if one[3]]
    chain = "type nat hook prerouting priority -110;"
    text = "\n".join(["table ip foreign {", "chain translated {", chain, *rules, "}", "}", ""])
    with entered(node.netns):
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
    traffic.send(
        outside,
        [
            Packet(CLIENT, port, address, number, PROTOCOLS[protocol], token())
            for (protocol, address, number, _), port in ports.items()
        ],
    )
    traffic.settle(outside)


def _remembered() -> set[int]:
    """The client's ports of all flows that are remembered."""
    return {one.original.source_port for one in conntrack.entries(Family.IPV4)}


@pytest.mark.parametrize("wrong", [False, True], ids=["as-it-is", "with-the-rule-left-out"])
def test_segment_outside_the_window_ends_no_connection(
    wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the rule it reaches the client, untranslated, which must be seen here, too."""
    case = CASES["conntrack-invalid-drop"]
    assert table.modes(case) == [Mode.IPTABLES]
    if wrong:
        real = kubeproxy.RENDERER[Mode.IPTABLES]
        renderer = Mistaken(real, without("KUBE-FORWARD", "INVALID"), [])
        monkeypatch.setitem(kubeproxy.RENDERER, Mode.IPTABLES, renderer)
    with table.standing(case, PREFIX) as traffic:
        node, client, server = map(
            traffic.world.places.__getitem__, ("test-node", "10.0.0.2", "10.180.0.1")
        )
        proxying.programme(case["given"], Mode.IPTABLES, node, tmp_path)
        fate = connections.stray_segment(client, ("172.30.0.41", 80), server, traffic)
    assert bool(fate.sightings) is wrong
    assert fate.works is not wrong


@pytest.mark.parametrize("mode", table.BY_RULES)
def test_what_works_is_not_noticed_to_change(mode: Mode, tmp_path: Path) -> None:
    """An open connection outlives its endpoint's entry and its Service; so do others' UDP flows."""
    case = CASES["clusterip-multiport-tcp"]
    given = case["given"]
    name = given["services"][0]["name"]
    here = [given["endpoints"][name][0]]
    steps = [
        {**given, "endpoints": {name: here}},
        {**given, "endpoints": {name: [given["endpoints"][name][1]]}},
        {**given, "endpoints": {name: []}},
        {**given, "services": [], "endpoints": {}},
    ]
    with table.standing(case, PREFIX) as traffic:
        places = traffic.world.places
        node, client, server = places["test-node"], places["10.180.0.2"], places["10.180.0.1"]
        proxying.programme(steps[0], mode, node, tmp_path)
        with (
            connections.connected(client, ("172.30.0.42", 443), server, 8443) as connection,
            connections.talking(client, (server.addresses[0], 5300), server, 5300) as beside,
        ):
            for given in steps[1:]:
                proxying.programme(given, mode, node, tmp_path)
                assert connection.works()
                assert beside.works()
