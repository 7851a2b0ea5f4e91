"""How etcd is started, and when it is ready."""

from __future__ import annotations

import time
from pathlib import Path

from netlab.errors import StoreError
from netlab.store.access import Access
from netlab.store.etcd import PORT, Etcd

PEER_PORT_OFFSET = 1  # etcd's own: clients 2379, peers 2380
# A lone member has nobody to wait for; etcd's 100 and 1000 suit a network. Idle it took 1.2 % of a
# core with 10 and 50, 0.8 % with these, 0.65 % with 40 and 200, 0.45 % with etcd's own; from start
# to healthy 0.05-0.08 s, 0.04-0.13 s, 0.07-0.23 s, 0.35-0.93 s.
HEARTBEAT = 20  # ms
ELECTION = 100  # ms
TRANSACTION_OPS = 4096  # operations; etcd's 128 would cut 1000 pods into eight requests
REQUEST_BYTES = 8 << 20  # etcd's 1.5 MiB holds less than a thousand pods
QUOTA = 512 << 20  # bytes; a lab that fills more is a mistake, and memory is where it lives
KEEP_REVISIONS = 10_000  # older ones are compacted every five minutes; nobody asks for history
POLL = 0.003  # s


def arguments(
    data_dir: str | Path,
    host: str,
    port: int = PORT,
    *,
    access: Access = Access(),  # noqa: B008  (a frozen value)
) -> list[str]:
    """Return the command line of an etcd that listens on *host* alone, for clients and peers.

    *access*: with certificates, clients must speak TLS, and with a `cafile` show one of their own.
    """
    scheme = "https" if access.certfile else "http"
    clients, peers = f"{scheme}://{host}:{port}", f"http://{host}:{port + PEER_PORT_OFFSET}"
    options = {
        "name": "netlab",
        "data-dir": str(data_dir),
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"netlab={peers}",
        "heartbeat-interval": str(HEARTBEAT),
        "election-timeout": str(ELECTION),
        "auto-compaction-mode": "revision",
        "auto-compaction-retention": str(KEEP_REVISIONS),
        "quota-backend-bytes": str(QUOTA),
        "max-txn-ops": str(TRANSACTION_OPS),
        "max-request-bytes": str(REQUEST_BYTES),
    }
    if access.certfile:
        options |= {"cert-file": access.certfile, "key-file": access.keyfile}
    if access.certfile and access.cafile:
        options |= {"trusted-ca-file": access.cafile, "client-cert-auth": "true"}
    return ["etcd", *(f"--{name}={value}" for name, value in options.items())]


def environment() -> dict[str, str]:
    """Return settings that an older etcd may not know: there it ignores them with a warning."""
    return {"ETCD_LOGGER": "zap", "ETCD_LOG_LEVEL": "warn"}


def wait_healthy(etcd: Etcd, seconds: float) -> None:
    """Return when *etcd* answers. Raises StoreError when it does not in *seconds*."""
    deadline = time.monotonic() + seconds
    while not etcd.healthy():
        if time.monotonic() >= deadline:
            raise StoreError(f"{etcd!r}: not healthy after {seconds:g} s", hint="its log says why")
        time.sleep(POLL)
