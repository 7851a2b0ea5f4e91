"""Which subnet a node takes: flannel's order, and a fair draw among the first hundred."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Network
from random import Random

import pytest
from test_flannel_lease import MAC, Item

from netlab.flannel.choice import CANDIDATES, Choice, choose, free
from netlab.flannel.config import SUBNETS, Config, resolve
from netlab.flannel.lease import Lease
from netlab.model.lab import Network

WIDE = resolve(Network("10.5.0.0/16"))
ME, OTHER = "192.168.77.1", "192.168.77.2"


def item(subnet: str, public_ip: str, *, revision: int = 1) -> Item:
    lease = Lease(subnet, public_ip, vtep_mac=MAC)
    return Item(lease.key, lease.value(), revision, revision)


def chosen(items: list[Item], previous: str | None = None, config: Config = WIDE) -> Choice | None:
    return choose(config, items, public_ip=ME, previous=previous, rng=Random(1))


def test_first_comes_the_subnet_the_node_has() -> None:
    items = [item("10.5.8.0/24", OTHER), item("10.5.9.0/24", ME, revision=7)]
    assert chosen(items, "10.5.77.0/24") == Choice("10.5.9.0/24", 7, 7)


def test_of_two_own_subnets_the_first_is_kept() -> None:
    items = [item("10.5.8.0/24", ME, revision=3), item("10.5.9.0/24", ME)]
    assert chosen(items) == Choice("10.5.8.0/24", 3, 3)


@pytest.mark.parametrize("kind", ["host-gw", "", "VXLAN"])
def test_the_own_subnet_is_recognised_whatever_its_backend(kind: str) -> None:
    value = Lease("10.5.9.0/24", ME, kind).value()
    assert chosen([Item(f"{SUBNETS}/10.5.9.0-24", value)]) == Choice("10.5.9.0/24", 1, 1)


@pytest.mark.parametrize(
    "subnet",
    ["10.5.9.0/25", "10.5.0.0/24", "10.6.9.0/24"],
    ids=["length", "before-min", "outside"],
)
def test_an_own_subnet_that_no_longer_fits_is_stale(subnet: str) -> None:
    old = item(subnet, ME)
    assert chosen([old], "10.5.77.0/24") == Choice("10.5.77.0/24", stale=(old.key,))
    both = [old, item("10.5.200.0/24", ME, revision=4)]
    assert chosen(both) == Choice("10.5.200.0/24", 4, 4, (old.key,))


def test_then_the_previous_one_if_it_fits_and_is_free() -> None:
    assert chosen([], "10.5.77.0/24") == Choice("10.5.77.0/24")
    for taken in ("10.5.77.0/24", "10.5.76.0/23", "10.5.77.128/25"):
        choice = chosen([item(taken, OTHER)], "10.5.77.0/24")
        assert choice is not None and choice.subnet != "10.5.77.0/24"
    for unfit in ("10.6.77.0/24", "10.5.77.0/25", "10.5.0.0/24"):
        choice = chosen([], unfit)
        assert choice is not None and choice.subnet != unfit


def test_then_any_of_the_first_hundred_free_ones_uniformly() -> None:
    taken = [item(f"10.5.{n}.0/24", OTHER) for n in range(1, 51)]
    rng, draws = Random(7), 20_000
    counts: Counter[str] = Counter()
    for _ in range(draws // 100):
        # One listing, a hundred draws: the listing is the slow part.
        candidates = free(WIDE.ipv4, [f"10.5.{n}.0/24" for n in range(1, 51)])
        counts.update(rng.choice(candidates) for _ in range(100))
    assert sorted(counts, key=lambda s: IPv4Network(s)) == [
        f"10.5.{n}.0/24" for n in range(51, 151)
    ]
    expected = draws / CANDIDATES
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 148.2  # 99 degrees of freedom, p = 0.001
    picked = {
        choice.subnet
        for seed in range(2000)
        if (choice := choose(WIDE, taken, public_ip=ME, rng=Random(seed)))
    }
    assert picked == set(counts)


def test_an_unreadable_value_still_takes_its_subnet() -> None:
    two = resolve(Network("10.5.0.0/22", SubnetLen=24, SubnetMin="10.5.1.0", SubnetMax="10.5.2.0"))
    garbage = Item(f"{SUBNETS}/10.5.1.0-24", b"{")
    assert chosen([garbage], config=two) == Choice("10.5.2.0/24")
    assert chosen([garbage, item("10.5.2.0/24", OTHER)], config=two) is None


def test_an_unreadable_key_takes_nothing() -> None:
    keys = ("foo", "10.5.1.0-32", "0.0.0.0-0&fc00:5:0:b::-64")
    assert chosen([Item(f"{SUBNETS}/{key}", b"{") for key in keys]) is not None


@pytest.mark.parametrize("key", ["x/10.5.9.0-24", "10.5.9.0-24&fc00::-64"])
def test_an_own_subnet_under_another_form_of_key_is_given_up(key: str) -> None:
    old = Item(f"{SUBNETS}/{key}", Lease("10.5.9.0/24", ME, vtep_mac=MAC).value())
    choice = chosen([old], "10.5.9.0/24")
    assert choice == Choice("10.5.9.0/24", stale=(old.key,))


@pytest.mark.parametrize(
    ("network", "taken", "expected"),
    [
        pytest.param(Network("10.5.0.0/28"), [], ["10.5.0.4/30", "10.5.0.8/30", "10.5.0.12/30"],
                     id="all"),
        pytest.param(Network("10.5.0.0/28"), ["10.5.0.8/30"], ["10.5.0.4/30", "10.5.0.12/30"],
                     id="hole"),
        pytest.param(Network("10.5.0.0/28"), ["10.5.0.9/32"], ["10.5.0.4/30", "10.5.0.12/30"],
                     id="part-of-one"),
        pytest.param(Network("10.5.0.0/28"), ["10.5.0.0/29", "10.5.0.4/30"],
                     ["10.5.0.8/30", "10.5.0.12/30"], id="nested"),
        pytest.param(Network("10.5.0.0/28"), ["10.0.0.0/8"], [], id="all-covered"),
        pytest.param(Network("10.5.0.0/28"), ["10.4.0.0/16", "10.6.0.0/16"],
                     ["10.5.0.4/30", "10.5.0.8/30", "10.5.0.12/30"], id="elsewhere"),
        pytest.param(Network("10.5.0.0/28", SubnetMin="10.5.0.8", SubnetMax="10.5.0.8"), [],
                     ["10.5.0.8/30"], id="bounds"),
        pytest.param(Network("10.5.0.0/28", SubnetMin="10.5.0.0"), ["10.5.0.12/30"],
                     ["10.5.0.0/30", "10.5.0.4/30", "10.5.0.8/30"], id="min-is-first"),
    ],
)  # fmt: skip
def test_free_are_those_no_lease_overlaps(
    network: Network, taken: list[str], expected: list[str]
) -> None:
    assert free(resolve(network).ipv4, taken) == expected


def test_free_agrees_with_trying_each() -> None:
    rng = Random(3)
    config = resolve(Network("10.5.0.0/20", SubnetLen=26))
    everything = [IPv4Network((first, 26)) for first in range(
        int(IPv4Network("10.5.0.64/32")[0]), int(IPv4Network("10.5.16.0/32")[0]), 64)]  # fmt: skip
    for _ in range(200):
        taken = [
            IPv4Network((int(rng.choice(everything)[0]) + rng.randrange(64), length), strict=False)
            for length in rng.choices(range(20, 32), weights=range(1, 13), k=rng.randrange(30))
        ]
        expected = [
            str(one) for one in everything if not any(one.overlaps(other) for other in taken)
        ]
        assert free(config.ipv4, [str(one) for one in taken]) == expected[:CANDIDATES]
