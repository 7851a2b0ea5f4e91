"""Files of /etc that are shown to who is in a pod, or executes something in a machine.

They are written where the lab is run, and mounted over the machine's own, which stay as they are.
Where there is nothing to mount over (no /etc/resolv.conf, or a link that leads nowhere, as
systemd-resolved's does beside another /run), all of /etc is covered by itself with the files added.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from netlab.pods.namespaces import MS_BIND, MS_PRIVATE, MS_RDONLY, mount

DIRECTORY = "etc"  # below a sandbox's or a machine's own directory
OPTIONAL = frozenset(("nsswitch.conf",))  # not needed where the machine has none
ETC = "/etc"


def write(directory: Path, files: Mapping[str, str]) -> Path:
    """Write *files*, by name, below *directory*; return where they are.

    In place, never by renaming: a bind mount shows the file it was made from.
    """
    place = directory / DIRECTORY
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name, text in files.items():
        path = place / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    return place


def private() -> None:
    """Keep what is shown in this mount namespace from being seen in others.

    Only where it is mounted: what else is mounted here, for example by `ip netns add`, goes on to
    where it always went.
    """
    for name in ("resolv.conf", "hosts", "hostname", "nsswitch.conf"):
        path = os.path.realpath(f"{ETC}/{name}")
        while True:
            try:
                mount("none", path, flags=MS_PRIVATE)
            except OSError:  # nothing is mounted there
                pass
            if path == "/":
                break
            path = os.path.dirname(path)


def show(place: Path | str) -> None:
    """Show the files of *place* in /etc of this mount namespace, which must be private.

    Raises OSError; where the kernel refuses to cover /etc, what is not there stays away.
    """
    names = os.listdir(place)
    if any(not os.path.exists(f"{ETC}/{name}") for name in names if name not in OPTIONAL):
        try:
            mount("overlay", ETC, "overlay", flags=MS_RDONLY, data=f"lowerdir={place}:{ETC}")
            return
        except OSError:
            pass
    for name in names:
        if os.path.exists(f"{ETC}/{name}"):
            mount(f"{place}/{name}", f"{ETC}/{name}", flags=MS_BIND)
