"""A conversation followed over machines of their own, and what stops one there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from boxes import LAB, Box, boxes, converged, joined, name, pods, status, written
from labs import eventually

from netlab import pcapng

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, Box]]:
    """Both machines in the lab: node1 with the master, node2 by `netlab agent`."""
    with boxes(2) as (first, second):
        first.netlab("up", "--master", written(tmp_path_factory.mktemp("lab")))
        joined(second)
        eventually(lambda: all(map(converged, (first, second))), what=f"{status(first)}")
        yield first, second


def traced(box: Box, *words: str, code: int = 0) -> dict[str, Any]:
    said = box.netlab("trace", *words, "-o", "json", code=None)
    assert said.returncode == code, said.stdout[-3000:] + said.stderr
    return dict(json.loads(said.stdout))


def steps(told: dict[str, Any], leg: str = "request") -> list[dict[str, Any]]:
    """Return the steps of the first packet of a leg."""
    return list(next(one["steps"] for one in told["packets"] if one["leg"] == leg))


def way(found: list[dict[str, Any]]) -> list[tuple[str, str, str, bool]]:
    """Return each device that a packet was on: machine, device, direction, whether enveloped."""
    return [
        (
            one["place"]["node"] or one["place"]["name"],
            one["device"],
            one["direction"],
            one["vxlan"] is not None,
        )
        for one in found
        if one["step"] == "device"
    ]


def crossing(here: str, there: str) -> list[tuple[str, str, str, bool]]:
    return [
        (here, "flannel.1", "out", False),
        (here, "eth1", "out", True),
        (there, "eth1", "in", True),
        (there, "flannel.1", "in", False),
    ]


def test_a_packet_between_pods_is_seen_on_both_machines(two: tuple[Box, Box]) -> None:
    for box, other in (two, two[::-1]):
        there = pods(box)
        told = traced(box, name(there[box.name]), f"{name(there[other.name])}:80")
        assert told["answered"] and not told["lost"]
        for leg, ends in (("request", (box, other)), ("reply", (other, box))):
            found = steps(told, leg)
            passed = way(found)
            assert [one for one in passed if one[1] in ("flannel.1", "eth1")] == crossing(
                *(one.name for one in ends)
            )
            assert passed[0] == (ends[0].name, "eth0", "out", False)
            assert passed[-1] == (ends[1].name, "eth0", "in", False)
            assert found[-1]["fate"] == "delivered"
            times = [one["time"] for one in found if one["step"] == "device"]
            assert times == sorted(times) and times[-1] - times[0] < 1e9
            # The other machine's kernel told of its own rules, and what sends it on there.
            for machine in ends:
                hops = [one for one in found if one["step"] == "next-hop"]
                assert machine.name in {one["place"]["name"] for one in hops}
            assert {one["place"]["name"] for one in found if one["step"] == "rule"} == {
                "node1",
                "node2",
            }


def to_other(box: Box, other: Box, *words: str) -> dict[str, Any]:
    """Return a trace from a pod on *box* to the Service, one that an endpoint on *other* took."""
    kept: list[dict[str, Any]] = []
    mine = name(pods(box)[box.name])

    def tried() -> bool:
        kept.append(traced(box, mine, *words))
        return kept[-1]["says"].get("node") == other.name

    eventually(tried, what="an endpoint on the other machine")
    return kept[-1]


def test_a_service_whose_endpoint_is_on_the_other_machine(two: tuple[Box, Box]) -> None:
    first, second = two
    told = to_other(second, first, "svc/web")
    assert told["service"].startswith("default/web")
    found = steps(told)
    (rewrite,) = [one for one in found if one["step"] == "rewrite"]
    assert (rewrite["kind"], rewrite["place"]["name"]) == ("dnat", "node2")
    assert rewrite["after"]["destination"] == pods(first)["node1"]["status"]["podIP"]
    assert [one for one in way(found) if one[1] in ("flannel.1", "eth1")] == crossing(
        "node2", "node1"
    )
    reply = [one for one in steps(told, "reply") if one["step"] == "rewrite"]
    assert [(one["kind"], one["place"]["name"]) for one in reply] == [("un-dnat", "node2")]
    # Both kernels remember the flow: the one as it was asked for, the other as it came.
    entries = {one["place"]["name"]: one["original"]["destination"] for one in told["conntrack"]}
    assert entries == {"node2": "10.96.7.7", "node1": rewrite["after"]["destination"]}


def test_rules_that_did_not_fit_are_read_where_they_are(two: tuple[Box, Box]) -> None:
    first = two[0]
    there = pods(first)
    told = traced(*(first, name(there["node1"]), f"{name(there['node2'])}:80"), "--all-rules")
    unfit = {
        one["place"]["name"]
        for one in steps(told)
        if one["step"] == "rule" and not one["fitted"] and one["rule"]
    }
    assert unfit == {"node1", "node2"}


def test_a_trace_begins_on_whichever_machine_its_sender_is(
    two: tuple[Box, Box], tmp_path: Path
) -> None:
    first = two[0]
    there = pods(first)
    ends = name(there["node2"]), f"{name(there['node1'])}:80"
    told = traced(first, *ends)
    assert told["answered"] and way(steps(told))[0][0] == "node2"
    text = first.netlab("trace", *ends, "--http", "/").stdout
    assert "VXLAN 1" in text and "node1" in text and "node2" in text
    file = tmp_path / "way.pcapng"
    first.netlab("trace", *ends, "-o", "pcapng", "-w", str(file))
    with file.open("rb") as stream:
        devices = {
            pcapng.read_interface(block.data).name
            for block in pcapng.blocks(stream)
            if block.kind == pcapng.INTERFACE
        }
    assert {"node1:eth1", "node2:eth1"} <= devices
    said = first.netlab("trace", name(there["node2"]), "nobody:80", code=None)
    assert said.returncode == 4 and said.stderr.startswith("error: no pod default/nobody\n")


def test_a_machine_that_is_not_heard_from_is_named(two: tuple[Box, Box]) -> None:
    first, second = two
    there = pods(first)
    ends = [name(there[one]) for one in ("node1", "node2")]
    second.kill_agent(LAB)
    try:
        for words in (ends, ends[::-1]):
            said = first.netlab("trace", *words, code=None)
            assert said.returncode == 1, said.stdout
            assert "node2" in said.stderr.splitlines()[0], said.stderr
            assert len(said.stderr.splitlines()) <= 3 and not said.stdout
    finally:
        joined(second)
    assert traced(first, *ends)["answered"]


def diagnosed(box: Box, *words: str, code: int = 1) -> dict[str, Any]:
    said = box.netlab("why", *words, "-o", "json", code=None)
    assert said.returncode == code, said.stdout[-3000:] + said.stderr
    return dict(json.loads(said.stdout))


@contextmanager
def broken(box: Box, make: str, mend: str) -> Iterator[None]:
    """Have a machine broken meanwhile."""
    box.run("bash", "-c", make)
    try:
        yield
    finally:
        box.run("bash", "-c", mend)


# How it is broken, and mended: nothing that the agent there would repair before it is asked.
DROP = "-p tcp --dport 80 -m comment --comment planted -j DROP"
CLOSED = "-p udp --dport 8472 -j DROP"
STRICT = "sysctl -w net.ipv4.conf.flannel/1.rp_filter={} net.ipv4.conf.eth1.rp_filter={}; "
BREAKS = {
    "drop": ("rule", f"iptables -I FORWARD {DROP}", f"iptables -D FORWARD {DROP}"),
    "closed": ("rule", f"iptables -I INPUT {CLOSED}", f"iptables -D INPUT {CLOSED}"),
    "blackhole": ("route", "ip route add blackhole {pod}", "ip route del blackhole {pod}"),
    "policy": (
        *("route", "ip rule add to {pod} pref 10 unreachable"),
        "ip rule del to {pod} pref 10 unreachable",
    ),
    "way-back": (
        *("rp-filter", STRICT.format(1, 1) + "ip route replace {sender} dev eth1"),
        STRICT.format(0, 0) + "ip route del {sender} dev eth1",
    ),
}


@pytest.mark.parametrize("breakage", BREAKS)
@pytest.mark.parametrize("asked_on", ["node1", "node2"])
def test_what_stops_a_flow_on_the_other_machine_is_named_with_it(
    two: tuple[Box, Box], breakage: str, asked_on: str
) -> None:
    first, second = two if asked_on == "node1" else two[::-1]
    there = pods(first)
    mine, theirs = there[first.name], there[second.name]
    ends = name(mine), f"{name(theirs)}:80"
    words = {"pod": theirs["status"]["podIP"], "sender": mine["status"]["podIP"]}
    kind, make, mend = BREAKS[breakage]
    assert diagnosed(first, *ends, code=0)["causes"] == []
    with broken(second, make.format(**words), mend.format(**words)):
        (cause,) = diagnosed(first, *ends)["causes"]
    assert (cause["kind"], cause["place"]["name"]) == (kind, second.name), cause
    assert second.name in cause["repair"][0]
    assert diagnosed(first, *ends, code=0)["causes"] == []


def test_what_listens_in_a_pod_is_asked_of_its_machine(two: tuple[Box, Box]) -> None:
    for box, other in (two, two[::-1]):
        there = pods(box)
        told = diagnosed(box, name(there[box.name]), f"{name(there[other.name])}:81")
        (cause,) = told["causes"]
        assert (cause["kind"], cause["place"]["node"]) == ("no-listener", other.name)
        assert "80/tcp" in cause["what"], cause


def test_why_begins_on_whichever_machine_the_sender_is(two: tuple[Box, Box]) -> None:
    first = two[0]
    there = pods(first)
    pod = there["node1"]["status"]["podIP"]
    ends = name(there["node2"]), f"{name(there['node1'])}:80"
    with broken(first, f"ip route add blackhole {pod}", f"ip route del blackhole {pod}"):
        said = first.netlab("why", *ends, "-v", code=None)
    assert said.returncode == 1
    assert f"node1 has a blackhole route to {pod}" in said.stdout
    assert "VXLAN 1" in said.stdout  # the way it took


def test_what_goes_on_already_is_not_followed_over_machines(two: tuple[Box, Box]) -> None:
    said = two[0].netlab("trace", "--attach", "tcp", code=2)
    assert len(said.stderr.splitlines()) <= 2 and "machine" in said.stderr
