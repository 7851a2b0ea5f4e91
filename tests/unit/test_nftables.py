"""The text of nftables rules, where the golden dump has none: families, options, refusals."""

from __future__ import annotations

from typing import Any

import pytest
from service_objects import CIDR, HERE, LOCAL, THERE, V4, V6, decide, endpoint, service, slice_

from netlab.model.kubernetes import Pod, view
from netlab.proxy import Decision, DetectLocal, Mode, nftables
from netlab.proxy.addresses import Family
from netlab.proxy.hostport import host_ports
from netlab.proxy.nftables_words import any_of, duration
from netlab.proxy.ruleset import Sort

HTTP = [{"port": 80, "name": "http", "nodePort": 30080}]
BALANCED = {"type": "LoadBalancer", "ports": HTTP, "ingress": ["1.2.3.4"]}
MARKED = "counter jump mark-for-masquerade"


def rendered(
    *endpoints: Any, protocol: str = "TCP", options: dict[str, Any] | None = None, **spec: Any
) -> tuple[Decision, dict[str, tuple[str, ...]]]:
    """Return what is decided on Service web, and its lines by the names of blocks.

    Of chains of its own, the name is the first word, and of its endpoints the word and address.
    """
    ports = [{"name": "http", "port": 8080, "protocol": protocol}]
    six = any(":" in one["addresses"][0] for one in endpoints)
    family = V6 if six or ":" in spec.get("ip", "") else V4
    slices = [slice_(*endpoints, ports=ports, addressType=family)]
    found = decide([service(**spec)], slices, mode=Mode.NFTABLES, **(CIDR | (options or {})))
    return found, lines(found, family)


def lines(found: Decision, family: Family) -> dict[str, tuple[str, ...]]:
    ours = [one for one in found.frontends if one.service.family is family]
    part = nftables.part(ours, [], found.situations[family], large=False)
    own = {
        block.name.partition("-")[0] + block.name.partition("__")[2]: block.lines
        for block in part.blocks
    }
    assert len(own) == len(part.blocks)
    return own | {key[3]: entry for key, entry in part.entries}


def frame(
    family: Family = V4, **options: Any
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    found = decide([], mode=Mode.NFTABLES, **options).situations[family]
    return {one.block.name: (one.block.head, one.block.lines) for one in nftables.frame(found)}


def shortened(line: str) -> str:
    """Return *line* with the names of a Service's chains as short as `rendered` has them."""
    found = []
    for word in line.split(" "):
        kind, dash, rest = word.partition("-")
        if dash and "/" in rest:
            word = kind + rest.partition("__")[2]
        found.append(word)
    return " ".join(found)


def short(given: tuple[str, ...]) -> list[str]:
    return [shortened(one) for one in given]


@pytest.mark.parametrize(
    ("options", "pod", "other"),
    [
        ({}, "ip saddr 10.244.0.0/16 ", "ip saddr != 10.244.0.0/16 "),
        (
            {"pod_cidrs": ("10.244.1.5/32",)},
            "ip saddr 10.244.1.5 ",
            "ip saddr != 10.244.1.5 ",
        ),
        (
            {"detect_local": DetectLocal.BRIDGE, "interface": "cbr0"},
            'iifname "cbr0" ',
            'iifname != "cbr0" ',
        ),
        (
            {"detect_local": DetectLocal.INTERFACE_PREFIX, "interface": "cali"},
            'iifname "cali*" ',
            'iifname != "cali*" ',
        ),
        (
            {"detect_local": DetectLocal.INTERFACE_PREFIX, "interface": "a-name-of-15-ch"},
            'iifname "a-name-of-15-ch" ',
            'iifname != "a-name-of-15-ch" ',
        ),
    ],
    ids=["cidr", "one pod", "bridge", "prefix", "longest prefix"],
)
def test_how_pods_are_told_from_others(options: dict[str, Any], pod: str, other: str) -> None:
    _, found = rendered(endpoint("10.244.1.5"), options=options, **LOCAL, ports=HTTP)
    assert short(found["external"]) == [
        f'{pod}goto service comment "short-circuit pod traffic"',
        f'fib saddr type local {MARKED} comment "masquerade local traffic"',
        'fib saddr type local goto service comment "short-circuit local traffic"',
        "goto local",
    ]
    assert short(found["service"]) == [
        f"ip daddr 10.96.0.1 {other}{MARKED}",
        "goto endpoint10.244.1.5/8080",
    ]


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"masquerade_all": True}, [f"ip daddr 10.96.0.1 {MARKED}"]),
        ({"detect_local": DetectLocal.NONE}, []),
        ({"detect_local": DetectLocal.NONE, "masquerade_all": True},
         [f"ip daddr 10.96.0.1 {MARKED}"]),
    ],
    ids=str,
)  # fmt: skip
def test_who_is_masqueraded_at_a_cluster_ip(options: dict[str, Any], first: list[str]) -> None:
    _, found = rendered(endpoint("10.244.1.5"), options=options)
    assert short(found["service"]) == [*first, "goto endpoint10.244.1.5/8080"]


