"""A node's lease in a real etcd: taken, raced for, renewed, meddled with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from random import Random

import pytest
from etcd_process import EtcdProcess, running, until

from netlab.errors import StoreError
from netlab.flannel import lease, subnets
from netlab.flannel.config import SUBNETS, Config, resolve
from netlab.flannel.subnets import Held, Me, acquire
from netlab.model.lab import Network
from netlab.store.etcd import Etcd, Listing

pytestmark = pytest.mark.kernel

WIDE = resolve(Network("10.5.0.0/16"))
TWO = resolve(Network("10.5.0.0/22", SubnetLen=24, SubnetMin="10.5.1.0", SubnetMax="10.5.2.0"))
MAC, OTHERS_MAC = "2a:88:25:c9:35:2a", "2a:88:25:c9:35:02"
ME, OTHER = "192.168.77.1", "192.168.77.2"


@pytest.fixture(scope="module")
def process() -> Iterator[EtcdProcess]:
    with running() as process:
        yield process


@pytest.fixture
def etcd(process: EtcdProcess) -> Iterator[Etcd]:
    etcd = process.client()
    etcd.delete_prefix("")
    yield etcd
    _, warnings = lease.peers(etcd.range(SUBNETS).items)
    etcd.close()
    assert warnings == [], "nothing unreadable was ever written"


def take(etcd: Etcd, config: Config = WIDE, public_ip: str = ME, **how) -> Held:
    mac = MAC if public_ip == ME else OTHERS_MAC
    return acquire(etcd, config, Me(public_ip, mac), **how)


def keep(etcd: Etcd, held: Held | None, config: Config = WIDE, **how) -> tuple[Held, list[str]]:
    """Do what a node's loop does in one pass."""
    listing = etcd.range(SUBNETS)
    return subnets.maintain(etcd, config, listing, held, Me(ME, MAC), **how)


def value(public_ip: str, mac: str = "") -> bytes:
    mac = mac or (OTHERS_MAC if public_ip == OTHER else MAC)
    return lease.Lease("10.5.1.0/24", public_ip, vtep_mac=mac).value()


def test_a_new_lease_is_flannels_byte_for_byte(etcd: Etcd) -> None:
    held = take(etcd)
    (item,) = etcd.range("/").items
    assert item.key == "/coreos.com/network/subnets/" + held.lease.subnet.replace("/", "-")
    assert item.value == (
        b'{"PublicIP":"192.168.77.1","PublicIPv6":null,"BackendType":"vxlan",'
        b'"BackendData":{"VNI":1,"VtepMAC":"2a:88:25:c9:35:2a"}}'
    )
    assert item.version == 1
    assert item.lease == held.etcd_lease_id
    assert 86390 < etcd.time_to_live(item.lease) <= 86400
    assert held.expires == pytest.approx(time.monotonic() + 86400, abs=10)
    assert held.renews == pytest.approx(time.time() + 86400 - 3600, abs=10)


def test_a_node_finds_its_lease_again_and_its_time_begins_anew(etcd: Etcd) -> None:
    first = take(etcd, ttl=100)
    again = take(etcd, previous="10.5.77.0/24")
    assert again.lease == first.lease
    assert again.create_revision == first.create_revision
    (item,) = etcd.range(SUBNETS).items
    assert (item.version, item.lease) == (2, again.etcd_lease_id)
    assert etcd.time_to_live(item.lease) > 1000


def test_an_own_lease_of_another_length_is_deleted(etcd: Etcd) -> None:
    old = take(etcd, resolve(Network("10.5.0.0/16", SubnetLen=26)))
    new = take(etcd)
    assert old.lease.subnet.endswith("/26")
    assert [item.key for item in etcd.range(SUBNETS).items] == [new.lease.key]


def test_a_lease_had_under_another_address_goes_when_a_new_one_is_taken(etcd: Etcd) -> None:
    """Its VTEP MAC is the node's: others would send the node's packets to its old address."""
    etcd.put(lease.key_of("10.5.1.0/24"), value("192.168.99.1"))
    etcd.put(lease.key_of("10.5.2.0/24"), value(OTHER))
    held, lines = keep(etcd, None)
    kept = {item.key for item in etcd.range(SUBNETS).items}
    assert kept == {held.lease.key, lease.key_of("10.5.2.0/24")}
    assert "lease 10.5.1.0/24, had as 192.168.99.1, deleted" in lines
    etcd.put(lease.key_of("10.5.1.0/24"), value("192.168.99.1"))
    moved, lines = keep(etcd, held, resolve(Network("10.6.0.0/16")))
    kept = {item.key for item in etcd.range(SUBNETS).items}
    assert kept == {moved.lease.key, lease.key_of("10.5.2.0/24")}


