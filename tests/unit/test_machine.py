"""scripts/machine's pure parts: whose output is whose, which files a machine is made of."""

from __future__ import annotations

import lzma
import os
import struct
from pathlib import Path

import pytest
from fetched import kernel_packages, layers, made_aside, program
from kernels import Kernel, bootable, module_files
from qemu import Shape, command, wire
from running import Stream

MARK = b"\0cafe "


def passed(pieces: list[bytes], prefix: bytes = b"") -> tuple[bytes, int | None]:
    """Return what a stream of *pieces* lets through, and the exit code it tells."""
    reading, writing = os.pipe()
    stream = Stream(writing, MARK, prefix)
    for piece in pieces:
        stream.take(piece)
    os.close(writing)
    with os.fdopen(reading, "rb") as out:
        return out.read(), stream.code


@pytest.mark.parametrize(
    ("data", "out", "code"),
    [
        pytest.param(b"a\nb", b"a\nb", None, id="goes-on"),
        pytest.param(b"a\n\0cafe 0\0", b"a\n", 0, id="ends-well"),
        pytest.param(b"no newline\0cafe 137\0", b"no newline", 137, id="ends-in-a-line"),
        pytest.param(b"\0\0caf\0cafe 3\0", b"\0\0caf", 3, id="nearly-a-mark-before"),
        pytest.param(b"x\0cafe 1\0later", b"x", 1, id="what-comes-later-is-nobodys"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_output_goes_through_until_the_mark(
    data: bytes, out: bytes, code: int | None, size: int
) -> None:
    """However it is cut into pieces."""
    assert passed([data[i : i + size] for i in range(0, len(data), size)]) == (out, code)


def test_what_may_be_a_mark_is_kept_until_it_is_none() -> None:
    assert passed([b"a\0ca"]) == (b"a", None)
    assert passed([b"a\0ca", b"t"]) == (b"a\0cat", None)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_lines_of_several_machines_are_whole_and_named(size: int) -> None:
    data = b"one\ntwo\n\nrest\0cafe 0\0"
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    assert passed(pieces, b"vm2| ") == (b"vm2| one\nvm2| two\nvm2| \nvm2| rest\n", 0)


def image(payload: bytes) -> bytes:
    """Return a bzImage with two sectors of setup and *payload* 16 bytes after them."""
    head = bytearray(3 * 512)
    head[0x1F1] = 2
    struct.pack_into("<II", head, 0x248, 16, len(payload) + 4)
    return bytes(head) + bytes(16) + payload + struct.pack("<I", 99) + b"after"


def test_the_kernel_is_taken_out_of_its_image(tmp_path: Path) -> None:
    packed = lzma.compress(b"\x7fELF kernel", check=lzma.CHECK_CRC32)
    assert bootable(image(packed), tmp_path) == b"\x7fELF kernel"


def test_an_image_of_unknown_packing_stays_as_it_is(tmp_path: Path) -> None:
    assert bootable(image(b"brotli?"), tmp_path) == image(b"brotli?")


def test_modules_come_after_those_they_need(tmp_path: Path) -> None:
    """As depmod writes it: the needed ones in the order opposite to loading."""
    lines = [
        "k/9p.ko: k/9pnet.ko k/netfs.ko",
        *("k/9pnet.ko:", "k/netfs.ko:", "k/virtio_ring.ko: k/virtio.ko", "k/virtio.ko:"),
        "k/9pnet_virtio.ko: k/virtio_ring.ko k/virtio.ko k/9pnet.ko",
        *("k/virtio-rng.ko: k/virtio.ko", "k/virtio_console.ko:", "k/overlay.ko:"),
    ]
    (tmp_path / "modules.dep").write_text("\n".join(lines))
    (tmp_path / "modules.builtin").write_text("k/virtio_pci.ko\n")
    order = [path.stem for path in module_files(tmp_path)]
    for line in lines:
        name, needs = line.split(":")
        for need in needs.split():
            assert order.index(Path(need).stem) < order.index(Path(name).stem)
    assert len(order) == len(set(order)) == len(lines)


def test_a_kernel_without_a_module_that_the_root_needs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text("k/9p.ko:\n")
    (tmp_path / "modules.builtin").write_text("")
    with pytest.raises(Exception, match="has no module virtio_pci"):
        module_files(tmp_path)


def test_an_unfinished_directory_never_gets_its_name(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), made_aside(tmp_path / "layers/1") as aside:
        (aside / "half").touch()
        raise KeyboardInterrupt
    assert list((tmp_path / "layers").iterdir()) == []


def test_the_newest_layer_is_on_top_and_busybox_must_be_static(tmp_path: Path) -> None:
    for number in (2, 10, 9):
        (tmp_path / f"layers/{number}/usr/bin").mkdir(parents=True)
    (tmp_path / "layers/10/usr/bin/busybox").write_bytes(b"\x7fELF /lib64/ld-linux-x86-64.so.2")
    (tmp_path / "layers/9/usr/bin/busybox").write_bytes(b"\x7fELF")
    assert [path.name for path in layers(tmp_path)] == ["10", "9", "2"]
    assert program("busybox", layers(tmp_path)) == tmp_path / "layers/9/usr/bin/busybox"


APT = """#!/bin/sh
case "$*" in
*linux-image-amd64) printf 'linux-image-amd64\\n  Depends: linux-image-6.12-amd64\\n' ;;
*linux-image-6.12-amd64)
    printf 'x\\n  Depends: linux-modules-6.12\\n  Depends: kmod\\n |Depends: linux-base\\n' ;;
*linux-modules-6.12) printf 'linux-modules-6.12\\n  Breaks: linux-image-old\\n' ;;
*) exit 100 ;;
esac
"""


def test_a_kernels_packages_are_its_images_and_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apt-cache").write_text(APT)
    (tmp_path / "apt-cache").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    expected = ["linux-image-amd64", "linux-image-6.12-amd64", "linux-modules-6.12"]
    assert kernel_packages(tmp_path, "linux-image-amd64") == expected
    assert kernel_packages(tmp_path, "linux-image-none") == []


def test_the_first_machine_has_a_plug_for_each_other() -> None:
    words = " ".join(wire(3, node=1, run=Path("/run/x")))
    for other in (2, 3):
        assert f"path=/run/x/wire.{other}" in words
        assert f"path=/run/x/wire.{other}" in " ".join(wire(3, node=other, run=Path("/run/x")))
    assert "server=on" in words and "server=off" in " ".join(wire(3, node=2, run=Path("/run/x")))
    assert wire(1, node=1, run=Path("/run/x")) == []


def test_only_what_is_asked_for_can_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "layers/1/usr/bin").mkdir(parents=True)
    (tmp_path / "layers/1/usr/bin/qemu-system-x86_64").touch()
    shape = Shape(count=1, memory=512, cpus=None, out=Path("/a,b"), shell=False)
    kernel = Kernel("linux-image", Path("k"), Path("i"), Path("l"))
    run = Path("/run/x")
    words = command(tmp_path, kernel, shape, node=1, run=run, kvm=False, mark="m")
    shares = {word.split(",")[1]: word for word in words if word.startswith("local,")}
    writable = {name for name, word in shares.items() if "readonly=on" not in word}
    assert writable == {"id=vm", "id=out"}
    assert "path=/a,,b" in shares["id=out"]
