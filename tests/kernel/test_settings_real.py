"""The settings of a proxy, in a namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from netlab.agent.kubeproxy import KubeProxy
from netlab.agent.leftovers import cleanup
from netlab.kernel import netns, settings
from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.proxy import Mode, Options
from netlab.proxy.settings import BRIDGE, CONNTRACK, ROUTE_LOCALNET

pytestmark = pytest.mark.kernel

MADE = {**CONNTRACK, **BRIDGE, ROUTE_LOCALNET: "1"}
ON, OFF = Options(), Options(localhost_node_ports=False)
ADDRESSES = [{"type": "InternalIP", "address": "192.0.2.1"}]
NODE = view({"metadata": {"name": "node1"}, "status": {"addresses": ADDRESSES}}, ProxyNode)


@pytest.fixture
def inside() -> Iterator[None]:
    """A namespace; the test's thread is in it. Outside, no setting changes."""
    outside = {one: settings.read(one) for one in MADE}
    name = f"nltest-{os.getpid()}-settings"
    netns.create(name)
    try:
        with netns.entered(name):
            yield
    finally:
        netns.delete(name)
    assert {one: settings.read(one) for one in MADE} == outside


def agree(options: Options) -> dict[str, str]:
    """Have a proxy with *options* begin here; return the settings it wrote."""
    proxy = KubeProxy(options)
    try:
        written = proxy.agree([], NODE).settings
        assert proxy.agree([], NODE).settings == {}
    finally:
        proxy.close()
    return written


def test_a_namespace_gets_settings_of_its_own(inside: None) -> None:
    lacking = {one for one in MADE if settings.read(one) is None}
    assert lacking <= BRIDGE.keys()  # without br_netfilter
    for one in MADE.keys() - lacking:
        settings.write(one, str(int(MADE[one]) - 1))
    assert agree(ON) == {one: it for one, it in MADE.items() if one not in lacking}
    assert all(settings.read(one) == MADE[one] for one in MADE.keys() - lacking)


@pytest.mark.parametrize(
    "after",
    [OFF, Options(mode=Mode.NFTABLES), None],
    ids=["no-localhost-node-ports", "the-other-mode", "cleanup"],
)
def test_the_loopback_is_routable_no_longer_than_its_guard(
    inside: None, after: Options | None
) -> None:
    agree(ON)
    assert settings.read(ROUTE_LOCALNET) == "1"
    if after is None:
        cleanup()
    else:
        agree(after)
    assert settings.read(ROUTE_LOCALNET) == "0"
    agree(ON)
    assert settings.read(ROUTE_LOCALNET) == "1"


def test_what_others_set_without_a_guard_of_ours_is_theirs(inside: None) -> None:
    settings.write(ROUTE_LOCALNET, "1")
    for options in (OFF, Options(mode=Mode.NFTABLES)):
        agree(options)
        cleanup()
        assert settings.read(ROUTE_LOCALNET) == "1"
