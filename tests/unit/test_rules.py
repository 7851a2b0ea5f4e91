"""What a node's rules are, against what is wanted, and how they are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from fake_lab import FakeRoom, simple

from netlab.agent.rules import Desired, Programmed, State, compared
from netlab.cli import rules as shown
from netlab.cli.servingrows import why_not
from netlab.model.kubernetes import Document, view
from netlab.model.services import ProxyNode
from netlab.proxy import Endpoint, Mode, Options, ServicePort
from netlab.proxy.addresses import Family
from netlab.proxy.claims import Owner
from netlab.proxy.ruleset import Block, Key, Sort

Netlab = Callable[..., "tuple[int, str, str]"]

WEB, SHOP = Owner(False, "default", "web"), Owner(False, "shop", "cart")
NODE = view(
    {
        "kind": "Node",
        "metadata": {"name": "n1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.11"}]},
    },
    ProxyNode,
)


def service(owner: Owner, address: str) -> Document:
    meta = {"name": owner.name, "namespace": owner.namespace}
    ports = [{"port": 80, "protocol": "TCP"}]
    return {"kind": "Service", "metadata": meta, "spec": {"clusterIP": address, "ports": ports}}


def endpoints(owner: Owner, *addresses: str) -> Document:
    label = {"kubernetes.io/service-name": owner.name}
    return {
        "kind": "EndpointSlice",
        "metadata": {"name": owner.name, "namespace": owner.namespace, "labels": label},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [one]} for one in addresses],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }


def desired(mode: Mode) -> Desired:
    documents = [
        service(WEB, "10.96.0.10"),
        endpoints(WEB, "10.244.1.2", "10.244.2.2"),
        service(SHOP, "10.96.0.20"),
        endpoints(SHOP, "10.244.1.3"),
    ]
    return Desired(documents, NODE, Options(mode=mode))


def with_counts(wanted: Desired) -> dict[tuple[Key, int], tuple[int, int]]:
    """Return a count of 1 packet for every rule."""
    return {
        (key, number): (1, 60)
        for key, block in wanted.blocks.items()
        for number in range(len(block.lines))
    }


def find(found: list[Programmed], prefix: str, owner: Owner | None = None) -> Programmed:
    return next(
        one for one in found if one.block.name.startswith(prefix) and one.owner in (owner, None)
    )


@pytest.mark.parametrize("mode", list(Mode))
def test_what_is_as_wanted_is_ok_whole(mode: Mode) -> None:
    wanted = desired(mode)
    found = compared("n1", wanted, wanted.blocks, {})
    assert len(found) == len(wanted.blocks)
    assert {one.state for one in found} == {State.OK}
    assert {rule.state for one in found for rule in one.rules} == {State.OK}
    assert {owner for one in found for owner in one.owners} == {WEB, SHOP}


def test_a_chain_comes_before_those_it_leads_to() -> None:
    wanted = desired(Mode.IPTABLES)
    found = compared("n1", wanted, wanted.blocks, {})
    names = [one.block.name for one in found]
    kinds = [name[:9] for name in names if name.startswith(("KUBE-SVC", "KUBE-SEP"))]
    assert names[0] == "PREROUTING"
    assert kinds == ["KUBE-SVC-", "KUBE-SEP-", "KUBE-SEP-", "KUBE-SVC-", "KUBE-SEP-"]
    assert names.index("KUBE-POSTROUTING") < names.index(find(found, "KUBE-SVC", WEB).block.name)


def test_packets_are_those_of_the_rules_that_count() -> None:
    wanted = desired(Mode.IPTABLES)
    found = compared("n1", wanted, wanted.blocks, with_counts(wanted))
    assert find(found, "KUBE-SVC", WEB).packets == 2  # a rule for each of two endpoints
    assert find(found, "KUBE-PROXY-CANARY").packets is None


def test_a_missing_a_changed_and_a_foreign_block_are_told_apart() -> None:
    wanted = desired(Mode.IPTABLES)
    there = dict(wanted.blocks)
    whole = compared("n1", wanted, there, {})
    gone = find(whole, "KUBE-SEP", SHOP).block
    del there[gone.key]
    cut = find(whole, "KUBE-SVC", WEB).block
    there[cut.key] = msgspec.structs.replace(cut, lines=(*cut.lines[1:], "-j RETURN"))
    odd = Block(Family.IPV4, Sort.CHAIN, "nat", "KUBE-SVC-ODD", (), ("-j RETURN",))
    there[odd.key] = odd
    found = {one.block.name: one for one in compared("n1", wanted, there, {})}
    assert found[gone.name].state is State.MISSING
    assert found["KUBE-SVC-ODD"].state is State.UNWANTED
    assert list(found)[-1] == "KUBE-SVC-ODD"
    changed = found[cut.name]
    assert changed.state is State.DIFFERENT
    assert [rule.state for rule in changed.rules] == [
        *[State.OK] * (len(cut.lines) - 1),
        State.UNWANTED,
        State.MISSING,
    ]
    assert changed.rules[-1].text == cut.lines[0]
    others = {one.state for name, one in found.items() if name not in (gone.name, cut.name)}
    assert others == {State.OK, State.UNWANTED}


def test_a_line_in_a_shared_block_is_its_services() -> None:
    wanted = desired(Mode.NFTABLES)
    found = compared("n1", wanted, wanted.blocks, {})
    dispatch = find(found, "service-ips")
    assert [(rule.text.split()[0], rule.owners) for rule in dispatch.rules] == [
        ("10.96.0.10", (WEB,)),
        ("10.96.0.20", (SHOP,)),
    ]


@pytest.mark.parametrize(
    ("text", "width", "is_shown"),
    [
        (
            '-d 10.96.0.1/32 -m comment --comment "a/b cluster IP" -j X',
            100,
            "-d 10.96.0.1/32 -j X  /* a/b cluster IP */",
        ),
        ('-d 10.96.0.1/32 -m comment --comment "a/b" -j X', 24, "-d 10.96.0.1/32 -j X"),
        ("-m comment --comment word -j X", 100, "-j X  /* word */"),
        (
            '10.96.0.1 . tcp . 80 comment "a/b" : goto reject-chain',
            100,
            "10.96.0.1 . tcp . 80 : goto reject-chain  /* a/b */",
        ),
        ("-j KUBE-MARK-MASQ", 5, "-j KUBE-MARK-MASQ"),
    ],
)
def test_comments_give_way_to_rules(text: str, width: int, is_shown: str) -> None:
    assert shown.shortened(text, width) == is_shown


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ({"ready": False, "serving": False}, "not ready"),
        ({"ready": False, "terminating": True}, "terminating, and others are ready"),
        (
            {"ready": False, "serving": False, "terminating": True},
            "terminating, and serves no more",
        ),
        ({"zones": ("z2", "z3")}, "its hint is for zone z2, z3"),
        ({}, "on another node"),
    ],
)
def test_who_is_passed_over_is_told_why(state: dict[str, Any], why: str) -> None:
    one = Endpoint("10.244.1.2", 80, **state)
    other = (Endpoint("10.244.1.3", 80),) if state else ()
    port = ServicePort("default", "web", "", "TCP", Family.IPV4, other, (), (one, *other), 0)
    assert why_not(one, port) == why


def test_rules_of_what_is_not_there_are_not_found(netlab: Netlab) -> None:
    assert netlab("get", "rules", "node9")[0] == 4
    code, _, said = netlab("get", "rules", "--service", "shop/nothing")
    assert (code, "services 'nothing' not found in namespace shop" in said) == (4, True)
    assert netlab("get", "rules")[0] == 4  # nothing of a lab in memory is up
    assert netlab("get", "pods", "--service", "web")[0] == 2
    assert netlab("get", "rules", "-w")[0] == 2


@pytest.fixture
def programmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every node programmed in iptables mode but for one chain of web's."""
    wanted = desired(Mode.IPTABLES)
    there = dict(wanted.blocks)
    gone = find(compared("n1", wanted, there, {}), "KUBE-SEP", WEB).block
    del there[gone.key]

    def found(cluster: object, node: str, *, only: object = None) -> list[Programmed]:
        return compared(node, wanted, there, with_counts(wanted))

    monkeypatch.setattr("netlab.agent.rules.programmed", found)


