"""The loop of everything around the nodes: the physical network, the outside, two processes.

It owns the namespaces `underlay`, `gateway`, `internet`, `client`, `master`, `balancer`, the
empty shells of the nodes' namespaces with their cables, the process etcd in `master`, and the pod
servers.
A namespace with the lab's name that belongs to nothing declared is removed; a guest's is left. What
is attached of others' namespaces is `attachments`'.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Collection, Mapping
from functools import partial

from netlab import world
from netlab.agent.attachments import Attachments
from netlab.agent.etcd import EtcdProcess
from netlab.agent.loop import Loop
from netlab.agent.state import State
from netlab.attachments import others
from netlab.firewall import Published
from netlab.kernel import Kernel, Watch, netns
from netlab.model.lab import Lab
from netlab.objects import Netns, Object, Sysctl
from netlab.plan import Op, Verb, difference
from netlab.pods.control import Port, Served, Servers

LOOK_FOR_LOST = 1.0  # seconds between two looks for an attached namespace that is gone
INTERNET_PORTS = (Port(80), Port(80, "UDP"), Port(53), Port(53, "UDP"))


class World(Loop):
    """Keeps the world around the nodes.

    `ready` is called when it has become whole or the lab's declaration has changed; `wake_node`
    with the node whose namespace, or whose pod's, has lost its name or is another one now.
    """

    rest = 10.0  # most of its wake-ups are pods' namespaces that the nodes are just making

    def __init__(
        self,
        state: State,
        kernel: Kernel,
        servers: Servers,
        *,
        ready: Callable[[], None],
        wake_node: Callable[[str], None],
    ) -> None:
        super().__init__("world")
        self.state = state
        self.servers = servers
        self.ready = ready
        self.wake_node = wake_node
        self.kernel = kernel
        self.attachments = Attachments(kernel)
        self._watches: dict[str, tuple[int, Watch]] = {}
        self._agreed: set[Object] = set()
        self._etcd = EtcdProcess(state, self.log)
        self.whole: Lab | None = None  # the declaration that was last found true
        self.opened: tuple[Published, ...] = ()  # what the gateway was then open for
        self._names: dict[str, int] = {}  # of every namespace of the lab, with their identities
        self._only_names = False  # whether nothing but the mount table has changed
        self._mounts = os.open("/proc/self/mounts", os.O_RDONLY)
        # The file is always readable; that it has changed is told as urgent (proc_pid_mounts(5)).
        self._mounted = select.epoll()
        self._mounted.register(self._mounts, select.EPOLLPRI)

    def once(self) -> None:
        lab = self.state.lab
        if lab is None or not self._names_changed(lab):
            return
        published = self.state.published
        desired = world.objects(lab, published)
        self._remove_strangers(lab)
        wanted = [thing for name in desired for thing in desired[name]]

        def missing() -> list[Op]:
            observed = [thing for name in desired for thing in self._observed(name, desired[name])]
            return difference(wanted, others(lab, observed))

        operations = self.agree(self.kernel, missing, agreed=self._agreed)
        self._agreed = set(wanted)
        self.attachments.keep(lab, self.agree)
        self.opened = published
        self._watch(lab)
        self._etcd.keep(lab)
        self._outside_servers(lab)
        if self.whole != lab or operations:
            self.whole = lab
            self.ready()

    def _names_changed(self, lab: Lab) -> bool:
        """Tell the nodes whose namespaces lost their names; return whether a look is due.

        The mount table changes with every pod, and mostly because a node's loop made it so.
        """
        names = {name: netns.identity(name) for name in self.kernel.namespaces(lab.name)}
        lost = {
            name.split(".")[1] for name, number in self._names.items() if names.get(name) != number
        }
        self._names = names
        for member in lost.difference(world.MEMBERS):
            self.wake_node(member)
        only, self._only_names = self._only_names, False
        mine = {*world.members(lab), *(node.name for node in lab.running)}
        whole = all(names.get(lab.netns(member)) for member in mine)
        strange = any(name.split(".")[1] not in mine for name in names)
        return not only or bool(lost) or not whole or strange or self.attachments.moved(lab)

    def _observed(self, name: str, desired: list[Object]) -> list[Object]:
        # A node's namespace is full of what its own loop makes; here only its shell counts.
        if all(isinstance(thing, Netns) for thing in desired):
            return [Netns(name)] if netns.exists(name) else []
        found = self.kernel.observe(name, desired)
        if any(not isinstance(thing, Netns | Sysctl) for thing in desired):
            return found
        wanted = {thing.key for thing in desired}
        return [thing for thing in found if thing.key in wanted]

    def _remove_strangers(self, lab: Lab) -> None:
        nodes = {node.name for node in lab.running}
        strangers = [
            Op(Verb.DELETE, Netns(name))
            for name in self.kernel.namespaces(lab.name)
            if (member := name.split(".")[1]) not in nodes
            and member not in world.members(lab)
            and not member.startswith(world.GUEST)
        ]
        self.note(strangers, agreed=())
        self.kernel.apply(strangers)

    def _watch(self, lab: Lab) -> None:
        for member in world.members(lab):
            name = lab.netns(member)
            identity = netns.identity(name)
            old = self._watches.get(name)
            if old is None or old[0] != identity:
                if old is not None:
                    old[1].close()
                self._watches[name] = (identity, self.kernel.watch(name))

    def watched(self) -> Mapping[int, Callable[[], None]]:
        watched: dict[int, Callable[[], None]] = {
            watch.fileno(): partial(_drain, watch) for _, watch in self._watches.values()
        }
        if (ended := self._etcd.fileno()) is not None:
            watched[ended] = lambda: None
        # Readable when the pod servers die: the next pass starts new ones and tells them all.
        watched[self.servers.fileno()] = lambda: None
        # The mount table changes when a namespace's name goes: `ip netns delete` behind our back.
        watched[self._mounted.fileno()] = lambda: None
        return watched

    def pause(self) -> float:
        return LOOK_FOR_LOST if self.attachments.troubles else self.interval

    def heard(self, descriptors: Collection[int]) -> None:
        self._only_names = set(descriptors) == {self._mounted.fileno()}

    # -- processes

    def _outside_servers(self, lab: Lab) -> None:
        self.servers.ensure()
        self.servers.update([outside_server(lab)])

    def close(self) -> None:
        for _, watch in self._watches.values():
            watch.close()
        self._mounted.close()
        os.close(self._mounts)


def outside_server(lab: Lab) -> Served:
    """Return what answers on the internet."""
    return Served(
        netns=lab.netns(world.INTERNET),
        node=world.INTERNET,
        namespace="",
        pod=world.INTERNET,
        container=world.INTERNET,
        ports=INTERNET_PORTS,
        names=lab.outside_names,
        ipv6=lab.dual,
    )


def _drain(watch: Watch) -> None:
    watch.drain()
