"""Live names for shell completion: fast, and silent whatever goes wrong.

A completion that prints an error, or makes one wait, is worse than none: everything here gives an
empty list on any failure, and gives up after a second.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from netlab.cli import options

if TYPE_CHECKING:
    from netlab.cluster import Cluster
    from netlab.model.kubernetes import Kind

DEADLINE = 1.0  # seconds
Names = Callable[[click.Context], list[str]]
Completion = Callable[[click.Context, click.Parameter, str], list[str]]
TYPED = "netlab.typed"  # in a context's `meta`: the word that is being completed
# What `exec` and `probe` can mean, as far as it is there.
MEMBERS = ("master", "gateway", "balancer", "client", "internet")


def completion(names: Names) -> Completion:
    """Return the completion that offers those of *names* which begin with what is typed."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        ctx.meta[TYPED] = incomplete
        try:
            with deadline(DEADLINE):
                return [name for name in names(ctx) if name.startswith(incomplete)]
        except (Exception, SystemExit):  # see the module's own words
            return []

    return complete


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer than *seconds*."""

    def late(signum: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def first(ctx: click.Context, *arguments: str) -> str:
    """Return the first argument of the command, by whichever of its names it has.

    An option whose value is just being typed stops click's parsing: words stay where they were.
    """
    said = [str(ctx.params[name]) for name in arguments if ctx.params.get(name)]
    return next(iter([*said, *ctx.args]), "")


def _cluster(ctx: click.Context) -> Cluster:
    return options.live_lab(ctx).cluster()


def _labs(ctx: click.Context) -> list[str]:
    options.be_root()
    from netlab.lab import directory

    return directory.names()


def _namespaces(ctx: click.Context) -> list[str]:
    documents = options.live_lab(ctx).documents()
    return [d["metadata"]["name"] for d in documents if d["kind"] == "Namespace"]


def _kinds(ctx: click.Context) -> list[str]:
    from netlab.model.kubernetes import KINDS

    plurals = (kind.plural for kind in KINDS)  # `leases` is Kubernetes' word, too
    return list(dict.fromkeys((*plurals, "leases", "rules", "labs", "all")))


def _objects(ctx: click.Context) -> list[str]:
    from netlab.model.kubernetes import kind_named

    if first(ctx, "kind") in ("rules", "rule"):
        return [node.name for node in _cluster(ctx).nodes]
    kind = kind_named(first(ctx, "kind"))
    return [] if kind is None else _named(ctx, kind)


def _named(ctx: click.Context, kind: Kind) -> list[str]:
    """Return the names of the objects of *kind*, those of the namespace if it has one."""
    namespace = ctx.params.get("namespace") or "default"
    return [
        document["metadata"]["name"]
        for document in options.live_lab(ctx).documents()
        if document["kind"] == kind.kind
        and (not kind.namespaced or document["metadata"].get("namespace") == namespace)
    ]


def _pods(ctx: click.Context) -> list[str]:
    """Return the pods by name, with their namespace where it is another or was typed."""
    namespace = ctx.params.get("namespace") or "default"
    known = "" if ctx.meta.get(TYPED, "").startswith(f"{namespace}/") else namespace
    return [pod.name if pod.namespace == known else pod.title for pod in _cluster(ctx).pods]


def _members(ctx: click.Context) -> list[str]:
    from netlab import world

    there = world.members(options.live_lab(ctx).lab)
    return [one for one in MEMBERS if one in there]


def _targets(ctx: click.Context) -> list[str]:
    return [*_pods(ctx), *_node_words(ctx), *_members(ctx)]


def _node_words(ctx: click.Context) -> list[str]:
    return [f"node/{name}" for name in _nodes(ctx)]


def _logged(ctx: click.Context) -> list[str]:
    return [*_pods(ctx), *_node_words(ctx), "master"]


def _nodes(ctx: click.Context) -> list[str]:
    return [node.name for node in options.live_lab(ctx).lab.nodes]


def _cables(ctx: click.Context) -> list[str]:
    machines = [*_nodes(ctx), *_members(ctx)]
    return [*machines, *_pods(ctx)] if _etcd_is_up(ctx) else machines


def _etcd_is_up(ctx: click.Context) -> bool:
    from netlab.model.faults import Sort

    return options.live_lab(ctx).lab.faulted(Sort.ETCD_STOP) is None


def _faults(ctx: click.Context) -> list[str]:
    if ctx.params.get("action") == "etcd-partition":
        return _nodes(ctx)
    faults = [one for one in options.live_lab(ctx).lab.faults if one.breaks]
    sorts = {one: one.sort.value.split()[-1] for one in faults}
    if words := ctx.params.get("words"):
        return [one.target for one in faults if one.target and sorts[one] == words[0]]
    return list(dict.fromkeys(sorts.values()))


def _foreign(ctx: click.Context) -> list[str]:
    from netlab.lab.attaching import candidates

    return candidates(options.live_lab(ctx))


def _attached(ctx: click.Context) -> list[str]:
    return [one.netns for one in options.live_lab(ctx).lab.attached]


def _in_order(ctx: click.Context, kinds: Sequence[str]) -> list[str]:
    """Return kinds for the first of a command's words, then names of that kind."""
    words = [*(ctx.params.get("words") or ()), *ctx.args]
    if not words:
        return [*kinds, *_titled(ctx, kinds)]
    from netlab.model.kubernetes import kind_named

    kind = kind_named(words[0])
    return [] if kind is None else _named(ctx, kind)


