"""The cluster's objects, as etcd tells of them, followed by a thread of its own.

etcd is asked from the pod's network, over the node and the underlay: where that is cut, what was
known last stands, and etcd is asked again until it answers.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from netlab.errors import StoreError
from netlab.model.inventory import Inventory
from netlab.store import registry
from netlab.store.access import Access

Publish = Callable[[Inventory, int], None]
GATHER = 0.02  # seconds: what is written together becomes one change of the zone
LOOKS = 30.0  # seconds after which etcd is looked at anyway
AGAIN_FIRST, AGAIN_MOST = 0.1, 2.0  # seconds until etcd is asked again


class Follower(threading.Thread):
    """Calls *publish* with the objects and their revision whenever they changed."""

    def __init__(self, access: Access, publish: Publish) -> None:
        super().__init__(name="follower", daemon=True)
        self._etcd = access.etcd("")
        self._publish = publish
        self._wait = AGAIN_FIRST

    def run(self) -> None:
        told = ""
        while True:
            try:
                self._follow()
            except StoreError as error:
                words = str(error)
            except Exception:  # a defect, or an object like no other: the names known so far stand
                words = traceback.format_exc()
            if words != told:
                told = words
                print(told, file=sys.stderr, flush=True)
            self._etcd.close()
            time.sleep(self._wait)
            self._wait = min(2 * self._wait, AGAIN_MOST)

    def _follow(self) -> NoReturn:
        """Publish what changes until etcd goes away. Raises StoreError then."""
        with self._etcd.watch() as watch:
            while True:
                self._publish(*registry.objects(self._etcd, watch=watch))
                self._wait = AGAIN_FIRST
                if watch.wait(LOOKS):
                    time.sleep(GATHER)
