"""What Services of a lab with two stacks are given, as kube-apiserver gives it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from netlab.controllers import allocation
from netlab.controllers.inheritance import kept
from netlab.model.kubernetes import Document
from netlab.model.services import ProxyNode, refusal
from netlab.proxy.addresses import Family
from netlab.proxy.options import Options, situations

CIDRS = ("10.96.0.0/12", "fd00:10:96::/112")


def service(title: str = "web", **spec: Any) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": title, "namespace": "default", "uid": title},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}], **spec},
    }


def given(one: Document, *others: Document, cidrs: tuple[str, ...] = CIDRS) -> Document:
    """Return the Service *one* after one call, which must be enough."""
    every = {d["metadata"]["name"]: d for d in (one, *others)}
    before = copy.deepcopy(every)
    for change in allocation.services(list(every.values()), *cidrs):
        every[change.document["metadata"]["name"]] = change.document
    assert before[one["metadata"]["name"]] == one
    assert allocation.services(list(every.values()), *cidrs) == []
    return every[one["metadata"]["name"]]


BOTH, FOUR, SIX = ["IPv4", "IPv6"], ["IPv4"], ["IPv6"]


@pytest.mark.parametrize(
    ("spec", "policy", "families"),
    [
        pytest.param({}, "SingleStack", FOUR, id="says nothing"),
        pytest.param({"ipFamilies": SIX}, "SingleStack", SIX, id="IPv6 alone"),
        pytest.param({"clusterIP": "fd00:10:96::9"}, "SingleStack", SIX, id="an address of IPv6"),
        pytest.param({"ipFamilyPolicy": "PreferDualStack"}, "PreferDualStack", BOTH, id="prefers"),
        pytest.param({"ipFamilyPolicy": "RequireDualStack"}, "RequireDualStack", BOTH, id="needs"),
        pytest.param(
            {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": SIX},
            "PreferDualStack",
            ["IPv6", "IPv4"],
            id="IPv6 first",
        ),
        pytest.param(
            {"ipFamilyPolicy": "RequireDualStack", "clusterIP": "fd00:10:96::9"},
            "RequireDualStack",
            ["IPv6", "IPv4"],
            id="an address of IPv6 first",
        ),
        pytest.param(
            {"ipFamilyPolicy": "SingleStack", "ipFamilies": BOTH}, "SingleStack", FOUR, id="no more"
        ),
    ],
)
def test_families_and_addresses_go_together(
    spec: dict[str, Any], policy: str, families: list[str]
) -> None:
    found = given(service(**spec))["spec"]
    assert (found["ipFamilyPolicy"], found["ipFamilies"]) == (policy, families)
    assert ["IPv6" if ":" in one else "IPv4" for one in found["clusterIPs"]] == families
    assert found["clusterIP"] == found["clusterIPs"][0] == spec.get("clusterIP", found["clusterIP"])


@pytest.mark.parametrize(
    ("spec", "families"),
    [
        ({}, FOUR),
        ({"ipFamilyPolicy": "PreferDualStack"}, BOTH),
        ({"selector": {}}, BOTH),
        ({"selector": {}, "ipFamilies": SIX}, ["IPv6", "IPv4"]),
        ({"selector": {}, "ipFamilyPolicy": "SingleStack"}, FOUR),
    ],
)
def test_a_headless_service_has_families_and_no_address(
    spec: dict[str, Any], families: list[str]
) -> None:
    found = given(service(clusterIP="None", **spec))["spec"]
    assert found["ipFamilies"] == families and found["clusterIPs"] == ["None"]


def test_the_first_address_of_ipv6_is_nobodys_and_the_last_is_somebodys() -> None:
    assert allocation.addresses("fd00::/124") == range((0xFD00 << 112) + 1, (0xFD00 << 112) + 16)
    small = ("10.96.0.0/28", "fd00::/124")
    every = [service(f"s{n:02}", ipFamilies=SIX) for n in range(16)]
    found = [given(one, *(o for o in every if o is not one), cidrs=small) for one in every]
    addresses = {one["spec"].get("clusterIP") for one in found}
    assert addresses == {f"fd00::{n:x}" for n in range(1, 16)} | {None}
    (without,) = [one for one in found if refusal(one)]
    assert refusal(without) == "clusterIP: no address of fd00::/124 is free"


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"clusterIP": "fd00:11::9"}, "clusterIP fd00:11::9 is not a host's address of fd00:10:96"),
        (
            {
                "ipFamilyPolicy": "RequireDualStack",
                "clusterIP": "10.96.0.9",
                "clusterIPs": ["10.96.0.9", "10.96.0.10"],
            },
            "clusterIP 10.96.0.10 is not an IPv6 address",
        ),
        (
            {
                "ipFamilyPolicy": "RequireDualStack",
                "clusterIP": "10.96.0.9",
                "clusterIPs": ["10.96.0.9", "fd00:10:96::7"],
            },
            "clusterIP fd00:10:96::7 belongs to Service default/db",
        ),
    ],
)
def test_what_cannot_be_given_is_refused(spec: dict[str, Any], reason: str) -> None:
    held = given(service("db", clusterIP="fd00:10:96::7"))
    found = given(service(**spec), held)
    assert refusal(found).startswith(reason) and found["spec"] == service(**spec)["spec"]


def test_who_prefers_two_families_follows_the_lab() -> None:
    one = given(service(ipFamilyPolicy="PreferDualStack"), cidrs=CIDRS[:1])
    assert one["spec"]["clusterIPs"] == [one["spec"]["clusterIP"]]
    two = given(one)
    assert two["spec"]["clusterIPs"][0] == one["spec"]["clusterIP"]
    assert two["spec"]["ipFamilies"] == BOTH
    assert given(two, cidrs=CIDRS[:1])["spec"]["clusterIPs"] == one["spec"]["clusterIPs"]


def test_a_service_declared_anew_keeps_its_addresses() -> None:
    stored = given(service(ipFamilyPolicy="PreferDualStack"))
    bare = service(ipFamilyPolicy="PreferDualStack")
    assert kept(bare, bare, stored)["clusterIPs"] == stored["spec"]["clusterIPs"]
    single = kept(service(), bare, stored)
    assert single["clusterIPs"] == stored["spec"]["clusterIPs"][:1]
    assert "clusterIPs" not in kept(service(ipFamilies=SIX), bare, stored)


def test_a_proxy_knows_both_addresses_of_its_node() -> None:
    node = {
        "metadata": {"name": "n1"},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "192.168.50.11"},
                {"type": "InternalIP", "address": "fd00:192:168:50::11"},
            ]
        },
    }
    import msgspec

    found = situations(msgspec.convert(node, ProxyNode), Options(pod_cidrs=CIDRS))
    assert found[Family.IPV6].address == "fd00:192:168:50::11"
