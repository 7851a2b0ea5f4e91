"""The text of nft transactions, and what listings say."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from msgspec.structs import replace
from nft_model import Model
from test_proxy_programme import AT, from_scratch, world

from netlab.proxy import DetectLocal, Mode, Options, nft_tables, nft_text
from netlab.proxy.addresses import Family
from netlab.proxy.nft_portions import portions
from netlab.proxy.ruleset import Block, Key, Sort, Step, difference

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "nftables.txt"
IPV4 = Family.IPV4
TABLE = (IPV4, "kube-proxy")


def chain(name: str, *lines: str, head: tuple[str, ...] = ()) -> Block:
    return Block(IPV4, Sort.CHAIN, "kube-proxy", name, head, lines)


def base(name: str, *lines: str, priority: str = "dstnat") -> Block:
    head = (f"type nat hook prerouting priority {priority}; policy accept;",)
    return chain(name, *lines, head=head)


def affinity(timeout: str, *lines: str) -> Block:
    head = ("type ipv4_addr", "size 65535", "flags dynamic,timeout", f"timeout {timeout}")
    return Block(IPV4, Sort.SET, "kube-proxy", "affinity-x", head, lines)


def by_address(*elements: str) -> Block:
    head = ("type ipv4_addr . inet_proto . inet_service : verdict", 'comment "all"')
    return Block(IPV4, Sort.MAP, "kube-proxy", "service-ips", head, elements)


def text(*steps: Step) -> list[str]:
    return [
        line.removeprefix("add ").replace(" ip kube-proxy", "") if line.startswith("add ")
        else line.replace(" ip kube-proxy", "")
        for line in nft_text.transaction(steps).splitlines()
    ]  # fmt: skip


ONE, TWO = "10.96.0.1 . tcp . 80", "10.96.0.2 . tcp . 80"
TRANSACTIONS = [
    pytest.param([], [], id="nothing"),
    pytest.param(
        [Step(base("nat", "jump a"), None), Step(chain("a", "drop"), None)],
        [
            'table { comment "rules for kube-proxy"; }',
            "chain nat { type nat hook prerouting priority dstnat; policy accept; }",
            "chain a",
            "rule nat jump a",
            "rule a drop",
        ],
        id="what-is-new-is-declared-before-it-is-filled",
    ),
    pytest.param(
        [Step(chain("a", "accept", "drop"), chain("a", "drop"))],
        ["flush chain a", "rule a accept", "rule a drop"],
        id="a-changed-chain-is-written-anew",
    ),
    pytest.param(
        [
            Step(
                by_address(f'{ONE} comment "x" : goto b', f"{TWO} : goto a"),
                by_address(f'{ONE} comment "x" : goto a', f"{TWO} : goto a"),
            ),
            Step(chain("b", "drop"), None),
        ],
        [
            'table { comment "rules for kube-proxy"; }',
            "chain b",
            "rule b drop",
            f"delete element service-ips {{ {ONE} }}",
            f'element service-ips {{ {ONE} comment "x" : goto b }}',
        ],
        id="of-a-map-only-what-differs",
    ),
    pytest.param(
        [
            Step(None, chain("a", "goto b")),
            Step(None, chain("b", "update @affinity-x { ip saddr }")),
            Step(None, affinity("3h")),
            Step(chain("c"), chain("c", "jump a")),
        ],
        [
            "flush chain c",
            "flush chain a",
            "flush chain b",
            "flush set affinity-x",
            "delete set affinity-x",
            "delete chain a",
            "delete chain b",
        ],
        id="what-goes-is-empty-before",
    ),
    pytest.param(
        [Step(affinity("1h", "10.1.1.1"), affinity("3h"))],
        ["set affinity-x { type ipv4_addr; flags dynamic,timeout; timeout 1h; }"],
        id="a-timeout-changes-and-clients-stay",
    ),
    pytest.param(
        [Step(base("nat", "drop", priority="-1"), base("nat", "drop"))],
        [
            "flush chain nat",
            "delete chain nat",
            "chain nat { type nat hook prerouting priority -1; policy accept; }",
            "rule nat drop",
        ],
        id="a-base-chain-moves",
    ),
]


@pytest.mark.parametrize(("steps", "expected"), TRANSACTIONS)
def test_transaction(steps: list[Step], expected: list[str]) -> None:
    assert text(*steps) == expected


def test_the_size_of_a_set_that_no_rule_fills_is_told() -> None:
    given = Block(IPV4, Sort.SET, "kube-proxy", "s", ("type ipv4_addr", "size 65535"))
    assert text(Step(given, None))[1:] == ["set s { type ipv4_addr; size 65535; }"]


def test_a_dropped_table_is_made_anew_of_what_is_wanted() -> None:
    steps = [Step(chain("a", "drop"), chain("a", "accept")), Step(None, chain("b"))]
    assert nft_text.transaction(steps, dropped={TABLE}).splitlines() == [
        "add table ip kube-proxy",
        "delete table ip kube-proxy",
        'add table ip kube-proxy { comment "rules for kube-proxy"; }',
        "add chain ip kube-proxy a",
        "add rule ip kube-proxy a drop",
    ]


NO_SIZE = ("type ipv4_addr", "flags dynamic,timeout", "timeout 1h")
SMALL = ("type ipv4_addr", "size 7", "flags dynamic,timeout", "timeout 1h")
REBUILT = [
    pytest.param(chain("a"), chain("a", head=('comment "x"',)), True, id="comment-of-a-chain"),
    pytest.param(base("a"), chain("a"), True, id="hook-for-a-chain"),
    pytest.param(base("a", priority="1"), base("a"), False, id="other-hook"),
    pytest.param(affinity("1h"), affinity("3h"), False, id="timeout"),
    pytest.param(
        affinity("1h"), replace(affinity("1h"), head=("type ipv6_addr",)), True, id="type"
    ),
    pytest.param(affinity("1h"), replace(affinity("1h"), head=NO_SIZE), False, id="no-size-yet"),
    pytest.param(affinity("1h"), replace(affinity("1h"), head=SMALL), True, id="another-size"),
    pytest.param(chain("a", "drop"), chain("a"), False, id="rules"),
]


@pytest.mark.parametrize(("new", "old", "whole"), REBUILT)
def test_what_the_kernel_cannot_change_in_place(new: Block, old: Block, whole: bool) -> None:
    assert nft_tables.rebuilt([Step(new, old)]) == ({TABLE} if whole else set())


def test_many_elements_come_in_lines_that_fit_a_message() -> None:
    many = by_address(*(f"10.0.{n >> 8}.{n & 255} . tcp . 80 : drop" for n in range(1000)))
    lines = [one for one in nft_text.work([Step(many, None)]).switch if one.kind == "element"]
    assert sum(len(one.what) for one in lines) == 1000
    assert max(len(one.text) for one in lines) < 32_000


# -- from state to state


def states() -> list[dict[Key, Block]]:
    """Return what is wanted for random Services with the same names, and for none."""
    given = [
        Options(Mode.NFTABLES, DetectLocal.CLUSTER_CIDR, ("10.244.0.0/16",)),
        Options(Mode.NFTABLES, node_port_addresses=("192.168.0.0/16", "10.0.0.0/8")),
        Options(Mode.NFTABLES, node_port_addresses=("0.0.0.0/0",), masquerade_all=True),
    ]
    made = [from_scratch(world(seed), AT, given[seed % 3]) for seed in range(24)]
    later = [
        {
            key: replace(it, head=tuple(x.replace("3h", "1h") for x in it.head))
            for key, it in one.items()
        }
        for one in made[::4]
    ]
    return [*made, *later, {}, {}]


def work(wanted: dict[Key, Block], there: dict[Key, Block]) -> nft_text.Work:
    steps = list(difference(wanted, there))
    tables = nft_tables.rebuilt(steps)
    return nft_text.work(nft_tables.anew(steps, tables, there), dropped=tables)


@pytest.mark.parametrize("seed", range(4))
def test_every_way_from_state_to_state_is_one_the_kernel_takes(seed: int) -> None:
    every = states()
    kernel = Model()
    kept = 0
    for wanted in random.Random(seed).sample(every, len(every)):
        before = kernel.blocks
        kernel.run(work(wanted, before).statements)
        assert list(difference(wanted, kernel.blocks)) == []
        kept += len(before.keys() & wanted.keys())
    assert kept > 500


@pytest.mark.parametrize("seed", range(4))
def test_portions_are_each_one_the_kernel_takes_and_no_chain_is_seen_half(seed: int) -> None:
    chosen = random.Random(seed)
    every = states()
    kernel = Model()
    count = changed = 0
    for wanted in chosen.sample(every, len(every)):
        before = kernel.blocks
        remade = nft_tables.rebuilt(difference(wanted, before))
        size = chosen.choice((3000, 10_000))
        for some in portions(work(wanted, before), size=size):
            assert len(some) == 1 or len(nft_text.text(some)) <= size
            kernel.run(some)
            count += 1
            both = before.keys() & wanted.keys() if not remade else ()
            for key in both:
                now = kernel.blocks[key].lines
                if key[1] is Sort.CHAIN and before[key].lines != wanted[key].lines:
                    assert now in (before[key].lines, wanted[key].lines)
                    changed += 1
        assert list(difference(wanted, kernel.blocks)) == []
    assert count > 100
    assert changed > 50


def test_the_only_table_that_may_be_empty_has_lost_a_base_chain() -> None:
    gone = [Step(None, base("nat")), Step(None, chain("a"))]
    assert nft_tables.maybe_emptied(gone) == {TABLE: {base("nat").key, chain("a").key}}
    assert nft_tables.maybe_emptied(gone[1:]) == {}
    assert nft_tables.maybe_emptied([*gone, Step(chain("b"), None)]) == {}


# -- listings


def test_the_listing_of_a_real_kube_proxy() -> None:
    found = nft_text.blocks(GOLDEN.read_text())
    assert len(found) == 89
    here = {key[3]: block for key, block in found.items() if key[0] is IPV4}
    assert here["cluster-ips"].head == ("type ipv4_addr", 'comment "Active ClusterIPs"')
    assert here["cluster-ips"].lines[:3] == ("10.96.0.2", "10.96.0.10", "10.96.0.20")
    assert len(here["service-ips"].lines) == 13
    assert here["no-endpoint-services"].lines == (
        '10.96.0.40 . tcp . 80 comment "default/empty-d" : goto reject-chain',
    )
    assert here["no-endpoint-nodeports"].lines == ()
    assert here["reject-chain"].head == (
        'comment "helper for @no-endpoint-services / @no-endpoint-nodeports"',
    )
    assert here["reject-chain"].lines == ("reject",)
    assert here["nat-output"].head == ("type nat hook output priority -100; policy accept;",)
    assert here["firewall-N3A7QUYY-default/lb-g/tcp/https"].lines == (
        "ip saddr != { 192.168.100.100, 198.51.100.0/24 } drop",
    )


LISTING = """table inet foreign {
\tchain a {
\t\ttype filter hook input priority filter; policy accept;
\t}
}
table ip kube-proxy {
\tcomment "rules for kube-proxy"
\tcounter hits {
\t\tpackets 0 bytes 0
\t}

\tset affinity-x {
\t\ttype ipv4_addr
\t\tsize 65535
\t\tflags dynamic,timeout
\t\ttimeout 1h
\t\telements = { 10.0.0.1 expires 59m58s, 10.0.0.2 expires 1s,
\t\t\t     10.0.0.3 expires 1s }
\t}

\tmap m {
\t\ttype inet_proto . inet_service : verdict
\t\telements = { tcp . 80 comment "a, b : c" : drop,
\t\t\t     udp . 53 : goto x }
\t}

\tchain x {
\t\tip saddr 10.0.0.1 counter packets 3 bytes 180 jump y comment "type of { }"
\t\tcounter packets 0 bytes 0 drop
\t\tgoto y
\t}
}
"""


def test_a_listing_with_others_in_it() -> None:
    found = nft_text.blocks(LISTING)
    assert [key[3] for key in found] == ["affinity-x", "m", "x"]
    assert found[IPV4, Sort.SET, "kube-proxy", "affinity-x"].lines == ()
    assert found[IPV4, Sort.MAP, "kube-proxy", "m"].lines == (
        'tcp . 80 comment "a, b : c" : drop',
        "udp . 53 : goto x",
    )


def test_counters_by_block_and_position() -> None:
    key = (IPV4, Sort.CHAIN, "kube-proxy", "x")
    assert nft_text.counters(LISTING) == {(key, 0): (3, 180), (key, 1): (0, 0)}


ELEMENTS = {
    "10.0.0.1": "10.0.0.1",
    "10.0.0.0/8": "10.0.0.0/8",
    "10.0.0.1 . tcp . 80 : goto a": "10.0.0.1 . tcp . 80",
    'fd00::1 . tcp . 80 comment "x : y" : drop': "fd00::1 . tcp . 80",
    "10.0.0.1 timeout 3h expires 1s": "10.0.0.1",
}


@pytest.mark.parametrize(("element", "key"), ELEMENTS.items(), ids=ELEMENTS)
def test_what_finds_an_element(element: str, key: str) -> None:
    assert nft_text.key(element) == key


NEWER = """table ip kube-proxy {
\tset affinity-x {
\t\ttype ipv4_addr
\t\tsize 65535\t# count 2
\t\tflags dynamic,timeout
\t\ttimeout 3h
\t}

\tchain nat-output {
\t\ttype nat hook output priority dstnat; policy accept;
\t}

\tchain filter-output-pre-dnat {
\t\ttype filter hook output priority dstnat - 10; policy accept;
\t}
}
"""


def test_newer_listings_read_as_older_ones() -> None:
    found = nft_text.blocks(NEWER).values()
    assert [block.head for block in found] == [
        affinity("3h").head,
        ("type nat hook output priority -100; policy accept;",),
        ("type filter hook output priority -110; policy accept;",),
    ]
