"""What is kept as objects change equals what is made of them at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from flow_cases import cases, documents, node, options, steps

from netlab.model.kubernetes import Document, Pod, view
from netlab.model.services import EndpointSlice, ProxyNode, Service
from netlab.proxy import Mode, Options, decision, iptables, ipvs, nftables, portals, userspace
from netlab.proxy.claims import Owner
from netlab.proxy.objects import Objects
from netlab.proxy.programme import LARGE, Programme
from netlab.proxy.ruleset import Block, Key, Renderer, Step, difference

RENDERERS: dict[Mode, Renderer] = {
    Mode.IPTABLES: iptables,
    Mode.NFTABLES: nftables,
    Mode.IPVS: ipvs,
    Mode.USERSPACE: userspace.Userspace(lambda service: portals.usual(portals.key(service))),
}


def programmes(objects: Objects, mode: Mode) -> list[Programme]:
    return [Programme(RENDERERS[mode], one) for one in objects.situations.values()]


def blocks(of: Sequence[Programme]) -> dict[Key, Block]:
    return {key: block for each in of for key, block in each.blocks.items()}


def from_scratch(found: Sequence[Document], at: ProxyNode, chosen: Options) -> dict[Key, Block]:
    objects = Objects(at, chosen)
    made = programmes(objects, chosen.mode)
    changed = objects.take(found)
    for each in made:
        each.update(changed)
    return blocks(made)


def given_with_changes() -> list[Any]:
    return [
        pytest.param([given for given, _ in steps(case)], mode, id=f"{case['id']}-{mode}")
        for case in cases()
        for mode in Mode
    ]


@pytest.mark.parametrize(("states", "mode"), given_with_changes())
def test_objects_decide_as_the_decision_does(states: list[dict[str, Any]], mode: Mode) -> None:
    objects: Objects | None = None
    for given in states:
        on = given["proxy"]["node"]
        at, chosen = (
            node(next(n for n in given["nodes"] if n["name"] == on)),
            options(given["proxy"], mode),
        )
        if objects is None or objects.node != at or objects.options != chosen:
            objects = Objects(at, chosen)
        stored = documents(given)
        objects.take(stored)
        whole = decision(
            [view(one, Service) for one in stored if one["kind"] == "Service"],
            [view(one, EndpointSlice) for one in stored if one["kind"] == "EndpointSlice"],
            at,
            chosen,
            pods=[view(one, Pod) for one in stored if one["kind"] == "Pod"],
        )
        shares = objects.shares().values()
        assert [one for share in shares for one in share.frontends] == list(whole.frontends)
        assert [one for share in shares for one in share.health_checks] == [*whole.health_checks]
        assert sorted(objects.warnings) == sorted(whole.warnings)


def world(seed: int) -> list[Document]:
    """Return Services and slices with every feature, and addresses that are disputed."""
    rng = random.Random(seed)
    found: list[Document] = []
    for number in range(12):
        name = f"s{number}"
        kind = rng.choice(("ClusterIP", "NodePort", "LoadBalancer"))
        port: dict[str, Any] = {"name": "p", "port": 80, "protocol": rng.choice(("TCP", "UDP"))}
        if kind != "ClusterIP":
            port["nodePort"] = 30000 + rng.randrange(8)
        spec: dict[str, Any] = {
            "type": kind,
            "clusterIP": f"10.96.0.{rng.randrange(1, 10)}",
            "ports": [port],
            "externalTrafficPolicy": rng.choice(("Cluster", "Local")),
            "internalTrafficPolicy": rng.choice(("Cluster", "Local")),
            "externalIPs": [f"192.0.2.{rng.randrange(1, 6)}"],
            "sessionAffinity": rng.choice(("None", "ClientIP")),
        }
        if kind == "LoadBalancer":
            spec["healthCheckNodePort"] = 31000 + rng.randrange(3)
        meta = {"name": name, "namespace": rng.choice(("a", "b"))}
        status = {"loadBalancer": {"ingress": [{"ip": f"192.0.2.{rng.randrange(4, 9)}"}]}}
        found.append(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": meta,
                "spec": spec,
                "status": status,
            }
        )
        labels = {"kubernetes.io/service-name": name}
        for part in range(rng.randrange(3)):
            ends = [
                {
                    "addresses": [f"10.244.1.{rng.randrange(1, 9)}"],
                    "nodeName": rng.choice(("n1", "n2")),
                    "conditions": {"ready": rng.random() < 0.7, "terminating": rng.random() < 0.3},
                }
                for _ in range(rng.randrange(4))
            ]
            found.append(
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {**meta, "name": f"{name}-{part}", "labels": labels},
                    "addressType": "IPv4",
                    "endpoints": ends,
                    "ports": [{"name": "p", "port": 8080, "protocol": port["protocol"]}],
                }
            )
    return found


AT = node({"name": "n1", "ips": ["192.168.0.1"]})


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("seed", range(8))
def test_what_is_kept_equals_what_is_made_at_once(seed: int, mode: Mode) -> None:
    rng = random.Random(1000 + seed)
    chosen = Options(mode=mode)
    objects = Objects(AT, chosen)
    kept = programmes(objects, mode)
    there: dict[Key, Block] = {}
    held = world(seed)
    for turn in range(30):
        other = world(100 * seed + turn)
        held = [one for one in held if rng.random() < 0.9]
        names = {
            (one["kind"], one["metadata"]["namespace"], one["metadata"]["name"]) for one in held
        }
        for one in rng.sample(other, 4):
            if (one["kind"], one["metadata"]["namespace"], one["metadata"]["name"]) not in names:
                held.append(one)
        changed = objects.take(held)
        steps_made = [step for each in kept for step in each.update(changed)]
        there = after(there, steps_made)
        wanted = from_scratch(held, AT, chosen)
        assert list(difference(wanted, blocks(kept))) == []
        assert list(difference(wanted, there)) == [], "the steps do not lead there"


def after(there: dict[Key, Block], taken: Sequence[Step]) -> dict[Key, Block]:
    """Return what *taken* steps make of what is *there*, each from what it says it was."""
    now = dict(there)
    for new, old in taken:
        key = (new or old).key  # type: ignore[union-attr]
        assert now.get(key) == old
        now.pop(key, None)
        if new is not None:
            now[key] = new
    return now


@pytest.mark.parametrize("mode", Mode)
def test_nothing_new_changes_nothing(mode: Mode) -> None:
    objects = Objects(AT, Options(mode=mode))
    kept = programmes(objects, mode)
    held = world(3)
    for each in kept:
        each.update(objects.take(held))
    again = [dict(one) for one in held]  # other documents that say the same
    for same in (held, again):
        changed = objects.take(same)
        assert [step for each in kept for step in each.update(changed)] == []


def test_a_lost_address_comes_back_to_the_second_who_claims_it() -> None:
    def claim(name: str, ip: str) -> Document:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": ip, "ports": [{"port": 80}]},
        }

    first, second = claim("a", "10.96.0.1"), claim("b", "10.96.0.1")
    objects = Objects(AT, Options())
    changed = objects.take([first, second])
    assert [len(changed[owner].frontends) for owner in sorted(changed)] == [1, 0]
    assert objects.warnings == ["default/b: ClusterIP 10.96.0.1 port 80/TCP is default/a's"]
    changed = objects.take([second])
    assert {owner.name: len(share.frontends) for owner, share in changed.items()} == {
        "a": 0,
        "b": 1,
    }
    assert objects.warnings == []


def test_comments_go_when_there_are_more_than_a_thousand_endpoints_and_come_back() -> None:
    many = [f"10.{n // 250}.0.{n % 250 + 1}" for n in range(LARGE)]

    def stored(ips: Sequence[str]) -> list[Document]:
        labels = {"kubernetes.io/service-name": "big"}
        slice_ = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "big-1", "namespace": "default", "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ip]} for ip in ips],
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        }
        return [*small, big, slice_]

    def claim(name: str, ip: str) -> Document:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": ip, "ports": [{"port": 80}]},
        }

    big = claim("big", "10.96.0.2")
    small = [
        claim("small", "10.96.0.1"),
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "small-1",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "small"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.244.1.1"]}],
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        },
    ]
    chosen = Options()
    objects = Objects(AT, chosen)
    kept = programmes(objects, Mode.IPTABLES)
    said = []
    for count in (LARGE - 1, LARGE, LARGE - 1):
        changed = objects.take(stored(many[:count]))
        for each in kept:
            each.update(changed)
        found = blocks(kept)
        assert list(difference(from_scratch(stored(many[:count]), AT, chosen), found)) == []
        said.append(
            any(
                "default/small" in line
                for b in found.values()
                for line in b.lines
                if b.name.startswith("KUBE-SEP-")
            )
        )
    assert said == [True, False, True]


def test_claims_of_one_owner_are_no_dispute() -> None:
    two_ways = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.1",
            "ports": [{"port": 80}],
            "externalIPs": ["192.0.2.1"],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
    }
    objects = Objects(AT, Options())
    share = objects.take([two_ways])[Owner(False, "default", "a")]
    assert sorted(one.kind for one in share.frontends) == ["ClusterIP", "ExternalIP"]
    assert objects.warnings == []
