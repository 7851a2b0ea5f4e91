"""Containers with a `command:`: their programs started, watched, restarted, found again.

1. *The agent is the parent, but not the life.* A program is the agent's own child, so its exit
   code is known, in a session of its own, so it outlives the agent; the next agent finds it by
   its mark. What ended while no agent watched, or was adopted, has lost its exit code: the status
   says so (ContainerStatusUnknown, 137, as the kubelet does).
2. *One process per container*: no supervisor. Restarting is the agent's, with the kubelet's
   back-off, quicker: 0.5 s doubled up to 30 s, forgotten after a minute of running.
3. *The end of a container is the end of all it started*: children have inherited the mark.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netlab import patience, processes
from netlab.errors import NetlabError
from netlab.pods import runs, sandbox
from netlab.pods.logs import Collector, Log, log_path
from netlab.pods.namespaces import netns_path
from netlab.pods.runs import Run
from netlab.pods.variables import expanded
from netlab.pods.waiting import until
from netlab.pods.watching import Watcher

BACKOFF_FIRST = 0.5  # seconds
BACKOFF_MOST = 30.0
FORGIVEN_AFTER = 60.0  # seconds of running
EXECUTED_WITHIN = patience.seconds(2.0)  # then a program is executed, or known not to be
GRACE = 2.0  # seconds from SIGTERM to SIGKILL
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Key = tuple[str, str, str]  # namespace, pod, container


@dataclass(frozen=True)
class Wanted:
    """A container that runs a program.

    *files*: what the pod's /etc shows; *restart*: its restartPolicy; *past*: the container's
    status as an agent before this one left it (`state`, `restartCount`), so that what has completed
    stays so; *ending*: the program is to be told to end, and not started again.
    """

    namespace: str
    pod: str
    container: str
    netns: str
    hostname: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    restart: str = "Always"
    past: Mapping[str, Any] | None = field(default=None, compare=False)
    files: Mapping[str, str] = field(default_factory=dict, compare=False)
    ending: bool = field(default=False, compare=False)

    @property
    def key(self) -> Key:
        return (self.namespace, self.pod, self.container)

    @property
    def role(self) -> str:
        return f"container/{self.namespace}/{self.pod}/{self.container}"


@dataclass
class _Container:
    wanted: Wanted
    run: Run | None = None
    ended: dict[str, Any] | None = None  # the last run's `terminated`
    told: bool = False  # to end: SIGTERM was sent, or nothing ran
    problem: str = ""  # why it could not be started
    starts: int = 0
    wait: float = 0.0  # seconds; the present back-off
    due: float = 0.0  # monotonic; not to be started before
    killed: float = math.inf  # monotonic; when a program that `restart` told to end is made to


class Containers:
    """The containers with programs of one node. Every method may be called from any thread."""

    def __init__(self, rundir: Path | str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rundir = Path(rundir)
        self._clock = clock
        self._lock = threading.RLock()
        self._held: dict[Key, _Container] = {}
        self._pods: dict[tuple[str, str], str] = {}  # with their network namespaces
        self._sandboxes: dict[tuple[str, str], tuple[int, int]] = {}  # pid and start time
        self._watcher = Watcher()
        self._logs = Collector(self._watcher)
        self._exits = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def reconcile(self, wanted: Sequence[Wanted]) -> dict[Key, dict[str, Any]]:
        """Make *wanted* what runs; return each container's `state` and `restartCount`, as in
        Kubernetes' containerStatuses, by (namespace, pod, container).

        A container that cannot run is waiting, with the reason; never an exception. Also removes
        the sandboxes of pods whose network namespace is gone.
        """
        with self._lock:
            self._forget_exits()
            by_key = {each.key: each for each in wanted}
            self._end([c for k, c in self._held.items() if by_key.get(k) != c.wanted])
            self._remove_pods({k[:2] for k in by_key})
            new = [each for each in wanted if each.key not in self._held]
            if new:
                self._adopt(new)
            # All ends first: a sandbox ends only when every program in it has been waited for.
            for container in self._held.values():
                self._kill_when_due(container)
                self._note_end(container)
                if by_key[container.wanted.key].ending and not container.told:
                    self._tell_to_end(container)
            begun = [c for c in self._held.values() if self._start_when_due(c)]
            if runs.executing([c.run for c in begun if c.run], within=EXECUTED_WITHIN):
                for container in begun:
                    self._note_end(container)
            self._remove_orphans()
            return {key: _status(container) for key, container in self._held.items()}

    def remove(self, namespace: str, pod: str, *, netns: str | None = None) -> None:
        """End everything that runs in the pod, and remove its sandbox and logs.

        With *netns*, only the pod that lives there: it may be on another node by now.
        """
        with self._lock:
            self._end([c for k, c in self._held.items() if k[:2] == (namespace, pod)])
            self._sandboxes.pop((namespace, pod), None)
            if sandbox.remove(self._rundir, namespace, pod, netns=netns):
                shutil.rmtree(self._rundir / "logs" / namespace / pod, ignore_errors=True)

    def cut(self) -> None:
        """Kill everything of every pod at once, asking nobody; also of pods without namespace."""
        with self._lock:
            for container in self._held.values():
                if container.run is not None:
                    runs.kill(container.run, self._rundir, container.wanted.role)
                    self._release(container.run)
            self._held.clear()
            self._remove_pods(set())
            self._remove_orphans()

    def restart(self, key: Key) -> None:
        """Tell a container's program to end, for it to be started again. Nobody waits for it:
        `reconcile` sends SIGKILL to what has not ended `GRACE` later."""
        with self._lock:
            container = self._held.get(key)
            if container is not None and container.run and container.killed == math.inf:
                runs.send(container.run, signal.SIGTERM)
                container.killed = self._clock() + GRACE

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when a program ends; then `reconcile`."""
        return self._exits

    def due(self) -> float | None:
        """Return the seconds until a container is to be started again, or one that was to end is
        to be killed; None: none waits."""
        with self._lock:
            waiting = [c.due for c in self._held.values() if c.run is None and _restarts(c)]
            waiting += [c.killed for c in self._held.values() if c.run and c.killed < math.inf]
            return max(0.0, min(waiting) - self._clock()) if waiting else None

    def close(self) -> None:
        """Stop watching; what runs goes on."""
        with self._lock:
            for container in self._held.values():
                if container.run is not None:
                    self._release(container.run)
            self._held.clear()
            self._logs.close()
            self._watcher.close()
            os.close(self._exits)

    def _forget_exits(self) -> None:
        try:
            os.eventfd_read(self._exits)
        except BlockingIOError:  # none
            pass

    def _watch(self, run: Run) -> Run:
        """Have the end of a run noticed at once: unreaped, it would keep the sandbox from ending.

        See zap_pid_ns_processes() in kernel/pid_namespace.c.
        """

        def ended() -> None:
            self._watcher.remove(run.pidfd)
            runs.over(run)
            os.eventfd_write(self._exits, 1)

        self._watcher.add(run.pidfd, ended)
        return run

    def _release(self, run: Run) -> None:
        self._watcher.remove(run.pidfd)
        runs.release(run)

    def _adopt(self, new: Sequence[Wanted]) -> None:
        """Take containers up: what is known of their past, and the programs that already run."""
        marked = processes.marked(self._rundir)
        for wanted in new:
            container = self._held[wanted.key] = _Container(wanted)
            self._pods[wanted.key[:2]] = wanted.netns
            pid = next(iter(marked.get(wanted.role, [])), 0)
            run = runs.adopted(pid) if pid and sandbox.is_in(pid, wanted.netns) else None
            if wanted.past:
                _remember(container, wanted.past)
            if run is not None:
                container.run, container.ended = self._watch(run), None
                container.starts = max(1, container.starts)
                self._log_of(wanted)

    def _note_end(self, container: _Container) -> None:
        """Take down how a run ended; where the pod's namespace was made again, it ends now."""
        run = container.run
        if run is None or (not runs.over(run) and sandbox.is_in(run.pid, container.wanted.netns)):
            return
        runs.kill(run, self._rundir, container.wanted.role)
        container.run, container.killed = None, math.inf
        container.problem = runs.why_not_started(run)
        container.ended = (
            runs.not_started(run, container.problem) if container.problem else runs.terminated(run)
        )
        if time.time() - run.began > FORGIVEN_AFTER:
            container.wait = 0.0
        self._back_off(container)
        self._release(run)

    def _kill_when_due(self, container: _Container) -> None:
        """Kill a program that was told to end and has not; its end is heard of as any other."""
        if container.run is not None and self._clock() >= container.killed:
            runs.send(container.run, signal.SIGKILL)
            container.killed = math.inf

    def _tell_to_end(self, container: _Container) -> None:
        container.told = True
        if container.run is not None:
            runs.send(container.run, signal.SIGTERM)

    def _start_when_due(self, container: _Container) -> bool:
        """Start the program if it is time to; return whether it was started."""
        if container.run is None and _restarts(container) and self._clock() >= container.due:
            try:
                self._start(container)
            except (NetlabError, OSError) as error:
                container.problem = str(error)
                self._back_off(container)
        else:
            return False
        return container.run is not None

    def _back_off(self, container: _Container) -> None:
        container.wait = min(max(BACKOFF_FIRST, container.wait * 2), BACKOFF_MOST)
        container.due = self._clock() + container.wait

    def _start(self, container: _Container) -> None:
        """Start the program in its pod's sandbox. Raises NetlabError, OSError."""
        wanted = container.wanted
        variables = {name: expanded(value, wanted.env) for name, value in wanted.env.items()}
        environment = {"PATH": _PATH, "HOME": "/root", "HOSTNAME": wanted.hostname, **variables}
        pause = self._sandbox_of(wanted)
        output = self._log_of(wanted).writer()
        try:
            run = runs.started(
                pause,
                [expanded(word, variables) for word in wanted.argv],
                env=processes.marked_environment(self._rundir, wanted.role, environment),
                cwd=wanted.cwd,
                output=output,
            )
        finally:
            os.close(output)
        container.run = self._watch(run)
        container.problem = ""
        container.starts += 1

    def _log_of(self, wanted: Wanted) -> Log:
        return self._logs.log(log_path(self._rundir, *wanted.key))

    def _sandbox_of(self, wanted: Wanted) -> int:
        """Return the first process of the pod's sandbox, made if need be. Raises NetlabError."""
        held = self._sandboxes.get(wanted.key[:2])
        if held and processes.alive(*held) and sandbox.is_in(held[0], wanted.netns):
            return held[0]
        if not os.path.exists(netns_path(wanted.netns)):
            raise NetlabError(f"no network namespace {wanted.netns}")
        pid = sandbox.ensure(
            self._rundir,
            netns=wanted.netns,
            namespace=wanted.namespace,
            pod=wanted.pod,
            hostname=wanted.hostname,
            files=wanted.files,
        )
        self._sandboxes[wanted.key[:2]] = (pid, processes.start_time(pid) or 0)
        return pid

    def _end(self, gone: Sequence[_Container]) -> None:
        """End these containers: SIGTERM to all at once, after `GRACE` SIGKILL to what is left."""
        running = [c.run for c in gone if c.run is not None]
        for run in running:
            runs.send(run, signal.SIGTERM)
        until(lambda: all(runs.over(run) for run in running), within=GRACE)
        for container in gone:
            if container.run is not None:
                runs.kill(container.run, self._rundir, container.wanted.role)
                self._release(container.run)
            del self._held[container.wanted.key]
            self._logs.forget(log_path(self._rundir, *container.wanted.key))

    def _remove_pods(self, wanted: set[tuple[str, str]]) -> None:
        """Remove the pods that ran something and are wanted no more."""
        for pod in [pod for pod in self._pods if pod not in wanted]:
            self.remove(*pod, netns=self._pods.pop(pod))

    def _remove_orphans(self) -> None:
        """Remove the sandboxes, `netlab exec`'s among them, whose pod has no namespace now."""
        for namespace, pod in sandbox.orphans(self._rundir):
            if not any(key[:2] == (namespace, pod) for key in self._held):
                self.remove(namespace, pod)


