"""Who has a port, for those who find it taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LISTENING = "0A"  # TCP_LISTEN, include/net/tcp_states.h


def holder(port: int) -> str:
    """Return who listens on TCP *port* in the thread's network namespace: `nginx (pid 12)`.

    It is "" when nobody does, or nobody this process can see.
    """
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    if not wanted:
        return ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it ended, or is not ours to look at
            if wanted & set(_open(f"/proc/{pid}/fd")):
                return f"{Path('/proc', pid, 'comm').read_text().strip()} (pid {pid})"
    return ""


def _open(directory: str) -> Iterator[str]:
    for one in os.listdir(directory):
        with suppress(FileNotFoundError):  # closed meanwhile, as the listing's own is
            yield os.readlink(f"{directory}/{one}")


def _inodes(port: int) -> set[str]:
    """Return the sockets that listen on *port*. Source: proc_net_tcp(5)."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]
        except OSError:  # without IPv6
            continue
        for fields in map(str.split, lines):
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found
