"""What a test may ask its lab's keeper: a table of functions, each of plain arguments."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from netlab import topology, world
from netlab.cluster import Cluster
from netlab.errors import NetlabError, StoreError, UsageError
from netlab.model.lab import Lab
from netlab.packets import Verdict
from netlab.testing import names
from netlab.testing.answers import Place, Ran, Service, Texts
from netlab.testing.held import Document, Held
from netlab.testing.questions import connect, get, ping, trace


def up(held: Held, *, lab: Any, documents: list[Document]) -> None:
    held.up(msgspec.convert(lab, Lab), documents)


def down(held: Held) -> None:
    held.down()


def begin(held: Held) -> None:
    """Have a test begin: what was recorded before is not its own.

    Nothing is asked of the lab: a test may have left it broken, which is not the next one's fault.
    """
    if held.recording is not None:
        held.recording.forget()


def places(held: Held) -> list[Place]:
    """Return every pod, node and machine of the lab."""
    cluster = held.live.cluster()
    held.follow(cluster)
    found = [
        Place(
            pod.title,
            pod.title,
            "pod",
            pod.node,
            pod.netns,
            pod.ip,
            pod.labels,
            pod.phase,
        )
        for pod in cluster.pods
    ]
    found += [
        Place(f"node/{node.name}", node.name, "node", node.name, node.netns, node.address)
        for node in cluster.nodes
    ]
    lab = cluster.lab
    return found + [
        Place(name, name, "member", "", lab.netns(name), names.meant(cluster, name).address)
        for name in names.MEMBERS
        if name in world.members(lab)
    ]


def service(held: Held, *, word: str) -> Service:
    from netlab.testing import service as services

    return services.service(held.live.cluster(), word)


def execute(held: Held, *, word: str, words: list[str], input: str, timeout: float) -> Ran:
    from netlab.testing.executing import executed

    return executed(held.live, word, words, input=input, timeout=timeout)


def apply(held: Held, *, source: str, text: str, wait: bool) -> list[str]:
    """Apply *text*, or the files at *source*; return what became of each object."""
    from netlab.cli.change import PAST, title

    declared = _manifests(source, text)
    topology.check(declared, lab=held.live.lab, stored=held.live.documents())
    changes = held.live.apply(declared.documents)
    if wait and changes:
        converged(held, timeout=30.0)
    held.follow(held.live.cluster())
    return [f"{title(change.document)} {PAST[change.verb.value]}" for change in changes]


def delete(
    held: Held, *, source: str, text: str, kind: str, name: str, namespace: str, wait: bool
) -> list[str]:
    """Delete what *text* or the files at *source* name, or the object `KIND NAME`."""
    from netlab.cli.change import PAST, named, title

    if kind:
        asked = named(held.live, kind, (name,) if name else (), namespace)
    else:
        asked = list(_manifests(source, text).documents)
    changes = held.live.delete(asked)
    if wait and changes:
        converged(held, timeout=30.0)
    return [f"{title(change.document)} {PAST[change.verb.value]}" for change in changes]


def _manifests(source: str, text: str) -> topology.Declaration:
    declared = topology.load([source or "-"], stdin=io.StringIO(text))
    if declared.lab is not None:
        raise UsageError("a Lab document", hint="apply and delete take Kubernetes objects")
    return declared


def converged(held: Held, *, timeout: float) -> None:
    """Wait until the lab agrees with what etcd holds now. Raises NetlabError after *timeout* s."""
    live = held.live
    if problems := live.wait(revision=live.revision(), timeout=timeout):
        raise NetlabError(
            f"lab {live.name} has not converged within {timeout:g} s: {'; '.join(problems)}"
        )


def command(held: Held, *, words: list[str]) -> str:
    """Return what `netlab WORDS` prints; the command line itself does it, so that a test's words
    are the command's. Raises what it raises, NetlabError when it ends with another code than 0."""
    from netlab.testing.commanding import commanded

    printed = commanded(held.name, words)
    held.live.reread()
    try:
        held.follow(held.live.cluster())
    except StoreError:
        pass  # etcd is stopped: what is new will be followed when it is back
    return printed


def rules(held: Held, *, node: str) -> str:
    from netlab.testing.inspection import rule_set

    cluster = held.live.cluster()
    return rule_set(_netns(cluster, node), cluster.lab.proxyMode)


def _netns(cluster: Cluster, node: str) -> str:
    from netlab.cli.inside import machine

    return machine(cluster, f"node/{node.removeprefix('node/')}")[0]


def verify(held: Held, *, ids: list[str]) -> list[Verdict]:
    from netlab.verify import verify as verified

    return list(verified(held.live, ids or None))


def status(held: Held) -> dict[str, Any]:
    return held.live.status()


def inspect(held: Held) -> Texts:
    """Return what is kept of a failing test."""
    from netlab.testing.inspection import texts

    found = texts(held.live)
    if held.recording is None:
        return msgspec.structs.replace(found, notes=(*found.notes, held.unrecorded))
    capture = held.recording.file()
    notes = (*found.notes, *held.recording.notes())
    return msgspec.structs.replace(found, capture=capture, notes=notes)


DEEDS: Mapping[str, Callable[..., object]] = {
    function.__name__: function
    for function in (
        up,
        down,
        begin,
        places,
        service,
        get,
        ping,
        connect,
        execute,
        trace,
        apply,
        delete,
        converged,
        command,
        rules,
        verify,
        status,
        inspect,
    )
}
