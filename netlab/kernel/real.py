"""The kernel of this machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from netlab.errors import KernelError
from netlab.kernel import arp, netem, netlink, netns
from netlab.kernel.batch import Batch
from netlab.kernel.observed import observed
from netlab.kernel.rules import RULES, Rules
from netlab.kernel.watch import RealWatch
from netlab.objects import Address, Netns, Object
from netlab.plan import Op, Verb


class RealKernel:
    """The protocol `Kernel` over netlink, /proc/sys, iptables and nft.

    What it remembers is how rule sets are listed (see rules.py), so keep one per process.
    """

    def __init__(self) -> None:
        self._rules = Rules()

    def observe(self, name: str, desired: Collection[Object]) -> list[Object]:
        try:
            descriptor = netns.fd(name)
        except KernelError:
            return []
        try:
            with netns.returning():
                netns.enter(descriptor, name)
                connection = netlink.Socket()
                try:
                    found = observed(name, connection, desired)
                    return found + self._rules.observe(name, connection.cookie(), desired)
                finally:
                    connection.close()
        finally:
            os.close(descriptor)

    def apply(self, ops: Sequence[Op]) -> None:
        batch = Batch()
        with netns.returning():
            batch.run(ops)
        failures = [*batch.failures, *netem.applied(ops)]
        gone = {op.object.netns for op in ops if _is_deleted_netns(op)}
        for name, rule_ops in _by_netns(ops).items():
            nothing_there = _all_deletions(rule_ops) and not netns.exists(name)
            if name not in gone and not nothing_there:
                try:
                    self._apply_rules(name, rule_ops)
                except KernelError as error:
                    failures.append(error)
        for name in gone:
            self._rules.forget(name)
        if gone:
            netns.tidy()
        if failures:
            raise failures[0]

    def _apply_rules(self, name: str, ops: Sequence[Op]) -> None:
        with netns.entered(name):
            connection = netlink.Socket()
            try:
                cookie = connection.cookie()
            finally:
                connection.close()
            self._rules.apply(name, cookie, ops)

    def announce(self, address: Address) -> None:
        try:
            arp.announce(address.netns, address.link, address.address.partition("/")[0])
        except (KernelError, OSError):
            return  # its link is down or gone: nobody hears it

    def namespaces(self, lab: str) -> list[str]:
        return netns.names(lab)

    def watch(self, name: str) -> RealWatch:
        return RealWatch(name)


def _is_deleted_netns(op: Op) -> bool:
    return isinstance(op.object, Netns) and op.verb is Verb.DELETE


def _all_deletions(ops: Sequence[Op]) -> bool:
    return all(op.verb is Verb.DELETE for op in ops)


def _by_netns(ops: Sequence[Op]) -> dict[str, list[Op]]:
    found: dict[str, list[Op]] = {}
    for op in ops:
        if isinstance(op.object, RULES):
            found.setdefault(op.object.netns, []).append(op)
    return found
