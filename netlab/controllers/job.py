"""A Job runs pods until enough of them have succeeded, or too many failed, or time is up.

Source: kube-controller-manager pkg/controller/job/job_controller.go (v1.34). Its back-off between
pods that fail is ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from netlab.controllers import podstate
from netlab.controllers.change import Change, Verb, by_controller
from netlab.controllers.clock import Clock, epoch, stamp
from netlab.model.kubernetes import Document

BACKOFF_LIMIT = 6
BACKOFF_FIRST, BACKOFF_MOST = 1.0, 60.0  # seconds
NAME_LABELS = ("batch.kubernetes.io/job-name", "job-name")
UID_LABELS = ("batch.kubernetes.io/controller-uid", "controller-uid")


def pods(
    jobs: Iterable[Document], pods: Sequence[Document], *, clock: Clock | None = None
) -> list[Change]:
    """Return the next step of each of *jobs*, some of whose *pods* may have ended."""
    clock = clock or Clock()
    owned = by_controller(pods)
    taken: set[str] = {pod["metadata"]["name"] for pod in pods}
    changes: list[Change] = []
    for job in jobs:
        changes += _Job(job, owned.get(job["metadata"]["uid"], []), taken, clock).changes()
    return changes


def over(job: Document) -> str:
    """Return `Complete` or `Failed` once *job* has ended, "" before."""
    kinds = ("Complete", "Failed")
    return next((one for one in kinds if podstate.condition(job, one).get("status") == "True"), "")


class _Job:
    """One Job and its pods."""

    def __init__(
        self, job: Document, pods: Sequence[Document], taken: set[str], clock: Clock
    ) -> None:
        spec, status = job["spec"], podstate.status_of(job)
        self.job, self.taken, self.clock = job, taken, clock
        self.pods = pods
        self.active = [pod for pod in pods if podstate.active(pod)]
        phases = [podstate.status_of(pod).get("phase") for pod in pods]
        # A pod that was deleted after its end has been counted before.
        self.succeeded = max(phases.count("Succeeded"), int(status.get("succeeded") or 0))
        self.failed = max(phases.count("Failed"), int(status.get("failed") or 0))
        self.parallelism = 0 if spec.get("suspend") else int(spec.get("parallelism", 1))
        self.completions: int | None = spec.get("completions")
        if self.completions is None and "parallelism" not in spec:
            self.completions = 1
        limit = spec.get("backoffLimit")
        self.limit = limit if isinstance(limit, int) else BACKOFF_LIMIT

    def changes(self) -> list[Change]:
        """Return the next step."""
        if over(self.job):
            lives = self.job["spec"].get("ttlSecondsAfterFinished")
            ended = podstate.condition(self.job, over(self.job)).get("lastTransitionTime")
            if isinstance(lives, int) and self.clock.after(ended, lives):
                return [Change(Verb.DELETE, self.job)]
            return podstate.given_up(self.active, self.clock) + self._told(len(self.active), {})
        end = self._end()
        if end:
            return podstate.given_up(self.active, self.clock) + self._told(0, end)
        missing = self._wanted() - len(self.active)
        if missing < 0:
            spare = sorted(self.active, key=podstate.ready)[:-missing]
            return podstate.given_up(spare, self.clock) + self._told(self._wanted(), {})
        going = sum(podstate.terminating(pod) and not podstate.ended(pod) for pod in self.pods)
        fresh = max(0, missing - going) if self._rested() else 0
        made = [Change(Verb.CREATE, self._pod()) for _ in range(fresh)]
        return made + self._told(len(self.active) + fresh, {})

    def _wanted(self) -> int:
        """Return how many pods are to run at once now."""
        if self.completions is not None:
            return max(0, min(self.parallelism, self.completions - self.succeeded))
        return len(self.active) if self.succeeded else self.parallelism

    def _restarts(self) -> int:
        """Return how often containers of running pods were started again: these are failures."""
        statuses = (
            one
            for pod in self.active
            for one in podstate.status_of(pod).get("containerStatuses") or ()
        )
        return sum(int(one.get("restartCount") or 0) for one in statuses)

    def _end(self) -> dict[str, tuple[str, str, str]]:
        """Return the conditions with which the Job ends now; none while it goes on."""
        spec = self.job["spec"]
        began = podstate.status_of(self.job).get("startTime")
        deadline = spec.get("activeDeadlineSeconds")
        failures = self.failed + self._restarts()
        late = isinstance(deadline, int) and began and not spec.get("suspend")
        if failures > self.limit:
            why = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
        elif late and self.clock.after(began, deadline):
            why = ("DeadlineExceeded", "Job was active longer than specified deadline")
        elif self._complete():
            words = ("CompletionsReached", "Reached expected number of succeeded pods")
            return {"SuccessCriteriaMet": ("True", *words), "Complete": ("True", *words)}
        else:
            return {}
        return {"FailureTarget": ("True", *why), "Failed": ("True", *why)}

    def _complete(self) -> bool:
        if self.completions is not None:
            return self.succeeded >= self.completions
        return bool(self.succeeded) and not self.active

    def _rested(self) -> bool:
        """Return whether the back-off after the last failure is over."""
        if not self.failed:
            return True
        ends = [
            epoch(((one.get("state") or {}).get("terminated") or {}).get("finishedAt"))
            for pod in self.pods
            if podstate.status_of(pod).get("phase") == "Failed"
            for one in podstate.status_of(pod).get("containerStatuses") or ()
        ]
        last = max((end for end in ends if end is not None), default=0.0)
        wait = min(BACKOFF_FIRST * 2 ** min(self.failed - 1, 10), BACKOFF_MOST)
        return self.clock.reached(last + wait)

    def _pod(self) -> Document:
        meta = self.job["metadata"]
        labels = dict.fromkeys(NAME_LABELS, meta["name"]) | dict.fromkeys(UID_LABELS, meta["uid"])
        prefix = f"{meta['name']}-"
        name = podstate.suffixed(prefix, self.taken)
        self.taken.add(name)
        template = self.job["spec"]["template"]
        pod = podstate.of_template(self.job, template, name, labels=labels)
        pod["metadata"]["generateName"] = prefix
        return pod

    def _told(self, active: int, end: dict[str, tuple[str, str, str]]) -> list[Change]:
        """Return the Job with its status, and with what ends it."""
        old = podstate.status_of(self.job)
        status = {
            "active": active,
            "ready": sum(map(podstate.ready, self.active)),
            "succeeded": self.succeeded,
            "failed": self.failed,
            "startTime": old.get("startTime") or stamp(self.clock.now),
        }
        if end:
            status |= {"conditions": podstate.conditions(self.job, end, self.clock), "ready": 0}
        if "Complete" in end:
            status["completionTime"] = stamp(self.clock.now)
        return podstate.with_status(self.job, status)
