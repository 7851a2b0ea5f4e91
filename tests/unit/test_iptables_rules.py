"""The very text of iptables rules the golden dump has none of, Service by Service.

In what is expected, chains are called SVC, SVL, EXT, FW, and SEP1, SEP2… in the endpoints' order.
"""

# ruff: noqa: E501  a rule is one line

from __future__ import annotations

from typing import Any

import pytest
from rendered import parts
from service_objects import (
    CIDR,
    HERE,
    LOCAL,
    THERE,
    V4,
    V6,
    decide,
    endpoint,
    service,
    slice_,
)

from netlab.proxy import Decision, DetectLocal, iptables
from netlab.proxy.addresses import Family
from netlab.proxy.names import iptables_chain, iptables_endpoint_chain

NEAR, FAR = endpoint("10.244.1.5", HERE), endpoint("10.244.2.5", THERE)
SIX = endpoint("fd00:1::5", HERE)
NODE_PORT = {"type": "NodePort", "ports": [{"port": 80, "name": "http", "nodePort": 30080}]}
BALANCED = {"type": "LoadBalancer", "ingress": ["203.0.113.7"]}


def rules(decision: Decision, family: Family = V4, *, large: bool = False) -> list[str]:
    """Return the rules of the one Service in *decision*, sorted, as `TABLE CHAIN RULE`.

    An empty chain, of which there should be none, is `TABLE CHAIN`.
    """
    (part,) = parts(iptables, decision, family, large=large)
    found = [f"{one.table} {one.name} {line}" for one in part.blocks for line in one.lines]
    found += [f"{one.table} {one.name}" for one in part.blocks if not one.lines]
    found += [f"{key[2]} {key[3]} {line}" for key, lines in part.entries for line in lines]
    names = {}
    for one in decision.frontends:
        for number, to in enumerate(one.service.reachable, 1):
            names[iptables_endpoint_chain(one.service, to)] = f"SEP{number}"
        for prefix in ("SVC", "SVL", "EXT", "FW"):
            names[iptables_chain(prefix, one.service)] = prefix
    text = "\n".join(found)
    for name, short in names.items():
        text = text.replace(name, short)
    return sorted(text.splitlines())


def expected(text: str) -> list[str]:
    return sorted(line.strip() for line in text.strip().splitlines())


UDP = {"ports": [{"port": 53, "name": "dns", "protocol": "UDP"}]}
SCTP = {"ports": [{"port": 36412, "name": "s1ap", "protocol": "SCTP", "nodePort": 30412}]}

