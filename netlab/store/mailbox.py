"""Questions from one machine's netlab to another's agent, by way of the lab's etcd.

    /netlab/mail/asked/NODE/ID  what is asked: JSON with `do`
    /netlab/mail/answered/ID    what is answered: JSON with `result` or `error`, deflated, as etcd
                                tells all who watch everything

etcd is what the machines of a lab share, and who may write to it may change the lab already; so
no agent listens to the network. All keys hang on an etcd lease of whoever asked, which the question
names, and go with it. Nothing of it is below flannel's keys.

A request to etcd that timed out may still be done, even later: so nothing is read by the request
that removes it, and a question whose removal is uncertain is known by its key.
"""

from __future__ import annotations

import select
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import msgspec

from netlab.errors import GoneError, NetlabError, StoreError
from netlab.store.etcd import Delete, Etcd, Put
from netlab.store.watch import MAIL, Watch

ASKED, ANSWERED = f"{MAIL}asked/", f"{MAIL}answered/"
LOOK = 1.0  # seconds between two looks for an answer that nothing told of
QUICKLY = 1  # zlib's level
KEPT = 60  # seconds a question and its answer are kept at most


class _Line:
    """Where the answers to one asker's questions come, one after the other."""

    def __init__(self, etcd: Etcd, node: str) -> None:
        """*etcd* is used here only to open the watch. Raises StoreError."""
        self.prefix = f"{ANSWERED}{node}-{uuid4().hex}/"
        self._watch: Watch | None = etcd.watch([self.prefix])

    def heard(self, seconds: float) -> None:
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

    @property
    def open(self) -> bool:
        return self._watch is not None

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()


class Correspondent:
    """Asks the agent of *node*; for several threads, which do not wait for each other's answers."""

    def __init__(self, etcd: Etcd, node: str) -> None:
        """*etcd* is this object's own from now on."""
        self.node = node
        self._etcd = etcd
        self._lock = threading.Lock()  # of the connection
        self._lines: list[_Line] = []  # that nobody uses now
        self._read: list[str] = []  # answers that can go
        self._leases: list[int] = []
        self._ends = 0.0  # when the last of them does

    def ask(
        self, request: dict[str, Any], *, timeout: float, outlasting: float = 0.0
    ) -> dict[str, Any]:
        """Return the answer to *request*; *outlasting*: for so many seconds etcd may be away while
        it is awaited.

        Raises StoreError when etcd is away, NetlabError when none came within *timeout* seconds or
        the other side could not do it.
        """
        asked = f"{ASKED}{self.node}/{uuid4().hex}"
        with self._lock:
            line = self._lines.pop() if self._lines else _Line(self._etcd, self.node)
        answer = line.prefix + uuid4().hex
        try:
            line.heard(0)  # of what was taken before
            with self._lock:
                lease = self._lease(timeout)
                message = msgspec.json.encode({**request, "answer": answer, "lease": lease})
                read, self._read = self._read, []
                question = Put(asked, message, lease=lease)
                self._etcd.transaction(success=[question, *map(Delete, read)])
            told = self._awaited(line, answer, time.monotonic() + timeout, outlasting)
        except BaseException:
            line.close()
            with self._lock, suppress(StoreError):
                self._ends = 0.0  # the lease may be what is wrong
                self._etcd.delete(asked)
                self._etcd.delete(answer)
            raise
        with self._lock:
            self._read.append(answer)
            self._lines += [line] if line.open else []
        if error := told.get("error"):
            raise NetlabError(f"{self.node}: {error}")
        result: dict[str, Any] = told["result"]
        return result

    def _lease(self, seconds: float) -> int:
        """Return an etcd lease that lasts for *seconds* at least."""
        if time.monotonic() + seconds > self._ends:
            ttl = int(seconds) + 2 * KEPT
            self._leases.append(self._etcd.grant(ttl))
            self._ends = time.monotonic() + ttl - KEPT
        return self._leases[-1]

    def _awaited(self, line: _Line, key: str, deadline: float, outlasting: float) -> dict[str, Any]:
        heard = time.monotonic()
        while True:
            left = deadline - time.monotonic()
            line.heard(max(0.0, min(left, LOOK)))
            try:
                with self._lock:
                    found = self._etcd.get(key)
                heard = time.monotonic()
            except StoreError:
                if time.monotonic() - heard > outlasting:
                    raise
                found = None
            if found is not None:
                told: dict[str, Any] = msgspec.json.decode(zlib.decompress(found.value))
                return told
            if left <= 0:
                raise NetlabError(
                    f"the agent of {self.node} does not answer",
                    hint=f"is its machine up? `netlab status` says when {self.node} was heard last",
                )

    def close(self) -> None:
        with self._lock, suppress(StoreError):
            for line in self._lines:
                line.close()
            for lease in self._leases:
                self._etcd.revoke(lease)
        self._etcd.close()


class Mailbox:
    """What is asked of the agent of one node; for one thread but for `answer`."""

    def __init__(self, etcd: Etcd, node: str) -> None:
        """*etcd* is this object's own from now on. Raises StoreError."""
        self._etcd = etcd
        self._prefix = f"{ASKED}{node}/"
        self._watch = etcd.watch([self._prefix])
        self._lock = threading.Lock()
        self._taken: set[str] = set()  # keys that may be there yet
        self._closed = threading.Event()

    def fileno(self) -> int:
        """Return the descriptor that is readable when something may have been asked."""
        return self._watch.fileno()

    def asked(self) -> list[dict[str, Any]]:
        """Return what was asked since the last call, and take it out. Raises StoreError."""
        self._watch.drain()
        with self._lock:
            there = self._etcd.range(self._prefix).items
            new = [item for item in there if item.key not in self._taken]
            self._taken = {item.key for item in there}
            if there:
                with suppress(StoreError):  # done by the next call, or by then
                    self._etcd.write_all([Delete(item.key) for item in there])
        found = []
        for item in new:
            try:
                found.append(msgspec.json.decode(item.value, type=dict[str, Any]))
            except msgspec.DecodeError:
                continue  # nobody's question
        return found

    def answer(self, question: dict[str, Any], do: Callable[[], dict[str, Any]]) -> None:
        """Answer *question* with what *do* returns, or with why it could not; where etcd is away,
        as soon as it is back."""
        try:
            told: dict[str, Any] = {"result": do()}
        except (NetlabError, OSError, LookupError, ValueError, TypeError) as error:
            told = {"error": str(error)}
        key, lease = question.get("answer"), question.get("lease")
        if not isinstance(key, str) or not key.startswith(ANSWERED) or not isinstance(lease, int):
            return
        message = zlib.compress(msgspec.json.encode(told), QUICKLY)
        tried_until = time.monotonic() + KEPT
        while time.monotonic() < tried_until and not self._closed.is_set():
            try:
                with self._lock:
                    self._etcd.put(key, message, lease=lease)
                return
            except GoneError:  # and with its lease whoever asked
                return
            except StoreError:
                self._closed.wait(LOOK)

    def close(self) -> None:
        self._closed.set()
        self._watch.close()
        with self._lock:
            self._etcd.close()
