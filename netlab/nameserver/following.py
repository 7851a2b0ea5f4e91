"""The cluster's objects, as etcd tells of them, followed by a thread of its own.

etcd is asked from the pod's network, over the node and the underlay: where that is cut, what was
known last stands, and etcd is asked again until it answers.
"""

from __future__ import annotations

import select
import sys
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from netlab.errors import StoreError
from netlab.model.inventory import Inventory
from netlab.store import registry
from netlab.store.etcd import PORT, Etcd

Publish = Callable[[Inventory, int], None]
GATHER = 0.02  # seconds: what is written together becomes one change of the zone
LOOKS = 30.0  # seconds after which etcd is looked at anyway
AGAIN_FIRST, AGAIN_MOST = 0.1, 2.0  # seconds until etcd is asked again


class Follower(threading.Thread):
    """Calls *publish* with the objects and their revision whenever they changed."""

    def __init__(self, url: str, publish: Publish) -> None:
        super().__init__(name="follower", daemon=True)
        where = urlsplit(url)
        self._etcd = Etcd(where.hostname or "", where.port or PORT)
        self._publish = publish

    def run(self) -> None:
        wait, told = AGAIN_FIRST, ""
        while True:
            try:
                self._follow()
                wait = AGAIN_FIRST
            except StoreError as error:
                if str(error) != told:
                    told = str(error)
                    print(told, file=sys.stderr, flush=True)
            self._etcd.close()
            time.sleep(wait)
            wait = min(2 * wait, AGAIN_MOST)

    def _follow(self) -> None:
        """Publish what changes until etcd goes away. Raises StoreError then."""
        with self._etcd.watch() as watch:
            poll = select.poll()
            poll.register(watch, select.POLLIN)
            while True:
                self._publish(*registry.objects(self._etcd, watch=watch))
                if poll.poll(LOOKS * 1000):
                    time.sleep(GATHER)
