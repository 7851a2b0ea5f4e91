"""Nft work in several transactions, where the kernel takes no big one.

Without root a netlink message has at most what net.core.wmem_max allows, and nft does not even ask
for that: 208 KiB are the rules of about 100 Services.

What packets see stays in order: new blocks are whole before anything leads to them, a block that
changes does so at once, and what goes is no longer used. Only the elements of a map may come in
portions, so some Services are served before others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from netlab.proxy.nft_text import Statement, Work
from netlab.proxy.ruleset import Key

PORTION = 64_000  # characters of text; the messages are twice as long


def portions(work: Work, *, size: int = PORTION) -> list[list[Statement]]:
    """Return *work* in transactions of at most *size* characters each, if statements can be so."""
    return [
        *_packed(([one] for one in work.ahead), size),
        *_packed(_by_block(work.switch, size), size),
        *_packed(([one] for one in work.behind), size),
    ]


def _by_block(statements: Iterable[Statement], size: int) -> Iterator[list[Statement]]:
    """Yield what belongs together; one that is longer than *size* in its parts."""
    found: dict[Key | None, list[Statement]] = {}
    for one in statements:
        found.setdefault(one.block.key if one.block else None, []).append(one)
    for together in found.values():
        if _length(together) <= size:
            yield together
        else:
            yield from ([one] for one in together)


def _packed(pieces: Iterable[list[Statement]], size: int) -> Iterator[list[Statement]]:
    packed: list[Statement] = []
    length = 0
    for piece in pieces:
        more = _length(piece)
        if packed and length + more > size:
            yield packed
            packed, length = [], 0
        packed += piece
        length += more
    if packed:
        yield packed


def _length(statements: Sequence[Statement]) -> int:
    return sum(len(one.text) + 1 for one in statements)
