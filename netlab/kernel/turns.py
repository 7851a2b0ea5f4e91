"""Who programs the Services of a namespace: one at a time, whoever started it.

Two proxies with different objects in one namespace would undo each other's rules for ever, and what
two write at once is neither's. So each has a name in the namespace: an abstract Unix socket, which
the kernel keeps per network namespace and takes back when its process ends, however it ends.

post   held by whoever goes on (an agent, `netlab proxy --watch`): others are refused at once
turn   held beside by what soon ends: others wait for it
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from netlab.errors import KernelError

POST, TURN = "\0netlab/proxy/post", "\0netlab/proxy/turn"
PATIENCE = 120.0  # seconds; what the tools are given for the largest rule set
LOOK = 0.05  # seconds
_peer = struct.Struct("=iii")  # struct ucred: pid, uid, gid


@contextmanager
def turn(*, patience: float = PATIENCE) -> Iterator[None]:
    """Be the proxy of the calling thread's namespace for a short while.

    Waits up to *patience* seconds for others that soon end. Raises KernelError: one stays, or the
    other was not done in time.
    """
    with closing(_taken(TURN, patience)), closing(taken_post()):
        yield


@contextmanager
def post(*, patience: float = PATIENCE) -> Iterator[None]:
    """Be the proxy of the calling thread's namespace for long, so that nobody waits. As `turn`."""
    with closing(_taken(TURN, patience)):
        mine = taken_post()
    with closing(mine):
        yield


def taken_post() -> socket.socket:
    """Become the proxy of the calling thread's namespace, until the socket returned is closed.

    Raises KernelError, which names the process that is it already.
    """
    return _taken(POST, 0.0)


def _taken(name: str, patience: float) -> socket.socket:
    deadline = time.monotonic() + patience
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while True:
        try:
            sock.bind(name)
            sock.listen()
            return sock
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                sock.close()
                raise KernelError(
                    f"the Services of this namespace are programmed by {_holder(name)}",
                    hint="change its objects, or end it first",
                ) from error
        time.sleep(LOOK)


def _holder(name: str) -> str:
    """Return who has *name*: `netlab proxy -f web.yaml --watch (pid 12)`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asking:
        try:
            asking.connect(name)
            told = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _peer.size)
            pid = _peer.unpack(told)[0]
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").split()
        except OSError:
            return "another process"
    return f"{b' '.join(words).decode(errors='replace')} (pid {pid})"