def test_nobody_can_tell_a_pod() -> None:
    _, found = rendered(
        endpoint("10.244.1.5"), options={"detect_local": DetectLocal.NONE}, **LOCAL, ports=HTTP
    )
    assert not any("pod traffic" in line for line in found["external"])


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_protocols(protocol: str) -> None:
    word = protocol.lower()
    ports = [{**HTTP[0], "protocol": protocol}]
    _, found = rendered(endpoint("10.244.1.5"), protocol=protocol, type="NodePort", ports=ports)
    assert (
        found["endpoint10.244.1.5/8080"][-1]
        == f"meta l4proto {word} counter dnat to 10.244.1.5:8080"
    )
    assert short(found["service-ips"]) == [f"10.96.0.1 . {word} . 80 : goto service"]
    assert short(found["service-nodeports"]) == [f"{word} . 30080 : goto external"]


def test_six() -> None:
    """IPv6: other words, brackets, and no colons in names."""
    _, found = rendered(
        endpoint("fd00:1::5"),
        endpoint("fd00:1::6", THERE),
        ip="fd00:96::1",
        sessionAffinity="ClientIP",
        loadBalancerSourceRanges=["fd00:7::/64"],
        options={"pod_cidrs": ("fd00:1::/56",)},
        **{**BALANCED, "ingress": ["fd00:7::1"]},
    )
    assert {key: short(value) for key, value in found.items()} == {
        "firewall": ["ip6 saddr != fd00:7::/64 counter drop"],
        "external": [MARKED, "goto service"],
        "service": [
            f"ip6 daddr fd00:96::1 ip6 saddr != fd00:1::/56 {MARKED}",
            "ip6 saddr @affinityfd00.1..5/8080 goto endpointfd00.1..5/8080",
            "ip6 saddr @affinityfd00.1..6/8080 goto endpointfd00.1..6/8080",
            "numgen random mod 2 0 goto endpointfd00.1..5/8080",
            "goto endpointfd00.1..6/8080",
        ],
        **{f"affinityfd00.1..{one}/8080": [] for one in (5, 6)},
        **{
            f"endpointfd00.1..{one}/8080": [
                f"ip6 saddr fd00:1::{one} {MARKED}",
                f"update @affinityfd00.1..{one}/8080 {{ ip6 saddr }}",
                f"meta l4proto tcp counter dnat to [fd00:1::{one}]:8080",
            ]
            for one in (5, 6)
        },
        "cluster-ips": ["fd00:96::1"],
        "service-ips": [
            "fd00:96::1 . tcp . 80 : goto service",
            "fd00:7::1 . tcp . 80 : goto external",
        ],
        "firewall-ips": ["fd00:7::1 . tcp . 80 : goto firewall"],
        "service-nodeports": ["tcp . 30080 : goto external"],
    }


REJECT, DROP = "goto reject-chain", "drop"


@pytest.mark.parametrize(
    ("endpoints", "spec", "cluster_ip", "external", "chains"),
    [
        ((), {}, REJECT, REJECT, ""),
        ((endpoint("10.244.1.5", state="gone"),), {}, REJECT, REJECT, ""),
        (
            (endpoint("10.244.2.5", THERE),),
            {"externalTrafficPolicy": "Local"},
            "",
            DROP,
            "external service endpoint",
        ),
        (
            (endpoint("10.244.2.5", THERE),),
            {"internalTrafficPolicy": "Local"},
            DROP,
            "",
            "external service endpoint",
        ),
        ((endpoint("10.244.1.5"),), {"internalTrafficPolicy": "Local"}, "", "",
         "external service local endpoint"),
    ],
    ids=["no slice", "none ready", "none here: external", "none here: internal", "both sets"],
)  # fmt: skip
def test_refusals(
    endpoints: tuple[Any, ...], spec: dict[str, Any], cluster_ip: str, external: str, chains: str
) -> None:
    _, found = rendered(*endpoints, **{**BALANCED, "externalIPs": ["1.1.1.1"], **spec})
    said = 'comment "default/web:http" :'
    services = [f"10.96.0.1 . tcp . 80 {said} {cluster_ip}"] if cluster_ip else []
    if external:
        services += [f"{one} . tcp . 80 {said} {external}" for one in ("1.1.1.1", "1.2.3.4")]
        assert found["no-endpoint-nodeports"] == (f"tcp . 30080 {said} {external}",)
    else:
        assert "no-endpoint-nodeports" not in found
    assert list(found.get("no-endpoint-services", ())) == services
    kinds = {key.rstrip("0123456789./") for key in found if "-" not in key}
    assert kinds == set(chains.split())
    if cluster_ip == DROP:
        assert not any(one.startswith("10.96.0.1 ") for one in found["service-ips"])
    if external == DROP:
        assert short(found["external"])[-1].endswith('"short-circuit local traffic"')


