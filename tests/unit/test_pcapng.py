"""pcapng blocks: as the specification lays them out, and as tshark reads them."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from netlab import pcapng

TIME = 1_700_000_000_123_456_789
# An ARP request: Ethernet, broadcast.
FRAME = bytes.fromhex(
    "ffffffffffff 020000000001 0806 0001 0800 06 04 0001"
    "020000000001 0af40102 000000000000 0af40103".replace(" ", "")
)
WHOLE = pcapng.section(application="netlab") + pcapng.interface(
    "node1:docker0", description="docker0 of node1", mac=b"\2\0\0\0\0\1", filter="port 80"
)


def unpacked(block: bytes) -> tuple[int, bytes]:
    kind, length = struct.unpack_from("<II", block)
    assert length == len(block)
    assert block[-4:] == struct.pack("<I", length)
    assert length % 4 == 0
    return kind, block[8:-4]


def test_a_section_header_says_its_byte_order_and_version() -> None:
    kind, body = unpacked(pcapng.section(application="netlab 1"))
    assert kind == 0x0A0D0D0A
    assert struct.unpack_from("<IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
    assert list(pcapng.options(body[16:])) == [(4, b"netlab 1")]


def test_an_interface_says_its_name_and_nanoseconds() -> None:
    kind, body = unpacked(pcapng.interface("a:eth0", description="eth0", snaplen=96, link=101))
    assert kind == 1
    assert struct.unpack_from("<HHI", body) == (101, 0, 96)
    assert list(pcapng.options(body[8:])) == [(2, b"a:eth0"), (3, b"eth0"), (9, b"\x09")]


@pytest.mark.parametrize("length", range(60, 65))
def test_a_packet_is_padded_and_read_back(length: int) -> None:
    data = bytes(range(length))
    made = pcapng.packet(7, TIME, data, comments=["hop 1", "µ"], flags=6, dropped=3, packet_id=9)
    kind, _ = unpacked(made)
    assert kind == 6
    read = pcapng.read_packet(made)
    assert read[:4] == (7, TIME, data, length)
    assert list(pcapng.options(read.options)) == [
        (2, struct.pack("<I", 6)),
        (4, struct.pack("<Q", 3)),
        (5, struct.pack("<Q", 9)),
        (1, b"hop 1"),
        (1, "µ".encode()),
    ]


def test_a_packet_without_anything_to_say_has_no_options() -> None:
    read = pcapng.read_packet(pcapng.packet(0, TIME, FRAME, length=1500))
    assert (read.options, read.length) == (b"", 1500)


def test_a_comment_longer_than_can_be_is_cut_between_characters() -> None:
    read = pcapng.read_packet(pcapng.packet(0, TIME, FRAME, comments=["µ" * 40_000]))
    (found,) = pcapng.options(read.options)
    assert found[1].decode() == "µ" * 32766


def test_statistics_count_what_was_lost_as_received() -> None:
    kind, body = unpacked(
        pcapng.statistics(2, TIME, start=TIME - 5, end=TIME, received=10, dropped=4)
    )
    assert kind == 5
    numbers = dict(pcapng.options(body[12:]))
    assert struct.unpack("<Q", numbers[4])[0] == 14
    assert struct.unpack("<Q", numbers[7])[0] == 4
    assert struct.unpack("<Q", numbers[8])[0] == 10
    high, low = struct.unpack("<II", numbers[2])
    assert high << 32 | low == TIME - 5


@pytest.mark.parametrize("chunk", [13, 100, 1 << 20])
def test_blocks_are_read_back_whatever_is_read_at_once(chunk: int) -> None:
    made = [WHOLE, pcapng.packet(0, TIME, FRAME), pcapng.packet(0, TIME + 1, FRAME)]
    found = list(pcapng.blocks(io.BytesIO(b"".join(made)), chunk=chunk))
    assert [block.kind for block in found] == [0x0A0D0D0A, 1, 6, 6]
    assert b"".join(block.data for block in found) == b"".join(made)


def test_a_block_cut_off_at_the_end_is_left_out() -> None:
    made = WHOLE + pcapng.packet(0, TIME, FRAME) + pcapng.packet(0, TIME, FRAME)[:-5]
    assert [block.kind for block in pcapng.blocks(io.BytesIO(made))] == [0x0A0D0D0A, 1, 6]


@pytest.mark.parametrize("data", [b"\xd4\xc3\xb2\xa1" + bytes(20), b"text that is no capture"])
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a pcapng file"):
        list(pcapng.blocks(io.BytesIO(data)))


def test_tshark_reads_all_of_it(tmp_path: Path) -> None:
    if shutil.which("tshark") is None:
        pytest.skip("needs tshark")
    file = tmp_path / "made.pcapng"
    file.write_bytes(
        WHOLE
        + pcapng.interface("shop/cart:eth0")
        + pcapng.packet(
            1, TIME, FRAME, comments=["hop 2"], flags=pcapng.flags(outgoing=True), packet_id=5
        )
        + pcapng.packet(0, TIME + 1, FRAME, flags=pcapng.flags(outgoing=False), dropped=2)
        + pcapng.statistics(0, TIME, start=TIME, end=TIME, received=1, dropped=2)
    )
    names = ("time_epoch", "interface_name", "interface_description", "comment", "packet_flags")
    fields = [word for name in names for word in ("-e", f"frame.{name}")]
    done = subprocess.run(
        ["tshark", "-r", str(file), "-T", "json", *fields], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = (each["_source"]["layers"] for each in json.loads(done.stdout))
    assert first["frame.time_epoch"] == ["1700000000.123456789"]
    assert first["frame.interface_name"] == ["shop/cart:eth0"]
    assert first["frame.comment"] == ["hop 2"]
    assert first["frame.packet_flags"] == ["0x00000002"]
    assert second["frame.interface_name"] == ["node1:docker0"]
    assert second["frame.interface_description"] == ["docker0 of node1"]
