"""What in etcd is an object that somebody may act on: Services and what stands behind them."""

from __future__ import annotations

from typing import Any

import pytest

from netlab.store import shapes

SERVICE = ("v1", "Service")
SLICE = ("discovery.k8s.io/v1", "EndpointSlice")
ENDPOINTS = ("v1", "Endpoints")


def check(which: tuple[str, str], metadata: dict[str, Any], **more: Any) -> None:
    named = {"name": "web", "namespace": "default", **metadata}
    shapes.check({"apiVersion": which[0], "kind": which[1], "metadata": named, **more})


GOOD: dict[str, tuple[tuple[str, str], dict[str, Any], dict[str, Any]]] = {
    "a service": (SERVICE, {"uid": "1"}, {"spec": {"selector": {"a": "b"}}}),
    "a service by hand": (SERVICE, {}, {"spec": {"clusterIP": "10.96.0.9"}}),
    "a slice by hand": (SLICE, {}, {"addressType": "IPv4", "endpoints": None, "ports": None}),
    "endpoints": (ENDPOINTS, {"uid": "1"}, {"subsets": None}),
}

ODD: dict[str, tuple[tuple[str, str], dict[str, Any], dict[str, Any]]] = {
    "a spec that is a number": (SERVICE, {"uid": "1"}, {"spec": 7}),
    "a status that is a list": (SERVICE, {"uid": "1"}, {"status": []}),
    "labels that are a list": (SERVICE, {"uid": "1", "labels": []}, {}),
    "a selector of numbers": (SERVICE, {"uid": "1"}, {"spec": {"selector": {"a": 7}}}),
    "a port without a number": (SERVICE, {"uid": "1"}, {"spec": {"ports": [{"name": "p"}]}}),
    "an owner of slices without uid": (SERVICE, {}, {"spec": {"selector": {"a": "b"}}}),
    "an empty uid": (SERVICE, {"uid": ""}, {"spec": {"selector": {"a": "b"}}}),
    "a uid that is a number": (SERVICE, {"uid": 7}, {}),
    "endpoints that are a number": (SLICE, {}, {"endpoints": 7}),
    "an endpoint that is a number": (SLICE, {}, {"endpoints": [7]}),
    "a slice's label that is a number": (SLICE, {"labels": {"a": 7}}, {}),
    "subsets that are a number": (ENDPOINTS, {"uid": "1"}, {"subsets": 7}),
    "endpoints without uid": (ENDPOINTS, {}, {"subsets": []}),
}


@pytest.mark.parametrize(("which", "metadata", "more"), GOOD.values(), ids=GOOD)
def test_it_is_one(which: tuple[str, str], metadata: dict[str, Any], more: dict[str, Any]) -> None:
    check(which, metadata, **more)


@pytest.mark.parametrize(("which", "metadata", "more"), ODD.values(), ids=ODD)
def test_it_is_none(which: tuple[str, str], metadata: dict[str, Any], more: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        check(which, metadata, **more)
