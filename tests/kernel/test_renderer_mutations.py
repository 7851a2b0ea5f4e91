"""Plausible mistakes of the renderers, each noticed by a row of the table, with live packets.

Each is made, the case that ought to notice is run, and the first row that does is printed. That a
case notices says something since all of them hold without a mistake (test_flows_live.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flow_cases import MORE, cases
from flows import table, traffic
from flows.breakage import Mistake, Mistaken, instead, none, reversed_lines, without

from netlab.agent import kubeproxy
from netlab.kernel import conntrack
from netlab.proxy import Mode, staleness

pytestmark = pytest.mark.kernel

Words = dict[str, Any]
CASES: dict[str, Words] = {case["id"]: case for case in [*cases(), *cases(MORE)]}


class Slip(NamedTuple):
    """A mistake in words, and to be made."""

    what: str
    mistake: Mistake
    ahead: str = ""  # blocks whose last lines come first


# By the case that notices: lines that are wrong, by what is wrong about them.
IPTABLES = {
    "clusterip-hairpin-two-endpoints": (Slip("no hairpin", without("SEP-", "^-s .*MARK-MASQ")),),
    "four-endpoints-one-goes": (
        Slip("all to the last endpoint", reversed_lines("SVC-", "-j KUBE-SEP")),
    ),
    "clusterip-multiport-tcp": (
        Slip("chances one too high", instead("SVC-", "0.50*$|0.50* ", "1.00000000000 ")),
        Slip("the Service's port for its target", instead("SEP-", ":8443$", ":443")),
    ),
    "masq-base-cluster": (
        Slip("pods masqueraded, others not", instead("SVC-", "^! -s", "-s")),
        Slip("no masquerade to cluster IPs", without("SVC-", "MARK-MASQ")),
        Slip("no masquerade from outside", without("EXT-", "masquerade traffic")),
        Slip("another mark's mask", instead("KUBE-POSTROUTING", "0x4000/0x4000", "0x8000/0x8000")),
        Slip("nothing for the node itself", without("nat OUTPUT", ".")),
    ),
    "etp-local-with-local-endpoint": (
        Slip("SVC for SVL", instead("EXT-", "-j KUBE-SVL", "-j KUBE-SVC")),
        Slip("no way round for pods", without("EXT-", "pod traffic")),
    ),
    "etp-local-without-local-endpoint": (
        Slip("no way round for the node", without("EXT-", "route LOCAL")),
        Slip("the node not masqueraded", without("EXT-", "masquerade LOCAL")),
        Slip("reject for drop", instead("EXTERNAL-SERVICES", "-j DROP", "-j REJECT")),
    ),
    "lb-source-ranges": (
        Slip("no drop behind source ranges", without("PROXY-FIREWALL", "-j DROP")),
        Slip("one source range lost", without("FW-", "192.168.0.0/24")),
        Slip(
            "source ranges not asked", instead("nat KUBE-SERVICES", "-j KUBE-FW-", "-j KUBE-EXT-")
        ),
    ),
    "clusterip-single": (Slip("everybody masqueraded", without("KUBE-POSTROUTING", "RETURN")),),
    "no-endpoints-udp": (
        Slip("drop for reject", instead("filter KUBE-SERVICES", "-j REJECT.*", "-j DROP")),
        Slip(
            "no host for no port",
            instead("filter KUBE-SERVICES", "icmp-port-unreachable", "icmp-host-unreachable"),
        ),
    ),
    "no-endpoints-reject-everywhere": (
        Slip("no refusals in FORWARD", without("filter FORWARD", "EXTERNAL-SERVICES")),
        Slip("no refusals in INPUT", without("filter INPUT", "EXTERNAL-SERVICES")),
    ),
    "no-endpoints-node-and-localhost": (
        Slip("no refusals in OUTPUT", without("filter OUTPUT", "portals")),
    ),
    "nodeport-via-other-node": (
        Slip(
            "NodePorts of any address",
            instead("nat KUBE-SERVICES", "-m addrtype --dst-type LOCAL ", ""),
        ),
    ),
    "nodeport-iptables-v4-restricted-loopback-listed": (
        Slip("NodePorts off the list", instead("nat KUBE-SERVICES", "-d 192.168.0.0/24 ", "")),
    ),
    "nodeport-loses-to-externalip": (
        Slip("NodePorts before addresses", none, "nat KUBE-SERVICES"),
    ),
    "nodeport-martian-guard": (Slip("loopback unguarded", without("KUBE-FIREWALL", ".")),),
    "affinity-clusterip": (
        Slip(
            "clients not remembered",
            instead("SEP-", r"-m recent --set --name \S+ --mask \S+ --rsource ", ""),
        ),
    ),
    "affinity-udp": (Slip("clients not looked for", without("SVC-", "--rcheck")),),
    "three-protocols-one-port": (
        Slip("UDP as TCP", instead("nat KUBE-SERVICES", "-p udp (.*) -m udp", r"-p tcp \1 -m tcp")),
    ),
    "healthcheck-port-accept": (
        Slip("health checks not let in", without("filter KUBE-NODEPORTS", ".")),
    ),
    "masq-masq-all-etp-local": (
        Slip("masquerade-all forgotten for pods", without("SVC-", "^-d .*MARK-MASQ")),
    ),
    "detect-bridge": (Slip("another bridge", instead("SVC-", "! -i cbr0", "! -i cbr1")),),
    "detect-interface-prefix": (
        Slip("interface prefix as a name", instead("SVC-", r"! -i cbr\+", "! -i cbr")),
    ),
}

NFTABLES = {
    "clusterip-hairpin-two-endpoints": (
        Slip("no hairpin", without("endpoint-", "saddr .*mark-for")),
    ),
    "clusterip-multiport-tcp": (
        Slip("all to the first endpoint", instead("service-", "mod 2 0", "mod 1 0")),
        Slip("the Service's port for its target", instead("endpoint-", ":8443$", ":443")),
    ),
    "ten-endpoints": (
        Slip("one endpoint too many", instead("service-", "mod 10 vmap", "mod 11 vmap")),
        Slip("one endpoint too few", instead("service-", "mod 10 vmap", "mod 9 vmap")),
    ),
    "masq-base-cluster": (
        Slip("pods masqueraded, others not", instead("service-", "saddr != ", "saddr ")),
        Slip("no masquerade to cluster IPs", without("service-", "mark-for")),
        Slip("no masquerade from outside", without("external-", "^counter jump mark-for")),
        Slip("another mark", instead("masquerading", "0x00004000", "0x00008000")),
        Slip("nothing for the node itself", without("nat-output", ".")),
    ),
    "etp-local-with-local-endpoint": (
        Slip("service for local", instead("external-", "^goto local-", "goto service-")),
        Slip("no way round for pods", without("external-", "short-circuit pod")),
    ),
    "etp-local-without-local-endpoint": (
        Slip("no way round for the node", without("external-", "short-circuit local")),
        Slip("the node not masqueraded", without("external-", "masquerade local")),
        Slip("reject for drop", instead("no-endpoint-", ": drop", ": goto reject-chain")),
        Slip(
            "refused before it is translated",
            instead("filter-output$", "priority filter", "priority -105"),
        ),
    ),
    "lb-source-ranges": (
        Slip("source ranges the wrong way", instead("firewall-", "saddr != ", "saddr ")),
        Slip("source ranges not asked", without("firewall-ips", "goto firewall")),
    ),
    "lb-source-ranges-node-outside": (
        Slip("source ranges not for the node", without("filter-output-pre-dnat", ".")),
    ),
    "clusterip-single": (Slip("everybody masqueraded", without("masquerading", "return")),),
    "no-endpoints-udp": (
        Slip("drop for reject", instead("no-endpoint-", ": goto reject-chain", ": drop")),
    ),
    "no-endpoints-reject-everywhere": (
        Slip("no refusals in forward", without("filter-forward", "service-endpoints")),
        Slip("no refusals in input", without("filter-input", "nodeport-endpoints")),
        Slip(
            "forwarded ones looked at in input",
            instead("filter-forward", "hook forward", "hook input"),
        ),
    ),
    "no-endpoints-node-and-localhost": (
        Slip("no refusals in output", without("filter-output$", "service-endpoints")),
    ),
    "clusterip-unlisted-port": (
        Slip("other ports of cluster IPs let by", without("cluster-ips-check", ".")),
        Slip("cluster IPs unlisted", without("cluster-ips$", "^172")),
    ),
    "nodeport-nftables-v4-default": (
        Slip(
            "NodePorts on all addresses",
            instead("services$", "ip6? daddr @nodeport-ips", "fib daddr type local"),
        ),
    ),
    "nodeport-loses-to-externalip": (
        Slip("NodePorts before addresses", reversed_lines("services$", ".")),
    ),
    "affinity-clusterip": (Slip("clients not remembered", without("endpoint-", "^update")),),
    "affinity-udp": (Slip("clients not looked for", without("service-", "@affinity")),),
    "three-protocols-one-port": (
        Slip("another port", instead("service-ips", r"udp \. 53", "udp . 54")),
    ),
    "masq-masq-all-etp-local": (
        Slip(
            "masquerade-all forgotten for pods",
            without("service-", "daddr \\S+ counter jump mark-for"),
        ),
    ),
    "detect-bridge": (
        Slip("another bridge", instead("service-", 'iifname != "cbr0"', 'iifname != "cbr1"')),
    ),
    "detect-interface-prefix": (
        Slip("interface prefix as a name", instead("service-", r'"cbr\*"', '"cbr"')),
    ),
}

SLIPS = [
    (mode, case, slip)
    for mode, found in ((Mode.IPTABLES, IPTABLES), (Mode.NFTABLES, NFTABLES))
    for case, slips in found.items()
    for slip in slips
]


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes need not be waited for here; had it come late, the row would hold."""
    monkeypatch.setattr(traffic, "LATE", 0.0)


