"""What a namespace looks like from inside: a port that is taken, an address, a pod's own views."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from netlab.kernel.netns import entered
from netlab.packets import Protocol
from netlab.processes import run

ARP_STATISTICS = "/proc/net/stat/arp_cache"  # of the machine; a user namespace does not show it
SIOCGIFADDR = 0x8915  # netdevice(7)
VIEWS = ("uts", "ipc", "pid")  # the namespaces, beside the network's, that containers share
_LOOK = "hostname; for kind in uts ipc pid; do readlink /proc/self/ns/$kind; done"


def bind_refusal(netns: str, port: int, protocol: Protocol) -> str:
    """Return why a socket in *netns* cannot bind and listen on *port*; "" when it can."""
    kind = socket.SOCK_DGRAM if protocol is Protocol.UDP else socket.SOCK_STREAM
    with entered(netns):
        sock = socket.socket(socket.AF_INET, kind)
    with sock:
        try:
            sock.bind(("0.0.0.0", port))
            if protocol is Protocol.TCP:
                sock.listen(1)
        except OSError as refused:
            return os.strerror(refused.errno or 0).lower()
    return ""


def address_of(netns: str, device: str) -> str:
    """Return the IPv4 address that *device* has in *netns*, "" without one."""
    with entered(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16s240x", device.encode())
        try:
            reply = fcntl.ioctl(sock.fileno(), SIOCGIFADDR, request)
        except OSError:
            return ""
    return socket.inet_ntoa(reply[20:24])


def arp_overflows() -> int:
    """Return how often the kernel had no room for a neighbour; 0 where that cannot be read.

    One table of `gc_thresh3` entries, 1024 by default, serves all network namespaces together;
    what does not fit is dropped without a word. Permanent entries do not count.
    Source: net/core/neighbour.c, neigh_alloc.
    """
    try:
        with open(ARP_STATISTICS) as file:
            names, *rows = (line.split() for line in file)
    except OSError:
        return 0
    column = names.index("table_fulls")
    return sum(int(row[column], 16) for row in rows)


def views(pid: int) -> dict[str, str]:
    """Return how a program executed beside process *pid* sees itself: its host name, and the
    identities of its UTS, IPC and PID namespaces. Raises NetlabError."""
    enter = ["nsenter", "--target", str(pid), "--net", "--uts", "--ipc", "--pid", "--mount"]
    lines = run([*enter, "--", "sh", "-c", _LOOK]).stdout.split()
    return dict(zip(("hostname", *VIEWS), lines, strict=True))
