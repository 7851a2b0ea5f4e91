"""Tries of namespaces, sockets, programs and limits."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

from netlab.capabilities import trial
from netlab.pods import namespaces
from netlab.processes import run
from netlab.sensors import drops, ring, sending
from netlab.vhosts.nginx import MODULE_FILES, TEMPORARY

FILES_WANTED = 4096  # a socket per containerPort and a few per node, for 1000 pods


def _own(flag: int) -> str:
    trial.apart(lambda: namespaces.unshare(flag))
    return ""


def user_namespace() -> str:
    trial.apart(trial.become_root)
    return ""


def net_namespace() -> str:
    return _own(namespaces.CLONE_NEWNET)


def mount_namespace() -> str:
    return _own(namespaces.CLONE_NEWNS)


def uts_namespace() -> str:
    return _own(namespaces.CLONE_NEWUTS)


def ipc_namespace() -> str:
    return _own(namespaces.CLONE_NEWIPC)


def pid_namespace() -> str:
    """Be process 1 of a namespace, with its own /proc."""

    def attempt() -> None:
        namespaces.unshare(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWNS)
        trial.apart(first)

    def first() -> None:
        namespaces.mount("none", "/", flags=namespaces.MS_REC | namespaces.MS_PRIVATE)
        namespaces.mount("proc", "/proc", "proc")

    trial.apart(attempt)
    return ""


def pidfd() -> str:
    os.close(os.pidfd_open(os.getpid()))
    return ""


def etcd() -> str:
    """Run it; the first line it prints holds its version."""
    return run(["etcd", "--version"]).stdout.partition("\n")[0].strip()


def nginx() -> str:
    """Have it try a configuration with what an ingress controller needs of it."""
    modules = "".join(f"include {file};" for file in MODULE_FILES)
    with TemporaryDirectory() as place:
        temp = "".join(f"{name}_temp_path {place}/{name};" for name in TEMPORARY)
        lua = 'init_by_lua_block { require "ngx.balancer" }'
        main = f"{modules} error_log stderr; pid {place}/pid; events {{}}"
        text = f"{main} http {{ {temp} access_log off; {lua} }}"
        file = Path(place, "nginx.conf")
        file.write_text(text)
        run(["nginx", "-t", "-q", "-c", str(file)])
    return run(["nginx", "-v"]).stderr.strip().removeprefix("nginx version: ")


def ip() -> str:
    return run(["ip", "-Version"]).stdout.strip().removeprefix("ip utility, ")


def packet_ring() -> str:
    opened = ring.open_ring()
    opened.start(64 * ring.FRAME)
    opened.close()
    return ""


def first_sequence() -> str:
    """Give a TCP socket the sequence number that its connection is to begin with."""
    with socket.socket() as sock:
        sending.begin_with(sock, sending.TCP_SEND_QUEUE << 16)
    return ""


def drop_reasons() -> str:
    with drops.Drops():
        return ""


def sctp() -> str:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    return ""


def open_files() -> str:
    """Return the hard limit, which every process of netlab may raise itself to."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_WANTED:
        raise OSError(0, f"at most {hard} per process")
    return f"up to {hard} per process"
