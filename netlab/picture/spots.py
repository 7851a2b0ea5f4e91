"""Where in a layout a packet is when it is seen on a device, or meets a rule."""

from __future__ import annotations

from netlab import world
from netlab.picture.layout import MEMBER_CABLE, Card, Layout, Point

INSET = 16  # from a box's edge to a point inside it


def spot(drawn: Layout, netns: str, device: str = "") -> Point | None:
    """Return the point of *device* in *netns*, of its rules without a device; None: not drawn."""
    for card in drawn.cards:
        if card.node.netns == netns:
            return _in_node(card, device)
        for pods, chip in card.chips:
            if pods.netns == netns:
                inner, outer = card.cable(chip)
                inwards = -INSET if outer[0] < inner[0] else INSET
                return outer if device == world.UPLINK else (outer[0] + inwards, outer[1])
    for name, member in drawn.picture.members.items():
        if member.netns == netns:
            return _in_member(drawn, name, device)
    if netns.endswith(f".{world.UNDERLAY}"):
        return _in_underlay(drawn, device)
    return None


def _in_node(card: Card, device: str) -> Point:
    if device == world.UPLINK:
        return card.spine, card.uplink.y
    if device == card.node.bridge:
        return card.spine, card.bridge.middle[1]
    if card.tunnel and device == card.node.tunnel:
        return card.tunnel.x + INSET, card.tunnel.middle[1]
    if device.startswith("veth"):
        ends = [card.cable(chip)[0] for pods, chip in card.chips if pods.veth == device]
        return ends[0] if ends else (card.spine, card.bridge.bottom + INSET)
    if not device:
        return card.rules.right - INSET, card.rules.middle[1]
    return card.rules.x + INSET, card.rules.middle[1]


def _in_member(drawn: Layout, name: str, device: str) -> Point:
    box = drawn.members[name]
    x, y = box.middle[0], box.bottom - MEMBER_CABLE
    if name in (world.INTERNET, world.CLIENT):
        inner = box.right if name == world.INTERNET else box.x
        inwards = -INSET if name == world.INTERNET else INSET
        return (inner, y) if device == world.UPLINK else (inner + inwards, y)
    sides = {
        world.UPLINK: (x, box.bottom),
        world.INTERNET: (box.x, y),
        world.CLIENT: (box.right, y),
    }
    return sides.get(device, (x, y) if name == world.GATEWAY else (box.right - INSET, y))


def _in_underlay(drawn: Layout, device: str) -> Point:
    """Return a port's place on its bus, a bridge's where the router joins it, or the router's."""
    for card in drawn.cards:
        if device == world.port_name(card.node.name):
            return card.spine, card.bus
    for name, box in drawn.members.items():
        if device == name:
            return box.middle[0], drawn.bus(drawn.picture.members[name].segment)
    for band in drawn.bands:
        if device == band.segment.device:
            left, _, y = band.buses[0]
            return (drawn.trunk if drawn.router else left), y
    if drawn.router:
        return drawn.router.middle
    left, _, y = drawn.bands[0].buses[0]
    return left, y
