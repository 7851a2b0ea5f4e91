"""`netlab capture`: what its words mean, and what is wrong with them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran
from fake_lab import FakeLive

from netlab import pcapng, recording, targets
from netlab.cli.capture import Stop, summary_lines, written
from netlab.errors import NetlabError, NotFoundError
from netlab.recording import Summary, Wish
from netlab.sensors import pcapfiles
from netlab.sensors.interfaces import Interface, statistics
from netlab.sensors.pcapfiles import About, File, Ring
from netlab.sensors.taps import room

CLUSTER = FakeLive().cluster()


@pytest.mark.parametrize(
    ("words", "code", "said", "hint"),
    [
        ((), 2, "nothing to capture", "--all"),
        (("--all", "pair"), 2, "both targets and --all", "leave one"),
        (("--all", "--files", "3"), 2, "--files without --ring", "--ring MIB"),
        (("--all", "--rules"), 2, "--rules without a filter", "-f"),
        (("--all", "--rules", "-f", "tcp", "--no-comments"), 2, "--rules without comments", ""),
        (("pair", "--rules", "-f", "tcp"), 2, "only pods are captured", "node/NAME"),
        (("--all", "--rules", "-f", "arp"), 2, "takes no TCP, UDP or ICMP", ""),
        (("zzz",), 4, "no pod default/zzz", "get pods"),
        (("pear",), 4, "no pod default/pear", "did you mean"),
        (("node/node7",), 4, "no node node7", "node1, node2"),
        (("svc/webb",), 4, "no Service default/webb", "default/web"),
        (("pair", "-f", "port x"), 2, "filter: at 'x', column 6: a port is a number", ""),
        (("pair", "-f", "pod pear"), 2, "filter: at 'pear', column 5: no pod", "did you mean"),
        (("pair", "-c", "0"), 2, "Invalid value for '-c'", "--help"),
        (("pair", "-s", "10"), 2, "Invalid value for '-s'", "--help"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else None,
)
def test_what_is_wrong_is_told_before_a_file_is_made(
    netlab: Callable[..., Ran],
    tmp_path: Path,
    words: tuple[str, ...],
    code: int,
    said: str,
    hint: str,
) -> None:
    file = tmp_path / "x.pcapng"
    ran = netlab("capture", *words, "-w", str(file))
    assert (ran.code, ran.out) == (code, "")
    first, *rest = ran.err.splitlines()
    assert first.startswith("error: ")
    assert said in first
    assert hint in "".join(rest)
    assert not file.exists()


def test_a_terminal_gets_no_capture(
    netlab: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    ran = netlab("capture", "--all", "-w", "-")
    assert (ran.code, ran.out) == (2, "")
    assert "no text for a terminal" in ran.err


def test_a_ring_cannot_be_a_stream(netlab: Callable[..., Ran]) -> None:
    assert netlab("capture", "--all", "--ring", "1", "-w", "-").code == 2


def labels(*words: str) -> list[str]:
    return [one.label for one in targets.targets(CLUSTER, words)]


def test_words_are_namespaces_with_labels() -> None:
    assert labels("pair") == ["node1/default/pair"]
    assert labels("shop/cart-1", "node/node2") == ["node1/shop/cart-1", "node2"]
    assert labels("gateway", "underlay") == ["gateway", "underlay"]
    assert labels("pair", "pod/pair", "default/pair") == ["node1/default/pair"]
    assert labels("svc/web") == ["node1", "node2"]
    every = [one.label for one in targets.every(CLUSTER)]
    assert every[:5] == ["underlay", "gateway", "internet", "client", "master"]
    assert set(every[5:]) == {
        *("node1", "node2", "node1/default/pair", "node1/shop/cart-1", "node2/default/web-1")
    }


def test_a_device_may_be_named_and_all_of_them_win() -> None:
    (one,) = targets.targets(CLUSTER, ["node/node1:eth0", "node/node1:docker0"])
    assert one.devices == {"eth0", "docker0"}
    (one,) = targets.targets(CLUSTER, ["node/node1:eth0", "node/node1"])
    assert one.devices == frozenset()
    assert one.name("eth0") == "node1:eth0"
    assert one.description("docker0") == "docker0 of node1: bridge of the pods, 10.244.1.1"


def test_what_is_gone_is_passed_over_once_a_capture_runs() -> None:
    wish = Wish(words=("pair", "gone", "node/gone"))
    with pytest.raises(NotFoundError):
        recording.meant(CLUSTER, wish)
    found = recording.meant(CLUSTER, wish, strict=False)
    assert [one.label for one in found.targets] == ["node1/default/pair"]


# -- files

DEVICES = [Interface("lab.n1", "eth0", "n1:eth0", "", pcapng.ETHERNET)]


def blocks(count: int, length: int = 100) -> list[bytes]:
    return [pcapng.packet(0, number, bytes(length)) for number in range(count)]


def kinds(path: Path) -> list[int]:
    return [block.kind for block in pcapng.blocks(io.BytesIO(path.read_bytes()))]


def test_an_interface_is_written_before_its_first_packet(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    file = File(pcapfiles.create(path), About())
    file.write([], [])
    file.write(blocks(2), DEVICES)
    file.write([pcapng.packet(1, 9, b"x")], DEVICES * 2)
    file.end([])
    one, interface, packet = pcapng.SECTION, pcapng.INTERFACE, pcapng.PACKET
    assert kinds(path) == [one, interface, packet, packet, interface, packet]


def test_every_file_of_a_ring_can_be_read_alone(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "r.pcapng", About(), most=2000, keep=2)
    for block in blocks(50):
        ring.write([block], DEVICES)
    ring.end([])
    assert sorted(tmp_path.iterdir()) == ring.paths
    assert len(ring.paths) == 2
    for path in ring.paths:
        assert kinds(path)[:2] == [pcapng.SECTION, pcapng.INTERFACE]
        assert path.stat().st_size <= 2000


def test_many_packets_at_once_are_parted_over_the_ring(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "r.pcapng", About(), most=2000, keep=100)
    ring.write(blocks(100), DEVICES)
    ring.end([])
    assert sum(kinds(path).count(pcapng.PACKET) for path in ring.paths) == 100
    assert all(path.stat().st_size <= 2000 for path in ring.paths)


def test_an_earlier_ring_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "r_00007.pcapng").write_bytes(b"precious")
    ring = Ring(tmp_path / "r.pcapng", About(), most=500, keep=1)
    ring.write(blocks(9), DEVICES)
    ring.end([])
    assert (tmp_path / "r_00007.pcapng").read_bytes() == b"precious"
    assert ring.paths[-1].name > "r_00008"


def test_comments_that_are_interrupted_leave_the_file_as_it_was(tmp_path: Path) -> None:
    from netlab.annotation.blocks import Annotator
    from netlab.annotation.names import Names

    path = tmp_path / "a.pcapng"
    file = File(pcapfiles.create(path), About())
    file.write(blocks(20_000), DEVICES)
    file.end([])
    before = path.read_bytes()

    def progress(done: int) -> None:
        raise KeyboardInterrupt

    annotator = Annotator(Names())
    annotator.interface("lab.n1", pcapng.ETHERNET)
    with pytest.raises(KeyboardInterrupt):
        pcapfiles.annotate(path, annotator, progress=progress)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pcapng"]


# -- the end


def test_a_second_signal_ends_the_comments() -> None:
    stop = Stop()
    stop._hear(2, None)
    assert stop.asked()
    stop.interrupting = True
    with pytest.raises(KeyboardInterrupt):
        stop._hear(2, None)


def test_a_second_signal_soon_after_the_first_changes_nothing() -> None:
    stop = Stop()
    stop._hear(2, None)
    stop._hear(2, None)
    stop._asked -= 2.0
    with pytest.raises(KeyboardInterrupt):
        stop._hear(2, None)


def test_the_summary_tells_what_is_missing() -> None:
    made = Summary(
        *(7, 3, 2, 5 << 20, 1.25, {"lab.n1": 1, "lab.n2": 30}),
        bare=4,
        paths=(Path("a.pcapng"),),
        notes=("something",),
    )
    assert summary_lines(made) == [
        "7 packets on 3 devices of 2 namespaces in 1.2 s, 5.0 MiB: a.pcapng",
        "lost: 1 frame of lab.n1: there was no room for it",
        "lost: 30 frames of lab.n2: there was no room for them",
        "4 packets without comments",
        "note: something",
    ]


@pytest.mark.parametrize(
    ("memory", "count", "pods", "ring", "block"),
    [
        pytest.param(256 << 20, 1, False, 16 << 20, 128 << 10, id="one-machine"),
        pytest.param(256 << 20, 9, False, 4 << 20, 128 << 10, id="a-lab"),
        pytest.param(256 << 20, 500, False, 2 << 20, 128 << 10, id="many-nodes"),
        pytest.param(256 << 20, 0, True, 4 << 20, 128 << 10, id="no-pods"),
        pytest.param(256 << 20, 60, True, 2 << 20, 128 << 10, id="some-pods"),
        pytest.param(256 << 20, 2000, True, 256 << 10, 16 << 10, id="many-pods"),
        pytest.param(16 << 20, 2000, True, 64 << 10, 4 << 10, id="little-memory"),
    ],
)
def test_rings_share_their_memory_and_have_sixteen_blocks(
    memory: int, count: int, pods: bool, ring: int, block: int
) -> None:
    found = room(memory, count, pods=pods)
    assert found == (ring, block)
    assert found.ring // found.block >= 16


def test_losses_stand_at_the_first_interface_of_their_namespace() -> None:
    devices = [*DEVICES, DEVICES[0]._replace(device="lo"), DEVICES[0]._replace(netns="lab.n2")]
    made = list(statistics(devices, [5, 6, 7], {"lab.n1": 3}, start=1, end=9))
    told = [dict(pcapng.options(block[20:-4])) for block in made]
    dropped = [one.get(7) and int.from_bytes(one[7], "little") for one in told]
    assert dropped == [3, None, 0]
    assert [int.from_bytes(one[8], "little") for one in told] == [5, 6, 7]
    assert b"all devices of lab.n1" in told[0][pcapng.COMMENT]
    assert pcapng.COMMENT not in told[2]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(2, "No such file or directory", "d/x"), "cannot write d/x: no such file"),
        (OSError(28, "No space left on device"), "cannot write d/x: no space left on device"),
    ],
)
def test_a_file_that_cannot_be_written_is_named(error: OSError, said: str) -> None:
    with pytest.raises(NetlabError, match=said), written("d/x"):
        raise error


def test_an_error_that_is_not_about_the_file_stays_what_it_is() -> None:
    with pytest.raises(OSError, match="Connection reset"), written("d/x"):
        raise OSError(104, "Connection reset by peer")
