"""TLS to etcd: what a connection is wrapped in, and by which certificates."""

from __future__ import annotations

import functools
import ssl

from netlab.errors import UsageError


class Socket(ssl.SSLSocket):
    """A TLS connection that says in the words of a plain one that nothing has come yet."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except ssl.SSLWantReadError as error:
            raise BlockingIOError(str(error)) from error


@functools.cache
def context(cafile: str, certfile: str, keyfile: str) -> ssl.SSLContext:
    """Return how to speak TLS: *cafile* vouches for etcd ("": the system's), the others for us.

    Raises UsageError naming the file that cannot be used.
    """
    try:
        found = ssl.create_default_context(cafile=cafile or None)
    except OSError as error:
        raise UsageError(f"--etcd-cafile {cafile}: {_words(error)}") from error
    found.sslsocket_class = Socket
    if certfile:
        try:
            found.load_cert_chain(certfile, keyfile or None)
        except OSError as error:
            files = f"--etcd-certfile {certfile}" + f", --etcd-keyfile {keyfile}" * bool(keyfile)
            raise UsageError(f"{files}: {_words(error)}") from error
    return found


def _words(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
