"""The net-conf: flannel's defaults and limits, and reading as flannel reads."""

from __future__ import annotations

import json

import pytest

from netlab.errors import NetlabError
from netlab.flannel.config import Config, parse, resolve
from netlab.model.lab import Backend, Network


@pytest.mark.parametrize(
    ("network", "length", "first", "last"),
    [
        ("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"),
        ("10.5.7.9/16", 24, "10.5.1.0", "10.5.255.0"),
        ("10.5.0.0/22", 24, "10.5.1.0", "10.5.3.0"),
        ("10.5.0.0/23", 25, "10.5.0.128", "10.5.1.128"),
        ("10.5.0.0/28", 30, "10.5.0.4", "10.5.0.12"),
        ("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0"),
    ],
)
def test_defaults_follow_from_the_network(network: str, length: int, first: str, last: str) -> None:
    config = resolve(Network(network))
    assert (config.subnet_len, config.subnet_min, config.subnet_max) == (length, first, last)
    assert (config.backend, config.vni, config.port, config.mtu) == ("vxlan", 1, 0, 0)
    assert not config.direct_routing


@pytest.mark.parametrize(
    ("network", "said"),
    [
        pytest.param(Network(""), "Network is missing", id="no-network"),
        pytest.param(Network("10.5.0.0/29"), "too small", id="network-29"),
        pytest.param(Network("10.5.0.0/16", SubnetLen=31), "SubnetLen 31", id="len-31"),
        pytest.param(Network("10.5.0.0/16", SubnetLen=17), "SubnetLen 17", id="len-network+1"),
        pytest.param(Network("10.5.0.0/16", SubnetMin="10.6.1.0"), "SubnetMin", id="min-outside"),
        pytest.param(Network("10.5.0.0/16", SubnetMin="10.5.1.4"), "SubnetMin", id="min-unaligned"),
        pytest.param(Network("10.5.0.0/16", SubnetMax="10.4.1.0"), "SubnetMax", id="max-outside"),
        pytest.param(Network("10.5.0.0/16", SubnetMax="10.5.1.4"), "SubnetMax", id="max-unaligned"),
        pytest.param(
            Network("10.5.0.0/16", SubnetMin="10.5.9.0", SubnetMax="10.5.8.0"),
            "lies behind",
            id="min-behind-max",
        ),
        pytest.param(Network("10.5.0.0/16", Backend=Backend(VNI=1 << 24)), "VNI", id="vni"),
        pytest.param(Network("fc00::/48"), "fc00", id="ipv6"),
    ],
)
def test_a_network_flannel_refuses_is_refused(network: Network, said: str) -> None:
    with pytest.raises(NetlabError, match=said):
        resolve(network)


def test_length_two_more_than_the_network_is_allowed() -> None:
    assert resolve(Network("10.5.0.0/16", SubnetLen=18)).subnet_min == "10.5.64.0"
    assert resolve(Network("10.5.0.0/28", SubnetLen=30)).subnet_len == 30


@pytest.mark.parametrize(
    "network",
    [
        Network("10.244.0.0/16"),
        Network("10.244.0.0/16", SubnetLen=26, SubnetMin="10.244.3.0", SubnetMax="10.244.4.64"),
        Network("10.244.0.0/16", Backend=Backend(VNI=7, Port=4789, MTU=1400, DirectRouting=True)),
        Network("10.244.0.0/16", Backend=Backend(Type="host-gw")),
        Network("10.244.0.0/16", Backend=Backend(Type="udp", Port=9000)),
    ],
)
def test_what_is_written_is_read_back(network: Network) -> None:
    config = resolve(network)
    assert parse(config.json()) == config
    assert parse(config.json().encode()) == config


def test_the_backend_is_always_named() -> None:
    """Without one, flannel would take udp."""
    assert json.loads(resolve(Network("10.244.0.0/16")).json())["Backend"]["Type"] == "vxlan"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            '{"network":"10.5.0.0/16","SUBNETLEN":25,"backend":{"type":"VXLAN","vni":9}}',
            Config("10.5.0.0/16", 25, "10.5.0.128", "10.5.255.128", vni=9),
            id="keys-in-any-case",
        ),
        pytest.param(
            '{"Network":"10.5.7.9/16"}',
            Config("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0", backend="udp"),
            id="no-backend-is-udp",
        ),
        pytest.param(
            '{"Network":"10.5.0.0/16","Backend":null}',
            Config("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0", backend="udp"),
            id="null-backend-is-udp",
        ),
        pytest.param(
            '{"Network":"10.9.0.0/16","network":"10.5.0.0/16","Future":[1],'
            '"Backend":{"Type":"vxlan","GBP":true}}',
            Config("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"),
            id="last-wins-unknown-ignored",
        ),
        pytest.param(
            '{"Network":"10.5.0.0/16","SubnetLen":null,"SubnetMin":null,'
            '"Backend":{"Type":"vxlan","Port":4789,"MTU":1400,"DirectRouting":true}}',
            Config(
                "10.5.0.0/16",
                24,
                "10.5.1.0",
                "10.5.255.0",
                port=4789,
                mtu=1400,
                direct_routing=True,
            ),
            id="nulls-and-all-of-vxlan",
        ),
    ],
)
def test_a_net_conf_is_read_as_flannel_reads_it(text: str, expected: Config) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="cut"),
        pytest.param("[]", id="list"),
        pytest.param("null", id="null"),
        pytest.param('{"Network":5}', id="network-number"),
        pytest.param('{"Network":"10.5.0.0/16","SubnetLen":"24"}', id="len-string"),
        pytest.param('{"Network":"10.5.0.0/16","SubnetLen":24.0}', id="len-float"),
        pytest.param('{"Network":"10.5.0.0/16","SubnetLen":true}', id="len-bool"),
        pytest.param('{"Network":"10.5.0.0/16","SubnetLen":-1}', id="len-negative"),
        pytest.param('{"Network":"10.5.0.0/16","Backend":{}}', id="backend-empty"),
        pytest.param('{"Network":"10.5.0.0/16","Backend":"vxlan"}', id="backend-string"),
        pytest.param('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":0}}', id="vni-0"),
        pytest.param('{"Network":"10.5.0.0/16","EnableIPv4":false}', id="no-ipv4"),
        pytest.param('{"Network":"10.5.0.0/16","x":NaN}', id="nan"),
        pytest.param('{"a":' * 100_000, id="deep"),
    ],
)
def test_a_net_conf_flannel_cannot_use_is_an_error_that_names_the_key(text: str) -> None:
    with pytest.raises(NetlabError, match=r"/coreos\.com/network/config"):
        parse(text)


@pytest.mark.parametrize(
    ("subnet", "fits"),
    [
        ("10.5.1.0/24", True),
        ("10.5.255.0/24", True),
        ("10.5.0.0/24", False),
        ("10.6.0.0/24", False),
        ("10.5.1.0/25", False),
        ("10.5.1.128/24", False),
    ],
)
def test_a_subnet_fits_by_length_place_and_alignment(subnet: str, fits: bool) -> None:
    assert resolve(Network("10.5.0.0/16")).fits(subnet) is fits
