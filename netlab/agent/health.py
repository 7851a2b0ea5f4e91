"""What probes say of the containers of one node: which serve, and which must be started again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from netlab.cluster import PodState
from netlab.controllers.events import Fact
from netlab.model.kubernetes import Document
from netlab.pods.probing import Probing
from netlab.probes import Probe, Sort, of_pod

Named = tuple[str, str]  # a pod's uid, and one of its containers
Answers = dict[Sort, tuple[Probe, bool | None, str]]  # None: there is none yet


class Health:
    """The probes of one node; no thread and no cost while its pods have none."""

    def __init__(self, run: Path, node: str) -> None:
        self._run, self._node = run, node
        self._probing: Probing | None = None
        self._netns = ""
        self._found: dict[Named, Answers] = {}
        self._told: dict[Probe, str] = {}
        self._started: set[Probe] = set()

    def look(
        self,
        pods: Sequence[PodState],
        documents: Mapping[str, Document],
        running: Mapping[Named, int],
        *,
        netns: str,
    ) -> None:
        """Ask what is to be asked of the *running* containers: by name, how often they were
        restarted. *netns*: the node's namespace."""
        programs = {(pod.uid, one.name) for pod in pods for one in pod.containers if one.command}
        wanted = [
            probe
            for pod in pods
            for probe in of_pod(documents[pod.uid], _of(pod, running), netns=pod.netns)
            if not probe.argv or (probe.uid, probe.container) in programs
        ]
        if self._probing is None:
            if not wanted:
                self._found = {}
                return
            self._probing = Probing(self._run, netns)
        self._probing.heard()
        gauges = self._probing.gauges()
        self._started = {one for one in wanted if _is_startup(one) and gauges.get(one, (0,))[0]}
        starting = {
            (one.uid, one.container)
            for one in wanted
            if _is_startup(one) and one not in self._started
        }
        asked = [
            one
            for one in wanted
            if (one not in self._started)
            and (_is_startup(one) or (one.uid, one.container) not in starting)
        ]
        self._probing.set([*asked, *self._started])
        self._found = {}
        for probe in wanted:
            passed, trouble = gauges.get(probe, (None, ""))
            here = self._found.setdefault((probe.uid, probe.container), {})
            here[probe.sort] = (probe, passed, trouble)

    def of(
        self, uid: str, container: str, *, past: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, Any]:
        """Return `ready`, `started` and `unready`, the reason, as far as probes decide them.

        *past*: the statuses of the pod's containers as last written. What has no answer yet is as
        it was in the same run: an agent that is started again takes nobody out of service.
        """
        here = _known(self._found.get((uid, container), {}), container, past)
        said: dict[str, Any] = {}
        if startup := here.get(Sort.STARTUP):
            said["started"] = bool(startup[1])
        readiness = here.get(Sort.READINESS)
        if readiness or said.get("started") is False:
            said["ready"] = bool(readiness is None or readiness[1]) and said.get("started", True)
        if said.get("ready") is False:
            deciding = startup if said.get("started") is False else readiness
            assert deciding is not None
            probe, _, trouble = deciding
            why = f"failed: {trouble}" if trouble else "has not succeeded yet"
            said["unready"] = f"{container}: {probe.title} probe {why}"
        return said

    def failed(self) -> list[Probe]:
        """Return the probes for whose sake a container must be started again."""
        return [
            probe
            for here in self._found.values()
            for sort, (probe, passed, _) in here.items()
            if sort is not Sort.READINESS and passed is False
        ]

    def facts(self, documents: Mapping[str, Document]) -> list[Fact]:
        """Return what is to be told: each trouble when it is another one than before."""
        told: dict[Probe, str] = {}
        facts = []
        for here in self._found.values():
            for probe, _, trouble in here.values():
                told[probe] = trouble
                if trouble and self._told.get(probe) != trouble:
                    message = f"{probe.title} probe failed: {trouble}"
                    facts.append(self._fact(documents, probe, "Unhealthy", message, warning=True))
        self._told = told
        return facts

    def killing(self, documents: Mapping[str, Document], probe: Probe) -> Fact:
        """Return what is told of a container that is started again for the sake of *probe*."""
        words = f"Container {probe.container} failed {probe.sort} probe, will be restarted"
        return self._fact(documents, probe, "Killing", words)

    def _fact(
        self,
        documents: Mapping[str, Document],
        probe: Probe,
        reason: str,
        message: str,
        *,
        warning: bool = False,
    ) -> Fact:
        field = f"spec.containers{{{probe.container}}}"
        about = documents[probe.uid]
        return Fact(about, reason, message, "kubelet", warning, self._node, field)

    def watched(self) -> dict[int, Callable[[], None]]:
        """Return what wakes the node's loop."""
        probing = self._probing
        return {} if probing is None else {probing.fileno(): probing.heard}

    def close(self) -> None:
        """Ask no more; the next `look` begins anew, in the namespace as it is then."""
        if self._probing is not None:
            self._probing.close()
            self._probing = None


def _known(here: Answers, container: str, past: Sequence[Mapping[str, Any]]) -> Answers:
    """Return the answers *here*, those that are missing from the *past* of the same run."""
    known = {}
    for sort, (probe, passed, trouble) in here.items():
        field = "started" if sort is Sort.STARTUP else "ready"
        was = next((one for one in past if one.get("name") == container), {})
        if passed is None and was.get("restartCount") == probe.run and was.get(field):
            passed = True
        known[sort] = (probe, passed, trouble)
    return known


def _is_startup(probe: Probe) -> bool:
    return probe.sort is Sort.STARTUP


def _of(pod: PodState, running: Mapping[Named, int]) -> dict[str, int]:
    """Return the running containers of *pod*, with how often each was restarted."""
    return {
        one.name: running[pod.uid, one.name]
        for one in pod.containers
        if (pod.uid, one.name) in running
    }
