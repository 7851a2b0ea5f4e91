"""Renderers that make a mistake: what they render, with a line changed, lost or out of place.

A mistake is a function from a block to the block as it would be; it is made wherever its pattern
fits, in whichever way the lines come to be: in a Service's own block, in one that is always there,
or in its share of one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from netlab.proxy.frontend import Frontend, HealthCheck
from netlab.proxy.options import Situation
from netlab.proxy.ruleset import Block, Key, Part, Renderer, Shared

Lines = tuple[str, ...]
Mistake = Callable[[str, Lines], Lines]  # of a block's table and name, and its lines


class Mistaken(NamedTuple):
    """A renderer that makes a mistake; `found` notes where it had occasion to."""

    renderer: Renderer
    mistake: Mistake
    found: list[str]
    ahead: str = ""  # a pattern: what is to be last in these blocks comes first

    def frame(self, situation: Situation, used: Collection[Key] = ()) -> list[Shared]:
        return [self._shared(one) for one in self.renderer.frame(situation, used)]

    def hostport_frame(self, situation: Situation) -> list[Shared]:
        return [self._shared(one) for one in self.renderer.hostport_frame(situation)]

    def part(
        self,
        frontends: Sequence[Frontend],
        health_checks: Sequence[HealthCheck],
        situation: Situation,
        *,
        large: bool,
    ) -> Part:
        blocks, entries = self.renderer.part(
            list(frontends), list(health_checks), situation, large=large
        )
        shares = ((key, self._lines(key, lines)) for key, lines in entries)
        return Part(tuple(map(self._block, blocks)), tuple(one for one in shares if one[1]))

    def _shared(self, one: Shared) -> Shared:
        if self.ahead and one.tail and re.search(self.ahead, _name(one.block.key)):
            self.found.append(one.block.name)
            return Shared(Block(*one.block.key, one.block.head, (*one.tail, *one.block.lines)))
        return Shared(self._block(one.block), self._lines(one.block.key, one.tail))

    def _block(self, block: Block) -> Block:
        head = self._lines(block.key, block.head)
        return Block(*block.key, head, self._lines(block.key, block.lines))

    def _lines(self, key: Key, lines: Lines) -> Lines:
        made = self.mistake(_name(key), lines)
        if made != lines:
            self.found.append(key[3])
        return made


def _name(key: Key) -> str:
    return f"{key[2]} {key[3]}"


def none(name: str, lines: Lines) -> Lines:
    """Make no mistake about lines."""
    return lines


def without(block: str, line: str) -> Mistake:
    """Leave out the lines that *line* is found in, in blocks whose table and name fit *block*."""
    return _changed(block, lambda lines: tuple(one for one in lines if not re.search(line, one)))


def instead(block: str, line: str, other: str) -> Mistake:
    """Write *other* for *line*, once in each line."""
    return _changed(block, lambda lines: tuple(re.sub(line, other, one, count=1) for one in lines))


def reversed_lines(block: str, line: str) -> Mistake:
    """Write the lines that fit *line* in the wrong order, last first."""

    def change(lines: Lines) -> Lines:
        turned = iter([one for one in lines if re.search(line, one)][::-1])
        return tuple(next(turned) if re.search(line, one) else one for one in lines)

    return _changed(block, change)


def _changed(block: str, change: Callable[[Lines], Lines]) -> Mistake:
    return lambda name, lines: change(lines) if re.search(block, name) else lines
