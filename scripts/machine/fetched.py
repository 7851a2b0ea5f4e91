"""Packages of the distribution, unpacked into the cache and never installed.

1. No root: apt resolves and downloads for any user, given directories of its own.
2. Nothing of this machine changes; `rm -r` of the cache undoes it all.
3. A killed run leaves nothing half made: everything is unpacked aside, and renamed when whole.

Each fetch is a *layer*, a tree in the form of a root directory. Programs of it run here with its
libraries; in a virtual machine the layers lie over the root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = {  # and the package that has it
    "qemu-system-x86_64": "qemu-system-x86",
    "kmod": "kmod",
    "busybox": "busybox-static",
    "zstd": "zstd",  # kernels are compressed with it
}
DIRECTORIES = ("usr/bin", "usr/sbin", "bin", "sbin")
LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib")
MERGED = ("bin", "sbin", "lib", "lib64")  # links into /usr, on every release that is supported


class Missing(Exception):
    """Something that this machine lacks and nothing here can get."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def layers(cache: Path) -> list[Path]:
    """Return the layers there are, the newest first: it lies on top."""
    return sorted((cache / "layers").glob("[0-9]*"), key=lambda path: -int(path.name))


def program(name: str, roots: Iterable[Path]) -> Path | None:
    """Return the first *name* below *roots*; a busybox only if it needs no libraries."""
    for root in roots:
        for directory in DIRECTORIES:
            path = root / directory / name
            if path.is_file() and (
                name != "busybox" or b"/ld-linux" not in path.read_bytes()[:4096]
            ):
                return path
    return None


def needed(name: str, cache: Path) -> Path:
    """Return the path of one of `PROGRAMS`."""
    path = program(name, [*layers(cache), Path("/")])
    if path is None:
        raise Missing(f"{name} is not there: apt-get install {PROGRAMS[name]}")
    return path


def environment(cache: Path) -> dict[str, str]:
    """Return the environment in which programs of the layers find their libraries."""
    directories = [str(layer / name) for layer in layers(cache) for name in LIBRARIES]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(directories), "LC_ALL": "C.UTF-8"}


def missing(cache: Path, checkout: Path) -> list[str]:
    """Return the packages that machines and labs need and that are neither here nor in a layer."""
    roots = [*layers(cache), Path("/")]
    own = [package for name, package in PROGRAMS.items() if program(name, roots) is None]
    # scripts/common.sh knows what a lab needs; a program in a layer is there, too.
    path = [str(root / name) for root in layers(cache) for name in DIRECTORIES[:2]]
    # That file finds its checkout by the name of the script that reads it.
    script = [". scripts/common.sh; missing_packages", "scripts/vm"]
    listed = subprocess.run(
        ["sh", "-c", *script],
        cwd=checkout,
        env={**os.environ, "PATH": ":".join([os.environ.get("PATH", ""), *path])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return own + listed


def add_layer(cache: Path, names: list[str]) -> None:
    """Fetch packages with what they depend on, and unpack all of it as the newest layer."""
    say(f"fetching {' '.join(names)}: unpacked into {cache}, not installed")
    words = ["-y", "--no-install-recommends", "--download-only", "install", *names]
    place = cache / "layers" / str(len(layers(cache)) + 1)
    with made_aside(place) as layer, tempfile.TemporaryDirectory(dir=cache) as archives:
        downloaded(cache, Path(archives), words)
        for archive in sorted(Path(archives).glob("*.deb")):
            unpack(archive, layer)


def downloaded(cache: Path, into: Path, words: list[str]) -> None:
    """Run `apt-get WORDS` so that packages come to *into*.

    The machine's own lists first; where these are none, or too old, a copy of our own.
    """
    if shutil.which("apt-get") is None:
        raise Missing("there is no apt-get: only Debian and Ubuntu are supported")
    (into / "partial").mkdir(exist_ok=True)
    options = ["-q", "-o", "Debug::NoLocking=1", "-o", f"Dir::Cache::archives={into}"]
    first = apt(["apt-get", *options, *words], into)
    if first.returncode == 0:
        return
    say("fetching the lists of packages first")
    own = own_lists(cache)
    apt(["apt-get", *options, *own, "update"], into)
    second = apt(["apt-get", *options, *own, *words], into)
    if second.returncode:
        raise Missing(f"apt-get {' '.join(words)}: {said(second)}")


def own_lists(cache: Path) -> list[str]:
    """Return the options with which apt keeps its lists in *cache*."""
    lists = cache / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::Lists={lists}"]


def apt(words: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=directory, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return apt's reason in one line."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("E: ")]
    return "; ".join(errors or done.stderr.splitlines()[-1:]) or f"exit code {done.returncode}"


def kernel_packages(cache: Path, name: str) -> list[str]:
    """Return *name* and the packages of images and modules that it depends on; [] if unknown."""
    found: list[str] = []
    wanted = [name]
    options = own_lists(cache) if any((cache / "lists").glob("*Packages*")) else []
    while wanted:
        package = wanted.pop()
        told = apt(["apt-cache", *options, "depends", package], cache)
        if told.returncode or not told.stdout:
            return []
        found.append(package)
        depends = re.findall(r"Depends: (linux-(?:image|modules)-\S+)", told.stdout)
        wanted += [other for other in depends if other not in found]
    return found


def unpack(archive: Path, into: Path, patterns: Iterable[str] = ()) -> None:
    """Unpack a package, or what of it matches, so that /bin, /sbin and /lib stay links."""
    for name in MERGED:
        if not (into / name).is_symlink():
            (into / "usr" / name).mkdir(parents=True, exist_ok=True)
            (into / name).symlink_to(f"usr/{name}")
    reading = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
    words = ["tar", "-x", "-C", str(into), "--keep-directory-symlink", "--no-same-owner"]
    chosen = ["--wildcards", *patterns] if patterns else []
    done = subprocess.run(
        [*words, *chosen], stdin=reading.stdout, stderr=subprocess.PIPE, text=True
    )
    # Not every package has something for every pattern.
    bad = [line for line in done.stderr.splitlines() if "Not found in archive" not in line]
    reading.communicate()
    if reading.returncode or (done.returncode and (not patterns or "Exiting" not in done.stderr)):
        raise Missing(f"{archive.name} cannot be unpacked: {' '.join(bad)}")


@contextmanager
def made_aside(place: Path) -> Iterator[Path]:
    """Give a directory to fill; it gets the name *place* when that went well."""
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=place.parent, prefix="unfinished."))
    aside.chmod(0o755)
    try:
        yield aside
        aside.rename(place)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def run(path: Path, words: list[str], cache: Path) -> bytes:
    """Run a program of a layer and return its output."""
    done = subprocess.run(words, executable=path, env=environment(cache), capture_output=True)
    if done.returncode:
        raise Missing(f"{words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
