"""A distribution's kernel, made ready to boot quickly.

Each of these was measured under emulation, where a second of the kernel's own work takes ten:

1. The kernel as an ELF file instead of a bzImage, which unpacks itself: 1.3 s less.
2. Modules are unpacked once, here, instead of at each modprobe.
3. An initramfs with a static busybox and the few modules that it takes to mount the root.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import fetched
from fetched import Missing, say

# In order of choice. Debian 12 has newer kernels under names of their own; Ubuntu says generic.
PACKAGES = ("linux-image-6.12-amd64", "linux-image-amd64", "linux-image-generic")
# What of the modules is kept: networks and what carries them, 100 of 400 MB.
KEPT = (
    "*boot/vmlinuz-*",
    "*lib/modules/*/modules.*",
    *(
        f"*lib/modules/*/kernel/{part}"
        for part in (
            *("net/*", "lib/*", "crypto/*", "arch/x86/crypto/*", "arch/x86/lib/*"),
            *("fs/9p/*", "fs/netfs/*", "fs/fscache/*", "fs/overlayfs/*", "drivers/virtio/*"),
            *("drivers/net/*.ko*", "drivers/char/hw_random/*", "drivers/char/virtio_console*"),
        )
    ),
)
DROPPED = ("drivers/net/ethernet", "drivers/net/wireless", "drivers/net/usb", "drivers/net/can")
# What the initramfs loads, with all that these need.
FIRST = ("virtio_pci", "virtio_rng", "virtio_console", "9pnet_virtio", "9p", "overlay")


class Kernel(NamedTuple):
    """A kernel in the cache."""

    package: str
    image: Path
    initramfs: Path
    layer: Path  # a tree with /usr/lib/modules


def kernel(cache: Path, name: str | None) -> Kernel:
    """Return the kernel of a package, or of the first of `PACKAGES`; fetch it if it is new here."""
    for package in [name] if name else PACKAGES:
        place = cache / "kernels" / package
        if place.is_dir():
            return Kernel(package, place / "kernel", place / "initramfs", place / "root")
    for package in [name] if name else PACKAGES:
        if not fetched.kernel_packages(cache, package):
            continue
        build(cache, package)
        return kernel(cache, package)
    raise Missing(f"apt knows no package {name or ' nor '.join(PACKAGES)}: try apt-get update")


def build(cache: Path, package: str) -> None:
    """Fetch a kernel and make it ready, as cache/kernels/PACKAGE."""
    say(f"fetching the kernel of {package}: unpacked into {cache}, not installed")
    place = cache / "kernels" / package
    with fetched.made_aside(place) as place, tempfile.TemporaryDirectory(dir=cache) as archives:
        names = fetched.kernel_packages(cache, package)
        fetched.downloaded(cache, Path(archives), ["download", *names])
        root = place / "root"
        root.mkdir()
        for archive in sorted(Path(archives).glob("*.deb")):
            fetched.unpack(archive, root, KEPT)
        images = list((root / "boot").glob("vmlinuz-*"))
        if len(images) != 1:
            raise Missing(f"{package} has {len(images)} kernels in /boot")
        (place / "kernel").write_bytes(bootable(images[0].read_bytes(), cache))
        release = images[0].name.removeprefix("vmlinuz-")
        shutil.rmtree(root / "boot")
        plain_modules(root / "usr/lib/modules" / release, cache)
        modules = module_files(root / "usr/lib/modules" / release)
        busybox = fetched.needed("busybox", cache).read_bytes()
        (place / "initramfs").write_bytes(initramfs(busybox, modules))


def bootable(image: bytes, cache: Path) -> bytes:
    """Return the ELF file inside a bzImage; the image itself when its packing is not known.

    Source: Documentation/arch/x86/boot.rst, payload_offset and payload_length (protocol 2.08).
    """
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = image[start : start + length - 4]  # the last four bytes are the unpacked size
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return unpacked_zstd(payload, cache)
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(payload)
    return image


def unpacked_zstd(packed: bytes, cache: Path) -> bytes:
    with tempfile.NamedTemporaryFile(dir=cache) as file:
        file.write(packed)
        file.flush()
        return fetched.run(fetched.needed("zstd", cache), ["zstd", "-dcq", file.name], cache)


def plain_modules(directory: Path, cache: Path) -> None:
    """Unpack all modules below *directory* and write the indices that modprobe reads."""
    for unwanted in DROPPED:
        shutil.rmtree(directory / "kernel" / unwanted, ignore_errors=True)

    def plain(path: Path) -> None:
        packed = path.read_bytes()
        text = lzma.decompress(packed) if path.suffix == ".xz" else unpacked_zstd(packed, cache)
        path.with_suffix("").write_bytes(text)
        path.unlink()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(plain, [*directory.rglob("*.ko.xz"), *directory.rglob("*.ko.zst")]))
    # One program has all the names; the link called depmod may point out of its layer.
    words = ["depmod", "-b", str(directory.parents[3]), directory.name]
    fetched.run(fetched.needed("kmod", cache), words, cache)


def module_files(directory: Path) -> list[Path]:
    """Return the files of the modules `FIRST`, each after those that it needs."""
    needs: dict[str, list[str]] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        file, _, others = line.partition(":")
        needs[file] = others.split()
    names = {Path(file).stem.replace("-", "_"): file for file in needs}
    builtin = {
        Path(line).stem.replace("-", "_")
        for line in (directory / "modules.builtin").read_text().splitlines()
    }
    order: list[str] = []
    for name in FIRST:
        if name not in names and name not in builtin:
            raise Missing(f"the kernel {directory.name} has no module {name}")
        if name in names:
            # modules.dep names what is needed in the order opposite to that of loading.
            order += [*reversed(needs[names[name]]), names[name]]
    return [directory / file for file in dict.fromkeys(order)]


def initramfs(busybox: bytes, modules: list[Path]) -> bytes:
    """Return a cpio archive whose /init mounts the root and goes on there."""
    init = (Path(__file__).parent / "init").read_bytes()
    order = "".join(f"{path.name}\n" for path in modules)
    files = [
        *(("bin", None), ("modules", None)),
        *(("init", init), ("bin/busybox", busybox), ("modules/order", order.encode())),
        *((f"modules/{path.name}", path.read_bytes()) for path in modules),
    ]
    return b"".join(cpio(files))


def cpio(files: list[tuple[str, bytes | None]]) -> Iterator[bytes]:
    """Yield the parts of an archive of executable files, and directories (None).

    Source: Documentation/driver-api/early-userspace/buffer-format.rst, "newc".
    """
    for number, (name, content) in enumerate([*files, ("TRAILER!!!", b"")], start=1):
        mode = (stat.S_IFDIR if content is None else stat.S_IFREG) | 0o755
        text = content or b""
        fields = (number, mode, 0, 0, 1, 0, len(text), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        yield padded(header + name.encode() + b"\0")
        yield padded(text)


def padded(text: bytes) -> bytes:
    return text + bytes(-len(text) % 4)
