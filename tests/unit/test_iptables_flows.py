"""Where the rules of iptables mode send packets, told from their text: as decided, always."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import ip_network

import flow_cases
import pytest
from iptables_walk import Walk
from rendered import all_decisions, blocks, parts
from service_objects import CIDR, HERE, THERE, decide, endpoint, service, slice_

from netlab import proxy
from netlab.proxy import Decision, Frontend, Kind, Mode, Outcome, Packet, iptables
from netlab.proxy.addresses import Family, family

ROWS = [row for row in flow_cases.rows() if row.mode is Mode.IPTABLES]
OUTSIDE = {Family.IPV4: "198.18.7.7", Family.IPV6: "fd77::7"}
LOOPBACK = {Family.IPV4: "127.0.0.1", Family.IPV6: "::1"}


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


PROXIES: dict[str, dict[str, object]] = {
    "as they are": {},
    "bridge": {"detect_local": {"mode": "bridge-interface", "bridge": "cbr0"}},
    "interface prefix": {"detect_local": {"mode": "interface-name-prefix", "prefix": "cali"}},
    "every address is a pod's": {
        "detect_local": {"mode": "cluster-cidr", "cidrs": ["0.0.0.0/0", "::/0"]}
    },
    "none": {"detect_local": {"mode": "none"}},
    "masquerade all": {"masquerade_all": True},
    "some addresses": {"nodeport_addresses": ["192.168.0.0/24", "fd00::/16"]},
    "not on loopback": {"localhost_nodeports": False},
    "half of all, not on loopback": {
        "nodeport_addresses": ["0.0.0.0/1", "192.0.0.0/2", "::/1"],
        "localhost_nodeports": False,
    },
}


@pytest.mark.parametrize("options", PROXIES.values(), ids=PROXIES)
def test_the_rules_do_what_is_decided_on_any_packet(options: dict[str, object]) -> None:
    """Each frontend of the table, and the ports beside it, as all kinds of clients."""
    seen = 0
    for decision in all_decisions(Mode.IPTABLES, **options):
        for which, situation in decision.situations.items():
            local = {"192.168.0.2", "192.168.99.11", situation.address or OUTSIDE[which]}
            rules = walk(decision, which)
            for packet in packets(decision, which, local):
                decided = proxy.outcome(decision, packet, local=local)
                assert rules.outcome(packet, local=local) == decided, packet
                seen += 1
    assert seen > 1000


def packets(decision: Decision, which: Family, local: Collection[str]) -> Iterator[Packet]:
    """Yield packets to each frontend from all kinds of clients, and beside it from some."""
    frontends = [one for one in decision.frontends if one.service.family is which]
    checks = [("TCP", one.port) for one in decision.health_checks if one.family is which]
    own = [*sorted(local), LOOPBACK[which], OUTSIDE[which][:-1] + "9"]
    for one in frontends:
        protocol, port = one.service.protocol, one.port
        for address in [one.address] if one.address else own:
            for source, interface in clients(decision, one, local):
                if family(address) is family(source) is which:
                    yield Packet(source, address, port, protocol, interface)
            for beside in ((protocol, 7), ("UDP" if protocol == "TCP" else "TCP", port), *checks):
                if family(address) is which:
                    yield Packet(OUTSIDE[which], address, beside[1], beside[0], "eth9")
                    yield Packet(LOOPBACK[which], address, beside[1], beside[0], "")


def clients(
    decision: Decision, frontend: Frontend, local: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Yield sources with the interfaces they come in by; "" for the node's own processes."""
    which = frontend.service.family
    prefixes = [*frontend.sources, decision.situations[which].pods.cidr]
    far = [
        str(ip_network(one)[1 if "/" in one else 0])
        for one in prefixes
        if one and not one.endswith("/0")
    ]
    for source in (OUTSIDE[which], *(one.address for one in frontend.service.known[:1])):
        for interface in ("cbr0", "cali7", "eth9"):
            yield source, interface
    yield from ((source, "cali7") for source in far if source)
    own = {*local, frontend.address} - {"::1"}
    if frontend.kind is not Kind.HOST_PORT or which is Family.IPV4:
        own.add(LOOPBACK[which])  # ::1 never leaves the node: the portmap plugin cannot help it
    yield from ((source, "") for source in sorted(own) if source)


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
