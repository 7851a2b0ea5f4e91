"""What a loop in one member's namespace reads from etcd, over the underlay as any machine does.

1. A loop that is cut off keeps what it read last, and goes on with that.
2. etcd is asked when the connection is new, and now and then; else its watch says what changed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from netlab import patience
from netlab.errors import StoreError
from netlab.kernel import netns
from netlab.model.inventory import Inventory
from netlab.model.lab import Lab
from netlab.store import registry
from netlab.store.access import Access
from netlab.store.session import Drain, Session

ETCD_SILENCE = patience.seconds(1.0)  # seconds


class Reading:
    """The objects in etcd as a member of the lab last read them; for one thread."""

    def __init__(
        self,
        member: str,
        ready: threading.Event,
        warn: Callable[[str], None],
        *,
        access: Access = Access(),  # noqa: B008  (a frozen value)
        known: Callable[[], Inventory | None] | None = None,
    ) -> None:
        """*ready*: set while etcd is up; *warn* is told what is no object; *access*: the way to
        etcd. *known*: what to take instead, where etcd is not to be asked from the member."""
        self.member = member
        self.objects = Inventory()
        self._ready = ready
        self._warn = warn
        self._access = access
        self._known = known
        self._home = (0, "")
        self._session = Session()

    def is_at_home(self, lab: Lab) -> bool:
        """Return whether the thread is in the member's namespace as it is now."""
        return self._home == self._place(lab)

    def _place(self, lab: Lab) -> tuple[int, str]:
        return netns.identity(lab.netns(self.member)), lab.master.address

    def enter(self, lab: Lab) -> None:
        """Move the thread into the member's namespace, without any connection."""
        self.disconnect()
        place = self._place(lab)
        netns.move(lab.netns(self.member))
        self._home = place

    def learn(self, lab: Lab) -> StoreError | None:
        """Read what changed; return why etcd is away, if it is."""
        if self._known is not None:
            self.objects = self._known() or self.objects
            return None
        if not self._ready.is_set():
            return StoreError("etcd is not up yet")
        try:
            host = lab.master.address
            etcd = self._session.open(lambda: self._access.etcd(host, timeout=ETCD_SILENCE))
            # What is no object is told by the loop that sees it first, be it this one.
            self.objects, _ = registry.objects(etcd, watch=self._session.watch, warn=self._warn)
        except StoreError as error:
            self.disconnect()
            return error
        return None

    def watched(self) -> Mapping[int, Drain]:
        """Return the descriptor that is readable when something changed, with what drains it."""
        return self._session.watched(self._drain)

    def _drain(self) -> bool:
        try:
            return self._session.drain()
        except StoreError:
            self.disconnect()
            return True

    def disconnect(self) -> None:
        self._session.close()

    def close(self) -> None:
        """Disconnect, and forget where the thread is."""
        self.disconnect()
        self._home = (0, "")
