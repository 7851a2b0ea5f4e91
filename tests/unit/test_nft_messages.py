"""Which nft statements are sent as messages, and which are left to nft."""

from __future__ import annotations

import pytest

from netlab.kernel import nft_messages
from netlab.kernel.nft_expressions import Unencodable
from netlab.proxy import nft_text
from netlab.proxy.addresses import Family
from netlab.proxy.ruleset import Block, Sort, Step


def messages(*blocks: Block) -> list[nft_messages.Message]:
    return nft_messages.batch(nft_text.work([Step(one, None) for one in blocks]).statements)


def chain(*lines: str, head: tuple[str, ...] = ()) -> Block:
    return Block(Family.IPV4, Sort.CHAIN, "kube-proxy", "a", head, lines)


def by(head: tuple[str, ...], *elements: str) -> Block:
    return Block(Family.IPV4, Sort.MAP, "kube-proxy", "m", head, elements)


UNKNOWN = [
    "ip saddr 10.0.0.0/33 drop",
    "ip saddr { 10.0.0.1, 10.0.0.2 } drop",
    "ip saddr 10.0.0.1-10.0.0.9 drop",
    "ip saddr fd00::1 drop",
    "ip6 saddr fd00::1 drop",
    "ip saddr 10.0.0.256 drop",
    "ip protocol tcp drop",
    "tcp sport 80 drop",
    "tcp dport 65536 drop",
    "tcp dport { 80, 81 } drop",
    "tcp dport > 80 drop",
    "icmp type echo-request accept",
    "meta l4proto icmp drop",
    "dnat to 10.0.0.1",
    "dnat ip to 10.0.0.1:80",
    "reject with tcp reset",
    "numgen inc mod 2 0 drop",
    "numgen random mod 2 vmap { 0 : drop",
    "numgen random mod 2 vmap { 0 : fly }",
    "fib daddr . iif type local drop",
    "ip saddr . th dport 10.0.0.1 drop",
    "jump",
    "limit rate 1/second",
    'log prefix "x"',
    "ip saddr",
]


@pytest.mark.parametrize("words", UNKNOWN)
def test_rules_left_to_nft(words: str) -> None:
    with pytest.raises(Unencodable):
        messages(chain(words))


KEYS = ("type ipv4_addr . inet_proto : verdict",)
OTHERS = {
    "interval": by(("type ipv4_addr", "flags interval"), "10.0.0.0/8"),
    "typeof": by(("typeof ip saddr",)),
    "data-of-another-type": by(("type ipv4_addr : ipv4_addr",)),
    "time-with-other-units": by(("type ipv4_addr", "timeout 1w")),
    "no-comment": by(("type ipv4_addr", "gc-interval 1s")),
    "unknown-protocol": by(KEYS, "10.0.0.1 . icmp : drop"),
    "element-too-short": by(KEYS, "10.0.0.1 : drop"),
    "element-of-the-other-family": by(KEYS, "fd00::1 . tcp : drop"),
    "element-with-more": by(KEYS, "10.0.0.1 . tcp timeout 3s : drop"),
    "hook-of-another-kind": chain(head=("type filter hook ingress priority 0; policy accept;",)),
    "more-of-a-chain": chain(head=("flags offload",)),
    "too-long-for-a-message": chain(f'drop comment "{"x" * 70_000}"'),
}


@pytest.mark.parametrize("block", OTHERS.values(), ids=OTHERS)
def test_blocks_left_to_nft(block: Block) -> None:
    with pytest.raises(Unencodable):
        messages(block)


def test_each_message_tells_what_it_is_for() -> None:
    found = messages(chain("numgen random mod 2 vmap { 0 : drop, 1 : return }", "drop"))
    assert [one.statement.text for one in found] == [
        'add table ip kube-proxy { comment "rules for kube-proxy"; }',
        "add chain ip kube-proxy a",
        *["add rule ip kube-proxy a numgen random mod 2 vmap { 0 : drop, 1 : return }"] * 3,
        "add rule ip kube-proxy a drop",
    ]
