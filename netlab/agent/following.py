"""The loop of a node's machine that follows the control plane on another one, through etcd.

What `control_plane` publishes on its own machine this loop reads: the Lab document, the objects,
the leases, and what the agents of all nodes say. It writes nothing. While etcd is away, what was
read last stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from netlab.agent.loop import Loop
from netlab.agent.place import Place
from netlab.agent.reports import heard
from netlab.agent.state import State
from netlab.cluster import cluster
from netlab.errors import NetlabError, StoreError
from netlab.flannel import lease
from netlab.flannel.config import SUBNETS
from netlab.model.lab import Lab
from netlab.store import registry
from netlab.store.session import Drain, Session


def lab_of(value: bytes) -> Lab:
    """Return the Lab document that etcd holds. Raises NetlabError: of another netlab."""
    try:
        return msgspec.json.decode(value, type=Lab)
    except msgspec.DecodeError as error:
        raise NetlabError(
            f"the Lab document in etcd cannot be read: {error}",
            hint="the same version of netlab on all machines reads what it writes",
        ) from error


class Following(Loop):
    """Publishes what etcd holds; `adopt` is called with the Lab document when it has changed."""

    def __init__(
        self,
        state: State,
        place: Place,
        *,
        adopt: Callable[[Lab], None],
        wake_node: Callable[[str], None],
    ) -> None:
        super().__init__("following")
        self.state = state
        self.place = place
        self.adopt = adopt
        self.wake_node = wake_node
        self._session = Session()

    def once(self) -> None:
        # In this process's own namespace: the machine's.
        etcd = self._session.open(lambda: self.place.access.etcd(""))
        told = heard(etcd)
        self.state.hear(told)
        if told.lab is None:
            raise StoreError(f"{etcd!r} holds no lab", hint="`netlab up --master` declares one")
        lab = self.place.fitted(lab_of(told.lab.value))
        if lab.name != self.state.run.name:
            raise NetlabError(
                f"{etcd!r} holds lab {lab.name} now, not {self.state.run.name}",
                hint="`netlab agent --leave`, then join that one",
            )
        if lab != self.state.lab:
            self.adopt(lab)
        self.state.lab_revision = told.lab.mod_revision
        if not self.place.declared_in(lab):
            raise NetlabError(
                f"node {self.place.node} is no longer declared in lab {lab.name}: what this "
                "machine had as a node is gone",
                hint="declare it again, or `netlab agent --leave`",
            )
        objects, revision = registry.objects(etcd, watch=self._session.watch, warn=self.log.warning)
        leases, _ = lease.peers(etcd.range(SUBNETS).items)
        seen = cluster(
            lab,
            objects,
            leases={item.public_ip: item.held for item in leases},
            revision=revision,
            before=self.state.cluster,
        )
        self.state.publish(seen, stable=True, wake=self.wake_node)

    def _failed(self, message: str) -> None:
        self._session.close()
        super()._failed(message)

    def watched(self) -> Mapping[int, Drain]:
        return self._session.watched(self._drain)

    def _drain(self) -> bool:
        self.state.heard()
        return self._session.drain()

    def close(self) -> None:
        self._session.close()