def test_a_load_balancer_without_endpoints_still_drops_whom_it_does_not_know() -> None:
    _, found = rendered(loadBalancerSourceRanges=["203.0.113.0/24"], **BALANCED)
    assert short(found["firewall-ips"]) == ["1.2.3.4 . tcp . 80 : goto firewall"]
    assert found["firewall"] == ("ip saddr != 203.0.113.0/24 counter drop",)


def test_the_node_may_use_a_load_balancer_by_its_own_address() -> None:
    given = {**BALANCED, "ingress": ["1.2.3.4", "1.2.3.9"]}
    ranges = ["192.168.0.0/16", "203.0.113.7/32"]
    _, found = rendered(endpoint("10.244.1.5"), loadBalancerSourceRanges=ranges, **given)
    allowed = "{ 1.2.3.4, 1.2.3.9, 192.168.0.0/16, 203.0.113.7 }"
    assert found["firewall"] == (f"ip saddr != {allowed} counter drop",)


@pytest.mark.parametrize("count", [1, 2, 8, 9])
def test_how_an_endpoint_is_chosen(count: int) -> None:
    _, found = rendered(*(endpoint(f"10.244.1.{one}") for one in range(1, count + 1)))
    names = [f"goto endpoint10.244.1.{one}/8080" for one in range(1, count + 1)]
    if count > 8:
        verdicts = ", ".join(f"{place} : {one}" for place, one in enumerate(names))
        expected = [f"numgen random mod 9 vmap {{ {verdicts} }}"]
    else:
        expected = [
            *(f"numgen random mod {count - i} 0 {one}" for i, one in enumerate(names[:-1])),
            names[-1],
        ]
    assert short(found["service"])[1:] == expected


def test_clients_stay_for_as_long_as_the_service_says() -> None:
    config = {"clientIP": {"timeoutSeconds": 3661}}
    found = decide(
        [service(sessionAffinity="ClientIP", sessionAffinityConfig=config)],
        [slice_(endpoint("10.244.1.5"))],
        mode=Mode.NFTABLES,
    )
    part = nftables.part(list(found.frontends), [], found.situations[V4], large=False)
    (kept,) = [one for one in part.blocks if one.sort is Sort.SET]
    assert kept.head == ("type ipv4_addr", "size 65535", "flags dynamic,timeout", "timeout 1h1m1s")
    assert kept.name.startswith("affinity-") and kept.name.endswith("__10.244.1.5/8080")


def test_a_frontend_another_service_has_is_not_served() -> None:
    """The cluster IP is the other's: no element, no rule for it; the chain is for the NodePort."""
    other = service("a", ip="10.96.0.1")
    mine = service("web", ip="10.96.0.1", type="NodePort", ports=HTTP)
    found = decide([other, mine], [slice_(endpoint("10.244.1.5"))], mode=Mode.NFTABLES, **CIDR)
    kept = [one for one in found.frontends if one.service.name == "web"]
    part = nftables.part(kept, [], found.situations[V4], large=False)
    assert [key[3] for key, _ in part.entries] == ["service-nodeports"]
    (chain,) = [one for one in part.blocks if one.name.startswith("service-")]
    assert short(chain.lines) == ["goto endpoint10.244.1.5/8080"]


LISTED = "ip daddr @nodeport-ips"
OWN, NOT_LOOPBACK = "fib daddr type local", "ip daddr != 127.0.0.0/8"
TO = "meta l4proto . th dport vmap"