@pytest.mark.usefixtures("programmed")
def test_rules_are_listed_chain_by_chain(netlab: Netlab) -> None:
    code, out, err = netlab("get", "rules", "node1")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert rows[0] == ["NODE", "TABLE", "CHAIN", "SERVICE", "RULES", "PACKETS", "STATE"]
    assert ["node1", "nat", "KUBE-SERVICES", "-", "3", "3", "ok"] in rows
    assert [row[-4:] for row in rows if row[-1] == "missing"] == [
        ["default/web", "0", "-", "missing"]
    ]
    assert err.startswith("note: 1 of ")


@pytest.mark.usefixtures("programmed")
def test_wide_rules_are_in_upstreams_text_behind_their_packets(netlab: Netlab) -> None:
    out = netlab("get", "rules", "node1", "-o", "wide")[1]
    line = '      1  -d 10.96.0.10/32 -p tcp -m comment --comment "default/web cluster IP" '
    assert any(one.startswith(line) for one in out.splitlines())
    assert "KUBE-SEP" in next(one for one in out.splitlines() if one.endswith("MISSING"))


@pytest.mark.usefixtures("programmed")
def test_rules_as_objects_have_what_is_wanted_and_what_is_there(netlab: Netlab) -> None:
    whole = json.loads(netlab("get", "rules", "node1", "-o", "json")[1])
    assert whole["kind"] == "List"
    by_state = {one["status"]["state"]: one for one in whole["items"]}
    gone, fine = by_state["missing"], by_state["ok"]
    assert (len(gone["spec"]["rules"]), gone["status"]["rules"]) == (2, [])
    assert gone["spec"]["owner"] == "default/web"
    assert fine["spec"]["rules"] == [rule["text"] for rule in fine["status"]["rules"]]
    assert set(fine["status"]["rules"][0]) == {"text", "packets", "bytes", "owners", "wanted"}
    names = netlab("get", "rules", "node2", "-o", "name")[1].splitlines()
    assert "rules/node2/nat/KUBE-SERVICES" in names


def test_describe_says_what_each_node_makes_of_a_service(netlab: Netlab, room: FakeRoom) -> None:
    (live,) = room.labs.values()
    live.stored = [
        *(one for one in live.stored if one["kind"] != "Service"),
        simple("Service", "web", spec={"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}),
        endpoints(WEB, "10.244.1.2"),
    ]
    out = netlab("describe", "service", "web")[1].splitlines()
    assert out.count("    10.244.1.2:8080/TCP  used: cluster") == 2  # on two nodes
    assert "    10.96.0.10:80/TCP  ClusterIP  all -> cluster, masqueraded: not pods" in out
