"""Questions from one machine's netlab to another's agent, by way of the lab's etcd.

    /netlab/asked/NODE/ID       what is asked: JSON with `do`
    /netlab/answered/ID         what is answered: JSON with `result` or `error`

etcd is what the machines of a lab share, and who may write to it may change the lab already; so
no agent listens to the network. All keys hang on an etcd lease, and go with it when whoever asked
has gone. Nothing of it is below flannel's keys.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec

from netlab.errors import NetlabError, StoreError
from netlab.store.etcd import Etcd
from netlab.store.watch import Watch

ASKED, ANSWERED = "/netlab/asked/", "/netlab/answered/"
LOOK = 1.0  # seconds between two looks for an answer that nothing told of
KEPT = 60  # seconds a question and its answer are kept at most


class Correspondent:
    """Asks the agent of *node*; for several threads, one question at a time."""

    def __init__(self, etcd: Etcd, node: str) -> None:
        """*etcd* is this object's own from now on."""
        self.node = node
        self._etcd = etcd
        self._prefix = f"{ANSWERED}{node}-{uuid4().hex}/"
        self._watch: Watch | None = None
        self._lock = threading.Lock()

    def ask(
        self, request: dict[str, Any], *, timeout: float, outlasting: float = 0.0
    ) -> dict[str, Any]:
        """Return the answer to *request*; *outlasting*: for so many seconds etcd may be away while
        it is awaited.

        Raises StoreError when etcd is away, NetlabError when none came within *timeout* seconds or
        the other side could not do it.
        """
        with self._lock:
            if self._watch is None:
                self._watch = self._etcd.watch([self._prefix])
            answer = self._prefix + uuid4().hex
            lease = self._etcd.grant(int(timeout) + KEPT)
            try:
                message = msgspec.json.encode({**request, "answer": answer})
                self._etcd.put(f"{ASKED}{self.node}/{uuid4().hex}", message, lease=lease)
                told = self._awaited(answer, time.monotonic() + timeout, outlasting)
            finally:
                self._etcd.revoke(lease)
                self._etcd.delete(answer)
        if error := told.get("error"):
            raise NetlabError(f"{self.node}: {error}")
        result: dict[str, Any] = told["result"]
        return result

    def _awaited(self, key: str, deadline: float, outlasting: float) -> dict[str, Any]:
        heard = time.monotonic()
        while True:
            try:
                found = self._etcd.get(key)
                heard = time.monotonic()
            except StoreError:
                if time.monotonic() - heard > outlasting:
                    raise
                found = None
            if found is not None:
                told: dict[str, Any] = msgspec.json.decode(found.value)
                return told
            left = deadline - time.monotonic()
            if left <= 0:
                raise NetlabError(
                    f"the agent of {self.node} does not answer",
                    hint=f"is its machine up? `netlab status` says when {self.node} was heard last",
                )
            self._woken(min(left, LOOK))

    def _woken(self, seconds: float) -> None:
        """Wait for something to be answered, at most *seconds*: a watch may have gone with the
        connection, or its word be long on its way."""
        if self._watch is None:
            time.sleep(seconds)
        elif select.select([self._watch], [], [], seconds)[0]:
            try:
                self._watch.drain()
            except StoreError:
                self._watch.close()
                self._watch = None

    def close(self) -> None:
        with self._lock:
            if self._watch is not None:
                self._watch.close()
            self._etcd.close()


class Mailbox:
    """What is asked of the agent of one node; for one thread but for `answer`."""

    def __init__(self, etcd: Etcd, node: str) -> None:
        """*etcd* is this object's own from now on. Raises StoreError."""
        self._etcd = etcd
        self._prefix = f"{ASKED}{node}/"
        self._watch = etcd.watch([self._prefix])
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """Return the descriptor that is readable when something may have been asked."""
        return self._watch.fileno()

    def asked(self) -> list[dict[str, Any]]:
        """Return what was asked since the last call, and take it out. Raises StoreError."""
        self._watch.drain()
        found = []
        with self._lock:
            for item in self._etcd.range(self._prefix).items:
                if self._etcd.delete(item.key):  # else it was withdrawn meanwhile
                    try:
                        found.append(msgspec.json.decode(item.value, type=dict[str, Any]))
                    except msgspec.DecodeError:
                        continue  # nobody's question
        return found

    def answer(self, question: dict[str, Any], do: Callable[[], dict[str, Any]]) -> None:
        """Answer *question* with what *do* returns, or with why it could not."""
        try:
            told: dict[str, Any] = {"result": do()}
        except (NetlabError, OSError, LookupError, ValueError, TypeError) as error:
            told = {"error": str(error)}
        key = question.get("answer")
        if not isinstance(key, str) or not key.startswith(ANSWERED):
            return
        with self._lock:
            try:
                self._etcd.put(key, msgspec.json.encode(told), lease=self._etcd.grant(KEPT))
            except StoreError:
                return  # who asked will see that none came

    def close(self) -> None:
        self._watch.close()
        with self._lock:
            self._etcd.close()
