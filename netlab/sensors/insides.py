"""What a namespace looks like from inside: a port that is taken, an address, a pod's own views."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct

from netlab.kernel.netns import entered
from netlab.packets import Protocol
from netlab.processes import run

ARP_STATISTICS = "/proc/net/stat/arp_cache"  # of the machine; a user namespace does not show it
SIOCGIFCONF = 0x8912  # netdevice(7)
ADDRESSES = 64  # of one namespace, at most
_IFREQ = 40  # bytes of a struct ifreq
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


def addresses_of(netns: str) -> list[str]:
    """Return every IPv4 address that a device of *netns* has, 127.0.0.1 apart, as text.

    Source: net/ipv4/devinet.c, inet_gifconf: all addresses of all devices.
    """
    room = array.array("B", bytes(_IFREQ * ADDRESSES))
    with entered(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("iP", len(room), room.buffer_info()[0])
        used = struct.unpack("iP", fcntl.ioctl(sock.fileno(), SIOCGIFCONF, request))[0]
    found = [socket.inet_ntoa(room[at + 20 : at + 24]) for at in range(0, used, _IFREQ)]
    return [address for address in found if not address.startswith("127.")]


def source_towards(netns: str, destination: str) -> str:
    """Return the address that *netns* would send from to *destination*; "" when it has no way."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with entered(netns), socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((destination, 9))
        except OSError:
            return ""
        return str(sock.getsockname()[0])


def route_of(netns: str, destination: str, *, source: str, arriving: str) -> str:
    """Return the route that *netns* has for a packet that came in through the device *arriving*,
    as ip(8) shows it; "" when it has none."""
    words = f"ip -o route get {destination} from {source} iif {arriving}".split()
    found = run(words, netns=netns, check=False)
    return " ".join(found.stdout.split()) if found.returncode == 0 else ""


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


def namespaces_of(pid: int) -> dict[str, str]:
    """Return the identities of the namespaces process *pid* shares with its pod, by kind; {} when
    it has ended. Children's PID namespace: a first process may have been made outside its own."""
    names = {"net": "net", "uts": "uts", "ipc": "ipc", "pid": "pid_for_children"}
    try:
        return {kind: os.readlink(f"/proc/{pid}/ns/{name}") for kind, name in names.items()}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def netns_identity(netns: str) -> str:
    """Return the identity of a network namespace as /proc shows it, `net:[4026531840]`."""
    with entered(netns):
        return os.readlink("/proc/thread-self/ns/net")
