"""Where each part of a picture is drawn, in pixels from the upper left corner.

internet ── gateway ── client        master
               │                        │
lan ═══════════╪════════════════════════╪═══     a band per segment: its bus …
          ┌────┴────┐              ┌────┴────┐
          │  node1  │              │  node2  │   … with nodes hanging from it, in rows of cards
          └─────────┘              └─────────┘
Services: a label each, whose number marks the pods that serve it
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import msgspec

from netlab import world
from netlab.picture.model import Node, Picture, Pods, Segment
from netlab.picture.services import Service

MARGIN = 40
TRUNK = 26  # from the line that joins a segment's buses to the cards
ROUTER_MARGIN = 150  # the left margin when a router stands in it
HEAD, NO_HEAD = 92, 24  # the title above it all
SERVICES_HEAD = 26
NAME_WIDTH = 220  # of a segment, beside the machines above its bus
MEMBER = (210, 62)  # width, height of a machine that is no node
MEMBER_GAP = 50
MEMBER_CABLE = 9  # above its lower edge
DROP = 40  # of the cable from a bus to a card
ROW_GAP = 30
GAP = 26  # between cards
CARD_WIDTH, CARDS_MAX = 456, 4
SMALL_WIDTH, SMALL_CARDS_MAX = 184, 8
LINE = 19  # height of a line of pods in a small card
CHIP = (198, 44)
SPINE = 32  # between the two columns of pods, where their cables run
PAD = 14
LABEL = (300, 56)  # of a Service

Point = tuple[float, float]


class Box(msgspec.Struct, frozen=True):
    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> Point:
        return self.x + self.width / 2, self.y + self.height / 2


class Card(msgspec.Struct, frozen=True):
    """A node: its box and those of what is in it. `tunnel` is None without an overlay."""

    node: Node
    box: Box
    bus: float  # y of the bus it hangs from
    uplink: Box
    rules: Box
    tunnel: Box | None
    bridge: Box
    chips: tuple[tuple[Pods, Box], ...]

    @property
    def spine(self) -> float:
        """The x of the line that the pods' cables leave from."""
        return self.box.middle[0]

    def cable(self, chip: Box) -> tuple[Point, Point]:
        """Return the ends of a pod's cable: at its side of the spine, and at its box."""
        y = chip.middle[1]
        if chip.x < self.spine:
            return (self.spine - SPINE / 5, y), (chip.right, y)
        return (self.spine + SPINE / 5, y), (chip.x, y)


class Band(msgspec.Struct, frozen=True):
    """A segment: its buses, each (x of both ends, y), one per row of cards."""

    segment: Segment
    buses: tuple[tuple[float, float, float], ...]


class Layout(msgspec.Struct, frozen=True):
    """The whole. `trunk` is the x of the line that joins buses; `absent` says who is left out."""

    picture: Picture
    width: float
    height: float
    bands: tuple[Band, ...]
    cards: tuple[Card, ...]
    members: dict[str, Box]
    services: tuple[tuple[Service, Box], ...]
    trunk: float
    router: Box | None = None
    absent: Box | None = None
    titled: bool = True

    def bus(self, segment: str) -> float:
        """Return the y of the first bus of a segment."""
        return next(band.buses[0][2] for band in self.bands if band.segment.name == segment)

    def card(self, netns: str) -> Card | None:
        """Return the card of the node that has the namespace *netns*."""
        return next((card for card in self.cards if card.node.netns == netns), None)


def layout(picture: Picture, *, titled: bool = True) -> Layout:
    """Return where everything in *picture* is drawn; *titled*: with titles."""
    left = _left(picture)
    width = _width(picture, left)
    gateway = picture.members.get(world.GATEWAY)
    first = gateway.segment if gateway else picture.segments[0].name
    y: float = HEAD if titled else NO_HEAD
    bands: list[Band] = []
    cards: list[Card] = []
    members: dict[str, Box] = {}
    for segment in sorted(picture.segments, key=lambda one: one.name != first):
        above = _members(picture, segment.name, left, y)
        members.update(above)
        y += MEMBER[1] + DROP if above else DROP
        nodes = [node for node in picture.nodes if node.segment == segment.name]
        buses: list[tuple[float, float, float]] = []
        for row in _rows(picture, nodes) or [[]]:
            buses.append((left, width - MARGIN, y))
            drawn = _row(picture, row, left, y)
            cards += drawn
            y = max([y + DROP, *(card.box.bottom + ROW_GAP for card in drawn)])
        bands.append(Band(segment, tuple(buses)))
    absent = Box(left, y - ROW_GAP / 2, 300, LINE) if picture.absent else None
    y += LINE if absent else 0
    trunk = left - (ROUTER_MARGIN - MARGIN - 52 if len(bands) > 1 else TRUNK)
    router = None
    if len(bands) > 1:
        middle = (bands[0].buses[0][2] + bands[-1].buses[0][2]) / 2
        router = Box(trunk - 52, middle - 24, 104, 48)
    y += SERVICES_HEAD if titled and picture.services else 0
    services, bottom = _labels(picture.services, left, width - MARGIN, y)
    return Layout(
        picture,
        width,
        bottom + MARGIN / 2,
        tuple(bands),
        tuple(cards),
        members,
        services,
        trunk,
        router,
        absent,
        titled,
    )


