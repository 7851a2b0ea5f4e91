"""Leases: written byte for byte, read as Go reads, and poison that harms nobody."""

from __future__ import annotations

import msgspec
import pytest

from netlab.flannel.config import SUBNETS, resolve
from netlab.flannel.lease import Lease, key_of, parse, peers, subnets_of
from netlab.flannel.subnets import Me, own_lease
from netlab.model.lab import Backend, Network

MAC = "2a:88:25:c9:35:2a"
GOOD = Lease("10.5.8.0/24", "192.168.77.1", vtep_mac=MAC)
DUAL = Lease(
    "10.5.8.0/24",
    "192.168.77.1",
    vtep_mac="c6:29:ca:3e:6a:67",
    subnet_v6="fc00:5:0:57::/64",
    public_ipv6="fd77::1",
    vtep_mac_v6="a6:a7:1f:f6:22:c0",
)


class Item(msgspec.Struct, frozen=True):
    """A key as the store lists it."""

    key: str
    value: bytes
    mod_revision: int = 1
    create_revision: int = 1
    lease: int = 1


@pytest.mark.parametrize(
    ("lease", "value"),
    [
        pytest.param(
            GOOD,
            b'{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"vxlan",'
            b'"BackendData":{"VNI":1,"VtepMAC":"2a:88:25:c9:35:2a"}}',
            id="vxlan",
        ),
        pytest.param(
            DUAL,
            b'{"PublicIP":"192.168.77.1","PublicIPv6":"fd77::1","BackendType":"vxlan",'
            b'"BackendData":{"VNI":1,"VtepMAC":"c6:29:ca:3e:6a:67"},'
            b'"BackendV6Data":{"VNI":1,"VtepMAC":"a6:a7:1f:f6:22:c0"}}',
            id="vxlan-dual",
        ),
        pytest.param(
            Lease("10.5.8.0/24", "192.168.77.1", "host-gw"),
            b'{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"host-gw"}',
            id="host-gw",
        ),
        pytest.param(
            Lease(
                "10.5.8.0/24",
                "192.168.77.1",
                "host-gw",
                subnet_v6="fc00:5:0:57::/64",
                public_ipv6="fd77::1",
            ),
            b'{"PublicIP":"192.168.77.1","PublicIPv6":"fd77::1","BackendType":"host-gw"}',
            id="host-gw-dual",
        ),
        pytest.param(
            Lease("10.5.8.0/24", "192.168.77.1", ""),
            b'{"PublicIP":"192.168.77.1","PublicIPv6":null}',
            id="udp",
        ),
        pytest.param(
            Lease("10.5.8.0/24", "192.168.77.1", "ipip"),
            b'{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"ipip"}',
            id="ipip",
        ),
    ],
)
def test_a_value_is_flannels_byte_for_byte_and_read_back(lease: Lease, value: bytes) -> None:
    assert lease.value() == value
    assert parse(lease.key, value) == (lease, "")


@pytest.mark.parametrize(
    ("lease", "key"),
    [
        (GOOD, "/coreos.com/network/subnets/10.5.8.0-24"),
        (DUAL, "/coreos.com/network/subnets/10.5.8.0-24&fc00:5:0:57::-64"),
    ],
)
def test_a_key_is_flannels(lease: Lease, key: str) -> None:
    assert lease.key == key
    assert subnets_of(key) == (lease.subnet, lease.subnet_v6)


@pytest.mark.parametrize(
    "lease",
    [
        Lease("10.5.8.0/24", "", vtep_mac=MAC),
        Lease("10.5.8.0/24", "192.168.77", vtep_mac=MAC),
        Lease("10.5.8.0/24", "192.168.77.1"),
        Lease("10.5.8.0/24", "192.168.77.1", vtep_mac="not-a-mac"),
    ],
)
def test_what_flannel_could_not_read_is_never_written(lease: Lease) -> None:
    with pytest.raises(ValueError, match=r"(is|does) not"):
        lease.value()


