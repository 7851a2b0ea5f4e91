"""A picture as a mermaid flowchart, as Markdown pages show it.

Source of the escapes: mermaid's documentation of flowcharts, "Entity codes to escape characters".
"""

from __future__ import annotations

from collections.abc import Iterator

from netlab import world
from netlab.picture.model import Node, Picture
from netlab.picture.services import Service
from netlab.picture.text import plain

EDGES_MAX = 60  # more edges from Services to pods are a knot: their number is said instead
_WORDS = {
    world.GATEWAY: "gateway, firewall",
    world.MASTER: "master, etcd",
    world.BALANCER: "balancer, L4",
}
# What would end or change a quoted label; entity codes are decimal, without `&`.
_SPECIAL = frozenset('"#&<>`\\;%')
_STYLES = """\
  classDef segment fill:#dbe9f8,stroke:#2f6aa8,color:#14202e
  classDef bridge fill:#d6efdf,stroke:#2f8552,color:#14202e
  classDef vtep fill:#fdebd3,stroke:#b8660a,color:#14202e
  classDef service fill:#e9e2fb,stroke:#7450c0,color:#14202e"""


def mermaid(picture: Picture) -> str:
    """Return *picture* as the text of a flowchart."""
    return "\n".join(_lines(picture)) + "\n"


def label(*lines: str) -> str:
    """Return *lines* as one quoted label."""
    return '"' + "<br/>".join(escaped(line) for line in lines if line) + '"'


def escaped(text: str) -> str:
    """Return *text* so that mermaid shows it as it is."""
    return "".join(f"#{ord(one)};" if one in _SPECIAL else one for one in plain(text))


def _lines(picture: Picture) -> Iterator[str]:
    members = picture.members
    yield "flowchart LR"  # downwards, a node would be as wide as its pods together
    yield f"  %% lab {escaped(picture.lab)}: {escaped('; '.join(picture.facts))}"
    yield _STYLES
    outside = [one for one in (world.INTERNET, world.CLIENT) if one in members]
    if outside:
        yield '  subgraph outside["outside"]'
        for name in outside:
            yield f"    {name}[{label(name, members[name].addresses[0])}]"
        yield "  end"
    inside = [one for one in _WORDS if one in members]
    for name in inside:
        yield f"  {name}[{label(_WORDS[name], *members[name].addresses)}]"
    numbers = {segment.name: number for number, segment in enumerate(picture.segments)}
    for segment in picture.segments:
        words = label(f"segment {segment.name}", segment.cidr)
        yield f"  segment{numbers[segment.name]}[[{words}]]:::segment"
    if len(picture.segments) > 1:
        yield f"  router[{label('router', *(one.router for one in picture.segments))}]"
        for number in numbers.values():
            yield f"  router --- segment{number}"
    yield from (f"  {name} --- gateway" for name in outside)
    for name in inside:
        if name == world.BALANCER and members[name].behind:
            yield f"  {world.GATEWAY} --- {name}"
        if not members[name].behind:
            yield f"  {name} --- segment{numbers[members[name].segment]}"
    for number, node in enumerate(picture.nodes):
        yield from _node(number, node, small=picture.small)
        for name in inside:
            if members[name].behind == node.netns:
                yield f"  {name} ---|{members[name].port}| n{number}"
        yield f"  segment{numbers[node.segment]} --- n{number}eth0"
    if picture.absent:
        yield f"  absent[{label(f'and {picture.absent} more nodes')}]"
    yield from _services(picture)


def _node(number: int, node: Node, *, small: bool) -> Iterator[str]:
    me = f"n{number}"
    lease = f"lease {node.lease}" if node.lease else "no lease"
    yield f"  subgraph {me}[{label(node.name)}]"
    if small:
        yield f"    {me}eth0[{label(node.address, lease)}]"
        bridge = f"{me}eth0"
    else:
        bridge = f"{me}bridge"
        yield f"    {me}eth0[{label(f'{world.UPLINK} {node.address}', lease)}]"
        yield f"    {bridge}[{label(f'{node.bridge} {node.bridge_address}')}]:::bridge"
        yield f"    {me}eth0 --- {bridge}"
        if node.tunnel:
            yield f"    {me}vtep[{label(f'{node.tunnel} {node.tunnel_address}')}]:::vtep"
            yield f"    {me}eth0 -.- {me}vtep --- {bridge}"
    for index, pods in enumerate(node.pods):
        yield f"    {me}p{index}({label(pods.label, pods.address)})"
        yield f"    {bridge} --- {me}p{index}"
    yield "  end"


def _services(picture: Picture) -> Iterator[str]:
    if not picture.services:
        return
    edges = [
        (service, f"n{number}p{index}")
        for service in picture.services
        for number, node in enumerate(picture.nodes)
        for index, pods in enumerate(node.pods)
        if service.number in pods.services
    ]
    yield '  subgraph services["Services"]'
    for index, service in enumerate(picture.services):
        yield f"    s{index}{{{{{label(*service_words(service))}}}}}:::service"
    yield "  end"
    places = {service.name: index for index, service in enumerate(picture.services)}
    if len(edges) <= EDGES_MAX:
        for service, pods in edges:
            yield f"  {pods} -.- s{places[service.name]}"


def service_words(service: Service) -> list[str]:
    """Return the lines of a Service's label."""
    where = f"{service.address} {', '.join(service.ports)}".strip()
    return [service.name, where, service.reach]
