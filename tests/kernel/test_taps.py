"""Frames of many namespaces in one capture: all of them, in order, with what is said of them."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import handmade
import pytest
from reading import read, times

from netlab import filters, pcapng, targets
from netlab.annotation.names import names
from netlab.cluster import Cluster
from netlab.filters import names as filter_names
from netlab.kernel.netns import entered
from netlab.packets import Flow, Protocol
from netlab.sensors import rulewatch
from netlab.sensors.recorder import Recorder
from netlab.sensors.rulewatch import RuleWatch
from netlab.sensors.taps import Taps
from netlab.targets import Target

pytestmark = pytest.mark.kernel

NAME = f"nltest{os.getpid()}"
C = "10.244.2.2"  # of pod c, on the other node
DEADLINE = 10.0  # seconds


@pytest.fixture(scope="module")
def state() -> Iterator[Cluster]:
    with handmade.two_nodes(NAME) as made:
        yield made


@pytest.fixture
def alone() -> Iterator[str]:
    """A namespace with nothing but lo."""
    name = f"{NAME}alone"
    subprocess.run(f"ip netns add {name} && ip -n {name} link set lo up", shell=True, check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], capture_output=True)


def send(netns: str, address: str, *, payload: bytes = b"hello", count: int = 1) -> int:
    """Send datagrams to port 80; return the port they come from."""
    with entered(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, 80))
        for _ in range(count):
            try:
                sock.send(payload)
            except ConnectionRefusedError:
                pass
        return int(sock.getsockname()[1])


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < deadline, true
        time.sleep(0.01)


def code(state: Cluster, text: str, snaplen: int = 0) -> bytes:
    return filters.program(filters.parsed(text, filter_names.names(state)), snaplen)


def test_one_packet_is_seen_everywhere_with_its_hops_in_order(
    state: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "a.pcapng"
    with Recorder(targets.every(state), names=names(state)) as recorder:
        port = send(f"{NAME}.node1.default.a", C)
        recorder.dump(file)
    fields = ("interface_name", "interface_description", "comment", "packet_id", "time_epoch")
    seen = read(
        file,
        *(f"frame.{one}" for one in fields),
        *("frame.packet_flags_direction", "vxlan.vni", "udp.srcport"),
        only=f"udp.srcport == {port}",
    )
    places = [one["frame.interface_name"][0] for one in seen]
    veths = [pod.veth for pod in state.pods if pod.name in "ac"]
    for expected in (
        *("node1/default/a:eth0", f"node1:{veths[0]}", "node1:docker0", "node1:flannel.1"),
        *("node1:eth0", "underlay:node1", "underlay:node2", "node2:eth0", "node2:flannel.1"),
        *("node2:docker0", f"node2:{veths[1]}", "node2/default/c:eth0"),
    ):
        assert expected in places
    assert len({one["frame.packet_id"][0] for one in seen}) == 1
    for number, one in enumerate(seen, start=1):
        said = one["frame.comment"]
        assert said[0].startswith("pod default/a -> pod default/c")
        assert said[1].startswith(f"packet {seen[0]['frame.packet_id'][0]}, hop {number}")
    wrapped = [one for one in seen if one["frame.interface_name"] == ["node1:eth0"]]
    assert wrapped[0]["vxlan.vni"] == ["1"]
    assert wrapped[0]["frame.comment"][0].endswith("in VXLAN 1 node1 -> node2")
    directions = [one["frame.packet_flags_direction"][0] for one in seen]
    assert [int(one, 0) for one in (directions[0], directions[-1])] == [pcapng.OUT, pcapng.IN]
    assert seen[0]["frame.interface_description"] == [
        "eth0 of pod default/a on node1: cable to node1, 10.244.1.2"
    ]
    found = times(seen)
    assert found == sorted(found)
    assert abs(found[0] - time.time_ns()) < 60e9


def test_a_burst_over_many_rings_comes_out_in_the_order_of_time(
    state: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "burst.pcapng"
    with Recorder(targets.every(state), code=code(state, f"host {C} and udp")) as recorder:
        port = send(f"{NAME}.node1.default.a", C, count=500)
        recorder.dump(file, comments=False)
        assert recorder.lost == {}
    seen = read(file, "frame.time_epoch", "frame.interface_name", only=f"udp.srcport == {port}")
    found = times(seen)
    assert all(one <= next_one for one, next_one in pairwise(found))
    sent = [one for one in seen if one["frame.interface_name"] == ["node1/default/a:eth0"]]
    assert len(sent) == 500


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("udp port 80 and pod c", True),
        ("vxlan", True),
        ("dst host c", True),
        ("src host c", False),
        ("tcp", False),
        ("not udp", False),
    ],
)
def test_the_kernel_filters_as_the_words_say(
    state: Cluster, tmp_path: Path, text: str, taken: bool
) -> None:
    file = tmp_path / "some.pcapng"
    with Recorder([f"{NAME}.node1"], code=code(state, text)) as recorder:
        port = send(f"{NAME}.node1.default.a", C)
        recorder.dump(file)
    seen = read(file, "frame.interface_name", only=f"udp.srcport == {port}")
    assert bool(seen) == taken


def test_frames_are_cut_to_snaplen_and_their_length_is_kept(alone: str, tmp_path: Path) -> None:
    file = tmp_path / "cut.pcapng"
    with Recorder([alone], snaplen=80) as recorder:
        send(alone, "127.0.0.1", payload=bytes(1000))
        recorder.dump(file)
    first = read(file, "frame.cap_len", "frame.len", only="udp and not icmp")[0]
    assert (first["frame.cap_len"], first["frame.len"]) == (["80"], ["1042"])


def test_a_segment_of_64_kib_is_kept_whole(alone: str, tmp_path: Path) -> None:
    file = tmp_path / "large.pcapng"
    with Recorder([alone]) as recorder:
        send(alone, "127.0.0.1", payload=bytes(65000))
        recorder.dump(file)
    lengths = {one["frame.cap_len"][0] for one in read(file, "frame.cap_len", only="udp")}
    assert "65042" in lengths


def test_a_device_that_appears_becomes_an_interface(alone: str, tmp_path: Path) -> None:
    file = tmp_path / "new.pcapng"
    with Recorder([Target(alone, "machine", "a machine")]) as recorder:
        subprocess.run(
            f"ip -n {alone} link add one type veth peer two && ip -n {alone} link set one up &&"
            f" ip -n {alone} link set two up && ip -n {alone} addr add 10.0.0.1/24 dev one",
            shell=True,
            check=True,
        )
        send(alone, "10.0.0.2")
        recorder.dump(file)
    seen = {one["frame.interface_name"][0] for one in read(file, "frame.interface_name")}
    assert seen >= {"machine:one", "machine:two"}


def test_only_the_devices_asked_for_are_kept(state: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "one.pcapng"
    (one,) = targets.targets(state, ["node/node1:flannel.1"])
    with Recorder([one]) as recorder:
        send(f"{NAME}.node1.default.a", C)
        recorder.dump(file)
    seen = {one["frame.interface_name"][0] for one in read(file, "frame.interface_name")}
    assert seen == {"node1:flannel.1"}


def test_memory_keeps_the_newest(alone: str, tmp_path: Path) -> None:
    file = tmp_path / "newest.pcapng"
    with Recorder([alone], size=50_000) as recorder:
        for number in range(200):
            send(alone, "127.0.0.1", payload=b"number %03d" % number + bytes(900))
        written = recorder.dump(file)
    assert 0 < written < 100
    last = file.read_bytes()
    assert b"number 199" in last
    assert b"number 000" not in last
    assert file.stat().st_size < 60_000


def test_a_second_dump_has_what_came_since_a_forget(alone: str, tmp_path: Path) -> None:
    file = tmp_path / "second.pcapng"
    with Recorder([alone]) as recorder:
        send(alone, "127.0.0.1", payload=b"before")
        assert recorder.dump(file) > 0
        recorder.forget()
        send(alone, "127.0.0.1", payload=b"after")
        recorder.dump(file)
    assert b"after" in file.read_bytes()
    assert b"before" not in file.read_bytes()


def test_what_there_is_no_room_for_is_counted_where_it_is_missing(
    alone: str,
) -> None:
    watched = Taps(filters.everything(), memory=4 << 20)
    try:
        watched.follow([Target(alone, "machine", "a machine")])
        send(alone, "127.0.0.1", payload=bytes(8000), count=500)  # and nobody reads meanwhile
        lost = sum(watched.lost.values())
        records = watched.rest()
        send(alone, "127.0.0.1")
        records += watched.rest()
        counts = dict(watched.lost)
    finally:
        watched.close()
    dropped = 0
    for _, block in records:
        options = dict(pcapng.options(pcapng.read_packet(block).options))
        dropped += int.from_bytes(options.get(pcapng.DROPPED, b""), "little")
    assert lost > 0
    assert counts == {alone: lost}
    assert dropped == lost
    assert len(records) + lost >= 1000  # each datagram is seen going out and coming in


def test_nobody_is_kept_alive_by_being_watched(alone: str) -> None:
    """A socket keeps a namespace; once its name is gone it is let go."""
    with Recorder([alone]) as recorder:
        subprocess.run(["ip", "netns", "del", alone], check=True)
        until(lambda: not recorder._taps.watched)


def test_a_namespace_made_anew_is_watched_and_keeps_its_interfaces(
    alone: str, tmp_path: Path
) -> None:
    file = tmp_path / "anew.pcapng"
    again = f"ip netns del {alone} && ip netns add {alone} && ip -n {alone} link set lo up"
    with Recorder([alone]) as recorder:
        before = recorder._taps._taps[alone]
        subprocess.run(again, shell=True, check=True)
        until(lambda: recorder._taps._taps.get(alone) not in (None, before))
        until(lambda: bool(recorder._taps._by_descriptor))

        def seen() -> bool:
            send(alone, "127.0.0.1", payload=b"anew")
            recorder.dump(file)
            return b"anew" in file.read_bytes()

        until(seen)
    assert file.read_bytes().count(f"{alone}:lo".encode()) == 1


def test_a_filter_can_be_exchanged_while_frames_come(state: Cluster, alone: str) -> None:
    one = Target(alone, "machine", "a machine")
    watched = Taps(code(state, "tcp"))
    try:
        watched.follow([one])
        send(alone, "127.0.0.1")
        assert watched.rest() == []
        watched.follow([one], code=code(state, "udp"))
        send(alone, "127.0.0.1")
        assert len(watched.rest()) >= 2
    finally:
        watched.close()


def test_a_namespace_that_does_not_exist_is_left_out() -> None:
    with Recorder([f"{NAME}nobody"]) as recorder:
        assert recorder._taps.watched == []


def test_a_file_that_cannot_be_written_is_an_error(alone: str) -> None:
    with Recorder([alone]) as recorder, pytest.raises(OSError, match="No such file"):
        recorder.dump(Path("/nonexistent/x.pcapng"))


# -- rules


def rules_met(watch: RuleWatch, port: int) -> list[tuple[str, ...]]:
    return [met.rules for met in watch.take() if met.ends.source_port == port]


def test_the_rules_of_a_packet_are_told_once(state: Cluster) -> None:
    node = f"{NAME}.node1"
    with RuleWatch([node], [Flow("", "203.0.113.10", Protocol.UDP, 0, 80)]) as watch:
        port = send(f"{NAME}.node1.default.a", "203.0.113.10")
        found: list[tuple[str, ...]] = []
        until(lambda: found.extend(rules_met(watch, port)) or len(found) >= 1)
        assert any("FLANNEL-POSTRTG" in one for rules in found for one in rules)
    assert rules_met(watch, port) == []
    assert watch.error is None


def test_no_more_is_traced_than_a_pace(state: Cluster) -> None:
    node = f"{NAME}.node1"
    flow = Flow("", "203.0.113.10", Protocol.UDP, 0, 80)
    with RuleWatch([node], [flow]) as watch:
        began = time.monotonic()
        for number in range(2000):
            send(f"{NAME}.node1.default.a", "203.0.113.10", payload=b"%012d" % number)
        took = time.monotonic() - began
    marks = {met.mark for met in watch.take()}
    assert rulewatch.PACE / 2 <= len(marks) <= rulewatch.PACE * (took + 2)
    assert len(marks) < 2000