def test_the_previous_subnet_is_taken_again_only_while_it_is_free(etcd: Etcd) -> None:
    assert take(etcd, public_ip=OTHER, previous="10.5.77.0/24").lease.subnet == "10.5.77.0/24"
    assert take(etcd, previous="10.5.77.0/24").lease.subnet != "10.5.77.0/24"
    assert take(etcd, public_ip="192.168.77.3", previous="10.6.0.0/24").lease.subnet[:5] == "10.5."


def test_out_of_subnets_is_said_only_when_it_is_so(etcd: Etcd) -> None:
    held = {take(etcd, TWO, f"192.168.77.{n}").lease.subnet for n in (1, 2)}
    assert held == {"10.5.1.0/24", "10.5.2.0/24"}
    with pytest.raises(StoreError, match=r"out of subnets.*10\.5\.1\.0 to 10\.5\.2\.0"):
        take(etcd, TWO, "192.168.77.3")
    assert take(etcd, TWO, "192.168.77.2").lease.subnet in held


class Late(Etcd):
    """A client whose first listing is old before it is used: `meanwhile` happens behind it."""

    meanwhile: Callable[[], object] | None = None

    def range(self, prefix: str, *, since: int = 0) -> Listing:
        listing = super().range(prefix, since=since)
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return listing


def test_a_lost_race_means_choosing_again(process: EtcdProcess, etcd: Etcd) -> None:
    late = Late(process.host, process.port)
    late.meanwhile = lambda: take(etcd, TWO, OTHER, previous="10.5.1.0/24")
    held = take(late, TWO, previous="10.5.1.0/24")
    assert held.lease.subnet == "10.5.2.0/24"
    leases, _ = lease.peers(etcd.range(SUBNETS).items)
    assert {(one.subnet, one.public_ip) for one in leases} == {
        ("10.5.1.0/24", OTHER),
        ("10.5.2.0/24", ME),
    }


def test_a_race_for_the_last_subnet_leaves_no_etcd_lease(process: EtcdProcess, etcd: Etcd) -> None:
    take(etcd, TWO, "192.168.77.9", previous="10.5.2.0/24")
    granted: list[int] = []
    late = Late(process.host, process.port)
    late.meanwhile = lambda: take(etcd, TWO, OTHER)
    grant = late.grant
    late.grant = lambda ttl: granted.append(grant(ttl)) or granted[-1]  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="out of subnets"):
        take(late, TWO)
    assert [etcd.time_to_live(one) for one in granted] == [-1]


def test_a_reused_lease_lost_meanwhile_is_not_written_over(
    process: EtcdProcess, etcd: Etcd
) -> None:
    mine = take(etcd, TWO, previous="10.5.1.0/24")

    def meanwhile() -> None:
        etcd.delete(mine.lease.key)
        take(etcd, TWO, OTHER, previous="10.5.1.0/24")

    late = Late(process.host, process.port)
    late.meanwhile = meanwhile
    assert take(late, TWO).lease.subnet == "10.5.2.0/24"
    item = etcd.get(mine.lease.key)
    assert item is not None and item.value == value(OTHER)


def acquired_at_once(process: EtcdProcess, config: Config, count: int) -> list[str]:
    """Return the subnets that *count* nodes take at the same moment, each over its own client."""
    barrier = threading.Barrier(count)
    taken: list[str] = []
    failures: list[BaseException] = []

    def node(number: int) -> None:
        try:
            etcd = Etcd(process.host, process.port, timeout=10.0)
            etcd.healthy()
            barrier.wait(10)
            taken.append(take(etcd, config, f"192.168.78.{number}").lease.subnet)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=node, args=(number,)) for number in range(1, count + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    return taken


@pytest.mark.parametrize("attempt", range(5))
def test_two_nodes_share_two_subnets(process: EtcdProcess, etcd: Etcd, attempt: int) -> None:
    assert sorted(acquired_at_once(process, TWO, 2)) == ["10.5.1.0/24", "10.5.2.0/24"]


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(Network("10.5.0.0/16"), id="wide"),
        pytest.param(Network("10.5.0.0/25", SubnetLen=30), id="one-more-than-nodes"),
    ],
)
def test_thirty_nodes_at_once_get_a_subnet_each(
    process: EtcdProcess, etcd: Etcd, network: Network
) -> None:
    taken = acquired_at_once(process, resolve(network), 30)
    assert len(set(taken)) == 30
    leases, warnings = lease.peers(etcd.range(SUBNETS).items)
    assert {one.subnet for one in leases} == set(taken)
    assert len({one.public_ip for one in leases}) == 30
    assert warnings == []


