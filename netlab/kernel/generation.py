"""Who changed the rules of a namespace: this process, or somebody else.

nftables counts the commits of a namespace (its generation), iptables-nft's among them. Listing a
big rule set takes seconds, and several parts of netlab write rules into one node: flannel's, the
proxy's. Each notes its commits here and changes nobody else's blocks; so whoever knows the rules as
of one number need not list them again while all commits since then were netlab's own.

    with here().ours(expected=1):
        run(("nft", "-f", "-"), input=text)
    ...
    if not here().unchanged(since=number_of_my_listing): ...  # list again
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct

from netlab.errors import CapabilityError
from netlab.kernel import netlink

_GET_GENERATION = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_GENERATION_ID = 1  # NFTA_GEN_ID, big endian
_header = Struct("=BBH")  # nfgenmsg: family, version, resource


def generation() -> int:
    """Return the number of the namespace's last nftables commit. Raises CapabilityError."""
    try:
        connection = netlink.Socket(netlink.NETFILTER)
    except OSError as error:
        raise CapabilityError("this kernel has no nftables") from error
    try:
        reply = connection.ask([netlink.message(_GET_GENERATION, 0, _header.pack(0, 0, 0))])[0]
    finally:
        connection.close()
    if isinstance(reply, netlink.NetlinkError):
        raise CapabilityError(f"this kernel has no nftables: {reply}")
    return int.from_bytes(netlink.attributes(reply, _header.size)[_GENERATION_ID], "big")


class Commits:
    """Which commits of one namespace are netlab's own, by their numbers.

    The calling thread is in that namespace. Writers take turns; several threads may ask at once.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._before = -1  # every commit after this number
        self._last = -1  # up to this one was our own

    @contextmanager
    def ours(self, *, expected: int) -> Iterator[None]:
        """Note what is committed meanwhile as our own, if it is *expected* commits in number.

        With any other number somebody else may have been among us, and so it is when an exception
        leaves the block: then none of them is our own. A transaction that changes nothing does not
        count. Raises CapabilityError.
        """
        with self._turn:
            before = generation()
            yield
            after = generation()
            if after - before == expected:
                if before != self._last:
                    self._before = before
                self._last = after

    def unchanged(self, since: int) -> bool:
        """Return whether every commit after number *since* was our own. Raises CapabilityError.

        Waits for whoever is writing.
        """
        with self._turn:
            current = generation()
            return since == current or (current == self._last and self._before <= since <= current)


_ledgers: dict[int, Commits] = {}  # by the cookie of the namespace, which is never used again


def here() -> Commits:
    """Return what is known of the commits in the namespace the calling thread is in.

    Where the kernel has no cookies (before Linux 5.14) nothing is remembered.
    """
    connection = netlink.Socket()
    try:
        cookie = connection.cookie()
    finally:
        connection.close()
    return _ledgers.setdefault(cookie, Commits()) if cookie else Commits()