@pytest.mark.parametrize(
    ("backend", "lease"),
    [
        (Backend(VNI=7), Lease("10.5.8.0/24", "1.2.3.4", vni=7, vtep_mac=MAC)),
        (Backend(Type="udp"), Lease("10.5.8.0/24", "1.2.3.4", "")),
        (Backend(Type="host-gw"), Lease("10.5.8.0/24", "1.2.3.4", "host-gw")),
    ],
)
def test_the_own_lease_names_the_backend_as_flannel_does(backend: Backend, lease: Lease) -> None:
    config = resolve(Network("10.5.0.0/16", Backend=backend))
    assert own_lease(config, "10.5.8.0/24", Me("1.2.3.4", MAC)) == lease


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("10.5.9.0-24", b'{"publicip":"192.168.77.9","backendTYPE":"vxlan",'
                     b'"backenddata":{"vni":1,"vtepmac":"02:00:00:00:00:09"}}', id="case"),
        pytest.param("10.5.9.0-24", b'{"PublicIP":"192.168.77.9","Future":{"a":[1]},'
                     b'"BackendType":"vxlan",'
                     b'"BackendData":{"VNI":1,"VtepMAC":"02-00-00-00-00-09","x":1}}', id="extra"),
        pytest.param("10.5.9.0-24", b' {"PublicIP":"192.168.77.9",\n"BackendType":"vxlan",'
                     b'"BackendData":{"VtepMAC":"0200.0000.0009","VNI":1}} ', id="spaces-dots"),
        pytest.param("10.5.9.0-24", b'{"PublicIP":"1.1.1.1","PublicIP":"192.168.77.9",'
                     b'"BackendType":"vxlan",'
                     b'"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}}', id="last-wins"),
        pytest.param("10.5.9.0-024", b'{"PublicIP":"::ffff:192.168.77.9","BackendType":"vxlan",'
                     b'"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}}', id="zeros-mapped"),
        pytest.param("x/10.5.9.0-24", b'{"PublicIP":"192.168.77.9","BackendType":"vxlan",'
                     b'"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}}', id="deeper"),
        pytest.param("\udcff10.5.9.0-24", b'{"PublicIP":"192.168.77.9","BackendType":"vxlan",'
                     b'"x":"\xff","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}}',
                     id="not-utf-8"),
    ],
)  # fmt: skip
def test_a_peer_is_read_as_go_reads_it(key: str, value: bytes) -> None:
    (lease,), warnings = peers([Item(f"{SUBNETS}/{key}", value)])
    assert warnings == []
    assert (lease.subnet, lease.public_ip) == ("10.5.9.0/24", "192.168.77.9")
    assert (lease.backend_type, lease.vni, lease.vtep_mac) == ("vxlan", 1, "02:00:00:00:00:09")
    assert lease.key == f"{SUBNETS}/{key}"


def test_a_prefix_beside_subnets_counts_as_flannel_has_it() -> None:
    (lease,), warnings = peers([Item("/coreos.com/network/subnetsX/10.5.8.0-24", GOOD.value())])
    assert (lease.subnet, warnings) == ("10.5.8.0/24", [])
    assert lease.key == "/coreos.com/network/subnetsX/10.5.8.0-24"


def test_other_backends_are_kept_without_a_warning() -> None:
    """`VXLAN` is another backend for flannel; so are those this node does not speak."""
    values = [
        b'{"PublicIP":"192.168.77.1","PublicIPv6":null}',
        b'{"PublicIP":"192.168.77.2","BackendType":"VXLAN","BackendData":{"VtepMAC":"x"}}',
        b'{"PublicIP":"192.168.77.3","BackendType":"extension","BackendData":"<stdout>"}',
        b'{"PublicIP":"192.168.77.4","BackendType":"wireguard","BackendData":{"PublicKey":"k"}}',
    ]
    leases, warnings = peers(
        Item(f"{SUBNETS}/10.5.{n}.0-24", value) for n, value in enumerate(values)
    )
    assert [lease.backend_type for lease in leases] == ["", "VXLAN", "extension", "wireguard"]
    assert [lease.vtep_mac for lease in leases] == ["", "", "", ""]
    assert warnings == []


