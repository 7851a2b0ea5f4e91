"""Tells that something changed in a namespace or in those its cables lead to.

1. One routing socket hears links, addresses and routes here and, by NETLINK_LISTEN_ALL_NSID, in
   every namespace this one has a number for: those where its veths end. A second one hears
   nftables commits.
2. What changed does not matter, an observation tells. But what netlab does not manage must not
   wake anybody: bridges learn and ARP entries age all the time, so neighbours and forwarding
   entries count on tunnels only; and what happens beyond this namespace's own uplink (the far
   end's group marks it) is not its business.
3. Lost events (ENOBUFS) count as a change of everything.
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from struct import unpack_from

from netlab.kernel import links, netlink, netns, routes
from netlab.objects import PEER_GROUP

Ancillary = list[tuple[int, int, bytes]]
EVERYTHING = frozenset(("self", "pods", "rules"))
RECEIVE_BUFFER = 4 << 20  # bytes; a batch of 100 pods makes about 1 MiB of events

# RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV6_IFADDR, _IPV6_ROUTE
_LINK, _NEIGHBOR, _ADDRESS, _ROUTE, _RULE, _ADDRESS_V6, _ROUTE_V6 = 1, 3, 5, 7, 8, 9, 11
_GROUPS = (_LINK, _NEIGHBOR, _ADDRESS, _ROUTE, _RULE, _ADDRESS_V6, _ROUTE_V6)
_NFTABLES = 7  # NFNLGRP_NFTABLES
_RCVBUFFORCE = 33  # asm-generic/socket.h


class RealWatch:
    """A watch on one namespace; the protocol `Watch`. Raises KernelError when there is none."""

    def __init__(self, name: str) -> None:
        self._poll = select.epoll()
        try:
            with netns.entered(name):
                self._links = netlink.Socket(netlink.ROUTE)
                self._rules = netlink.Socket(netlink.NETFILTER)
                question = netlink.Socket()
            try:
                _listen(self._links.socket, _GROUPS)
                self._links.socket.setsockopt(netlink.SOL_NETLINK, netlink.LISTEN_ALL_NSID, 1)
                _listen(self._rules.socket, (_NFTABLES,))
                self._tunnels: set[int] = set()
                self._uplinks: set[int] = set()
                for body in question.dump(links.GET, links.DUMP_BODY):
                    self._note(body)
            finally:
                question.close()
        except BaseException:
            self._poll.close()
            raise
        for each in (self._links, self._rules):
            self._poll.register(each.socket, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def close(self) -> None:
        self._poll.close()
        self._links.close()
        self._rules.close()

    def drain(self) -> set[str]:
        found: set[str] = set()
        for data, ancillary in _waiting(self._links.socket):
            if not data:
                found |= EVERYTHING
            where = _number(ancillary)
            for kind, _flags, _sequence, body in netlink.messages(data):
                if where is None:
                    found |= self._here(kind, body)
                elif where not in self._uplinks and kind not in _NEIGHBORS:
                    found.add("pods")
        for data, _ in _waiting(self._rules.socket):
            found |= {"rules"} if data else EVERYTHING
        return found

    def _here(self, kind: int, body: bytes) -> set[str]:
        if kind in _NEIGHBORS:
            return {"self"} if unpack_from("=i", body, 4)[0] in self._tunnels else set()
        if kind in (links.NEW, links.DELETE):
            if body[0] == socket.AF_BRIDGE:  # a port's state, told besides the link's own message
                return {"self"}
            self._note(body)
        return {"self"}

    def _note(self, body: bytes) -> None:
        link = links.link(body)
        if link.kind == "vxlan":
            self._tunnels.add(link.ifindex)
        if link.group == PEER_GROUP and link.nsid is not None:
            self._uplinks.add(link.nsid)


_NEIGHBORS = (routes.NEW_NEIGHBOR, routes.DELETE_NEIGHBOR)


def _listen(listening: socket.socket, groups: tuple[int, ...]) -> None:
    listening.bind((0, 0))  # without a port number of its own a socket hears nothing
    for group in groups:
        listening.setsockopt(netlink.SOL_NETLINK, netlink.ADD_MEMBERSHIP, group)
    try:
        listening.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:  # inside a user namespace: what the limit allows
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    listening.setblocking(False)


# What waits to be read, with its ancillary data; nothing at all where events were lost.
def _waiting(listening: socket.socket) -> Iterator[tuple[bytes, Ancillary]]:
    while True:
        try:
            data, ancillary, _flags, _sender = listening.recvmsg(netlink.RECEIVE, 64)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield b"", []
            continue
        yield data, ancillary


# Which other namespace a message is about, by this one's number of it; None: this one itself.
def _number(ancillary: Ancillary) -> int | None:
    for level, kind, value in ancillary:
        if level == netlink.SOL_NETLINK and kind == netlink.LISTEN_ALL_NSID:
            return int(unpack_from("=i", value)[0])
    return None
