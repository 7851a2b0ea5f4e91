"""A node's sign of life: a key in etcd that goes when nobody renews it any more.

1. The key hangs on an etcd lease of `gracePeriodSeconds`; renewing the lease writes nothing, so it
   wakes nobody. That it ran out is an event like any other, and every watch hears it.
2. The thread lives in the node's namespace: a node that is cut off cannot renew. It is not the
   node's own loop, which may be at something long.
3. etcd gives every lease its whole time again when it comes back, so its outage kills no node.
4. Where a node is a machine of its own, what the node says of itself goes the same way, when it has
   changed. It stays when the key goes: it was true then.
"""

from __future__ import annotations

import msgspec

from netlab.agent.loop import Loop
from netlab.agent.reports import ALIVE, REPORTS, Told
from netlab.agent.state import State
from netlab.kernel import netns
from netlab.store.etcd import Etcd

BEATS = 3  # in the time in which one is enough
ETCD_SILENCE = 1.0  # seconds


class Heartbeat(Loop):
    """Keeps the key of the node called *node*."""

    def __init__(self, state: State, node: str) -> None:
        super().__init__(f"{node}-alive")
        self.state = state
        self.node = node
        self._etcd: Etcd | None = None
        self._home = (0, "")
        self._lease = 0
        self._grace = 0
        self._told: Told | None = None  # what other machines were told last

    def once(self) -> None:
        lab = self.state.lab
        name = lab.netns(self.node) if lab is not None else ""
        if lab is None or not netns.exists(name):
            return
        grace = lab.nodeLifecycle.gracePeriodSeconds
        if (netns.identity(name), lab.master.address) != self._home:
            self._leave()
            netns.move(name)
            self._home = (netns.identity(name), lab.master.address)
        if self._etcd is None:
            self._etcd = self.state.access.etcd(lab.master.address, timeout=ETCD_SILENCE)
        alive = self._lease and grace == self._grace and self._etcd.keep_alive(self._lease) > 0
        if not alive:
            self._lease, self._grace = self._etcd.grant(grace), grace
        held = self._etcd.get(ALIVE + self.node) if alive else None
        if held is None or held.lease != self._lease:  # new, or somebody deleted or replaced it
            self._etcd.put(ALIVE + self.node, b"", lease=self._lease)
            self._told = None  # it may have been another etcd
        if self.state.place is not None:
            self._tell(self._etcd)

    def _tell(self, etcd: Etcd) -> None:
        told = self.state.told(self.node)
        if told != self._told:
            etcd.put(REPORTS + self.node, msgspec.json.encode(told))
            self._told = told

    def pause(self) -> float:
        return self._grace / BEATS if self._grace else self.interval

    def _failed(self, message: str) -> None:
        self._leave()
        super()._failed(message)

    def _leave(self) -> None:
        if self._etcd is not None:
            self._etcd.close()
            self._etcd = None

    def close(self) -> None:
        self._leave()