@pytest.mark.parametrize(
    ("given", "node_port_ips", "own", "incoming"),
    [
        ((), (("type ipv4_addr",), ("192.168.50.11",)), LISTED, LISTED),
        (("192.168.50.11/32",), (("type ipv4_addr",), ("192.168.50.11",)), LISTED, LISTED),
        (("0.0.0.0/0",), None, f"{OWN} {NOT_LOOPBACK}", NOT_LOOPBACK),
        (
            ("10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "192.168.50.12/32"),
            (("type ipv4_addr", "flags interval"), ("10.0.0.0/8", "192.168.50.12")),
            f"{LISTED} {OWN} {NOT_LOOPBACK}",
            f"{LISTED} {NOT_LOOPBACK}",
        ),
    ],
    ids=str,
)
def test_where_node_ports_are(
    given: tuple[str, ...], node_port_ips: Any, own: str, incoming: str
) -> None:
    found = frame(node_port_addresses=given)
    assert found["services"][1][1] == f"{own} {TO} @service-nodeports"
    assert found["nodeport-endpoints-check"][1] == (f"{incoming} {TO} @no-endpoint-nodeports",)
    if node_port_ips is None:
        assert "nodeport-ips" not in found
    else:
        head, elements = node_port_ips
        said = 'comment "IPs that accept NodePort traffic"'
        assert found["nodeport-ips"] == ((*head, said), elements)


@pytest.mark.parametrize(
    ("family", "cidrs", "expected"),
    [
        (V4, (), ""),
        (V4, ("10.96.0.0/12", "fd00::/112"), "ip daddr 10.96.0.0/12"),
        (V6, ("10.96.0.0/12", "fd00::/112"), "ip6 daddr fd00::/112"),
        (V4, ("10.96.0.0/16", "10.9.0.0/16"), "ip daddr { 10.9.0.0/16, 10.96.0.0/16 }"),
    ],
)
def test_what_is_no_cluster_ip_yet(family: Family, cidrs: tuple[str, ...], expected: str) -> None:
    _, rules = frame(family, service_cidrs=cidrs)["cluster-ips-check"]
    dropped = f'{expected} counter drop comment "Drop traffic to unallocated ClusterIPs"'
    assert rules[1:] == ((dropped,) if expected else ())


def test_no_comment_is_longer_than_nft_takes() -> None:
    long = "a" * 63
    found = decide([service(long, ports=[{"port": 80, "name": "b" * 63}])], mode=Mode.NFTABLES)
    part = nftables.part(list(found.frontends), [], found.situations[V4], large=False)
    ((_, (element,)),) = part.entries[1:]
    assert f'comment "{(f"default/{long}:" + "b" * 63)[:128]}"' in element


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1/32", "10.0.0.1"),
        ("10.0.0.0/8 10.1.0.0/16 10.255.255.255", "10.0.0.0/8"),
        ("10.0.1.0/25 10.0.0.0/24", "10.0.0.0-10.0.1.127"),
        ("10.0.0.1 9.0.0.1 10.0.0.2", "{ 9.0.0.1, 10.0.0.1-10.0.0.2 }"),
        ("255.255.255.255 0.0.0.0/1 128.0.0.0/1", "0.0.0.0/0"),
        ("fd00::/65 fd00:0:0:0:8000::/65 fd01::1", "{ fd00::/64, fd01::1 }"),
    ],
)
def test_prefixes_as_nft_lists_them(given: str, expected: str) -> None:
    assert any_of(given.split()) == expected


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "1s"), (10800, "3h"), (86400, "1d"), (90061, "1d1h1m1s")]
)
def test_durations_as_nft_lists_them(seconds: int, text: str) -> None:
    assert duration(seconds) == text


def host_port_lines(ip: str, *ports: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    document = {
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"nodeName": HERE, "containers": [{"name": "c", "ports": list(ports)}]},
        "status": {"podIP": ip, "phase": "Running"},
    }
    ours = host_ports([view(document, Pod)], HERE, pytest.fail)
    here = decide([], mode=Mode.NFTABLES).situations[ours[0].service.family]
    part = nftables.part(ours, [], here, large=False)
    assert part.blocks == ()
    known = {one.block.key for one in nftables.hostport_frame(here)}
    assert {key for key, _ in part.entries} <= known
    return {key[3]: lines for key, lines in part.entries}


def test_host_ports() -> None:
    found = host_port_lines(
        "10.244.1.5",
        {"containerPort": 8080, "hostPort": 9000},
        {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.168.50.11"},
    )
    said = 'comment "default/a"'
    assert found == {
        "hostports": (f"tcp dport 9000 counter dnat to 10.244.1.5:8080 {said}",),
        "hostip_hostports": (
            f"ip daddr 192.168.50.11 udp dport 53 counter dnat to 10.244.1.5:53 {said}",
        ),
        "masquerading": (
            f"ip saddr 10.244.1.5 ip daddr 10.244.1.5 masquerade {said}",
            f"ip saddr 127.0.0.0/8 ip daddr 10.244.1.5 masquerade {said}",
        ),
    }
    found = host_port_lines("fd00:1::5", {"containerPort": 8080, "hostPort": 9000})
    assert found == {
        "hostports": (f"tcp dport 9000 counter dnat to [fd00:1::5]:8080 {said}",),
        "masquerading": (f"ip6 saddr fd00:1::5 ip6 daddr fd00:1::5 masquerade {said}",),
    }
