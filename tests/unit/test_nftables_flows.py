"""Where the rules of nftables mode send packets, told from their text: as decided, always."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import flow_cases
import pytest
from any_packets import OUTSIDE, OWN, PROXIES, packets
from nftables_walk import Walk
from rendered import all_decisions, blocks, parts
from service_objects import CIDR, HERE, THERE, decide, endpoint, service, slice_

from netlab import proxy
from netlab.proxy import Decision, Mode, Outcome, Packet, Verdict, nftables
from netlab.proxy.addresses import Family, family

ROWS = [row for row in flow_cases.rows() if row.mode is Mode.NFTABLES]


def walk(decision: Decision, which: Family) -> Walk:
    situation = decision.situations[which]
    shared = [*nftables.frame(situation), *nftables.hostport_frame(situation)]
    return Walk(blocks(shared, parts(nftables, decision, which, large=False)).values())


def walked(decision: Decision, packet: Packet, *, local: Collection[str]) -> Outcome:
    return walk(decision, family(packet.address)).outcome(packet, local=local)


def by_rules(outcome: Outcome) -> Outcome:
    """Return what rules are to do for *outcome*: who may ask the node's own server needs none."""
    host = outcome.verdict is Verdict.HOST
    return Outcome(Verdict.NO_MATCH) if host else outcome


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_the_rules_do_what_is_decided_on_a_row(
    row: flow_cases.Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = flow_cases.outcome(row)
    monkeypatch.setattr(proxy, "outcome", walked)
    assert flow_cases.outcome(row) == by_rules(decided)


@pytest.mark.parametrize("options", PROXIES.values(), ids=PROXIES)
def test_the_rules_do_what_is_decided_on_any_packet(options: dict[str, object]) -> None:
    """Each frontend of the table, and the ports beside it, as all kinds of clients."""
    seen = 0
    for decision in all_decisions(Mode.NFTABLES, **options):
        for which, situation in decision.situations.items():
            local = {*OWN, situation.address or OUTSIDE[which]}
            rules = walk(decision, which)
            for packet in packets(decision, which, local):
                decided = by_rules(proxy.outcome(decision, packet, local=local))
                assert rules.outcome(packet, local=local) == decided, packet
                seen += 1
    assert seen > 1000


def shared(count: int, **spec: Any) -> Decision:
    """Return a Service with *count* endpoints, every other one here, at all kinds of addresses."""
    given = service(
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        ports=[{"port": 80, "name": "http", "nodePort": 30080}],
        **spec,
    )
    pods = [endpoint(f"10.244.1.{one + 1}", HERE if one % 2 else THERE) for one in range(count)]
    return decide([given], [slice_(*pods)], mode=Mode.NFTABLES, **CIDR)


@pytest.mark.parametrize("count", [2, 3, 7, 8, 9, 100])
@pytest.mark.parametrize(("to", "port"), [("10.96.0.1", 80), ("192.168.50.11", 30080)])
def test_every_endpoint_gets_the_same_share(count: int, to: str, port: int) -> None:
    packet = Packet(OUTSIDE[Family.IPV4], to, port, "TCP", "eth9")
    shares = walk(shared(count), Family.IPV4).shares(packet, {"192.168.50.11"})
    expected = count if port == 80 else count // 2  # those that are here
    assert len(shares) == expected
    assert all(abs(share * expected - 1) < 1e-9 for share in shares.values())


@pytest.mark.parametrize("count", [3, 9])
def test_a_client_stays_where_its_last_connection_went(count: int) -> None:
    rules = walk(shared(count, sessionAffinity="ClientIP"), Family.IPV4)
    local = {"192.168.50.11"}
    inner = Packet("10.244.2.9", "10.96.0.1", 80, "TCP", "cbr0")
    seen = {}
    for _, state, _ in rules.paths(inner, local):
        (kept,) = state.noted
        seen[state.to] = kept
        again = rules.outcome(inner, local=local, remembered=[kept])
        assert list(again.endpoints) == [state.to]
    assert len(set(seen.values())) == count


def test_a_service_cidr_is_closed_where_no_service_is() -> None:
    found = decide([service()], [], mode=Mode.NFTABLES, service_cidrs=("10.96.0.0/16",))
    rules = walk(found, Family.IPV4)
    for to in ("10.96.0.1", "10.96.0.2", "10.97.0.1", "10.96.7.7"):
        for interface in ("eth9", ""):
            packet = Packet(OUTSIDE[Family.IPV4], to, 443, "TCP", interface)
            local = {"10.96.7.7"}
            decided = proxy.outcome(found, packet, local=local)
            assert rules.outcome(packet, local=local) == decided, packet
