"""Questions from one machine's netlab to another's agent, by way of the lab's etcd.

    /netlab/mail/asked/NODE/LINE   what is asked: JSON with `do` and `id`
    /netlab/mail/answered/LINE     what is answered: JSON with `id` and `result` or `error`,
                                   deflated, as etcd tells all who watch everything

etcd is what the machines of a lab share, and who may write to it may change the lab already; so
no agent listens to the network. A question and its answer are two writes: both sides hear of them
by their watches, and who asks again on a line overwrites what was asked on it before. All keys hang
on an etcd lease of whoever asked, and go with it. Nothing of it is below flannel's keys.
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

from netlab import patience
from netlab.errors import GoneError, NetlabError, StoreError
from netlab.store.etcd import Etcd
from netlab.store.watch import MAIL, Watch
from netlab.store.wire import KeyValue

ASKED, ANSWERED = f"{MAIL}asked/", f"{MAIL}answered/"
LOOK = patience.seconds(1.0)  # between two looks for an answer that nothing told of
QUICKLY = 1  # zlib's level
KEPT = 60  # seconds a question and its answer are kept at most


class _Line:
    """Where one asker's questions are asked and answered, one after the other."""

    def __init__(self, etcd: Etcd, node: str) -> None:
        """*etcd* is used here only to open the watch. Raises StoreError."""
        name = f"{node}-{uuid4().hex}"
        self.asked, self.answered = f"{ASKED}{node}/{name}", f"{ANSWERED}{name}"
        self._watch: Watch | None = etcd.watch([self.answered], keep=True)

    def heard(self, seconds: float) -> KeyValue | None:
        """Return what was answered last, waiting for it at most *seconds*; None: nothing, or it is
        to be looked for, as a watch may have gone with the connection."""
        if self._watch is None:
            time.sleep(seconds)
        elif select.select([self._watch], [], [], seconds)[0]:
            try:
                self._watch.drain()
                return next((item for item in reversed(self._watch.taken()) if item.version), None)
            except StoreError:
                self._watch.close()
                self._watch = None
        return None

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
        with self._lock:
            line = self._lines.pop() if self._lines else _Line(self._etcd, self.node)
        name = uuid4().hex
        try:
            with self._lock:
                lease = self._lease(timeout)
                words = {**request, "id": name, "answer": line.answered, "lease": lease}
                self._etcd.put(line.asked, msgspec.json.encode(words), lease=lease)
            told = self._awaited(line, name, time.monotonic() + timeout, outlasting)
        except BaseException:
            line.close()
            with self._lock, suppress(StoreError):
                self._ends = 0.0  # the lease may be what is wrong
                self._etcd.delete(line.asked)
                self._etcd.delete(line.answered)
            raise
        with self._lock:
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

    def _awaited(
        self, line: _Line, name: str, deadline: float, outlasting: float
    ) -> dict[str, Any]:
        """Return the answer to the question *name*."""
        looked = heard = time.monotonic()
        while True:
            left = deadline - time.monotonic()
            found = line.heard(max(0.0, min(left, LOOK)))
            if found is None and time.monotonic() - looked >= min(LOOK, max(left, 0.0)):
                try:
                    with self._lock:
                        found = self._etcd.get(line.answered)
                    looked = heard = time.monotonic()
                except StoreError:
                    if time.monotonic() - heard > outlasting:
                        raise
            if found is not None and (told := _said(found))["id"] == name:
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


def _said(item: KeyValue) -> dict[str, Any]:
    """Return what an answer says."""
    told: dict[str, Any] = msgspec.json.decode(zlib.decompress(item.value))
    return told


class Mailbox:
    """What is asked of the agent of one node; for one thread but for `answer`."""

    def __init__(self, etcd: Etcd, node: str) -> None:
        """*etcd* is this object's own from now on."""
        self._etcd = etcd
        self._prefix = f"{ASKED}{node}/"
        self._watch: Watch | None = None
        self._lock = threading.Lock()
        self._taken: dict[str, int] = {}  # by line, the revision of what was asked last
        self._closed = threading.Event()

    def fileno(self) -> int | None:
        """Return the descriptor that is readable when something may have been asked; None: see
        `asked`."""
        return None if self._watch is None else self._watch.fileno()

    def asked(self) -> list[dict[str, Any]]:
        """Return what was asked since the last call. Raises StoreError; call it again then."""
        found = []
        for item in self._new():
            if not item.version:
                self._taken.pop(item.key, None)
            elif self._taken.get(item.key, 0) < item.mod_revision:
                self._taken[item.key] = item.mod_revision
                try:
                    found.append(msgspec.json.decode(item.value, type=dict[str, Any]))
                except msgspec.DecodeError:
                    continue  # nobody's question
        return found

    def _new(self) -> list[KeyValue]:
        """Return what was written and deleted; of what is there already, what nobody answered."""
        if self._watch is not None:
            try:
                self._watch.drain()
                return self._watch.taken()
            except StoreError:
                self._watch.close()
                self._watch = None
                raise
        with self._lock:
            watch = self._etcd.watch([self._prefix], keep=True)
            try:
                there = self._etcd.range(self._prefix).items
                found = [item for item in there if not self._answered(item)]
            except StoreError:  # it must be listed again
                watch.close()
                raise
        self._watch = watch
        return found

    def _answered(self, item: KeyValue) -> bool:
        """Return whether a question was answered, perhaps by an agent before this one."""
        try:
            question = msgspec.json.decode(item.value, type=dict[str, Any])
            answer = self._etcd.get(str(question.get("answer")))
            return answer is not None and _said(answer).get("id") == question.get("id")
        except (msgspec.DecodeError, zlib.error):
            return False  # nobody's question, or nobody's answer

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
        message = zlib.compress(msgspec.json.encode({**told, "id": question.get("id")}), QUICKLY)
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
        if self._watch is not None:
            self._watch.close()
        with self._lock:
            self._etcd.close()
