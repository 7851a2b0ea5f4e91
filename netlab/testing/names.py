"""Which address a word means to somebody in the lab who asks.

Until the cluster has a DNS server, names in URLs are looked up here, by the rules its answers would
follow (a Service's name, its namespace's behind a dot), before what is no name in any cluster:
pods, nodes and the machines around them.
"""

from __future__ import annotations

from ipaddress import IPv4Address

import msgspec

from netlab import paths, world
from netlab.cluster import Cluster
from netlab.errors import NotFoundError, UsageError
from netlab.model.kubernetes import Document, view
from netlab.model.services import Service
from netlab.targets import service_called

MEMBERS = (world.CLIENT, world.INTERNET, world.MASTER, world.GATEWAY, world.BALANCER)


class Meant(msgspec.Struct, frozen=True):
    """What a word means: its address, and the word that `netlab probe` takes for it."""

    address: str
    word: str
    service: bool = False


def meant(cluster: Cluster, word: str, *, namespace: str = "default") -> Meant:
    """Return what *word* means to somebody in *namespace*.

    `10.244.1.2`; `client`, `internet`, `master`, `gateway`; `node/n1`, `pod/a`, `svc/web`; a
    Service as DNS has it (`web`, `web.shop`, `web.shop.svc.cluster.local`) or as kubectl says it
    (`shop/web`); a pod `[NS/]POD`; a node. Raises NotFoundError, UsageError for a Service without
    cluster IP.
    """
    if is_address(word) or word in MEMBERS:
        return _place(cluster, word)
    kind, _, rest = word.partition("/")
    if kind in ("svc", "service", "services"):
        return _service(service(cluster, rest, namespace=namespace))
    if kind in ("pod", "pods"):
        return _pod(cluster, rest, namespace)
    if kind in ("node", "nodes"):
        return _place(cluster, f"node/{rest}")
    found = service_called(cluster, word, namespace=namespace)
    if found is not None:
        return _service(found)
    if any(node.name == word for node in cluster.nodes) and not _is_pod(cluster, word, namespace):
        return _place(cluster, f"node/{word}")
    return _pod(cluster, word, namespace)


def is_address(word: str) -> bool:
    """Return whether *word* is an IPv4 address."""
    try:
        IPv4Address(word)
    except ValueError:
        return False
    return True


def service(cluster: Cluster, word: str, *, namespace: str = "default") -> Document:
    """Return the Service that *word* names. Raises NotFoundError naming those there are."""
    found = service_called(cluster, word, namespace=namespace)
    if found is None:
        known = sorted(title(one) for one in cluster.documents.of("Service"))
        hint = f"there are: {', '.join(known)}" if known else "the lab has none"
        raise NotFoundError(f"no Service {word} in namespace {namespace}", hint=hint)
    return found


def title(document: Document) -> str:
    """Return `default/web`."""
    meta = document["metadata"]
    return f"{meta.get('namespace', 'default')}/{meta['name']}"


def _service(document: Document) -> Meant:
    addresses = view(document, Service).cluster_ips
    if not addresses:
        raise UsageError(f"Service {title(document)} has no cluster IP", hint="name its pod")
    return Meant(addresses[0], f"svc/{title(document)}", service=True)


def _is_pod(cluster: Cluster, word: str, namespace: str) -> bool:
    return any((pod.namespace, pod.name) == (namespace, word) for pod in cluster.pods)


def _pod(cluster: Cluster, word: str, namespace: str) -> Meant:
    return _place(cluster, word if "/" in word else f"{namespace}/{word}", said=word)


def _place(cluster: Cluster, word: str, *, said: str = "") -> Meant:
    try:
        return Meant(paths.place(cluster, word).address, word)
    except NotFoundError as missing:
        hint = missing.hint
        raise NotFoundError(f"nobody in the lab is called {said or word}", hint=hint) from missing
