"""One case of the table in one mode: its namespaces, its steps, its flows."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flow_cases import steps

from netlab.kernel.netns import entered
from netlab.proxy import Mode
from netlab.proxy.addresses import address, is_loopback

from .cabling import built
from .judging import Burst, chosen, complaints, goal
from .packets import Packet
from .proxying import following, programme, programme_behind_firewall
from .sensors import close, sensors
from .topology import Place, Topology, topology
from .traffic import Traffic, fresh_port, on_one_cpu, token

Words = dict[str, Any]
BY_RULES = (Mode.IPTABLES, Mode.NFTABLES)  # modes that any kernel here has, without a process
Programme = Callable[[Words, Mode, Place, Path], object]

PER_ENDPOINT = 20  # packets; all of four endpoints are then seen but in 4 of 10 billion bursts
FORWARDED = "masq-base-cluster"  # a case whose rows are masqueraded from all kinds of clients
WITHOUT = 6  # packets of a flow that reaches none
PACE = 0.001  # seconds between two packets of a flow that goes on


def modes(case: Words) -> list[Mode]:
    """Return the modes the case holds in."""
    return [one for one in Mode if one in case["modes_verified"] + case["modes_derived"]]


@contextmanager
def standing(case: Words, prefix: str) -> Iterator[Traffic]:
    """Have the namespaces of *case*, with their sensors, for the duration."""
    world = topology(case, prefix)
    with built(world, case, prefix):
        found = list(sensors(world.places.values()))
        traffic = Traffic(world, found)
        try:
            traffic.warm_up()
            yield traffic
        finally:
            traffic.close()
            close(found)


def failures(
    case: Words, mode: Mode, prefix: str, directory: Path, *, with_: Programme = programme
) -> list[str]:
    """Return what does not hold of *case* in *mode*, row by row, in words."""
    found: list[str] = []
    groups: dict[str, set[str]] = {}
    with standing(case, prefix) as traffic:
        for given, flows in steps(case):
            rows = _rows(flows, mode)
            with ExitStack() as meanwhile:
                for flow in rows:
                    if flow.get("keep_sending"):
                        meanwhile.enter_context(_going_on(flow, case, traffic))
                for place in _programmed(case, traffic.world):
                    with_(given, mode, place, directory)
            for flow in rows:
                wrong = _run(flow, case, given, mode, traffic, directory, groups)
                found += [f"{case['id']}/{flow['name']}/{mode}: {one}" for one in wrong]
        if traffic.lost:
            found.append(f"{case['id']}/{mode}: the sensors lost {traffic.lost} frames")
    return found


def failures_behind_firewall(case: Words, prefix: str, directory: Path) -> list[str]:
    """Return what does not hold, in iptables mode, where FORWARD lets nothing through by itself.

    That is what KUBE-FORWARD is for, which accepts what is marked, and answers. Of *case* the rows
    count that are masqueraded: only those are marked.
    """
    flows = [flow for flow in case["flows"] if flow["masqueraded"] is True]
    less = {**case, "flows": flows}
    return failures(less, Mode.IPTABLES, prefix, directory, with_=programme_behind_firewall)


def count(case: Words, mode: Mode) -> int:
    """Return how many rows of *case* there are in *mode*."""
    return sum(len(_rows(flows, mode)) for _, flows in steps(case))


def _rows(flows: list[Words], mode: Mode) -> list[Words]:
    return [flow for flow in flows if mode in flow.get("modes", [mode])]


def _programmed(case: Words, world: Topology) -> list[Place]:
    if case.get("proxy_on") == "every-node":
        return world.nodes
    return [world.places[world.tested]]


def _run(
    flow: Words,
    case: Words,
    given: Words,
    mode: Mode,
    traffic: Traffic,
    directory: Path,
    groups: dict[str, set[str]],
) -> list[str]:
    world = traffic.world
    node = world.places[world.tested]
    expected = flow.get("expect_by_mode", {}).get(mode, flow["expect"])
    # That the proxy lets something in shows where the host lets nothing else in.
    closed = expected == "host" and mode is Mode.IPTABLES
    with _closed(node) if closed else ExitStack():
        burst = _sent(flow, case, expected, traffic)
        wrong = list(complaints(burst, traffic))
        if "http" in flow:
            with following(given, mode, node, directory):
                wrong += _http(flow, world.outside)
    if "group" in flow:
        group = groups.setdefault(flow["group"], set())
        group |= chosen(burst, traffic)
        if len(group) > 1:
            wrong.append(f"expected one endpoint for all of {flow['group']}, saw {sorted(group)}")
    return wrong


def _sent(flow: Words, case: Words, expected: str | list[str], traffic: Traffic) -> Burst:
    """Send the packets of *flow* and see what becomes of them."""
    world = traffic.world
    sender = _sender(flow, world)
    number = PER_ENDPOINT * len(expected) if isinstance(expected, list) else WITHOUT
    packets = [_packet(flow) for _ in range(flow.get("repeat") or number)]
    waited_for = [] if expected == "dropped" else [one.token for one in packets]
    with on_one_cpu():
        if _is_martian(flow):
            traffic.inject(sender, packets, world.places[world.tested])
        else:
            traffic.send(sender, packets)
        traffic.settle(sender, waited_for)
    return Burst(flow, sender, _translator(flow, case, world, sender), expected, packets)


def _sender(flow: Words, world: Topology) -> Place:
    origin = flow["from"]
    match origin["kind"]:
        case "external":
            return world.outside
        case "pod":
            return world.places[_packet(flow).source]
    return world.places[origin["node"]]


def _packet(flow: Words) -> Packet:
    port = flow.get("source_port") or fresh_port()
    return Packet(address(flow["from"]["ip"]), port, *goal(flow), token())


def _is_martian(flow: Words) -> bool:
    """Return whether no host would send this from where it comes: loopback, over a wire."""
    return flow["from"]["kind"] == "external" and is_loopback(goal(flow)[0])


def _translator(flow: Words, case: Words, world: Topology, sender: Place) -> str:
    """Return the node whose proxy is to translate *flow*."""
    if case.get("proxy_on") != "every-node":
        return world.tested
    where = world.at(goal(flow)[0])
    return where.name if where and where.is_node else sender.node or world.tested


@contextmanager
def _going_on(flow: Words, case: Words, traffic: Traffic) -> Iterator[None]:
    """Have the flow's packets sent without a pause, so that nothing about it can time out."""
    end = threading.Event()
    sender = _sender(flow, traffic.world)

    def go_on() -> None:
        while not end.wait(PACE):
            traffic.send(sender, [_packet(flow)])

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextmanager
def _closed(node: Place) -> Iterator[None]:
    """Have the node's own firewall let nothing in but what others' rules accept."""
    with entered(node.netns):
        subprocess.run(["iptables", "-P", "INPUT", "DROP"], check=True)
        try:
            yield
        finally:
            subprocess.run(["iptables", "-P", "INPUT", "ACCEPT"], check=True)


def _http(flow: Words, client: Place) -> Iterator[str]:
    """Ask as a load balancer does; yield what is wrong with the answer."""
    host, port, _ = goal(flow)
    with entered(client.netns):
        connection = http.client.HTTPConnection(
            host, port, timeout=10, source_address=(flow["from"]["ip"], 0)
        )
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            status, body = answer.status, answer.read()
        finally:
            connection.close()
    wanted = flow["http"]
    if status != wanted["status"]:
        yield f"expected HTTP {wanted['status']}, got {status}: {body!r}"
    elif not wanted["json"].items() <= json.loads(body).items():
        yield f"expected {wanted['json']} in {body!r}"
