"""Captures of several machines: what comes from elsewhere, in one order with what is seen here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_spread import PLACE, SPREAD

from netlab import filters, pcapng
from netlab.agent.place import Place
from netlab.errors import NetlabError
from netlab.processes.errand import Piece
from netlab.recording import wide
from netlab.recording.wishes import Wish
from netlab.store.access import Access
from netlab.targets import Target

SECOND = 1_000_000_000  # ns
NODE, POD = Target("lab.n2", "n2", "n2"), Target("lab.n2.default.a", "n2/default/a", "pod a on n2")


def written(times: list[int], *, dropped: int = 0) -> bytes:
    """Return a capture of two devices that saw a frame each at these times, turn by turn."""
    blocks = [pcapng.section(), pcapng.interface("n2:eth1", description="card", mac=b"\2" * 6)]
    for number, stamp in enumerate(times):
        if number == 1:
            blocks.append(pcapng.interface("n2/default/a:eth0", link=pcapng.RAW_IP))
        blocks.append(pcapng.packet(number % 2, stamp, b"frame %d" % number))
    end = {"start": 0, "end": 1, "received": len(times)}
    blocks.append(pcapng.statistics(0, 1, dropped=dropped, **end))
    return b"".join(blocks)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Callable[..., wide.Stream]:
    """Return what makes the stream of a machine whose capture writes these pieces."""

    def made(*pieces: Piece, ahead: int = 0) -> wide.Stream:
        class There:
            def __init__(self, *words: Any) -> None: ...
            def pieces(self) -> Iterator[Piece]:
                yield from pieces

            def stop(self) -> None: ...
            def close(self) -> None: ...

        monkeypatch.setattr(wide, "There", There)
        monkeypatch.setattr(wide, "clock", lambda live, machine: ahead)
        found = wide.Stream(None, "n2", (), [NODE, POD])  # type: ignore[arg-type]
        found.wait()
        return found

    return made


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_a_capture_comes_in_any_pieces(stream: Callable[..., wide.Stream], size: int) -> None:
    data = written([5, 6, 7], dropped=3)
    pieces = [Piece(data[at : at + size], b"", None) for at in range(0, len(data), size)]
    found = stream(*pieces, Piece(b"", b"3 packets on 2 devices\n", 0))
    assert [(one.netns, one.device, one.label) for one in found.interfaces] == [
        ("lab.n2", "eth1", "n2:eth1"),
        ("lab.n2.default.a", "eth0", "n2/default/a:eth0"),
    ]
    assert (found.interfaces[0].mac, found.interfaces[0].description) == (b"\2" * 6, "card")
    assert [one.link for one in found.interfaces] == [pcapng.ETHERNET, pcapng.RAW_IP]
    assert [stamp for stamp, _ in found.taken()] == [5, 6, 7]
    assert found.taken() == [] and found.error == "" and found.lost == {"lab.n2": 3}


def test_frames_from_elsewhere_are_in_order_and_by_our_clock(
    stream: Callable[..., wide.Stream],
) -> None:
    now, hour = time.time_ns(), 3600 * SECOND
    times = [now + hour - 9 * SECOND, now + hour - 8 * SECOND, now + hour]
    taps = wide.WideTaps(filters.everything(0), [stream(Piece(written(times), b"", 0), ahead=hour)])
    ours = pcapng.packet(0, now - 8 * SECOND - 1, b"ours")
    taps._pending.append((now - 8 * SECOND - 1, ours))
    taps.interfaces.append(wide.Interface("lab.n1", "eth1", "n1:eth1", "", pcapng.ETHERNET))
    taps.counts.append(1)
    early = [pcapng.read_packet(block) for _, block in taps.take()]
    assert [one.data for one in early] == [b"frame 0", b"ours", b"frame 1"]
    assert [one.time - now for one in early] == [-9 * SECOND, -8 * SECOND - 1, -8 * SECOND]
    late = [pcapng.read_packet(block) for _, block in taps.rest()]
    assert [(one.data, one.time) for one in late] == [(b"frame 2", now)]
    labels = [taps.interfaces[one.interface].label for one in (*early, *late)]
    assert labels == ["n2:eth1", "n1:eth1", "n2/default/a:eth0", "n2:eth1"]
    assert taps.counts == [1, 2, 1]
    assert taps.notes() == ["the clock of n2 is 3600.000 s ahead: its times are moved by that"]


def test_a_capture_that_cannot_begin_says_why(stream: Callable[..., wide.Stream]) -> None:
    with pytest.raises(NetlabError, match="n2: n2 has no device eth7"):
        stream(Piece(b"", b"error: n2 has no device eth7\nhint: it has lo\n", 4))


def test_one_that_ends_too_early_is_told(stream: Callable[..., wide.Stream]) -> None:
    broken = stream(Piece(written([5]), b"error: more than 16 MiB\n", 1))
    taps = wide.WideTaps(filters.everything(0), [broken])
    assert taps.notes() == ["n2: more than 16 MiB: what is here of it may not be all"]
    assert [stamp for stamp, _ in taps.rest()] == [5]


class Live:
    lab, place = SPREAD, PLACE


@pytest.mark.parametrize(
    ("urls", "talk"),
    [
        ((), f"tcp port 2379 and host {SPREAD.master.address}"),
        (("http://10.1.1.1:4001",), "tcp port 4001 and host 10.1.1.1"),
        (("https://a.example", "http://10.1.1.1"), "tcp port 2379 or tcp port 2379 and host"),
    ],
)
def test_the_talk_with_etcd_is_left_out(urls: tuple[str, ...], talk: str) -> None:
    live = Live()
    live.place = Place("n1", access=Access(urls=urls))
    found = wide.without_etcd(live, "arp or icmp")  # type: ignore[arg-type]
    assert talk in found and found.endswith(" and (arp or icmp)")
    for text in (found, wide.without_etcd(live, "")):  # type: ignore[arg-type]
        assert filters.parsed(text, lambda kind, name: [])


def test_another_machine_is_asked_for_its_own_part() -> None:
    wish = Wish(("pair", "node/n2"), "shop", "icmp", Path("x"), snaplen=96, count=5)
    assert wide.words(wish) == [
        *("capture", "--here", "-w", "-", "--no-comments", "-f", "icmp", "-s", "96"),
        *("-n", "shop", "pair", "node/n2"),
    ]
    assert wide.words(Wish())[-1] == "--all"