POISON_KEYS = [
    "foo",
    "",
    "10.5.212.0-32",
    "10.5.212.0-33",
    "10.5.212.0-99999999999999999999",
    "10.5.212.0-",
    "10.5.212.0-24x",
    "10.5.212.0-24\n",
    "10.5.212.0",
    "10.5.212.7-24",
    "0.0.0.0-8",
    "127.0.0.0-8",
    "128.0.0.0-1",
    "224.0.0.0-24",
    "10.5.300.0-24",
    "010.5.212.0-24",
    "10.5x212x0-24",
    "10.5.212.0-24&",
    "10.5.212.0-24&fc00::-128",
    "10.5.212.0-24&fc00::1-64",
    "10.5.212.0-24&fffff::-64",
    "0.0.0.0-0&fc00:5:0:b::-64",
    "0.0.0.0-0",
    "١٠.5.212.0-24",
    "10.5.212.0-٢٤",
    "\udcff\udcfe",
]
POISON_VALUES = [
    b"",
    b"{",
    b'{"PublicIP"',
    b"\xff",
    b"\x00",
    b"null",
    b"[]",
    b"7",
    b'"192.168.77.9"',
    b"{}",
    b'{"PublicIP":""}',
    b'{"PublicIP":null}',
    b'{"PublicIP":"127.0.0.1"}',
    b'{"PublicIP":"224.0.0.1"}',
    b'{"PublicIP":"255.255.255.255"}',
    b'{"PublicIP":7}',
    b'{"PublicIP":"x"}',
    b'{"PublicIP":"fd77::1"}',
    b'{"PublicIP":"192.168.77.009"}',
    b'{"PublicIP":"0.0.0.0"}',
    b'{"PublicIP":"10.5.212.9"}',
    b'{"PublicIP":["192.168.77.9"]}',
    b'{"PublicIP":"192.168.77.9","PublicIPv6":""}',
    b'{"PublicIP":"192.168.77.9","PublicIPv6":7}',
    b'{"PublicIP":"192.168.77.9","BackendType":7}',
    b'{"PublicIP":"192.168.77.9"} x',
    b'{"PublicIP":"192.168.77.9","x":NaN}',
    b'{"a":' * 50_000,
    b'{"PublicIP":' + b"9" * 10_000 + b"}",
]
POISON = [
    *(pytest.param(Item(f"{SUBNETS}/{key}", GOOD.value()), id=f"key-{n}-{key!a}")
      for n, key in enumerate(POISON_KEYS)),
    *(pytest.param(Item(f"{SUBNETS}/10.5.212.0-24", value), id=f"value-{value[:40]!r}")
      for value in POISON_VALUES),
]  # fmt: skip


@pytest.mark.parametrize("poison", POISON)
def test_poison_costs_one_warning_and_no_peer(poison: Item) -> None:
    good = [
        Lease(f"10.5.{n}.0/24", f"192.168.77.{n}", vtep_mac=f"02:00:00:00:00:{n:02x}")
        for n in (1, 2, 213)
    ]
    items = sorted([*(Item(one.key, one.value()) for one in good), poison], key=lambda i: i.key)
    leases, warnings = peers(items)
    assert leases == sorted(good, key=lambda lease: lease.key)
    assert len(warnings) == 1
    warnings[0].encode()


@pytest.mark.parametrize(
    "data",
    [
        "",
        ',"BackendData":null',
        ',"BackendData":{}',
        ',"BackendData":[]',
        ',"BackendData":"x"',
        ',"BackendData":{"VNI":1}',
        ',"BackendData":{"VNI":"1","VtepMAC":"02:00:00:00:00:09"}',
        ',"BackendData":{"VNI":1,"VtepMAC":7}',
        ',"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00"}',
        ',"BackendData":{"VNI":1,"VtepMAC":"02:00:00-00:00:09"}',
        ',"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:00:00:09"}',
        ',"BackendData":{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}',
        ',"BackendData":{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}',
    ],
)
def test_a_vxlan_peer_without_a_usable_mac_is_told_once(data: str) -> None:
    value = f'{{"PublicIP":"192.168.77.9","BackendType":"vxlan"{data}}}'.encode()
    (lease,), warnings = peers([Item(f"{SUBNETS}/10.5.212.0-24", value)])
    assert (lease.subnet, lease.vtep_mac) == ("10.5.212.0/24", "")
    assert len(warnings) == 1 and "10.5.212.0-24" in warnings[0]


@pytest.mark.parametrize("alias", ["\x01/10.5.8.0-24", "x/10.5.8.0-24", "10.5.8.0-24&fc00::-64"])
def test_a_subnet_twice_is_the_usual_keys_or_the_firsts(alias: str) -> None:
    thief = Item(f"{SUBNETS}/{alias}", msgspec.structs.replace(GOOD, public_ip="6.6.6.6").value())
    items = sorted([Item(GOOD.key, GOOD.value()), thief], key=lambda item: item.key)
    leases, warnings = peers(items)
    assert len(leases) == len(warnings) == 1
    if "&" not in alias:
        assert leases == [GOOD] and alias.lstrip("\x01") in warnings[0]


def test_key_of_is_the_inverse_of_subnets_of() -> None:
    assert subnets_of(key_of("10.5.8.0/24")) == ("10.5.8.0/24", "")
