"""The operations of a plan as netlink messages, sent many at a time.

1. A namespace is entered once, for its socket; from then on the socket works on it from anywhere.
   It is entered again only for settings, which /proc shows by the thread's namespace.
2. Messages of one namespace keep their order in its queue. The queues are sent when something
   depends on another namespace's: what is inside a pod on the cable that ends there.
3. The index of a link is chosen where it is made, so that what hangs on the link can go out in the
   same batch; in a namespace where others may make links too, well above the kernel's own count.
4. An operation that fails does not keep others from being tried; the first failure is raised.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from netlab.errors import KernelError
from netlab.kernel import links, netns, routes, settings, tun
from netlab.kernel.netlink import NetlinkError
from netlab.kernel.place import Place
from netlab.kernel.refusals import refusal
from netlab.objects import (
    Address,
    Bridge,
    FdbEntry,
    Neighbor,
    Netns,
    Object,
    Route,
    RoutingRule,
    Sysctl,
    Tun,
    Veth,
    Vxlan,
)
from netlab.plan import Op, Verb
from netlab.plan.order import sysctl_link

# What a deletion may find: it is gone already.
_GONE = {errno.ENOENT, errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENXIO}


class Batch:
    """Carries out operations in order, rules excepted. Used inside `netns.returning()`."""

    def __init__(self) -> None:
        self.failures: list[KernelError] = []
        self._places: dict[str, Place] = {}
        self._inside: str | None = None  # the namespace the thread is in, as far as known here
        self._waits = False  # links that others depend on are queued, to be made or deleted
        self._deletes = False  # links to be deleted are queued
        self._after: list[tuple[Place, Op, bytes]] = []  # to be queued when those are made

    def run(self, ops: Sequence[Op]) -> None:
        """Do it all; what the kernel refused is in `failures`. Raises CapabilityError."""
        early = _birth_settings(ops)
        try:
            for op in ops:
                thing = op.object
                if isinstance(thing, Netns):
                    self._netns(op, early.get(thing.netns, ()))
                elif isinstance(thing, Sysctl):
                    if thing.netns not in early or sysctl_link(thing.name) is not None:
                        self._setting(op, thing)
                elif isinstance(thing, Bridge | Veth | Vxlan | Tun):
                    self._link(op, thing)
                elif isinstance(thing, Address | Route | Neighbor | FdbEntry):
                    self._on_link(op, thing)
                elif isinstance(thing, RoutingRule):
                    self._rule(op, thing)
            while self._after or any(place.waiting for place in self._places.values()):
                self._flush()
        finally:
            for place in self._places.values():
                place.close()
            self._places.clear()

    def _fail(self, op: Op, why: str, number: int = 0) -> None:
        self.failures.append(refusal(op, why, number=number))

    # None when there is no such namespace: nothing to delete then, and a failure otherwise.
    def _place(self, op: Op, name: str) -> Place | None:
        place = self._places.get(name)
        if place is not None:
            return place
        try:
            descriptor = netns.fd(name)
        except KernelError as error:
            if op.verb is not Verb.DELETE:
                self._fail(op, error.message)
            return None
        netns.enter(descriptor, name)
        self._inside = name
        place = self._places[name] = Place(name, descriptor, fresh=False)
        return place

    def _netns(self, op: Op, settings_at_birth: Sequence[Op]) -> None:
        name = op.object.netns
        if op.verb is Verb.DELETE:
            self._flush()
            place = self._places.pop(name, None)
            if place is not None:
                place.close()  # an open socket would keep the namespace
            netns.delete(name)
            return
        if op.verb is Verb.ADD:
            netns.enter_new(name)
            self._inside = name
            self._places[name] = Place(name, netns.fd(name), fresh=True)
            for setting in settings_at_birth:
                self._write(setting)
        place = self._place(op, name)
        if place is not None:
            place.queue(op, links.LO_UP)

    def _setting(self, op: Op, thing: Sysctl) -> None:
        if op.verb is Verb.DELETE:
            return
        if self._waits or sysctl_link(thing.name) is not None:
            self._flush()
        place = self._place(op, thing.netns)
        if place is None:
            return
        self._enter(place)
        self._write(op)

    def _write(self, op: Op) -> None:
        assert isinstance(op.object, Sysctl)
        try:
            settings.write(op.object.name, op.object.value)
        except OSError as error:
            self._fail(op, (error.strerror or "").lower(), error.errno or 0)

    def _on_link(self, op: Op, thing: Address | Route | Neighbor | FdbEntry) -> None:
        if self._waits:
            self._flush()
        place = self._place(op, thing.netns)
        if place is None:
            return
        index = place.index(thing.link)
        if index is not None:
            if isinstance(op.old, Route) and op.old.blocks(thing):
                former = place.index(op.old.link)
                place.queue(op, routes.delete_route(op.old, former or 0))
            place.queue(op, _ENCODERS[type(thing), op.verb](thing, index))
        elif op.verb is not Verb.DELETE:
            self._fail(op, f"no link {thing.link}", errno.ENODEV)

    def _rule(self, op: Op, thing: RoutingRule) -> None:
        place = self._place(op, thing.netns)
        if place is not None:
            made = op.verb is not Verb.DELETE
            place.queue(op, routes.new_rule(thing) if made else routes.delete_rule(thing))

    def _link(self, op: Op, thing: Bridge | Veth | Vxlan | Tun) -> None:
        making = op.verb is not Verb.DELETE
        if making and (self._deletes or (self._waits and not isinstance(thing, Veth))):
            self._flush()
        place = self._place(op, thing.netns)
        if place is None:
            return
        if op.verb is Verb.DELETE:
            index = place.index(thing.name)
            if index is not None:
                place.doomed.append((index, op))
                self._waits = self._deletes = True
        elif op.verb is Verb.CHANGE:
            self._change(op, thing, place)
        elif isinstance(thing, Bridge):
            place.queue(op, *links.new_bridge(thing, place.new_index(thing.name)))
        elif isinstance(thing, Veth):
            self._new_veth(op, thing, place)
        elif isinstance(thing, Tun):
            self._new_tun(op, thing, place)
        else:
            self._new_vxlan(op, thing, place)

    def _new_veth(self, op: Op, thing: Veth, place: Place) -> None:
        far = self._place(op, thing.peer_netns)
        if far is None:
            return
        old = far.left_over(thing.peer_name)
        if old is not None:
            far.queue(Op(Verb.DELETE, thing), *links.delete([old]))
            far.forget(thing.peer_name)
            self._flush()
        master = place.index(thing.bridge) if thing.bridge else 0
        if master is None:
            self._fail(op, f"no link {thing.bridge}", errno.ENODEV)
            return
        requests = links.new_veth(
            thing,
            place.new_index(thing.name),
            master=master,
            peer_fd=far.descriptor,
            peer_index=far.new_far_index(thing.peer_name),
        )
        place.queue(op, *requests)
        if thing.peer_up:
            self._after.append((far, op, links.up(thing.peer_name)))
        self._waits = True

    def _new_vxlan(self, op: Op, thing: Vxlan, place: Place) -> None:
        device = place.index(thing.device)
        if device is None:
            self._fail(op, f"no link {thing.device}", errno.ENODEV)
            return
        place.queue(op, *links.new_vxlan(thing, place.new_index(thing.name), device))

    def _new_tun(self, op: Op, thing: Tun, place: Place) -> None:
        """Make a device that netlink knows only once it is there. Raises CapabilityError."""
        self._flush()
        if place.index(thing.name) is not None:
            self._fail(op, "file exists", errno.EEXIST)
            return
        self._enter(place)
        try:
            tun.persistent(thing.name)
        except OSError as error:
            self._fail(op, (error.strerror or "").lower(), error.errno or 0)
            return
        index = place.found(thing.name)
        place.queue(op, links.change(index, mtu=thing.mtu, up=thing.up, ours=True))

    def _enter(self, place: Place) -> None:
        if self._inside != place.name:
            netns.enter(place.descriptor, place.name)
            self._inside = place.name

    def _change(self, op: Op, new: Bridge | Veth | Vxlan | Tun, place: Place) -> None:
        index = place.index(new.name)
        if index is None:
            self._fail(op, f"no link {new.name}", errno.ENODEV)
            return
        old: Any = op.old
        place.queue(op, *_changes(index, old, new))
        if not isinstance(new, Veth):
            return
        if (new.bridge, new.hairpin) != (old.bridge, old.hairpin):
            master = place.index(new.bridge) if new.bridge else 0
            if master is None:
                self._fail(op, f"no link {new.bridge}", errno.ENODEV)
                return
            if new.bridge != old.bridge:
                place.queue(op, links.change(index, master=master))
            if master:
                place.queue(op, links.set_hairpin(index, new.hairpin))
        if (new.peer_mac, new.mtu, new.peer_up) != (old.peer_mac, old.mtu, old.peer_up):
            self._change_far_end(op, old, new)

    def _change_far_end(self, op: Op, old: Veth, new: Veth) -> None:
        far = self._place(op, new.peer_netns)
        index = far.index(new.peer_name) if far else None
        if far is None or index is None:
            self._fail(op, f"no link {new.peer_name} in {new.peer_netns}", errno.ENODEV)
            return
        address = new.peer_mac if new.peer_mac != old.peer_mac else None
        far.queue(op, links.change(index, address=address, mtu=new.mtu, up=new.peer_up))
        self._waits = True

    def _flush(self) -> None:
        self._waits = self._deletes = False
        for place in self._places.values():
            requests, ops = place.requests, place.ops
            if place.doomed:
                gone = [op for _, op in place.doomed]
                for op in gone:
                    _forget(self._places, op.object)
                deletions = links.delete([index for index, _ in place.doomed])
                requests += deletions
                ops += (gone * 2)[: len(deletions)]
                place.doomed = []
            if not requests:
                continue
            place.requests, place.ops = [], []
            for error in place.socket.send(requests):
                self._refused(ops[error.index], error)
        for far, op, request in self._after:
            far.queue(op, request)
        self._after = []

    def _refused(self, op: Op, error: NetlinkError) -> None:
        number = error.errno or 0
        if op.verb is Verb.DELETE and number in _GONE:
            return
        self._fail(op, str(error), number)


# The settings, by namespace, that are written while the thread is inside a new namespace anyway.
def _birth_settings(ops: Sequence[Op]) -> dict[str, list[Op]]:
    early: dict[str, list[Op]] = {
        op.object.netns: [] for op in ops if type(op.object) is Netns and op.verb is Verb.ADD
    }
    for op in ops:
        thing = op.object
        if isinstance(thing, Sysctl) and thing.netns in early and sysctl_link(thing.name) is None:
            early[thing.netns].append(op)
    return early


def _changes(index: int, old: Any, new: Any) -> list[bytes]:
    mac, was = getattr(new, "mac", None), getattr(old, "mac", None)  # a tun device has none
    if (was, old.mtu, old.up) == (mac, new.mtu, new.up):
        return []
    address = mac if was != mac else None
    return [links.change(index, address=address, mtu=new.mtu, up=new.up)]


def _forget(places: dict[str, Place], thing: Object) -> None:
    if isinstance(thing, Bridge | Veth | Vxlan | Tun):
        places[thing.netns].forget(thing.name)
    if isinstance(thing, Veth) and thing.peer_netns in places:
        places[thing.peer_netns].forget(thing.peer_name)


_ENCODERS: dict[tuple[type, Verb], Callable[[Any, int], bytes]] = {
    (Address, Verb.ADD): routes.new_address,
    (Address, Verb.CHANGE): routes.new_address,
    (Address, Verb.DELETE): routes.delete_address,
    (Route, Verb.ADD): routes.new_route,
    (Route, Verb.CHANGE): routes.replace_route,
    (Route, Verb.DELETE): routes.delete_route,
    (Neighbor, Verb.ADD): routes.put_neighbor,
    (Neighbor, Verb.CHANGE): routes.put_neighbor,
    (Neighbor, Verb.DELETE): routes.delete_neighbor,
    (FdbEntry, Verb.ADD): routes.put_fdb,
    (FdbEntry, Verb.CHANGE): routes.put_fdb,
    (FdbEntry, Verb.DELETE): routes.delete_fdb,
}
