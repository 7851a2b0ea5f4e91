"""The portals of one node in `userspace` mode: what they are to be, and the process that has them.

The calling thread is in the namespace, in every call but `table`'s.
"""

from __future__ import annotations

from collections.abc import Mapping

from netlab.portals.control import Home, Reply
from netlab.portals.control import Portals as Process
from netlab.proxy.claims import Owner
from netlab.proxy.portals import Change, Portals
from netlab.proxy.service import Served

SHOWN = 10  # problems told one by one


class Userspace:
    """The portals of one node, and its process: started when it is missing, told what changes."""

    def __init__(self, home: Home) -> None:
        self.table = Portals()
        self.problems: list[str] = []
        self._process = Process(home)
        self._told = False

    def begin(self) -> None:
        """Forget the Services, not the ports."""
        self.table = Portals(self.table.ports)
        self._told = False

    def take(self, changed: Mapping[Owner, Served], *, live: bool) -> set[Owner]:
        """Take what the *changed* owners have now; *live*: have the process serve it.

        Returns whose portals got other ports than they were to have: their rules must say so.
        Raises NetlabError when the process does not come up.
        """
        change = self.table.take(changed)
        if not live:
            return set()
        reply = self._tell(change)
        return self.table.moved(reply.ports)

    def _tell(self, change: Change) -> Reply:
        if self._told and self._process.connected:
            if not (change.portals or change.gone):
                return Reply()
            try:
                reply = self._process.update(change.portals, change.gone)
            except OSError:  # it dies this very moment
                return self._tell(change)
        else:
            reply = self._process.declare(self.table.all())
            self._told = True
        found = [f"{key}: {why}" for key, why in reply.errors.items()]
        more = [f"… and {len(found) - SHOWN} more ports"] if len(found) > SHOWN else []
        self.problems = [*found[:SHOWN], *more]
        return reply

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when the process ends; None: there is none."""
        return self._process.fileno()

    def close(self) -> None:
        """Let go of the process; one that is attached ends."""
        self._process.close()