def _titled(ctx: click.Context, kinds: Sequence[str]) -> list[str]:
    """Return `deployment/web` for every object of *kinds* in the namespace."""
    from netlab.model.kubernetes import kind_named

    found = [(word, kind_named(word)) for word in kinds]
    return [f"{word}/{name}" for word, kind in found if kind for name in _named(ctx, kind)]


def _scaled(ctx: click.Context) -> list[str]:
    kinds = ("deployment", "replicaset", "statefulset")
    return [*kinds, *_titled(ctx, kinds)]


def _rolled(ctx: click.Context) -> list[str]:
    kinds = ("deployment", "statefulset", "daemonset")
    return [*kinds, *_titled(ctx, kinds)]


def _services(ctx: click.Context) -> list[str]:
    services = [one["metadata"] for one in _cluster(ctx).documents.of("Service")]
    return [
        f"svc/{one['name']}"
        if one["namespace"] == "default"
        else f"svc/{one['namespace']}/{one['name']}"
        for one in services
    ]


def _watched(ctx: click.Context) -> list[str]:
    return [*_targets(ctx), "underlay", *_services(ctx)]


def _destinations(ctx: click.Context) -> list[str]:
    return [*_targets(ctx), *_services(ctx)]


def _containers(ctx: click.Context) -> list[str]:
    target = first(ctx, "target")
    if ctx.command.name == "logs" and (target == "master" or target.startswith("node/")):
        from netlab.cli.inside import PROCESSES

        return [*PROCESSES]
    pod = _cluster(ctx).pod(target)
    return [container.name for container in pod.containers]


def _paths(ctx: click.Context) -> list[str]:
    from netlab.cli.prove import path_ids

    return path_ids()


labs = completion(_labs)
namespaces = completion(_namespaces)
kinds = completion(_kinds)
objects = completion(_objects)
pods = completion(_pods)
nodes = completion(_nodes)
scaled = completion(_scaled)
rolled = completion(_rolled)
labelled = completion(lambda ctx: _in_order(ctx, ("pod", "node", "service", "deployment")))
tainted = completion(lambda ctx: _in_order(ctx, ("node",)))
cables = completion(_cables)
foreign = completion(_foreign)
attached = completion(_attached)
faults = completion(_faults)
targets = completion(_targets)
logged = completion(_logged)
watched = completion(_watched)
destinations = completion(_destinations)
containers = completion(_containers)
paths = completion(_paths)