@pytest.mark.parametrize(
    ("mode", "case", "slip"),
    SLIPS,
    ids=[f"{mode}-{slip.what.replace(' ', '-')}" for mode, _, slip in SLIPS],
)
def test_a_row_notices(
    mode: Mode,
    case: str,
    slip: Slip,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    occasions: list[str] = []
    renderer = Mistaken(kubeproxy.RENDERER[mode], slip.mistake, occasions, slip.ahead)
    monkeypatch.setitem(kubeproxy.RENDERER, mode, renderer)
    found = table.failures(CASES[case], mode, f"nltest{os.getpid()}", tmp_path)
    assert occasions, f"{slip.what} changed nothing about {case}"
    assert found, f"{slip.what}: unnoticed by {case}"
    with capsys.disabled():
        print(f"\n{mode}: {slip.what}: {found[0]}", end="")


FORWARD = (
    Slip("what is marked not let through", without("KUBE-FORWARD", "--mark")),
    Slip("answers not let through", without("KUBE-FORWARD", "ESTABLISHED")),
    Slip("nothing let through", without("filter FORWARD", "KUBE-FORWARD")),
)


@pytest.mark.parametrize("slip", FORWARD, ids=lambda slip: slip.what.replace(" ", "-"))
def test_a_row_notices_behind_a_firewall(
    slip: Slip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    renderer = Mistaken(kubeproxy.RENDERER[Mode.IPTABLES], slip.mistake, [])
    monkeypatch.setitem(kubeproxy.RENDERER, Mode.IPTABLES, renderer)
    case = CASES[table.FORWARDED]
    found = table.failures_behind_firewall(case, f"nltest{os.getpid()}", tmp_path)
    assert found, f"{slip.what}: unnoticed"
    with capsys.disabled():
        print(f"\niptables: {slip.what}: {found[0]}", end="")


SWEEPS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "flows never forgotten": (
        "conntrack-udp-clusterip-move",
        lambda patch: patch.setattr(conntrack, "delete", lambda entries: None),
    ),
    "flows to NodePorts not looked for": (
        "udp-moves-at-every-address",
        lambda patch: patch.setattr(
            staleness,
            "judge",
            lambda *rest, local, judge=staleness.judge, **more: judge(
                *rest, local=frozenset(), **more
            ),
        ),
    ),
    "all UDP flows of a Service forgotten": (
        "udp-stays-with-who-serves",
        lambda patch: patch.setattr(staleness, "judge", lambda *_, **__: lambda entry: True),
    ),
}


@pytest.mark.parametrize("mode", table.BY_RULES)
@pytest.mark.parametrize("what", SWEEPS)
def test_a_row_notices_about_flows(
    mode: Mode,
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case, patch = SWEEPS[what]
    patch(monkeypatch)
    found = table.failures(CASES[case], mode, f"nltest{os.getpid()}", tmp_path)
    assert found, f"{what}: unnoticed by {case}"
    with capsys.disabled():
        print(f"\n{mode}: {what}: {found[0]}", end="")
