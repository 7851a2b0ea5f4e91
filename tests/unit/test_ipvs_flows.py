"""Where ipvs mode sends packets, told from the text of its state: as decided, always."""

from __future__ import annotations

from collections.abc import Collection

import flow_cases
import pytest
from any_packets import OUTSIDE, OWN, PROXIES, packets
from ipvs_walk import VirtualWalk
from rendered import all_decisions, blocks, parts

from netlab import proxy
from netlab.proxy import Decision, Kind, Mode, Outcome, Packet, ipvs
from netlab.proxy.addresses import Family, family
from netlab.proxy.ruleset import Block, Key

ROWS = [row for row in flow_cases.rows() if row.mode is Mode.IPVS]


def state(decision: Decision, which: Family) -> dict[Key, Block]:
    """Return the blocks of a node."""
    situation = decision.situations[which]
    given = parts(ipvs, decision, which, large=False)
    used = {key for part in given for key, _ in part.entries}
    hostport = ipvs.hostport_frame(situation)
    shared = [*ipvs.frame(situation, used), *hostport]
    return blocks(shared, given)


def walk(decision: Decision, which: Family) -> VirtualWalk:
    return VirtualWalk(state(decision, which).values())


def walked(decision: Decision, packet: Packet, *, local: Collection[str]) -> Outcome:
    return walk(decision, family(packet.address)).outcome(packet, local=local)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_the_state_does_what_is_decided_on_a_row(
    row: flow_cases.Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = flow_cases.outcome(row)
    monkeypatch.setattr(proxy, "outcome", walked)
    assert flow_cases.outcome(row) == decided


@pytest.mark.parametrize("options", PROXIES.values(), ids=PROXIES)
def test_the_state_does_what_is_decided_on_any_packet(options: dict[str, object]) -> None:
    """Each frontend of the table, and the ports beside it, as all kinds of clients."""
    seen = 0
    for decision in all_decisions(Mode.IPVS, **options):
        for which, situation in decision.situations.items():
            local = {*OWN, situation.address or OUTSIDE[which], *situation.local}
            rules = walk(decision, which)
            hostports = {one.port for one in decision.frontends if one.kind is Kind.HOST_PORT}
            for packet in packets(decision, which, local):
                if packet.source == "::1" and packet.port in hostports:
                    continue  # the portmap plugin cannot help it, see any_packets
                decided = proxy.outcome(decision, packet, local=local)
                assert rules.outcome(packet, local=local) == decided, packet
                seen += 1
    assert seen > 1000
