"""Rules of iptables mode that no Service brings: the frame, and what hostPorts add."""

# ruff: noqa: E501  a rule is one line

from __future__ import annotations

from typing import Any

import pytest
from rendered import parts
from service_objects import HERE, NODE, V4, V6

from netlab import proxy
from netlab.model.kubernetes import Pod, view
from netlab.model.services import ProxyNode
from netlab.proxy import Decision, Options, hostport_rules, iptables
from netlab.proxy.addresses import Family
from netlab.proxy.options import situations
from netlab.proxy.ruleset import Shared, Sort


def shared(family: Family, table: str, name: str, **options: Any) -> Shared:
    here = situations(view(NODE, ProxyNode), Options(**options))[family]
    found = {(one.block.table, one.block.name): one for one in iptables.frame(here)}
    return found[table, name]


def lines(family: Family, table: str, name: str, **options: Any) -> tuple[str, ...]:
    return shared(family, table, name, **options).block.lines


LAST = '-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain"'
OWN = f"{LAST} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
TAILS: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "all addresses": ({}, [OWN], [f"! -d ::1/128 {OWN}"]),
    "not on loopback": (
        {"localhost_node_ports": False},
        [f"! -d 127.0.0.0/8 {OWN}"],
        [f"! -d ::1/128 {OWN}"],
    ),
    "the primary one": (
        {"node_port_addresses": ("primary",)},
        [f"-d 192.168.50.11/32 {LAST} -j KUBE-NODEPORTS"],
        [f"-d fd00:50::11/128 {LAST} -j KUBE-NODEPORTS"],
    ),
    "prefixes": (
        {"node_port_addresses": ("10.0.0.0/8", "192.168.50.0/24", "10.0.0.0/8", "fd00:50::/64")},
        [f"-d 10.0.0.0/8 {OWN}", f"-d 192.168.50.0/24 {OWN}"],
        [f"-d fd00:50::/64 {OWN}"],
    ),
    "of one family": (
        {"node_port_addresses": ("10.0.0.9/32",)},
        [f"-d 10.0.0.9/32 {OWN}"],
        [f"! -d ::1/128 {OWN}"],
    ),
    "loopback": (
        {"node_port_addresses": ("127.0.0.0/8", "::1/128")},
        [f"-d 127.0.0.0/8 {OWN}"],
        [],
    ),
    "loopback that may not be": (
        {"node_port_addresses": ("127.0.0.0/8", "10.0.0.0/8"), "localhost_node_ports": False},
        [f"-d 10.0.0.0/8 {OWN}"],
        [f"! -d ::1/128 {OWN}"],
    ),
    "a prefix around loopback": (
        {"node_port_addresses": ("0.0.0.0/1", "::/64"), "localhost_node_ports": False},
        [
            '-d 127.0.0.0/8 -m comment --comment "no NodePorts on loopback addresses" -j RETURN',
            f"-d 0.0.0.0/1 {OWN}",
        ],
        [
            '-d ::1/128 -m comment --comment "no NodePorts on loopback addresses" -j RETURN',
            f"-d ::/64 {OWN}",
        ],
    ),
}


@pytest.mark.parametrize("case", TAILS.values(), ids=TAILS)
def test_the_last_rules_are_for_node_ports(
    case: tuple[dict[str, Any], list[str], list[str]],
) -> None:
    options, four, six = case
    for family, expected in ((V4, four), (V6, six)):
        services = shared(family, "nat", "KUBE-SERVICES", **options)
        assert services.block.lines == ()
        assert list(services.tail) == expected


def test_loopback_is_guarded_where_it_is_routable() -> None:
    (line,) = lines(V4, "filter", "KUBE-FIREWALL")
    assert line.endswith("-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP")
    assert lines(V6, "filter", "KUBE-FIREWALL") == ()
    assert lines(V4, "filter", "KUBE-FIREWALL", localhost_node_ports=False) == ()


def test_invalid_packets_are_dropped_unless_conntrack_is_liberal() -> None:
    drop = "-m conntrack --ctstate INVALID -j DROP"
    assert lines(V4, "filter", "KUBE-FORWARD")[0] == drop
    liberal = lines(V4, "filter", "KUBE-FORWARD", tcp_liberal=True)
    assert liberal == lines(V4, "filter", "KUBE-FORWARD")[1:]


def test_both_families_have_the_same_chains() -> None:
    here = situations(view(NODE, ProxyNode), Options())
    four, six = ([one.block.key[1:] for one in iptables.frame(here[each])] for each in (V4, V6))
    assert four == six


# hostPorts


def host_ports(*ports: dict[str, Any], ip: str = "10.244.1.5") -> Decision:
    pod = {
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"nodeName": HERE, "containers": [{"name": "c", "ports": list(ports)}]},
        "status": {"podIP": ip, "phase": "Running"},
    }
    options = Options()
    return proxy.decision([], [], view(NODE, ProxyNode), options, pods=[view(pod, Pod)])


def port(host: int, container: int = 8080, **others: Any) -> dict[str, Any]:
    return {"hostPort": host, "containerPort": container, **others}


