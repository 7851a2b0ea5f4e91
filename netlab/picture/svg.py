"""A picture as SVG: one file, readable on light and on dark, that refers to nothing outside."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from html import escape
from itertools import pairwise

from netlab import world
from netlab.picture.layout import MARGIN, MEMBER_CABLE, Box, Card, Layout, Point, layout
from netlab.picture.model import Picture, Pods
from netlab.picture.paint import STYLE, hue
from netlab.picture.services import Service
from netlab.picture.text import count, fitted, plain, width

BADGE = 15  # height of a Service's number on a pod
BADGES_MAX = 5  # on one pod
BESIDE = 24  # from the edge of a card to the cable of a machine that hangs on it


def svg(picture: Picture) -> str:
    """Return *picture* as a whole SVG file."""
    return drawing(layout(picture), style=STYLE) + "\n"


def drawing(
    drawn: Layout,
    *,
    style: str = "",
    quiet: Collection[str] = (),
    inside: str = "",
) -> str:
    """Return *drawn* as an <svg> element. *inside*: more SVG, on top of it all.

    *quiet*: namespaces of what is to be seen less. What has a namespace carries it in `data-netns`.
    """
    name = escape(f"lab {drawn.picture.lab}")
    size = f'viewBox="0 0 {_n(drawn.width)} {_n(drawn.height)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="netlab" {size} role="img">'
    parts = [
        head,
        f"<title>{name}</title>",
        f"<style>{style}</style>" if style else "",
        f'<rect class="page" width="{_n(drawn.width)}" height="{_n(drawn.height)}"/>',
        *(_head(drawn) if drawn.titled else ()),
        *_cables(drawn),
        *_buses(drawn),
        *_members(drawn),
    ]
    for card in drawn.cards:
        parts += _small(card) if drawn.picture.small else _large(card, drawn, quiet)
    parts += [*_absent(drawn), *_services(drawn), inside, "</svg>"]
    return "\n".join(part for part in parts if part)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _text(
    text: str, at: Point, size: float, sort: str = "", *, room: float = 0, mono: bool = False
) -> str:
    """Return a line of text; made to fit *room* and then, whole, a tooltip."""
    shown = fitted(text, size, room, mono=mono) if room else text
    words = " ".join(filter(None, (sort, "mono" if mono else "")))
    whole = f"<title>{escape(text)}</title>" if shown != text else ""
    return (
        f'<text x="{_n(at[0])}" y="{_n(at[1])}" font-size="{_n(size)}"'
        f"{f' class={chr(34)}{words}{chr(34)}' if words else ''}>{whole}{escape(shown)}</text>"
    )


def _rect(box: Box, sort: str, *, radius: float = 6, more: str = "") -> str:
    return (
        f'<rect class="{sort}" x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" '
        f'height="{_n(box.height)}" rx="{_n(radius)}"{more}/>'
    )


def _line(start: Point, end: Point, sort: str) -> str:
    return (
        f'<line class="{sort}" x1="{_n(start[0])}" y1="{_n(start[1])}" '
        f'x2="{_n(end[0])}" y2="{_n(end[1])}"/>'
    )


def _netns(name: str) -> str:
    return f' data-netns="{escape(plain(name))}"' if name else ""


def _head(drawn: Layout) -> Iterator[str]:
    picture = drawn.picture
    yield _text(f"lab {picture.lab}", (MARGIN, 44), 24, "strong", room=drawn.width - 2 * MARGIN)
    facts = " · ".join(picture.facts)
    yield _text(facts, (MARGIN, 68), 14, "dim", room=drawn.width - 2 * MARGIN)


def _buses(drawn: Layout) -> Iterator[str]:
    first = drawn.bands[0].buses[0][2]
    last = max(y for band in drawn.bands for _, _, y in band.buses)
    for band in drawn.bands:
        if len(band.buses) > 1 and len(drawn.bands) == 1:
            yield _line((drawn.trunk, first), (drawn.trunk, last), "bus")
        for number, (x1, x2, y) in enumerate(band.buses):
            joined = drawn.trunk if len(band.buses) > 1 or drawn.router else x1
            yield _line((joined, y), (x2, y), "bus")
            if number == 0:
                label = f"{band.segment.name}  {band.segment.cidr}"
                end = x2 - width(label, 14, mono=True)
                yield _text(label, (end, y - 10), 14, "buslabel", mono=True)
    if drawn.router:
        yield _line((drawn.trunk, first), (drawn.trunk, last), "bus")
        yield _rect(drawn.router, "member", more=_netns(f"{drawn.picture.lab}.{world.UNDERLAY}"))
        x, y = drawn.router.middle
        yield _text("router", (x, y + 5), 14, "strong middle")
        for band in drawn.bands:
            at = (drawn.trunk + 8, band.buses[0][2] + 18)
            yield _text(band.segment.router, at, 11, "dim", mono=True)


def _cables(drawn: Layout) -> Iterator[str]:
    """Yield the cables from the buses to machines, and the overlay between neighbours in a row."""
    picture = drawn.picture
    for name in (world.GATEWAY, world.MASTER, world.BALANCER):
        if name not in drawn.members:
            continue
        x, _ = drawn.members[name].middle
        if picture.members[name].behind:
            yield from _past_the_bus(drawn, name)
            continue
        bus = drawn.bus(picture.members[name].segment)
        yield _line((x, drawn.members[name].bottom), (x, bus), "cable")
    outside = (world.INTERNET, world.GATEWAY, world.CLIENT)
    boxes = [drawn.members[name] for name in outside if name in drawn.members]
    for one, beside in pairwise(boxes):
        y = one.bottom - MEMBER_CABLE
        yield _line((one.right, y), (beside.x, y), "cable")
    for card in drawn.cards:
        x = card.spine
        yield _line((x, card.bus), (x, card.box.y), "cable")
    if not picture.small:
        rows: dict[float, list[Card]] = {}
        for card in drawn.cards:
            rows.setdefault(card.bus, []).append(card)
        for row in rows.values():
            ends = [card.tunnel for card in row if card.tunnel]
            if len(ends) > 1:
                yield _line(ends[0].middle, ends[-1].middle, "overlay")


def _past_the_bus(drawn: Layout, name: str) -> Iterator[str]:
    """Yield the cable of a machine that hangs on a node, whose card may be left out."""
    card = drawn.card(drawn.picture.members[name].behind)
    if card is not None:
        box = drawn.members[name]
        left = name == world.BALANCER  # which stands first
        inside = card.box.x + BESIDE if left else card.box.right - BESIDE
        x = max(card.box.x + BESIDE, min(box.right - BESIDE, inside))
        above = x if box.x < x < box.right else box.middle[0]
        yield _line((above, box.bottom), (x, card.box.y), "cable")
        at, words = (x + 6, "dim") if left else (x - 6, "dim end")
        port = drawn.picture.members[name].port
        yield _text(port, (at, card.box.y - 6), 12, words, mono=True)


def _members(drawn: Layout) -> Iterator[str]:
    for name, box in drawn.members.items():
        member = drawn.picture.members[name]
        x, y = box.middle
        yield _rect(box, "member", more=_netns(member.netns))
        words = "master · etcd" if name == world.MASTER else name
        words = "balancer · L4" if name == world.BALANCER else words
        words = "gateway · firewall" if name == world.GATEWAY else words
        yield _text(words, (x, y - 9), 14, "strong middle")
        yield _text(member.addresses[0], (x, y + 9), 12, "dim middle", mono=True)


def _large(card: Card, drawn: Layout, quiet: Collection[str]) -> Iterator[str]:
    node, box = card.node, card.box
    yield _rect(box, "card", radius=10, more=_netns(node.netns))
    if card.tunnel and len(drawn.cards) > 1:
        row = [one for one in drawn.cards if one.bus == card.bus]
        ends = [one.tunnel.middle[0] for one in row if one.tunnel]
        y = card.tunnel.middle[1]
        start, end = max(box.x, min(ends)), min(box.right, max(ends))
        if len(ends) > 1:
            yield _line((start, y), (end, y), "overlay")
    yield _rect(card.uplink, "uplink", radius=13)
    y = card.uplink.middle[1] + 4.5  # the cable passes between the two words
    yield _text(world.UPLINK, (card.spine - 14, y), 12.5, "end", mono=True)
    yield _text(node.address, (card.spine + 14, y), 12.5, mono=True)
    lease = f"lease {node.lease}" if node.lease else "no lease"
    yield _text(lease, (box.right - 14, box.y + 36), 12, "dim end", mono=True)
    room = box.width - 44 - width(lease, 12, mono=True)
    yield _text(node.name, (box.x + 14, box.y + 37), 18, "strong", room=room)
    yield _device(card.rules, "rules", "rules", f"kube-proxy {drawn.picture.rules}", mono=False)
    if card.tunnel:
        yield _device(card.tunnel, "tunnel", node.tunnel, node.tunnel_address)
    yield from _pods(card, quiet)


def _device(box: Box, sort: str, name: str, below: str, *, mono: bool = True) -> str:
    x, y = box.middle
    return "".join(
        [
            _rect(box, sort),
            _text(name, (x, y - 3 if below else y + 4), 13, "strong middle"),
            _text(below, (x, y + 13), 12, "dim middle", mono=mono) if below else "",
        ]
    )


def _pods(card: Card, quiet: Collection[str]) -> Iterator[str]:
    """Yield the bridge and what is plugged into it."""
    node = card.node
    if card.chips:
        lowest = max(chip.middle[1] for _, chip in card.chips)
        yield _line((card.spine, card.bridge.bottom), (card.spine, lowest), "cable")
    for pods, chip in card.chips:
        if pods.veth or pods.number > 1:
            _, end = card.cable(chip)
            yield _line((card.spine, end[1]), end, "cable")
    yield _rect(card.bridge, "bridge")
    words = f"{node.bridge}  {node.bridge_address}".rstrip()
    at = (card.bridge.x + 12, card.bridge.middle[1] + 4.5)
    yield _text(words, at, 13, mono=True, room=card.bridge.width - 24)
    for pods, chip in card.chips:
        faint = " quiet" if pods.netns in quiet else ""
        yield f'<g class="pod{faint}">' + "".join(_chip(pods, chip)) + "</g>"


def _chip(pods: Pods, box: Box) -> Iterator[str]:
    stopped = pods.phase in ("Failed", "Succeeded") or (pods.number == 1 and not pods.address)
    sort = "chip off" if stopped else "chip stack" if pods.number > 1 else "chip"
    if pods.number > 1:
        behind = Box(box.x + 4, box.y + 4, box.width, box.height)
        yield _rect(behind, "chip")
    yield _rect(box, sort, more=_netns(pods.netns))
    yield _text(pods.name, (box.x + 9, box.y + 18), 13, room=box.width - 16)
    below = pods.address or ("no address" if pods.number == 1 else count(pods.number, "pod"))
    yield _text(below, (box.x + 9, box.y + 35), 12, "dim", mono=True)
    yield from _badges(pods.services, box.right - 6, box.bottom - BADGE - 5)


def _badges(numbers: tuple[int, ...], right: float, top: float) -> Iterator[str]:
    """Yield the numbers of Services as badges that end at *right*."""
    shown = numbers[:BADGES_MAX]
    if len(numbers) > len(shown):
        yield _text("+", (right - 8, top + 12), 13, "dim")
        right -= 11
    for number in reversed(shown):
        badge = _badge(number, right, top)
        right -= _badge_width(number) + 3
        yield badge


def _badge_width(number: int) -> float:
    return max(BADGE, 8 * len(str(number)) + 6)


def _badge(number: int, right: float, top: float) -> str:
    wide = _badge_width(number)
    box = Box(right - wide, top, wide, BADGE)
    at = (right - wide / 2, top + BADGE - 3.8)
    return _rect(box, f"badge h{hue(number)}", radius=BADGE / 2) + _text(
        str(number), at, 11, "number middle"
    )


def _small(card: Card) -> Iterator[str]:
    node, box = card.node, card.box
    yield _rect(box, "card", radius=8, more=_netns(node.netns))
    yield _text(node.name, (box.x + 10, box.y + 22), 15, "strong", room=box.width - 70)
    pods = count(node.number_of_pods, "pod")
    yield _text(pods, (box.right - 10, box.y + 22), 12, "dim end")
    yield _text(node.address, (box.x + 10, box.y + 41), 12.5, mono=True)
    lease = node.lease or "no lease"
    yield _text(lease, (box.x + 10, box.y + 58), 12.5, "lease", mono=True)
    for group, line in card.chips:
        marks = min(len(group.services), BADGES_MAX - 2)
        room = line.width - 4 - marks * (BADGE + 3) - (11 if len(group.services) > marks else 0)
        yield _text(group.label, (line.x + 2, line.y + 13), 12, room=room)
        numbers = group.services
        if len(numbers) > marks:
            yield _text("+", (line.right - 8, line.y + 13), 13, "dim")
            yield from _badges(numbers[:marks], line.right - 11, line.y + 1)
        else:
            yield from _badges(numbers, line.right, line.y + 1)


def _absent(drawn: Layout) -> Iterator[str]:
    if drawn.absent:
        words = f"and {count(drawn.picture.absent, 'more node')}"
        yield _text(words, (drawn.absent.x, drawn.absent.bottom - 5), 13, "dim")


def _services(drawn: Layout) -> Iterator[str]:
    if not drawn.services:
        return
    first = drawn.services[0][1]
    if drawn.titled:
        yield _text("Services", (first.x, first.y - 10), 14, "strong")
        words = "a number marks the pods that serve it"
        if any(service.number for service, _ in drawn.services):
            yield _text(words, (first.x + 78, first.y - 10), 13, "dim")
    for service, box in drawn.services:
        yield "".join(_service(service, box))


def _service(service: Service, box: Box) -> Iterator[str]:
    yield _rect(box, f"service h{hue(service.number)}")
    left = box.x + 12
    if service.number:
        wide = _badge_width(service.number)
        yield _badge(service.number, left + wide, box.y + 9)
        left += wide + 8
    reach = service.reach
    room = box.right - 12 - width(reach, 12) - 10 - left
    yield _text(service.name, (left, box.y + 21), 14, "strong", room=room)
    sort = "dim end" if service.endpoints else "warn end"
    yield _text(reach, (box.right - 12, box.y + 21), 12, sort)
    where = " ".join([service.address, *service.ports])
    room = box.width - 34 - width(service.sort, 12)
    yield _text(where, (box.x + 12, box.y + 42), 12, "dim", room=room, mono=True)
    if service.sort:
        yield _text(service.sort, (box.right - 12, box.y + 42), 12, "dim end")
