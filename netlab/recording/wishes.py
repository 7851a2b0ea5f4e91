"""What a capture is to be, and what that means in the lab as it is: now, and from then on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol as Interface

import msgspec

from netlab import filters, targets
from netlab.annotation.names import Names, names
from netlab.cluster import Cluster
from netlab.errors import NetlabError, NotFoundError
from netlab.filters import names as filter_names
from netlab.filters.grammar import Condition
from netlab.targets import Target

LOOK = 1.0  # seconds between two looks at who there is


class Live(Interface):
    """What a capture needs of a running lab."""

    def cluster(self) -> Cluster: ...
    def revision(self) -> int: ...


class Wish(msgspec.Struct, frozen=True):
    """What to capture, how much of it, and where to. 0 stands for no bound.

    `path` None: to `stream`, a descriptor. `size`, `ring` in MiB, `seconds` in s.
    """

    words: tuple[str, ...] = ()  # targets; none: everything
    namespace: str = "default"
    filter: str = ""
    path: Path | None = None
    stream: int = 1
    count: int = 0
    seconds: float = 0.0
    size: float = 0.0
    ring: float = 0.0
    files: int = 2
    snaplen: int = 0
    comments: bool = True
    rules: bool = False
    here: bool = False  # only what is on this machine


class Meant(msgspec.Struct, frozen=True):
    """What a wish means at one moment."""

    targets: tuple[Target, ...]
    tree: Condition | None
    code: bytes
    names: Names
    revision: int


def meant(cluster: Cluster, wish: Wish, *, strict: bool = True) -> Meant:
    """Return what *wish* means in *cluster*.

    Raises NotFoundError and UsageError; without *strict* what is not there is passed over.
    """
    if not wish.words:
        found = targets.every(cluster)
    elif strict:
        found = targets.targets(cluster, wish.words, namespace=wish.namespace)
    else:
        known = [word for word in wish.words if _is_there(cluster, word, wish.namespace)]
        found = targets.targets(cluster, known, namespace=wish.namespace)
    tree = None
    code = filters.everything(wish.snaplen)
    if wish.filter:
        known_names = filter_names.names(cluster, namespace=wish.namespace)
        tree = filters.parsed(wish.filter, known_names)
        code = filters.program(tree, wish.snaplen)
    return Meant(tuple(found), tree, code, names(cluster), cluster.revision)


def _is_there(cluster: Cluster, word: str, namespace: str) -> bool:
    try:
        targets.targets(cluster, [word], namespace=namespace)
    except NotFoundError:
        return False
    return True


class Follower:
    """A thread that keeps up with the lab: `news` is what a wish means since it last changed."""

    def __init__(self, live: Live, wish: Wish, first: Meant) -> None:
        self._live, self._wish = live, wish
        self._known = first
        self._news: Meant | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def news(self) -> Meant | None:
        """Return what is new since the last call, None when nothing is."""
        news, self._news = self._news, None
        return news

    def end(self) -> None:
        """End soon: who waits for etcd is not waited for."""
        self._ending.set()

    def _run(self) -> None:
        while not self._ending.wait(LOOK):
            try:
                if self._live.revision() == self._known.revision:
                    continue
                self._known = meant(self._live.cluster(), self._wish, strict=False)
            except (NetlabError, OSError):
                continue  # etcd is out of reach, or a name of the filter's is gone: as it was
            self._news = self._known