# -- kept


class Untouched:
    """A store nobody may ask anything."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError(f"etcd was asked: {name}")


def test_a_pass_without_cause_asks_nothing_of_etcd(etcd: Etcd) -> None:
    held, lines = keep(etcd, None)
    assert lines == [f"lease {held.lease.subnet} taken"]
    same, lines = subnets.maintain(
        Untouched(),  # type: ignore[arg-type]
        WIDE,
        etcd.range(SUBNETS),
        held,
        Me(ME, MAC),
    )
    assert (same, lines) == (held, [])


def test_a_lease_is_renewed_in_time_again_and_again(etcd: Etcd) -> None:
    held, _ = keep(etcd, None, ttl=3, margin=2)
    first, etcd_leases, end = held, {held.etcd_lease_id}, time.monotonic() + 5

    def due() -> bool:
        nonlocal held
        held, lines = keep(etcd, held, ttl=3, margin=2)
        if held.etcd_lease_id not in etcd_leases:
            etcd_leases.add(held.etcd_lease_id)
            assert lines == [f"lease {held.lease.subnet} was renewed"]
        item = etcd.get(held.lease.key)
        assert item is not None and item.value == first.lease.value()
        assert item.lease == held.etcd_lease_id
        return time.monotonic() > end

    until(due, "five seconds of a lease of three")
    assert held.lease == first.lease
    assert held.create_revision == first.create_revision, "the key never went away"
    # About one a second: 2 s before the end of 3.
    assert 4 <= len(etcd_leases) <= 6


def test_a_lease_nobody_renews_runs_out(etcd: Etcd) -> None:
    held = take(etcd, ttl=1)
    until(lambda: etcd.get(held.lease.key) is None, "the key runs out", seconds=5)


def held_key(etcd: Etcd, held: Held):
    item = etcd.get(held.lease.key)
    assert item is not None
    return item


MEDDLING = {
    "deleted": lambda etcd, held: etcd.delete(held.lease.key),
    "revoked": lambda etcd, held: etcd.revoke(held.etcd_lease_id),
    "unleased": lambda etcd, held: etcd.put(held.lease.key, held.lease.value()),
    "garbage": lambda etcd, held: etcd.put(held.lease.key, b"\xff{"),
    "empty": lambda etcd, held: etcd.put(held.lease.key, b""),
    "other-node": lambda etcd, held: etcd.put(
        held.lease.key, value(OTHER), lease=etcd.grant(86400)
    ),
    "other-mac": lambda etcd, held: etcd.put(
        held.lease.key, value(ME, "02:00:00:00:00:01"), lease=held.etcd_lease_id
    ),
    "other-spelling": lambda etcd, held: etcd.put(
        held.lease.key, json.dumps(json.loads(held.lease.value())).encode(), lease=etcd.grant(60)
    ),
    "short-lease": lambda etcd, held: etcd.put(
        held.lease.key, held.lease.value(), lease=etcd.grant(60)
    ),
    "garbage-created-anew": lambda etcd, held: (
        etcd.delete(held.lease.key),
        etcd.put(held.lease.key, b"{"),
    ),
}


@pytest.mark.parametrize("name", MEDDLING)
def test_a_lease_meddled_with_is_put_right_in_one_pass(etcd: Etcd, name: str) -> None:
    take(etcd, public_ip="192.168.77.7")
    held = take(etcd)
    MEDDLING[name](etcd, held)
    again, lines = keep(etcd, held)
    assert len(lines) == 1 and held.lease.subnet in lines[0]
    assert again.lease == held.lease
    item = held_key(etcd, held)
    assert item.value == held.lease.value()
    assert item.lease == again.etcd_lease_id
    assert etcd.time_to_live(item.lease) > 80000
    assert keep(etcd, again) == (again, []), "and the next pass has nothing to do"


def test_the_log_says_what_was_wrong(etcd: Etcd) -> None:
    held = take(etcd)
    subnet = held.lease.subnet
    etcd.put(held.lease.key, held.lease.value())
    held, lines = keep(etcd, held)
    assert lines == [f"lease {subnet} had no time to live, restored"]
    etcd.put(held.lease.key, b"{", lease=held.etcd_lease_id)
    held, lines = keep(etcd, held)
    assert lines == [f"lease {subnet} was overwritten, restored"]
    etcd.delete(held.lease.key)
    held, lines = keep(etcd, held)
    assert lines == [f"lease {subnet} was deleted or has run out; {subnet} taken"]


def test_an_old_listing_is_used_but_once(etcd: Etcd) -> None:
    take(etcd, TWO, "192.168.77.8", previous="10.5.2.0/24")
    old = etcd.range(SUBNETS)
    take(etcd, TWO, "192.168.77.9", previous="10.5.1.0/24")
    with pytest.raises(StoreError, match="out of subnets"):
        subnets.maintain(etcd, TWO, old, None, Me(ME, MAC))


def test_a_lease_attached_elsewhere_for_long_is_left_there(etcd: Etcd) -> None:
    held = take(etcd)
    elsewhere = etcd.grant(50000)
    revision = etcd.put(held.lease.key, held.lease.value(), lease=elsewhere)
    again, lines = keep(etcd, held)
    assert again.etcd_lease_id == elsewhere
    assert len(lines) == 1
    assert held_key(etcd, held).mod_revision == revision
    assert again.expires == pytest.approx(time.monotonic() + 50000, abs=10)


def test_a_subnet_another_node_got_by_right_is_given_up(etcd: Etcd) -> None:
    held = take(etcd, TWO, previous="10.5.1.0/24")
    etcd.delete(held.lease.key)
    theirs = take(etcd, TWO, OTHER, previous="10.5.1.0/24")
    again, lines = keep(etcd, held, TWO)
    assert again.lease.subnet == "10.5.2.0/24"
    assert lines == ["lease 10.5.1.0/24 was taken by 192.168.77.2; 10.5.2.0/24 taken"]
    assert held_key(etcd, theirs).value == theirs.lease.value()


def test_a_lease_follows_a_changed_net_conf(etcd: Etcd) -> None:
    held = take(etcd, TWO)
    narrow = resolve(Network("10.7.0.0/16", SubnetLen=25))
    again, lines = keep(etcd, held, narrow)
    assert again.lease.subnet.startswith("10.7.") and again.lease.subnet.endswith("/25")
    assert "no longer fits" in lines[0]
    assert [item.key for item in etcd.range(SUBNETS).items] == [again.lease.key]


def test_what_changed_behind_the_listing_is_not_written_over(etcd: Etcd) -> None:
    held = take(etcd)
    etcd.put(held.lease.key, b"meddled")
    listing = etcd.range(SUBNETS)
    etcd.put(held.lease.key, value(OTHER))
    same, lines = subnets.maintain(etcd, WIDE, listing, held, Me(ME, MAC))
    assert same == held and "changed meanwhile" in lines[0]
    assert held_key(etcd, held).value == value(OTHER)
    again, _ = keep(etcd, held)
    assert held_key(etcd, again).value == held.lease.value()


def test_a_lease_outlives_its_etcd(etcd: Etcd) -> None:
    with running() as process:
        client = process.client()
        held = take(client)
        process.stop()
        with pytest.raises(StoreError):
            keep(client, held)
        process.ready()
        assert keep(client, held) == (held, [])
        process.stop()
        process.wipe()
        process.ready()
        again, lines = keep(client, held)
        assert again.lease == held.lease, "an etcd that lost everything gets the same lease back"
        assert "was deleted" in lines[0]


def test_poison_beside_the_lease_changes_nothing(etcd: Etcd) -> None:
    for key in ("foo", "10.5.1.0-32", "10.5.1.9-99", "\udcff"):
        etcd.put(f"{SUBNETS}/{key}", b"meddled")
    try:
        held = take(etcd, rng=Random(1))
        assert keep(etcd, held) == (held, [])
    finally:
        for item in etcd.range(SUBNETS).items:
            if item.value == b"meddled":
                etcd.delete(item.key)


def test_an_unreadable_value_keeps_its_subnet_from_others(etcd: Etcd) -> None:
    etcd.put(f"{SUBNETS}/10.5.1.0-24", b"meddled")
    assert take(etcd, TWO).lease.subnet == "10.5.2.0/24"
    with pytest.raises(StoreError, match="out of subnets"):
        take(etcd, TWO, OTHER)
    etcd.delete(f"{SUBNETS}/10.5.1.0-24")