TABLE: dict[str, tuple[dict[str, Any], list[Any], dict[str, Any], str]] = {
    "an endpoint of a bridge's pods": (
        {},
        [NEAR],
        {"detect_local": DetectLocal.BRIDGE, "interface": "cbr0"},
        """
        nat KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j SVC
        nat SVC -d 10.96.0.1/32 ! -i cbr0 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat SVC -m comment --comment "default/web:http -> 10.244.1.5:8080" -j SEP1
        nat SEP1 -s 10.244.1.5/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
        nat SEP1 -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.244.1.5:8080
        """,
    ),
    "a NodePort of policy Local, pods told by their interfaces": (
        {**LOCAL, **NODE_PORT},
        [FAR],
        {"detect_local": DetectLocal.INTERFACE_PREFIX, "interface": "cali"},
        """
        nat KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j SVC
        nat KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j EXT
        nat EXT -i cali+ -m comment --comment "pod traffic for default/web:http external destinations" -j SVC
        nat EXT -m comment --comment "masquerade LOCAL traffic for default/web:http external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
        nat EXT -m comment --comment "route LOCAL traffic for default/web:http external destinations" -m addrtype --src-type LOCAL -j SVC
        nat SVC -d 10.96.0.1/32 ! -i cali+ -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat SVC -m comment --comment "default/web:http -> 10.244.2.5:8080" -j SEP1
        nat SEP1 -s 10.244.2.5/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
        nat SEP1 -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.244.2.5:8080
        filter KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "default/web:http has no local endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j DROP
        """,
    ),
    "both policies Local, nobody can tell pods": (
        {**NODE_PORT, "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"},
        [NEAR, FAR],
        {},
        """
        nat KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j SVL
        nat KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http" -m tcp --dport 30080 -j EXT
        nat EXT -m comment --comment "masquerade LOCAL traffic for default/web:http external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
        nat EXT -m comment --comment "route LOCAL traffic for default/web:http external destinations" -m addrtype --src-type LOCAL -j SVC
        nat EXT -j SVL
        nat SVC -m comment --comment "default/web:http -> 10.244.1.5:8080" -m statistic --mode random --probability 0.50000000000 -j SEP1
        nat SVC -m comment --comment "default/web:http -> 10.244.2.5:8080" -j SEP2
        nat SVL -m comment --comment "default/web:http -> 10.244.1.5:8080" -j SEP1
        nat SEP1 -s 10.244.1.5/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
        nat SEP1 -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.244.1.5:8080
        nat SEP2 -s 10.244.2.5/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
        nat SEP2 -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.244.2.5:8080
        """,
    ),
    "internal policy Local without anybody here": (
        {"internalTrafficPolicy": "Local"},
        [FAR],
        CIDR,
        """
        filter KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http has no local endpoints" -m tcp --dport 80 -j DROP
        """,
    ),
    "masquerade all": (
        {},
        [FAR],
        {**CIDR, "masquerade_all": True},
        """
        nat KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j SVC
        nat SVC -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat SVC -m comment --comment "default/web:http -> 10.244.2.5:8080" -j SEP1
        nat SEP1 -s 10.244.2.5/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
        nat SEP1 -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.244.2.5:8080
        """,
    ),
    "no endpoints at all": (
        {
            **BALANCED,
            **NODE_PORT,
            "type": "LoadBalancer",
            "externalIPs": ["198.51.100.1"],
            "loadBalancerSourceRanges": ["198.51.100.0/24"],
        },
        [],
        CIDR,
        """
        filter KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
        filter KUBE-EXTERNAL-SERVICES -d 198.51.100.1/32 -p tcp -m comment --comment "default/web:http has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
        filter KUBE-EXTERNAL-SERVICES -d 203.0.113.7/32 -p tcp -m comment --comment "default/web:http has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
        filter KUBE-EXTERNAL-SERVICES -p tcp -m comment --comment "default/web:http has no endpoints" -m addrtype --dst-type LOCAL -m tcp --dport 30080 -j REJECT --reject-with icmp-port-unreachable
        """,
    ),
    "source ranges: one of the node's, one of all addresses, two balancers": (
        {
            "type": "LoadBalancer",
            "ingress": ["203.0.113.7", "203.0.113.8"],
            "loadBalancerSourceRanges": ["192.168.50.0/24", "0.0.0.0/0"],
        },
        [NEAR],
        {},
        """
        nat KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j SVC
        nat KUBE-SERVICES -d 203.0.113.7/32 -p tcp -m comment --comment "default/web:http loadbalancer IP" -m tcp --dport 80 -j FW
        nat KUBE-SERVICES -d 203.0.113.8/32 -p tcp -m comment --comment "default/web:http loadbalancer IP" -m tcp --dport 80 -j FW
        filter KUBE-PROXY-FIREWALL -d 203.0.113.7/32 -p tcp -m comment --comment "default/web:http traffic not accepted by FW" -m tcp --dport 80 -j DROP
        filter KUBE-PROXY-FIREWALL -d 203.0.113.8/32 -p tcp -m comment --comment "default/web:http traffic not accepted by FW" -m tcp --dport 80 -j DROP
        nat FW -s 192.168.50.0/24 -m comment --comment "default/web:http loadbalancer IP" -j EXT
        nat FW -m comment --comment "default/web:http loadbalancer IP" -j EXT
        nat FW -s 203.0.113.7/32 -m comment --comment "default/web:http loadbalancer IP" -j EXT
        nat FW -s 203.0.113.8/32 -m comment --comment "default/web:http loadbalancer IP" -j EXT
        nat FW -m comment --comment "other traffic to default/web:http will be dropped by KUBE-PROXY-FIREWALL"
        nat EXT -m comment --comment "masquerade traffic for default/web:http external destinations" -j KUBE-MARK-MASQ
        nat EXT -j SVC
        nat SVC -m comment --comment "default/web:http -> 10.244.1.5:8080" -j SEP1
        nat SEP1 -s 10.244.1.5/32 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
        nat SEP1 -p tcp -m comment --comment "default/web:http" -m tcp -j DNAT --to-destination 10.244.1.5:8080
        """,
    ),
    "a load balancer's health check": (
        {**BALANCED, "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999},
        [],
        {},
        """
        filter KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "default/web:http has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
        filter KUBE-EXTERNAL-SERVICES -d 203.0.113.7/32 -p tcp -m comment --comment "default/web:http has no endpoints" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable
        filter KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http health check node port" -m tcp --dport 30999 -j ACCEPT
        """,
    ),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE)
def test_rules(case: tuple[dict[str, Any], list[Any], dict[str, Any], str]) -> None:
    spec, endpoints, options, text = case
    assert rules(decide([service(**spec)], [slice_(*endpoints)], **options)) == expected(text)


def test_a_service_whose_cluster_ip_is_anothers_has_the_rest() -> None:
    first = service("a", ip="10.96.0.1")
    found = decide(
        [first, service("web", **NODE_PORT)],
        [slice_(NEAR)],
        **CIDR,
    )
    mine = [one for one in found.frontends if one.service.name == "web"]
    lines = rules(Decision(found.situations, tuple(mine), (), ()))
    assert not [line for line in lines if "10.96.0.1" in line]
    assert [line for line in lines if line.endswith(" -j EXT")]
    assert [line for line in lines if line.startswith("nat SVC ")]


def test_what_only_a_lost_address_leads_to_is_not_there() -> None:
    """The cluster IP, of policy Local, is another's: nobody comes to SVL or its endpoints."""
    found = decide(
        [
            service("a", ip="10.96.0.1"),
            service(internalTrafficPolicy="Local", **NODE_PORT),
        ],
        [slice_(NEAR, FAR)],
    )
    mine = [one for one in found.frontends if one.service.name == "web"]
    assert mine[0].service.local
    lines = rules(Decision(found.situations, tuple(mine), (), ()))
    assert not [line for line in lines if "SVL" in line]


@pytest.mark.parametrize(("spec", "word", "port"), [(UDP, "udp", 53), (SCTP, "sctp", 36412)])
def test_other_protocols(spec: dict[str, Any], word: str, port: int) -> None:
    (given,) = spec["ports"]
    ports = [{"name": given["name"], "port": 5000, "protocol": given["protocol"]}]
    lines = rules(decide([service(**spec)], [slice_(NEAR, ports=ports)], **CIDR))
    text = f'-m comment --comment "default/web:{given["name"]}'
    assert (
        f'nat KUBE-SERVICES -d 10.96.0.1/32 -p {word} {text} cluster IP" '
        f"-m {word} --dport {port} -j SVC" in lines
    )
    assert f'nat SEP1 -p {word} {text}" -m {word} -j DNAT --to-destination 10.244.1.5:5000' in lines


def test_ipv6() -> None:
    given = service(
        ip="fd00:96::1",
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 77}},
        **{**BALANCED, "ingress": ["fd00:203::7"], "loadBalancerSourceRanges": ["fd00:50::/64"]},
    )
    options = {"detect_local": DetectLocal.CLUSTER_CIDR, "pod_cidrs": ("fd00:1::/64",)}
    found = decide([given], [slice_(SIX, addressType="IPv6")], **options)
    mask = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    recent = f"--name SEP1 --mask {mask} --rsource"
    assert rules(found, V6) == expected(
        f"""
        nat KUBE-SERVICES -d fd00:96::1/128 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j SVC
        nat KUBE-SERVICES -d fd00:203::7/128 -p tcp -m comment --comment "default/web:http loadbalancer IP" -m tcp --dport 80 -j FW
        filter KUBE-PROXY-FIREWALL -d fd00:203::7/128 -p tcp -m comment --comment "default/web:http traffic not accepted by FW" -m tcp --dport 80 -j DROP
        nat FW -s fd00:50::/64 -m comment --comment "default/web:http loadbalancer IP" -j EXT
        nat FW -s fd00:203::7/128 -m comment --comment "default/web:http loadbalancer IP" -j EXT
        nat FW -m comment --comment "other traffic to default/web:http will be dropped by KUBE-PROXY-FIREWALL"
        nat EXT -m comment --comment "masquerade traffic for default/web:http external destinations" -j KUBE-MARK-MASQ
        nat EXT -j SVC
        nat SVC ! -s fd00:1::/64 -d fd00:96::1/128 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
        nat SVC -m comment --comment "default/web:http -> [fd00:1::5]:8080" -m recent --rcheck --seconds 77 --reap {recent} -j SEP1
        nat SVC -m comment --comment "default/web:http -> [fd00:1::5]:8080" -j SEP1
        nat SEP1 -s fd00:1::5/128 -m comment --comment "default/web:http" -j KUBE-MARK-MASQ
        nat SEP1 -p tcp -m comment --comment "default/web:http" -m recent --set {recent} -m tcp -j DNAT --to-destination [fd00:1::5]:8080
        """
    )
    empty = rules(decide([given], [], **options), V6)
    assert all("-j REJECT --reject-with icmp6-port-unreachable" in line for line in empty)