def _left(picture: Picture) -> float:
    """Return where cards begin: beside the router, or the line that joins rows, if any."""
    if len(picture.segments) > 1:
        return ROUTER_MARGIN
    return MARGIN + (TRUNK if len(_rows(picture, picture.nodes)) > 1 else 0)


def _columns(picture: Picture, nodes: int) -> int:
    """Return how many cards a row has: rows as equally full as can be."""
    most = SMALL_CARDS_MAX if picture.small else CARDS_MAX
    return ceil(nodes / ceil(nodes / most)) if nodes else 0


def _card_width(picture: Picture) -> float:
    return SMALL_WIDTH if picture.small else CARD_WIDTH


def _width(picture: Picture, left: float) -> float:
    """Return the width of the whole, that of its widest row."""
    by_segment = [
        sum(node.segment == segment.name for node in picture.nodes) for segment in picture.segments
    ]
    columns = max((_columns(picture, number) for number in by_segment), default=0)
    least = max(LABEL[0], len(picture.members) * (MEMBER[0] + MEMBER_GAP) + NAME_WIDTH)
    return left + max(least, columns * (_card_width(picture) + GAP) - GAP) + MARGIN


def _rows(picture: Picture, nodes: Sequence[Node]) -> list[list[Node]]:
    columns = _columns(picture, len(nodes))
    return [list(nodes[at : at + columns]) for at in range(0, len(nodes), columns or 1)]


def _members(picture: Picture, segment: str, left: float, y: float) -> dict[str, Box]:
    """Return the machines that stand above the bus of a segment."""
    width, height = MEMBER
    found: dict[str, Box] = {}
    x = left
    balancer = picture.members.get(world.BALANCER)
    order = [world.INTERNET, world.GATEWAY, world.CLIENT, world.MASTER, world.BALANCER]
    if balancer is not None and balancer.behind:  # above the node that it hangs on
        order = [order.pop(), *order]
    for name in order:
        home = name if name in (world.MASTER, world.BALANCER) else world.GATEWAY
        if name in picture.members and picture.members[home].segment == segment:
            found[name] = Box(x, y, width, height)
            x += width + MEMBER_GAP
    return found


def _row(picture: Picture, nodes: Sequence[Node], left: float, bus: float) -> list[Card]:
    """Return one row of cards, all of one height, that hang from the bus at *bus*."""
    width = _card_width(picture)
    draw = _small if picture.small else _large
    cards = [
        draw(node, Box(left + column * (width + GAP), bus + DROP, width, 0), bus)
        for column, node in enumerate(nodes)
    ]
    height = max((card.box.height for card in cards), default=0)
    return [
        msgspec.structs.replace(card, box=Box(card.box.x, card.box.y, card.box.width, height))
        for card in cards
    ]


def _large(node: Node, place: Box, bus: float) -> Card:
    """Return a card with every device of a node, at the place whose height is still open."""
    x, y, width = place.x, place.y, place.width
    inner = width - 2 * PAD
    half = (inner - 16) / 2
    devices = y + 50
    bridge = Box(x + PAD, devices + 54, inner, 28)
    chips = []
    for index, pods in enumerate(node.pods):
        column, row = index % 2, index // 2
        at = Box(
            x + PAD + column * (CHIP[0] + SPINE),
            bridge.bottom + 14 + row * (CHIP[1] + 8),
            *CHIP,
        )
        chips.append((pods, at))
    bottom = max([bridge.bottom + 14, *(box.bottom for _, box in chips)])
    return Card(
        node,
        Box(x, y, width, bottom + PAD - y),
        bus,
        uplink=Box(x + width / 2 - 62, y - 13, 204, 26),
        rules=Box(x + PAD, devices, half, 40),
        tunnel=Box(x + PAD + half + 16, devices, half, 40) if node.tunnel else None,
        bridge=bridge,
        chips=tuple(chips),
    )


def _small(node: Node, place: Box, bus: float) -> Card:
    """Return a card with a node's name, address, lease, and a line for each workload."""
    x, y, width = place.x, place.y, place.width
    lines = y + 76
    chips = tuple(
        (pods, Box(x + 8, lines + index * LINE, width - 16, LINE - 2))
        for index, pods in enumerate(node.pods)
    )
    inside = Box(x + 8, y + 8, width - 16, 20)
    return Card(
        node,
        Box(x, y, width, 76 + max(1, len(chips)) * LINE + 6),
        bus,
        uplink=inside,
        rules=inside,
        tunnel=inside if node.tunnel else None,
        bridge=inside,
        chips=chips,
    )


def _labels(
    services: Sequence[Service], left: float, right: float, y: float
) -> tuple[tuple[tuple[Service, Box], ...], float]:
    """Return the labels of the Services in rows below *y*, and where they end."""
    if not services:
        return (), y
    most = int((right - left + 12) // (LABEL[0] + 12))
    columns = ceil(len(services) / ceil(len(services) / most))
    wide = (right - left + 12) / columns - 12
    found = tuple(
        (
            service,
            Box(
                left + (index % columns) * (wide + 12),
                y + (index // columns) * (LABEL[1] + 10),
                wide,
                LABEL[1],
            ),
        )
        for index, service in enumerate(services)
    )
    return found, found[-1][1].bottom + 10
