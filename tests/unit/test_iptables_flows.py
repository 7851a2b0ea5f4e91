"""Where the rules of iptables mode send packets, told from their text: as decided, always."""

from __future__ import annotations

from collections.abc import Collection

import flow_cases
import pytest
from any_packets import OUTSIDE, OWN, PROXIES, packets
from iptables_walk import Walk
from rendered import all_decisions, blocks, parts
from service_objects import CIDR, HERE, THERE, decide, endpoint, service, slice_

from netlab import proxy
from netlab.proxy import Decision, Mode, Outcome, Packet, iptables
from netlab.proxy.addresses import Family, family

ROWS = [row for row in flow_cases.rows() if row.mode is Mode.IPTABLES]


def walk(decision: Decision, which: Family) -> Walk:
    situation = decision.situations[which]
    shared = [*iptables.frame(situation), *iptables.hostport_frame(situation)]
    return Walk(blocks(shared, parts(iptables, decision, which, large=False)).values())


def walked(decision: Decision, packet: Packet, *, local: Collection[str]) -> Outcome:
    return walk(decision, family(packet.address)).outcome(packet, local=local)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_the_rules_do_what_is_decided_on_a_row(
    row: flow_cases.Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = flow_cases.outcome(row)
    monkeypatch.setattr(proxy, "outcome", walked)
    assert flow_cases.outcome(row) == decided


@pytest.mark.parametrize("options", PROXIES.values(), ids=PROXIES)
def test_the_rules_do_what_is_decided_on_any_packet(options: dict[str, object]) -> None:
    """Each frontend of the table, and the ports beside it, as all kinds of clients."""
    seen = 0
    for decision in all_decisions(Mode.IPTABLES, **options):
        for which, situation in decision.situations.items():
            local = {*OWN, situation.address or OUTSIDE[which]}
            rules = walk(decision, which)
            for packet in packets(decision, which, local):
                decided = proxy.outcome(decision, packet, local=local)
                assert rules.outcome(packet, local=local) == decided, packet
                seen += 1
    assert seen > 1000


def affinity(count: int, seconds: int = 10800) -> Decision:
    given = service(
        type="NodePort",
        externalTrafficPolicy="Local",
        sessionAffinity="ClientIP" if seconds else "None",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": seconds}},
        ports=[{"port": 80, "name": "http", "nodePort": 30080}],
    )
    pods = [endpoint(f"10.244.1.{one + 1}", HERE if one % 2 else THERE) for one in range(count)]
    return decide([given], [slice_(*pods)], **CIDR)


@pytest.mark.parametrize("count", [2, 3, 7, 8, 9, 100])
@pytest.mark.parametrize(("to", "port"), [("10.96.0.1", 80), ("192.168.50.11", 30080)])
def test_every_endpoint_gets_the_same_share(count: int, to: str, port: int) -> None:
    packet = Packet(OUTSIDE[Family.IPV4], to, port, "TCP", "eth9")
    shares = walk(affinity(count, 0), Family.IPV4).shares(packet, {"192.168.50.11"})
    expected = count if port == 80 else count // 2  # those that are here
    assert len(shares) == expected
    assert all(abs(share * expected - 1) < 1e-6 for share in shares.values())


def test_a_client_stays_where_its_last_connection_went() -> None:
    rules = walk(affinity(3), Family.IPV4)
    local = {"192.168.50.11"}
    inner = Packet("10.244.2.9", "10.96.0.1", 80, "TCP", "cbr0")
    seen = {}
    for _, state, _ in rules.paths(inner, local):
        (kept,) = state.noted
        seen[state.to] = kept
        again = rules.outcome(inner, local=local, remembered=[kept])
        assert list(again.endpoints) == [state.to]
    assert len(set(seen.values())) == 3
