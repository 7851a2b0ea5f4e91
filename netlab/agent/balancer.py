"""The loop of the balancer: its listeners from etcd and the nodes' health into its rules.

1. It lives in the balancer's namespace and asks etcd and the nodes from there, over the underlay:
   what it cannot reach, its clients' packets would not reach either. In a lab of several machines
   it asks the nodes alone so, and takes what is declared from its machine's agent: not every
   machine of etcd knows a way back to it.
2. A pass that only probes woke looks at nothing else, unless a node's health has changed.
3. Rules first, then connection tracking: a flow that begins between the two finds the new rules.
   Flows of a node that is lost are forgotten, and so begin anew: their next packet goes to another
   node, which resets a TCP connection it does not know, and serves a UDP datagram.
4. An agent that is started again writes nothing before it has read what is declared and heard from
   every node: till then the rules are those of the one before.
5. Without a Service of type LoadBalancer nothing is asked and nothing runs out.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping

import msgspec

from netlab import world
from netlab.agent.loop import Loop
from netlab.agent.probing import Probing
from netlab.agent.reading import Reading
from netlab.agent.reports import BalancerReport, fingerprint
from netlab.agent.state import State
from netlab.balancing import rules
from netlab.balancing.listeners import Backend, Listener, Probe, backends, listeners
from netlab.errors import KernelError
from netlab.kernel import Kernel, Watch, conntrack, netns, nft_names
from netlab.kernel.generation import generation, here
from netlab.model.lab import IP_MODES, Lab
from netlab.packets import Entry
from netlab.processes.commands import run
from netlab.proxy.addresses import Family
from netlab.store.session import Drain


class Balancer(Loop):
    """Keeps the balancer's rules, while the lab has one."""

    def __init__(self, state: State, kernel: Kernel) -> None:
        super().__init__(world.BALANCER)
        self.state = state
        self.kernel = kernel
        known = state.objects if state.place is not None else None
        self._reading = Reading(world.BALANCER, state.etcd_ready, self.log.warning, known=known)
        self._probing: Probing | None = None
        self._watch: Watch | None = None
        self._listeners: dict[Listener, list[Backend]] = {}  # with the nodes that may serve them
        self._healthy: dict[Listener, tuple[str, ...]] | None = None  # as the rules have it
        self._followed = (0, 0)  # the fingerprint of what the listeners are of
        self._listed = ""  # the rules as they were listed when they were written
        self._seen = 0  # the generation as of which they are the same still
        self._looked = 0.0  # when last at everything, monotonic seconds
        self._only_probes = False
        self._known = False  # as was reported

    def once(self) -> None:
        lab = self.state.lab
        if lab is None or lab.balancer is None or not netns.exists(lab.netns(world.BALANCER)):
            self._move_out(lab)
            return
        if not self._reading.is_at_home(lab):
            self._settle(lab)
        assert self._probing is not None
        changed = self._probing.step()
        only, self._only_probes = self._only_probes, False
        overdue = time.monotonic() - self._looked > self.interval
        if only and not changed and not overdue and not self.error and self._known:
            return
        self._looked = time.monotonic()
        away = self._reading.learn(lab)
        if away is not None and not self._reading.objects:
            raise away  # nothing was ever read: what is there stays
        followed = fingerprint(self._reading.objects)
        if followed != self._followed:
            self._followed = followed
            self._probing.hurry()
        self._take(lab)
        self._probing.step()  # asks at once whom it never asked
        self._agree()
        self._report()
        if away is not None:
            raise away

    def _move_out(self, lab: Lab | None) -> None:
        """Leave a namespace that is no more: with a thread inside its cables would stay."""
        inside, place = self._probing is not None, self.state.place
        self.close()
        if inside and place is not None and lab is not None:
            netns.move(lab.netns(place.home))

    def _settle(self, lab: Lab) -> None:
        """Move into the balancer's namespace as it is now; nothing of another one holds."""
        self.close()
        self._reading.enter(lab)
        self._probing = Probing()
        self._watch = self.kernel.watch(lab.netns(world.BALANCER))
        self._healthy = None

    def _take(self, lab: Lab) -> None:
        """Read from the objects who is served by whom, and ask those."""
        assert self._probing is not None
        objects = self._reading.objects
        of_mode = {one: backends(lab, objects.of("Node"), ip_mode=one) for one in IP_MODES}
        found = listeners(lab, objects.of("Service"))
        self._listeners = {one: of_mode[one.mode] for one in found}
        self._probing.want(
            {
                Probe(node.address, one.check_port)
                for one, nodes in self._listeners.items()
                for node in nodes
            }
        )

    def _well(self) -> dict[Listener, tuple[str, ...]]:
        """Return the addresses of the nodes that are well, by listener."""
        assert self._probing is not None
        well = self._probing.well
        return {
            one: tuple(each for _, each in nodes if well(Probe(each, one.check_port)))
            for one, nodes in self._listeners.items()
        }

    def _agree(self) -> None:
        """Make the rules, and what the kernel remembers of flows, follow the nodes' health."""
        assert self._probing is not None
        wanted, before = self._well(), self._healthy
        if before is None and not self._probing.known:
            return  # an agent that was started again: what the one before wrote goes on meanwhile
        if wanted == before and self._untouched():
            return
        self._healthy = None  # should this fail, who knows what is there
        self._write(wanted)
        self._seen, self._listed = generation(), _listing()
        forgotten = _forget(wanted)
        self._healthy = wanted
        self._tell(before, wanted, forgotten)

    def _untouched(self) -> bool:
        """Return whether the rules are as they were written, whoever else wrote some meanwhile."""
        if here().unchanged(self._seen):
            return True
        seen = generation()
        same = _listing() == self._listed
        self._seen = seen if same else self._seen
        return same

    def _write(self, wanted: rules.Healthy) -> None:
        text = rules.transaction(wanted, nft_names.chains((Family.IPV4, rules.TABLE)))
        with here().ours(expected=1):
            done = run(("nft", "-f", "-"), input=text, check=False)
            if done.returncode:  # something of the table's is of another form: begin anew
                anew = f"add table ip {rules.TABLE}\ndelete table ip {rules.TABLE}\n"
                done = run(("nft", "-f", "-"), input=anew + rules.transaction(wanted, ()))
        if done.returncode:
            raise KernelError(f"the balancer's rules are refused: {done.stderr.strip()}")

    def _tell(
        self,
        before: Mapping[Listener, tuple[str, ...]] | None,
        wanted: Mapping[Listener, tuple[str, ...]],
        forgotten: int,
    ) -> None:
        if before == wanted:
            self.log.info("repaired: the rules")
        for one, nodes in wanted.items():
            if before is None or before.get(one) != nodes:
                words = ", ".join(nodes) or rules.NO_NODE
                where = f"{one.address}:{one.port}/{one.protocol}"
                self.log.info("%s %s, ipMode %s: %s", one.service, where, one.mode, words)
        if forgotten:
            self.log.info("%d flows forgotten", forgotten)

    def _report(self) -> None:
        assert self._probing is not None
        self._known = self._probing.known
        asked = {node for nodes in self._listeners.values() for node in nodes}
        healthy = self._healthy or {}
        self.state.report_balancer(
            BalancerReport(
                *self._followed,
                known=self._known,
                nodes={
                    node.name: all(
                        node.address in healthy.get(one, ())
                        for one, nodes in self._listeners.items()
                        if node in nodes
                    )
                    for node in sorted(asked)
                },
                listeners={
                    f"{one.address}:{one.port}/{one.protocol}": list(healthy.get(one, ()))
                    for one in self._listeners
                },
            )
        )

    # -- sleeping

    def watched(self) -> Mapping[int, Drain]:
        if self._probing is None or self._watch is None:
            return {}
        return {
            **self._reading.watched(),
            self._watch.fileno(): self._drain,
            self._probing.fileno(): lambda: None,  # `step` reads
        }

    def _drain(self) -> None:
        assert self._watch is not None
        self._watch.drain()

    def heard(self, descriptors: Collection[int]) -> None:
        own = {self._probing.fileno()} if self._probing is not None else set()
        self._only_probes = set(descriptors) <= own

    def pause(self) -> float:
        due = self._probing.pause() if self._probing is not None else None
        return self.interval if due is None else min(due, self.interval)

    def _failed(self, message: str) -> None:
        super()._failed(message)
        reported = self.state.balancer_report()
        self.state.report_balancer(msgspec.structs.replace(reported, error=message))

    def close(self) -> None:
        self._reading.close()
        for held in (self._probing, self._watch):
            if held is not None:
                held.close()
        self._probing = self._watch = None


def _listing() -> str:
    """Return the table as nft lists it, without counters and the flows remembered."""
    return run(("nft", "-s", "-t", "list", "table", "ip", rules.TABLE), check=False).stdout


def _forget(healthy: Mapping[Listener, Collection[str]]) -> int:
    """Forget the tracked flows to nodes that are not *healthy* for them; return how many."""
    good = {
        (one.address, one.protocol, one.port): frozenset(nodes) for one, nodes in healthy.items()
    }
    doomed = list(_stale(conntrack.entries(Family.IPV4), good))
    conntrack.delete(doomed)
    return len(doomed)


def _stale(
    entries: Iterable[Entry], good: Mapping[tuple[str, str, int], frozenset[str]]
) -> Iterable[Entry]:
    for entry in entries:
        sent, answered = entry.original, entry.reply
        rewritten = answered.source != sent.destination
        where = (sent.destination, str(sent.protocol), sent.destination_port)
        if rewritten and answered.source not in good.get(where, ()):
            yield entry
