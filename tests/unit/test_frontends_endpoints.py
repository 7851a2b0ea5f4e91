"""From EndpointSlices to the endpoints that are used."""

from __future__ import annotations

from typing import Any

import pytest
from service_objects import HERE, LOCAL, THERE, decide, endpoint, only, service, slice_, texts

from netlab.proxy.addresses import address, contains, network

# Addresses


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.180.00.001", "10.180.0.1"),
        ("010.0.0.8", "10.0.0.8"),
        ("FD00::0:1", "fd00::1"),
        ("::ffff:1.2.3.004", "1.2.3.4"),
        ("", ""),
        (" 10.0.0.1", ""),
        ("10.0.0.256", ""),
        ("10.0.0", ""),
        ("10.0.0.1.2", ""),
        ("10.0.0.+1", ""),
        ("10.0.0.²", ""),
        ("10.0.0.١", ""),
        ("fe80::1%eth0", ""),
        ("web", ""),
    ],
)
def test_canonical_address(text: str, canonical: str) -> None:
    assert address(text) == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (" 203.0.113.000/025 ", "203.0.113.0/25"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("fd00::1/64", "fd00::/64"),
        ("10.0.0.1", ""),
        ("10.0.0.1/33", ""),
        ("10.0.0.1/", ""),
    ],
)
def test_canonical_network(text: str, canonical: str) -> None:
    assert network(text) == canonical


def test_a_prefix_covers_its_own_family_only() -> None:
    assert contains("10.0.0.0/8", "10.255.0.1") and not contains("10.0.0.0/8", "11.0.0.0")
    assert contains("0.0.0.0/0", "127.0.0.0") and not contains("0.0.0.0/0", "::1")
    assert not contains("10.0.0.0/16", "10.0.0.0/8")


# Endpoints


def test_a_bad_endpoint_never_refuses_the_rest() -> None:
    bad = ["", "10.244.1.4 ", "web", "10.244.1.400", "fd00:1::4"]
    found = decide([service()], [slice_(*map(endpoint, [*bad, "10.244.1.5"]))])
    assert texts(only(found).service.cluster) == ["10.244.1.5:8080"]
    assert len(found.warnings) == len(bad)
    assert "EndpointSlice default/web-1: '10.244.1.400' is no address" in found.warnings


def test_only_the_first_address_counts() -> None:
    one = {**endpoint("10.244.1.5"), "addresses": ["10.244.1.5", "10.244.1.6"]}
    assert texts(only(decide([service()], [slice_(one)])).service.cluster) == ["10.244.1.5:8080"]


def test_a_port_without_number_is_left_out() -> None:
    ports = [{"name": "http"}, {"name": "http", "port": 70000}, {"name": "http", "port": 81}]
    found = decide([service()], [slice_(endpoint("10.244.1.5"), ports=ports)])
    assert texts(only(found).service.cluster) == ["10.244.1.5:81"]
    assert len(found.warnings) == 2


@pytest.mark.parametrize(
    "others",
    [
        {"of": "other"},
        {"of": ""},
        {"addressType": "FQDN"},
        {"labels": {"service.kubernetes.io/headless": ""}},
        {"labels": {"service.kubernetes.io/service-proxy-name": ""}},
        {"ports": None},
        {"endpoints": None},
        {"ports": [{"name": "http", "port": 8080, "protocol": "UDP"}]},
        {"ports": [{"name": None, "port": 8080}]},
    ],
    ids=str,
)
def test_a_slice_that_is_not_this_ports(others: dict[str, Any]) -> None:
    found = decide([service()], [slice_(endpoint("10.244.1.5"), **others)])
    assert only(found).service.known == ()
    assert found.warnings == ()


def test_an_endpoint_in_two_slices_is_one_and_its_best_state_counts() -> None:
    slices = [
        slice_(endpoint("10.244.1.5", state="lingering"), name="web-3"),
        slice_(endpoint("10.244.1.05"), name="web-2"),
        slice_(endpoint("10.244.1.5", state="gone"), name="web-1"),
    ]
    (one,) = only(decide([service()], slices)).service.cluster
    assert one.ready and not one.terminating


@pytest.mark.parametrize("conditions", [{}, None], ids=str)
def test_conditions_left_out_mean_ready(conditions: dict[str, bool] | None) -> None:
    one = {"addresses": ["10.244.1.5"], "conditions": conditions}
    (found,) = only(decide([service()], [slice_(one)])).service.cluster
    assert found.ready and found.serving and not found.terminating and not found.local


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local"),
    [
        (["1 ready", "2 ready there"], "12", "1"),
        (["1 lingering", "2 ready there"], "2", "1"),
        (["1 lingering", "2 ready"], "2", "2"),
        (["1 lingering", "2 lingering there"], "12", "1"),
        (["1 gone", "2 lingering there"], "2", ""),
        (["1 gone", "2 gone there"], "", ""),
        (["1 unready", "2 unready there"], "", ""),
    ],
)
def test_lingering_endpoints_are_a_last_resort(
    endpoints: list[str], cluster: str, local: str
) -> None:
    given = []
    for text in endpoints:
        number, state, *there = text.split()
        node = THERE if there else HERE
        given.append(endpoint(f"10.244.1.{number}", node, state=state))
    ports = [{"port": 80, "name": "http", "nodePort": 30080}]
    found = only(decide([service(ports=ports, **LOCAL)], [slice_(*given)])).service
    assert [one.address[-1] for one in found.cluster] == list(cluster)
    assert [one.address[-1] for one in found.local] == list(local)
    assert len(found.known) == 2
    assert {one.address[-1] for one in found.reachable} == {*cluster, *local}


def hinted(number: int, zones: str, nodes: str = "", state: str = "ready") -> dict[str, Any]:
    hints = {
        "forZones": [{"name": one} for one in zones],
        "forNodes": [{"name": one} for one in nodes.split()],
    }
    return endpoint(f"10.244.1.{number}", state=state, hints=hints)


@pytest.mark.parametrize(
    ("endpoints", "used"),
    [
        ([hinted(1, "a"), hinted(2, "b")], [1]),
        ([hinted(1, "ab"), hinted(2, "a"), hinted(3, "c")], [1, 2]),
        ([hinted(1, "a"), hinted(2, "")], [1, 2]),
        ([hinted(1, "b"), hinted(2, "c")], [1, 2]),
        ([hinted(1, "a", HERE), hinted(2, "a", THERE)], [1]),
        ([hinted(1, "a", THERE), hinted(2, "b", THERE)], [1]),
        ([hinted(1, "b", HERE), hinted(2, "a", "")], [2]),
        ([hinted(1, "a", state="gone"), hinted(2, "b")], [2]),
        ([hinted(1, "", state="gone"), hinted(2, "b"), hinted(3, "a")], [3]),
        ([hinted(1, "b", state="lingering"), hinted(2, "a", state="lingering")], [1, 2]),
    ],
)
def test_hints_narrow_the_cluster_wide_endpoints(endpoints: list[Any], used: list[int]) -> None:
    found = only(decide([service()], [slice_(*endpoints)])).service.cluster
    assert [int(one.address[-1]) for one in found] == used


def test_hints_do_not_narrow_the_local_endpoints() -> None:
    endpoints = [hinted(1, "b"), {**hinted(2, "a"), "nodeName": THERE}]
    ports = [{"port": 80, "name": "http", "nodePort": 30080}]
    found = only(decide([service(ports=ports, **LOCAL)], [slice_(*endpoints)])).service
    assert texts(found.local) == ["10.244.1.1:8080"]
    assert texts(found.cluster) == ["10.244.1.2:8080"]
    assert len(found.reachable) == 2