def test_a_chain_is_named_with_the_hash_the_plugin_gives_it() -> None:
    """Source: containernetworking/plugins pkg/utils, whose tests have this name and hash."""
    assert hostport_rules.chain_name("test", "1234") == "NETLAB-DN-2bbe0c48b91a7d1b8a"


def test_host_ports() -> None:
    given = [
        port(9000),
        port(9001, 53, protocol="UDP"),
        port(9000, 8081, protocol="SCTP", hostIP="192.168.50.11"),
        port(9002),
    ]
    (part,) = parts(iptables, host_ports(*given), V4, large=False)
    (chain,) = part.blocks
    assert chain.name == hostport_rules.chain_name("cbr0", "default/a")
    assert chain.lines == tuple(
        line.strip()
        for line in """
        -s 10.244.1.5/32 -p tcp -m tcp --dport 9000 -j NETLAB-HOSTPORT-SETMARK
        -s 127.0.0.0/8 -p tcp -m tcp --dport 9000 -j NETLAB-HOSTPORT-SETMARK
        -p tcp -m tcp --dport 9000 -j DNAT --to-destination 10.244.1.5:8080
        -s 10.244.1.5/32 -p udp -m udp --dport 9001 -j NETLAB-HOSTPORT-SETMARK
        -s 127.0.0.0/8 -p udp -m udp --dport 9001 -j NETLAB-HOSTPORT-SETMARK
        -p udp -m udp --dport 9001 -j DNAT --to-destination 10.244.1.5:53
        -s 10.244.1.5/32 -d 192.168.50.11/32 -p sctp -m sctp --dport 9000 -j NETLAB-HOSTPORT-SETMARK
        -s 127.0.0.0/8 -d 192.168.50.11/32 -p sctp -m sctp --dport 9000 -j NETLAB-HOSTPORT-SETMARK
        -d 192.168.50.11/32 -p sctp -m sctp --dport 9000 -j DNAT --to-destination 10.244.1.5:8081
        -s 10.244.1.5/32 -p tcp -m tcp --dport 9002 -j NETLAB-HOSTPORT-SETMARK
        -s 127.0.0.0/8 -p tcp -m tcp --dport 9002 -j NETLAB-HOSTPORT-SETMARK
        -p tcp -m tcp --dport 9002 -j DNAT --to-destination 10.244.1.5:8080
        """.strip().splitlines()
    )
    ((key, entries),) = part.entries
    assert key == (V4, Sort.CHAIN, "nat", "NETLAB-HOSTPORT-DNAT")
    said = r'-m comment --comment "dnat name: \"cbr0\" id: \"default/a\"" -m multiport --dports'
    assert list(entries) == [
        f"-p sctp {said} 9000 -j {chain.name}",
        f"-p tcp {said} 9000,9002 -j {chain.name}",
        f"-p udp {said} 9001 -j {chain.name}",
    ]


def test_one_rule_has_at_most_fifteen_ports() -> None:
    found = host_ports(*(port(9000 + one) for one in range(31)))
    ((_, entries),) = parts(iptables, found, V4, large=False)[0].entries
    assert [line.split(" --dports ")[1].split(" ")[0].count(",") + 1 for line in entries] == [
        15,
        15,
        1,
    ]


def test_a_host_port_in_ipv6_has_no_rule_for_loopback() -> None:
    (part,) = parts(iptables, host_ports(port(9000), ip="fd00:1::5"), V6, large=False)
    assert part.blocks[0].lines == (
        "-s fd00:1::5/128 -p tcp -m tcp --dport 9000 -j NETLAB-HOSTPORT-SETMARK",
        "-p tcp -m tcp --dport 9000 -j DNAT --to-destination [fd00:1::5]:8080",
    )


def test_the_mark_of_host_ports_is_the_plugins() -> None:
    here = situations(view(NODE, ProxyNode), Options())[V6]
    found = {one.block.name: one.block.lines for one in iptables.hostport_frame(here)}
    marked = '-m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000'
    assert found["NETLAB-HOSTPORT-SETMARK"] == (marked,)
    assert found["NETLAB-HOSTPORT-MASQ"] == ("-m mark --mark 0x2000/0x2000 -j MASQUERADE",)
    assert found["NETLAB-HOSTPORT-DNAT"] == ()


def test_the_jumps_of_host_ports_stand_beside_those_of_services() -> None:
    here = situations(view(NODE, ProxyNode), Options())[V4]
    frame = {one.block.key: one.block for one in iptables.frame(here)}
    seen = set()
    for one in iptables.hostport_frame(here):
        if one.block.sort is not Sort.JUMPS:
            assert one.block.key not in frame
            continue
        theirs = frame[one.block.key].lines
        name, found = one.block.name, one.block.lines
        seen.add(name)
        if name == "POSTROUTING":
            masquerade = '-m comment --comment "CNI portfwd requiring masquerade"'
            assert found == (f"{masquerade} -j NETLAB-HOSTPORT-MASQ", *theirs)
        else:
            assert found == (*theirs, "-m addrtype --dst-type LOCAL -j NETLAB-HOSTPORT-DNAT")
    assert seen == {"PREROUTING", "OUTPUT", "POSTROUTING"}
