"""A node's sign of life: a key in etcd that goes when nobody renews it any more.

1. The key hangs on an etcd lease of `gracePeriodSeconds`; renewing the lease writes nothing, so it
   wakes nobody. That it ran out is an event like any other, and every watch hears it.
2. The thread lives in the node's namespace: a node that is cut off cannot renew. It is not the
   node's own loop, which may be at something long.
3. etcd gives every lease its whole time again when it comes back, so its outage kills no node.
"""

from __future__ import annotations

from netlab.agent.loop import Loop
from netlab.agent.state import State
from netlab.kernel import netns
from netlab.store.etcd import PORT, Etcd

ALIVE = "/netlab/alive/"
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
            self._etcd = Etcd(lab.master.address, PORT, timeout=ETCD_SILENCE)
        alive = self._lease and grace == self._grace and self._etcd.keep_alive(self._lease) > 0
        if not alive:
            self._lease, self._grace = self._etcd.grant(grace), grace
        held = self._etcd.get(ALIVE + self.node) if alive else None
        if held is None or held.lease != self._lease:  # new, or somebody deleted or replaced it
            self._etcd.put(ALIVE + self.node, b"", lease=self._lease)

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
