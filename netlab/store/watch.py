"""A watch: it says that something changed, and one on everything also what.

1. No event is precious. What is not known for certain is not known, and whoever asked lists.
2. It is known for certain when nothing can be missing: every write to etcd is a revision, the
   revisions are consecutive numbers, and a watch on all keys is told of each. A gap, or more than
   is kept, and it says that it does not know.
3. What machines ask each other (`mailbox`) is no change of the lab: nobody else is woken for it.
4. A peer that has gone without a word is noticed by TCP itself: after a second of silence the
   kernel probes it each second, and the stream ends 2 to 3 s after the cut.

Source: etcd Documentation/learning/api_guarantees.md; server/etcdserver/api/v3rpc/watch.go: the
acknowledgement has the revision as of which events are told.
"""

from __future__ import annotations

import select
import time
from collections import deque

import msgspec

from netlab.errors import StoreError
from netlab.store.http import CHUNK, Chunks, Reader, Server, opened, request_bytes
from netlab.store.wire import KeyValue, Line

MAIL = "/netlab/mail/"  # what a mailbox's keys begin with
EVENTS_KEPT = 8192  # until they are read

_decode = msgspec.json.Decoder(Line, strict=False).decode


class Watch:
    """An open stream of etcd's changes, for poll(2) and friends.

    Established when the constructor returns, so a listing made afterwards and later drains miss
    nothing between them. *count*: of the prefixes it is on; *whole*: it is on everything; *keep*:
    what it tells is kept for `taken`.
    """

    def __init__(
        self,
        server: Server,
        *,
        path: str,
        body: bytes,
        count: int,
        timeout: float,
        whole: bool = False,
        keep: bool = False,
        token: str = "",
    ) -> None:
        self.revision = 0  # the last one heard of
        host, port = server.addresses[0]
        self._name = f"etcd {host}:{port}: watch"
        self._whole = whole
        self._keeps = keep
        self._events: deque[KeyValue] = deque(maxlen=EVENTS_KEPT)
        self._all_since = 0  # the revision after which every event is kept
        self._chunks = Chunks()
        self._rest = b""  # of a line that has not come whole yet
        self._acknowledged = 0
        try:
            self._sock = opened(server, timeout)
            try:
                request = request_bytes(host, "POST", path, body, last=True, token=token)
                self._sock.sendall(request)
                self._establish(count)
                self._sock.setblocking(False)
            except BaseException:
                self._sock.close()
                raise
        except OSError as error:
            raise StoreError(f"{self._name}: {str(error) or type(error).__name__}") from error

    def _establish(self, count: int) -> None:
        """Wait for the acknowledgement of each of *count* prefixes."""
        reader = Reader(self._sock)
        status, _ = reader.head()
        if status != 200:
            raise ConnectionError(f"HTTP status {status}")
        self._read(bytes(reader.buffer))
        while self._acknowledged < count:
            self._read(self._received())

    def _received(self) -> bytes:
        data = self._sock.recv(CHUNK)
        if not data:
            raise ConnectionError("closed by the peer")
        return data

    def _read(self, data: bytes) -> bool:
        """Take *data*; return whether it told of a change. Raises ConnectionError at the end."""
        *lines, self._rest = (self._rest + self._chunks.take(data)).split(b"\n")
        told = [self._hear(line) for line in lines]
        return any(told)

    def _hear(self, line: bytes) -> bool:
        try:
            notice = _decode(line).result
        except msgspec.DecodeError as error:
            raise ConnectionError(f"cannot read the answer: {error}") from None
        if notice is None or notice.canceled:
            raise ConnectionError("ended by etcd")
        if notice.created:
            self._acknowledged += 1
            self.revision = self._all_since = notice.header.revision
        if not self._whole:
            self._events += notice.items() if self._keeps else ()
            return bool(notice.events)
        told = [self._keep(event) for event in notice.items()]
        return any(told)

    def _keep(self, event: KeyValue) -> bool:
        """Take note of *event*; return whether it is one to keep."""
        if event.mod_revision not in (self.revision, self.revision + 1):
            self._events.clear()
            self._all_since = event.mod_revision - 1
        elif len(self._events) == EVENTS_KEPT:
            self._all_since = self._events[0].mod_revision
        self.revision = event.mod_revision
        if event.key.startswith(MAIL):
            return False
        self._events.append(event)
        return True

    def taken(self) -> list[KeyValue]:
        """Return what was written and deleted since the last call, as far as it is drained."""
        found = list(self._events)
        self._events.clear()
        return found

    def since(self, revision: int) -> list[KeyValue] | None:
        """Return what was written and deleted after *revision*, in order; None: not known.

        Known is what has been drained. *revision* is that of a listing made after the watch.
        """
        if not self._whole or not self._all_since <= revision <= self.revision:
            return None
        return [event for event in self._events if event.mod_revision > revision]

    def forget(self, revision: int) -> None:
        """Keep no longer what was written until *revision*."""
        while self._events and self._events[0].mod_revision <= revision:
            self._all_since = self._events.popleft().mod_revision

    def reaches(self, revision: int, *, seconds: float) -> bool:
        """Drain until everything up to *revision* was heard; return whether it was in time."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        self.drain()
        while self._whole and self.revision < revision:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return False
            self.drain()
        return self._whole

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is something to drain."""
        return self._sock.fileno()

    def wait(self, seconds: float) -> bool:
        """Wait until something changed, *seconds* at most; return whether it did.

        Raises StoreError at the end.
        """
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
            if self.drain():
                return True
        return False

    def drain(self) -> bool:
        """Read all there is; return whether something changed. Raises StoreError at the end."""
        changed = False
        while True:
            try:
                changed |= self._read(self._received())
            except BlockingIOError:
                return changed
            except OSError as error:
                raise StoreError(f"{self._name}: {error}") from error

    def close(self) -> None:
        """End the watch."""
        self._sock.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
