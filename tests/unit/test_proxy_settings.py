"""Settings that a proxy makes, and when it takes them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from service_objects import NODE, V4, V6

from netlab import topology
from netlab.model.kubernetes import view
from netlab.model.services import ProxyNode
from netlab.proxy import Mode, Options, Situation, iptables
from netlab.proxy.addresses import Family
from netlab.proxy.options import Timeouts, options_of, situations
from netlab.proxy.ruleset import Block, Step
from netlab.proxy.settings import GUARD_KEY, ROUTE_LOCALNET, after_cleanup, sysctls, without_guard

NOTES = Path(__file__).parents[2] / "topologies" / "notes.yaml"


def where(**options: Any) -> dict[Family, Situation]:
    return situations(view(NODE, ProxyNode), Options(**options))


def frame(**options: Any) -> list[Block]:
    found = where(**options)
    return [one.block for which in (V4, V6) for one in iptables.frame(found[which])]


def guard(**options: Any) -> Block:
    (found,) = [one for one in frame(**options) if one.key == GUARD_KEY]
    return found


@pytest.mark.parametrize(("strict", "arp"), [(None, None), (False, "0"), (True, "1")])
def test_ip_vs_has_conntrack_know_its_connections(strict: bool | None, arp: str | None) -> None:
    found = sysctls(where(mode=Mode.IPVS, strict_arp=strict))
    assert found["net.ipv4.vs.conntrack"] == "1"
    assert found["net.ipv4.vs.expire_nodest_conn"] == "1"
    assert found.get("net.ipv4.conf.all.arp_ignore") == arp
    assert "net.ipv4.vs.conn_reuse_mode" not in found
    assert "net.ipv4.conf.all.route_localnet" not in found


def test_a_labs_timeouts_are_the_kernels_where_its_file_says_none() -> None:
    lab = topology.load([str(NOTES)]).lab
    assert lab is not None
    assert options_of(lab).timeouts == Timeouts(tcp=900, tcp_fin=120, udp=300)
    said = msgspec.structs.replace(lab.ipvs, tcpTimeout="1h", udpTimeout="0s")
    found = options_of(msgspec.structs.replace(lab, ipvs=said))
    assert found.timeouts == Timeouts(tcp=3600, tcp_fin=120, udp=300)


@pytest.mark.parametrize(
    ("options", "localnet"),
    [
        ({}, True),
        ({"localhost_node_ports": False}, False),
        ({"mode": Mode.NFTABLES}, False),
        ({"node_port_addresses": ("127.0.0.0/8",)}, True),
        ({"node_port_addresses": ("192.168.0.0/16",)}, False),
        ({"node_port_addresses": ("primary",)}, False),
        ({"node_port_addresses": ("::1/128",)}, True),  # of IPv4 nothing is said
    ],
    ids=str,
)
def test_the_loopback_is_routable_only_where_it_has_node_ports_and_a_guard(
    options: dict[str, Any], localnet: bool
) -> None:
    expected = {
        "net.netfilter.nf_conntrack_tcp_timeout_established": "86400",
        "net.netfilter.nf_conntrack_tcp_timeout_close_wait": "3600",
        "net.bridge.bridge-nf-call-iptables": "1",
        "net.bridge.bridge-nf-call-ip6tables": "1",
        **({"net.ipv4.conf.all.route_localnet": "1"} if localnet else {}),
    }
    assert sysctls(where(**options)) == expected
    if options.get("mode") is not Mode.NFTABLES:
        assert bool(guard(**options).lines) is localnet


def test_the_loopback_is_closed_when_the_guard_is_removed() -> None:
    assert after_cleanup(frame()) == {ROUTE_LOCALNET: "0"}
    assert after_cleanup(frame(localhost_node_ports=False)) == {}
    assert after_cleanup(one for one in frame() if one.key != GUARD_KEY) == {}


ON, OFF = guard(), guard(localhost_node_ports=False)


@pytest.mark.parametrize(
    ("step", "closed"),
    [
        pytest.param(Step(OFF, ON), True, id="emptied"),
        pytest.param(Step(None, ON), True, id="removed"),
        pytest.param(Step(ON, OFF), False, id="filled"),
        pytest.param(Step(ON, None), False, id="made"),
        pytest.param(Step(ON, ON), False, id="kept"),
        pytest.param(Step(None, OFF), False, id="there-was-none"),
        pytest.param(Step(None, None), False, id="nothing"),
    ],
)
def test_the_loopback_is_closed_before_its_guard_goes(step: Step, closed: bool) -> None:
    assert without_guard([step]) == ({ROUTE_LOCALNET: "0"} if closed else {})
