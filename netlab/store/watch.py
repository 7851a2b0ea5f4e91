"""A watch that only says *that* something changed, never what.

Whoever is told lists again, so no event is precious: none is decoded, kept or counted.
"""

from __future__ import annotations

from netlab.errors import StoreError
from netlab.store.http import CHUNK, Reader, opened, request_bytes


class Watch:
    """An open stream of etcd's changes, for poll(2) and friends.

    Established when the constructor returns, so a listing made afterwards and later drains miss
    nothing between them. A peer that has gone without a word is noticed by TCP itself: after a
    second of silence the kernel probes it each second, and the stream ends 2 to 3 s after the cut.
    """

    def __init__(
        self, host: str, port: int, *, path: str, body: bytes, count: int, timeout: float
    ) -> None:
        self._name = f"etcd {host}:{port}: watch"
        try:
            self._sock = opened(host, port, timeout)
            try:
                self._sock.sendall(request_bytes(host, "POST", path, body, last=True))
                self._established(Reader(self._sock), count)
                self._sock.setblocking(False)
            except BaseException:
                self._sock.close()
                raise
        except OSError as error:
            raise StoreError(f"{self._name}: {str(error) or type(error).__name__}") from error

    def _established(self, reader: Reader, count: int) -> None:
        """Wait for the acknowledgement of each of *count* prefixes; events in between, of which
        there may be some, are told by the listing that follows."""
        status, _ = reader.head()
        while status == 200 and count:
            part = reader.chunk()
            if not part or b'"error"' in part:
                raise ConnectionError("refused")
            count -= part.count(b'"created":true')
        if status != 200:
            raise ConnectionError(f"HTTP status {status}")
        # The rest of an event that arrived with the acknowledgement may stay unread in `reader`.

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is something to drain."""
        return self._sock.fileno()

    def drain(self) -> bool:
        """Read all there is; return whether something changed. Raises StoreError at the end."""
        changed = False
        while True:
            try:
                data = self._sock.recv(CHUNK)
            except BlockingIOError:
                return changed
            except OSError as error:
                raise StoreError(f"{self._name}: {error}") from error
            # Keys and values are base64, so these words are etcd's own: it has ended the watch.
            if not data or b'"error"' in data or b'"canceled"' in data:
                raise StoreError(f"{self._name}: ended by etcd")
            changed = True

    def close(self) -> None:
        """End the watch."""
        self._sock.close()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