def _remember(container: _Container, past: Mapping[str, Any]) -> None:
    """Take up from a status that an agent before us has written."""
    state = past.get("state", {})
    if "running" in state or "terminated" in state:
        container.starts = past.get("restartCount", 0) + 1
        container.ended = state.get("terminated") or runs.unknown_end(state["running"])


def _restarts(container: _Container) -> bool:
    """Return whether the container is to be started, now or later."""
    policy, ended = container.wanted.restart, container.ended
    if container.told:
        return False
    if ended is None or policy == "Always":
        return True
    return policy == "OnFailure" and ended["exitCode"] != 0


def _status(container: _Container) -> dict[str, Any]:
    status: dict[str, Any] = {"restartCount": max(0, container.starts - 1)}
    if container.run is not None:
        status["state"] = {"running": {"startedAt": runs.rfc3339(container.run.began)}}
    elif not _restarts(container):
        status["state"] = {"terminated": container.ended or runs.never_ran()}
    else:
        status["state"] = {"waiting": _waiting(container)}
    if container.ended is not None and "terminated" not in status["state"]:
        status["lastState"] = {"terminated": container.ended}
    return status


def _waiting(container: _Container) -> dict[str, str]:
    if container.problem:
        return {"reason": "RunContainerError", "message": container.problem}
    if container.ended is None:
        return {"reason": "ContainerCreating"}
    return {
        "reason": "CrashLoopBackOff",
        "message": f"back-off {container.wait:g}s restarting failed container: "
        f"exit code {container.ended['exitCode']}",
    }