def test_many_endpoints_carry_no_comments() -> None:
    affine = service(sessionAffinity="ClientIP", **NODE_PORT)
    found = decide([affine], [slice_(NEAR, FAR)], **CIDR)
    small, large = rules(found), rules(found, large=True)
    where = ("nat SEP", "nat SVC -")
    assert len(large) == len(small)
    without = [line for line in large if line.startswith(where)]
    assert not [line for line in without if "comment" in line]
    assert len(without) == 8
    assert "nat SEP1 -s 10.244.1.5/32 -j KUBE-MARK-MASQ" in without
    kept = [line for line in small if not line.startswith(where)]
    assert [line for line in large if not line.startswith(where)] == kept


def test_endpoints_are_in_the_order_of_their_text() -> None:
    pods = [endpoint(ip) for ip in ("10.244.1.9", "10.244.1.10", "10.244.1.100")]
    (part,) = parts(iptables, decide([service()], [slice_(*pods)]), V4, large=False)
    (chain,) = [one for one in part.blocks if one.name.startswith("KUBE-SVC")]
    assert [line.split('"')[1].rpartition(" ")[2] for line in chain.lines] == [
        "10.244.1.100:8080",
        "10.244.1.10:8080",
        "10.244.1.9:8080",
    ]


def test_each_port_tells_of_the_health_check() -> None:
    """kube-proxy writes the rule once for each port of the Service."""
    ports = [{"port": 80, "name": "http"}, {"port": 443, "name": "https"}]
    spec = {**BALANCED, "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999}
    lines = rules(decide([service(**spec, ports=ports)]))
    told = [line.split('"')[1] for line in lines if "health check" in line]
    assert told == [f"default/web:{one} health check node port" for one in ("http", "https")]


def test_a_health_check_whose_service_lost_its_addresses_stays_open() -> None:
    spec = {**BALANCED, "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999}
    found = decide([service(**spec)])
    (line,) = rules(Decision(found.situations, (), found.health_checks, ()))
    assert line.startswith('filter KUBE-NODEPORTS -p tcp -m comment --comment "default/web health')
