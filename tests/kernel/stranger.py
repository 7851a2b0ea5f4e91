"""A user who has no say: what a process that serves one namespace must not listen to."""

from __future__ import annotations

import os
import socket


def is_heard(name: str, *, patience: float) -> bool:
    """Return whether nobody's order to end is taken at the control socket *name*.

    A fork of this process asks, as no program may be started: nobody may read those of root's home.
    *patience*: seconds for an answer.
    """
    child = os.fork()
    if child == 0:
        os._exit(_answered(name, patience))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0


def _answered(name: str, patience: float) -> int:
    os.setuid(65534)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience)
        try:
            sock.connect(name)
            sock.sendall(b'{"end":true}\n')
            return int(bool(sock.recv(100)))
        except OSError:
            return 0
