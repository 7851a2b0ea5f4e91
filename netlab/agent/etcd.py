"""etcd's process: one in the master's namespace, kept running there, and known to be healthy."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from netlab import patience, processes
from netlab.agent.state import State
from netlab.kernel import netns
from netlab.model.faults import Sort
from netlab.model.lab import Lab
from netlab.store import server
from netlab.store.etcd import PORT
from netlab.world import MASTER

ROLE = "etcd"
DEADLINE = patience.seconds(20.0)  # seconds for etcd to become healthy


class EtcdProcess:
    """The etcd of a lab. For one thread; `state.etcd_ready` tells the others."""

    def __init__(self, state: State, log: logging.Logger) -> None:
        self.state = state
        self.log = log
        self._pidfd: int | None = None

    def keep(self, lab: Lab) -> None:
        """Have etcd running in the master's namespace; one that lives is kept."""
        place = self.state.place
        data = (Path(place.data) if place is not None and place.data else self.state.run) / ROLE
        access = self.state.access
        arguments = server.arguments(data, lab.master.address, PORT, access=access)
        home = netns.identity(lab.netns(MASTER))
        pids = []
        for pid in processes.marked(self.state.run).get(ROLE, []):
            if _serves(pid, arguments, home):
                pids.append(pid)
            else:
                processes.end(pid, grace=1.0)  # for another address, or in a namespace that went
        if lab.faulted(Sort.ETCD_STOP):
            self.state.etcd_ready.clear()
            for pid in pids:
                processes.end(pid, grace=1.0)
                self.log.info("etcd, pid %d, ended: it is stopped by a fault", pid)
            self._unfollow()
            return
        if not pids:
            self.state.etcd_ready.clear()
            pids = [
                processes.spawn(
                    self.state.run,
                    ROLE,
                    arguments,
                    netns=lab.netns(MASTER),
                    env={**os.environ, **server.environment()},
                    stdout=self.state.run / "etcd.log",
                )
            ]
            self.log.info("started etcd, pid %d, on %s:%d", pids[0], lab.master.address, PORT)
            self._follow(pids[0])
        if self._pidfd is None:
            self._follow(pids[0])
        if not self.state.etcd_ready.is_set():
            with netns.entered(lab.netns(MASTER)):
                server.wait_healthy(access.etcd(lab.master.address), DEADLINE)
            self.state.etcd_ready.set()

    def fileno(self) -> int | None:
        """Return the descriptor that is readable when etcd has ended; None: it is not running."""
        return self._pidfd

    def _follow(self, pid: int) -> None:
        """Be woken when the process *pid* ends."""
        self._unfollow()
        self._pidfd = os.pidfd_open(pid)

    def _unfollow(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _serves(pid: int, arguments: list[str], home: int) -> bool:
    """Return whether *pid* was started with *arguments* and lives in the namespace *home*."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
        return words == arguments and os.stat(f"/proc/{pid}/ns/net").st_ino == home
    except OSError:
        return False
