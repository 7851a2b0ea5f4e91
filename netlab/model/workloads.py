"""What makes pods, as far as its controller reads it: the types of the fields, to be checked."""

from __future__ import annotations

from typing import Any

from netlab.model.kubernetes import LabelSelector, Meta, PodTemplate, View

Amount = int | str | None  # a number, or a percentage


class Rolling(View):
    maxSurge: Amount = None
    maxUnavailable: Amount = None
    partition: int | None = None


class Strategy(View):
    type: str | None = None
    rollingUpdate: Rolling | None = None


class Ordinals(View):
    start: int | None = None


class WorkloadSpec(View):
    """The fields of all of them: Deployment, ReplicaSet, StatefulSet, DaemonSet, Job."""

    template: PodTemplate
    replicas: int = 1
    selector: LabelSelector | None = None
    minReadySeconds: int | None = None
    revisionHistoryLimit: int | None = None
    progressDeadlineSeconds: int | None = None
    paused: bool | None = None
    strategy: Strategy | None = None
    updateStrategy: Strategy | None = None
    podManagementPolicy: str | None = None
    serviceName: str | None = None
    ordinals: Ordinals | None = None
    parallelism: int = 1
    completions: int | None = None
    backoffLimit: int | None = None
    activeDeadlineSeconds: int | None = None
    ttlSecondsAfterFinished: int | None = None
    suspend: bool | None = None


class WorkloadStatus(View):
    conditions: list[dict[str, Any]] | None = None
    currentRevision: str | None = None
    succeeded: int | None = None
    failed: int | None = None


class Workload(View):
    """Something that makes pods."""

    metadata: Meta
    spec: WorkloadSpec
    status: WorkloadStatus | None = None
    apiVersion: str = "apps/v1"
    kind: str = "Deployment"
