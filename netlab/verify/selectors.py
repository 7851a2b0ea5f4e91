"""A Service's endpoints are the pods that have its labels: one loses them, and has them again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from netlab.cluster import PodState
from netlab.errors import NetlabError
from netlab.model.kubernetes import Document
from netlab.packets import Outcome
from netlab.paths.places import of_node
from netlab.proxy import Frontend
from netlab.store import registry
from netlab.verify import serviceprobe
from netlab.verify.context import Checked, Context, Refuted, Skip
from netlab.verify.following import WITHIN, until
from netlab.verify.replicas import document_of
from netlab.verify.services import LET_GO, REFUSED, asking, balanced
from netlab.verify.serving import Asking, Decisions, pods_of, watch


def selectors(context: Context) -> Checked:
    context.renew()
    decisions = Decisions(context)
    if not context.nodes:
        raise Skip("needs a node")
    pod, frontend = _bare_endpoint(context, decisions)
    checked = Checked()
    with _relabelled(context, pod) as began:
        because = f"{pod.title} lost its labels"
        left = until(context, pod.ip, held=False, seconds=WITHIN, began=began, because=because)
        checked.evidence.append(
            f"{pod.title} without its labels {_words(pod.labels)}: {pod.ip} gone from every "
            f"node's rules after {left * 1000:.0f} ms"
        )
        context.renew()
        checked.evidence += _without(context, frontend, pod)
    began = time.monotonic()
    because = f"{pod.title} has its labels again"
    back = until(context, pod.ip, held=True, seconds=WITHIN, began=began, because=because)
    checked.evidence.append(f"with them again: in every node's rules after {back * 1000:.0f} ms")
    context.renew()
    checked.evidence += _with(context, frontend, pod)
    return checked


def _words(labels: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _bare_endpoint(context: Context, decisions: Decisions) -> tuple[PodState, Frontend]:
    """Return a pod that no controller would replace, and a cluster IP it answers for."""
    for frontend in balanced(context, decisions.of(context.nodes[0])):
        for pod in pods_of(context, frontend):
            if not pod.owner and pod.labels and _selecting(context, frontend):
                return pod, frontend
    raise Skip("needs a Service with a selector, and a pod of its own that no Deployment made")


def _selecting(context: Context, frontend: Frontend) -> bool:
    wanted = (frontend.service.namespace, frontend.service.name)
    return any(
        bool(document["spec"].get("selector"))
        for document in context.cluster.documents
        if document["kind"] == "Service"
        and (document["metadata"].get("namespace"), document["metadata"]["name"]) == wanted
    )


@contextmanager
def _relabelled(context: Context, pod: PodState) -> Iterator[float]:
    """Have the *pod* without labels for the duration; yield when it lost them."""
    began = time.monotonic()
    _label(context, pod, {})
    try:
        yield began
    finally:
        _label(context, pod, pod.labels)


def _label(context: Context, pod: PodState, labels: dict[str, str]) -> None:
    """Give the stored *pod* just these *labels*. Raises NetlabError."""

    def changed(document: Document) -> Document:
        return {**document, "metadata": {**document["metadata"], "labels": labels}}

    for _ in range(5):  # its node may be writing its status
        document = document_of(context.refreshed(), pod)
        with context.etcd() as etcd:
            if registry.replaced(etcd, [changed(document)]):
                return
    raise NetlabError(f"pod {pod.title} is being written by others all the time")


def _without(context: Context, frontend: Frontend, pod: PodState) -> list[str]:
    """Ask the Service and not be answered by *pod*. Raises Failure, Refuted."""
    one = _from_node(context, frontend)
    if one.ends:
        said = one.fair_shares()  # which fails when anybody else answered
        return [f"{said}, {pod.title} not among them"]
    watch([one])
    asked = one.ask()
    if asked.shot.verdict.outcome is not Outcome.PASS:
        raise Refuted(asked.shot.verdict)
    hit = serviceprobe.ending(asked)
    told = asked.shot.answer.refused if asked.shot.answer else ""
    if hit is None or told not in (LET_GO if asked.portal else REFUSED):
        raise one.failure(
            f"nobody serves it, yet {told or 'nobody was refused'}",
            expected="refused by a rule: it has no endpoint left",
        )
    return [f"{one.title}: {told}, by", *serviceprobe.by_rules(asked)]


def _with(context: Context, frontend: Frontend, pod: PodState) -> list[str]:
    """Ask the Service and be answered by *pod*, among others. Raises Failure, Refuted."""
    one = _from_node(context, frontend)
    if pod.title not in {end.place.title for end in one.ends.values()}:
        raise one.failure(f"{pod.title} is not among its endpoints", expected="it is")
    return [one.fair_shares()]


def _from_node(context: Context, frontend: Frontend) -> Asking:
    decisions = Decisions(context)
    node = context.nodes[0]
    here = next(one for one in decisions.of(node).frontends if one.key == frontend.key)
    return asking(context, decisions, of_node(node), here)
