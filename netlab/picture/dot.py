"""A picture in the language of graphviz. Source of its quoting: graphviz.org/doc/info/lang.html."""

from __future__ import annotations

from collections.abc import Iterator

from netlab import world
from netlab.picture.mermaid import EDGES_MAX, service_words
from netlab.picture.model import Node, Picture
from netlab.picture.text import plain

_LINE = "\\n"
_HEAD = """\
  rankdir=TB; compound=true; nodesep=0.25; ranksep=0.5; fontname="sans-serif";
  node [shape=box, style="rounded,filled", fillcolor="#f3f6fa", color="#8fa3b8",
        fontname="sans-serif", fontsize=11];
  edge [dir=none, color="#8fa3b8"];"""


def dot(picture: Picture) -> str:
    """Return *picture* as a graph for `dot`."""
    return "\n".join(_lines(picture)) + "\n"


def quoted(*lines: str) -> str:
    """Return *lines* as one quoted label, each centred. Graphviz reads HTML's entities in it."""
    return '"' + _LINE.join(_escaped(line) for line in lines if line) + '"'


def _escaped(text: str) -> str:
    return plain(text).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")


def _lines(picture: Picture) -> Iterator[str]:
    members = picture.members
    title = quoted(f"lab {picture.lab}", ", ".join(picture.facts))
    yield "graph netlab {"
    yield _HEAD
    yield f"  label={title}; labelloc=t; fontsize=14;"
    inside = [one for one in (world.GATEWAY, world.MASTER, world.BALANCER) if one in members]
    outside = [one for one in (world.INTERNET, world.CLIENT) if one in members]
    for name in (*outside, *inside):
        yield f'  {name} [label={quoted(name, *members[name].addresses)}, color="#2f6aa8"];'
    for number, segment in enumerate(picture.segments):
        words = quoted(f"{segment.name} {segment.cidr}")
        yield f'  segment{number} [label={words}, fillcolor="#dbe9f8", color="#2f6aa8"];'
        if len(picture.segments) > 1:
            yield f"  router -- segment{number} [headlabel={quoted(segment.router)}];"
    numbers = {segment.name: number for number, segment in enumerate(picture.segments)}
    yield from (f"  {name} -- gateway;" for name in outside)
    for name in inside:
        if name == world.BALANCER and members[name].behind:
            yield f"  {world.GATEWAY} -- {name};"
        if not members[name].behind:
            yield f"  {name} -- segment{numbers[members[name].segment]};"
    for number, node in enumerate(picture.nodes):
        yield from _node(number, node, small=picture.small)
        for name in inside:
            if members[name].behind == node.netns:
                ends = f'lhead=cluster_n{number}, headlabel="{members[name].port}"'
                yield f"  {name} -- n{number}eth0 [{ends}];"
        yield f"  segment{numbers[node.segment]} -- n{number}eth0;"
    if picture.absent:
        yield f"  absent [label={quoted(f'and {picture.absent} more nodes')}];"
    yield from _services(picture)
    yield "}"


def _node(number: int, node: Node, *, small: bool) -> Iterator[str]:
    me = f"n{number}"
    lease = f"lease {node.lease}" if node.lease else "no lease"
    yield f"  subgraph cluster_{me} {{"
    yield f'    label={quoted(node.name)}; style=rounded; color="#8fa3b8"; fontsize=14;'
    if small:
        bridge = f"{me}eth0"
        yield f"    {bridge} [label={quoted(node.address, lease)}];"
    else:
        bridge = f"{me}bridge"
        uplink = quoted(f"{world.UPLINK} {node.address}", lease)
        yield f'    {me}eth0 [label={uplink}, fillcolor="#dbe9f8"];'
        words = quoted(f"{node.bridge} {node.bridge_address}")
        yield f'    {bridge} [label={words}, fillcolor="#d6efdf"];'
        yield f"    {me}eth0 -- {bridge};"
        if node.tunnel:
            words = quoted(f"{node.tunnel} {node.tunnel_address}")
            yield f'    {me}vtep [label={words}, fillcolor="#fdebd3"];'
            yield f"    {me}eth0 -- {me}vtep [style=dashed];"
            yield f"    {me}vtep -- {bridge};"
    for index, pods in enumerate(node.pods):
        yield f'    {me}p{index} [label={quoted(pods.label, pods.address)}, fillcolor="#ffffff"];'
        yield f"    {bridge} -- {me}p{index};"
    yield "  }"


def _services(picture: Picture) -> Iterator[str]:
    edges: list[str] = []
    for index, service in enumerate(picture.services):
        words = quoted(*service_words(service))
        yield f'  s{index} [label={words}, shape=hexagon, style=filled, fillcolor="#e9e2fb"];'
        edges += [
            f'  n{number}p{place} -- s{index} [style=dotted, color="#7450c0"];'
            for number, node in enumerate(picture.nodes)
            for place, pods in enumerate(node.pods)
            if service.number in pods.services
        ]
    if len(edges) <= EDGES_MAX:
        yield from edges
