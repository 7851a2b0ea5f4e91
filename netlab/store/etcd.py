"""A synchronous client for etcd v3, through its JSON gateway.

1. No gRPC: its library is large, starts threads, and a fork or a namespace does not agree with
   it. The gateway is part of every etcd; base64 and JSON cost less than they look (msgspec).
2. One `Etcd` belongs to one thread. Its TCP connections are made in the network namespace that
   thread is in, so a node whose network is cut has lost etcd too.
3. Reads are linearizable: etcd's default.

Source: etcd api/etcdserverpb/rpc.proto; Documentation/dev-guide/api_grpc_gateway.md.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from netlab.errors import GoneError, StoreError
from netlab.store.http import Connection, Server
from netlab.store.watch import Watch
from netlab.store.wire import KeyValue as KeyValue
from netlab.store.wire import Refusal, Response, key_values

PREFIXES = ("/v3", "/v3beta", "/v3alpha")  # of the gateway's paths: 3.4 and later, 3.3, 3.2
OPS_PER_TRANSACTION = 128  # etcd's default --max-txn-ops
PORT = 2379
EVERYTHING = ("",)  # prefixes of all keys


class Listing(msgspec.Struct, frozen=True):
    """The keys of a range, in byte order, and the store's revision they were read at."""

    revision: int
    items: list[KeyValue]
    count: int = 0  # keys of the whole range, also when `since` left some of them out


class Put(msgspec.Struct, frozen=True):
    """Write *value*."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True):
    """Remove one key."""

    key: str


class Compare(msgspec.Struct, frozen=True):
    """A condition of a transaction: `target` of *key*, a field of KeyValue, equals *number*."""

    key: str
    target: str
    number: int


class TxnResult(msgspec.Struct, frozen=True):
    """How a transaction ended; true when the comparisons held."""

    succeeded: bool
    revision: int

    def __bool__(self) -> bool:
        return self.succeeded


Op = Put | Delete


class _Authenticated(msgspec.Struct):
    token: str


class _TimeLeft(msgspec.Struct):
    TTL: int = 0


class _Kept(msgspec.Struct):
    result: _TimeLeft


def version_is(key: str, number: int) -> Compare:
    """Return the condition that *key* was written *number* times; 0: it does not exist."""
    return Compare(key, "version", number)


def unchanged(key: str, mod_revision: int) -> Compare:
    """Return the condition that *key* was last written at *mod_revision*; 0: not there."""
    return Compare(key, "mod_revision", mod_revision)


def encoded(key: str) -> bytes:
    """Return the bytes of a key as etcd has them."""
    return key.encode("utf-8", "surrogateescape")


def range_end(prefix: str) -> bytes:
    """Return the first key behind all that begin with *prefix*: `/a0` for `/a/`."""
    raw = encoded(prefix).rstrip(b"\xff")
    return raw[:-1] + bytes([raw[-1] + 1]) if raw else b"\0"


def range_fields(prefix: str) -> dict[str, str]:
    """Return the gateway's fields for all keys that begin with *prefix*."""
    return {
        "key": _base64(encoded(prefix) or b"\0"),
        "range_end": _base64(range_end(prefix)),
    }


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _put_fields(op: Put) -> dict[str, str]:
    fields = {"key": _base64(encoded(op.key)), "value": _base64(op.value)}
    return fields | ({"lease": str(op.lease)} if op.lease else {})


def _op_fields(op: Op) -> dict[str, Any]:
    if isinstance(op, Put):
        return {"request_put": _put_fields(op)}
    return {"request_delete_range": {"key": _base64(encoded(op.key))}}


def _compare_fields(compare: Compare) -> dict[str, str]:
    target = {"version": "VERSION", "mod_revision": "MOD", "create_revision": "CREATE"}
    return {
        "key": _base64(encoded(compare.key)),
        "target": target[compare.target],
        "result": "EQUAL",
        compare.target: str(compare.number),
    }


def _transaction_fields(
    compare: Iterable[Compare], success: Iterable[Op], failure: Iterable[Op]
) -> dict[str, Any]:
    return {
        "compare": [_compare_fields(one) for one in compare],
        "success": [_op_fields(op) for op in success],
        "failure": [_op_fields(op) for op in failure],
    }


def _listing(response: Response) -> Listing:
    return Listing(response.header.revision, key_values(response.kvs), response.count)


class Etcd:
    """A client of the etcd at *host*. Every method raises StoreError: refused, or no answer.

    A change whose answer was lost may have happened: list, and decide again. *server*: where and
    how to connect, instead of *host*; *login*: the user and password that etcd wants.
    """

    def __init__(
        self,
        host: str,
        port: int = PORT,
        *,
        timeout: float = 2.0,  # s, of each wait: to connect, and for the next bytes
        prefixes: Sequence[str] = PREFIXES,
        server: Server | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        self._server = server or Server(((host, port),))
        self.host, self.port = self._server.addresses[0]
        self.timeout = timeout
        self._login = login
        self._token = ""
        self.revision = 0  # the store's, as of the last answer
        self._prefixes = list(prefixes)
        self._connection = Connection(self._server, timeout=timeout)

    def __repr__(self) -> str:
        return f"etcd {self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections were made so far: etcd was not restarted between equal ones."""
        return self._connection.opened

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._connection.close()

    def range(self, prefix: str, *, since: int = 0) -> Listing:
        """Return the keys that begin with *prefix*; only those written at *since* or later."""
        fields = range_fields(prefix) | ({"min_mod_revision": str(since)} if since else {})
        return _listing(self._call("/kv/range", fields))

    def get(self, key: str) -> KeyValue | None:
        """Return one key, None when it does not exist."""
        items = _listing(self._call("/kv/range", {"key": _base64(encoded(key))})).items
        return items[0] if items else None

    def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Write *key*, attached to *lease*; return the store's new revision."""
        return self._call("/kv/put", _put_fields(Put(key, value, lease))).header.revision

    def put_if_unchanged(self, key: str, value: bytes, *, mod_revision: int, lease: int = 0) -> int:
        """Write *key* if it was last written at *mod_revision* (0: if it does not exist).

        Return the store's new revision; 0 when somebody was quicker and nothing was written.
        """
        # "version = 0" is what flannel asks for a new subnet; it means the same as mod_revision.
        condition = unchanged(key, mod_revision) if mod_revision else version_is(key, 0)
        done = self.transaction(compare=[condition], success=[Put(key, value, lease)])
        return done.revision if done else 0

    def delete(self, key: str) -> bool:
        """Remove one key; return whether it existed."""
        return bool(self._call("/kv/deleterange", {"key": _base64(encoded(key))}).deleted)

    def delete_prefix(self, prefix: str) -> int:
        """Remove all keys that begin with *prefix*; return how many there were."""
        return self._call("/kv/deleterange", range_fields(prefix)).deleted

    def transaction(
        self,
        *,
        compare: Sequence[Compare] = (),
        success: Sequence[Op] = (),
        failure: Sequence[Op] = (),
    ) -> TxnResult:
        """Do *success* if every comparison holds, else *failure*: atomically, all or nothing.

        No key may be written twice. etcd refuses more than --max-txn-ops operations.
        """
        response = self._call("/kv/txn", _transaction_fields(compare, success, failure))
        return TxnResult(response.succeeded, response.header.revision)

    def transactions(
        self, parts: Sequence[tuple[Sequence[Compare], Sequence[Op]]]
    ) -> list[TxnResult]:
        """Do each part whose own comparisons hold, all in one request; return how each ended.

        As `transaction`, no key may be written twice in one call.
        """
        nested = [{"request_txn": _transaction_fields(*part, ())} for part in parts]
        response = self._call("/kv/txn", {"success": nested})
        revision = response.header.revision  # the same for all that one request writes
        return [TxnResult(part["response_txn"].succeeded, revision) for part in response.responses]

    def write_all(self, ops: Sequence[Op], *, chunk: int = OPS_PER_TRANSACTION) -> None:
        """Do *ops* in order, *chunk* in a transaction: each chunk is atomic, the whole is not.

        A key that comes again begins a new chunk.
        """
        part: dict[str, Op] = {}
        for op in ops:
            if op.key in part or len(part) == chunk:
                self.transaction(success=list(part.values()))
                part = {}
            part[op.key] = op
        if part:
            self.transaction(success=list(part.values()))

    def grant(self, ttl: int) -> int:
        """Return the id of a new lease that ends in *ttl* seconds."""
        return self._call("/lease/grant", {"TTL": str(ttl)}).ID

    def keep_alive(self, lease: int) -> int:
        """Give a lease its whole time again; return the seconds, 0 when there is no such lease."""
        # The gateway answers a stream of one request with a stream of one answer.
        status, body = self._exchange("/lease/keepalive", msgspec.json.encode({"ID": str(lease)}))
        try:
            return msgspec.json.decode(body, type=_Kept, strict=False).result.TTL
        except msgspec.DecodeError as error:
            refusal = _refusal(body) or f"HTTP status {status}"
            raise StoreError(f"{self!r}: /lease/keepalive: {refusal}") from error

    def revoke(self, lease: int) -> None:
        """End a lease and delete its keys."""
        # Below /kv/ in every release; /lease/revoke came with 3.4.
        self._call("/kv/lease/revoke", {"ID": str(lease)})

    def time_to_live(self, lease: int) -> int:
        """Return the seconds a lease has left; -1 when there is no such lease."""
        return self._call("/kv/lease/timetolive", {"ID": str(lease)}).TTL

    def watch(self, prefixes: Sequence[str] = EVERYTHING, *, keep: bool = False) -> Watch:
        """Return a watch on all keys below *prefixes*, established: list *after* this. *keep*: what
        it tells is kept for `Watch.taken`.

        Only one on everything can say what has changed since a listing: see Watch.since.
        """
        self.get("\0")  # finds the gateway's prefix, and says at once if nobody is there
        bodies = [{"create_request": range_fields(prefix)} for prefix in prefixes]
        return Watch(
            self._server,
            path=self._prefixes[0] + "/watch",
            body=b"\n".join(map(msgspec.json.encode, bodies)),
            count=len(prefixes),
            timeout=self.timeout,
            keep=keep,
            whole=tuple(prefixes) == EVERYTHING,
            token=self._token,
        )

    def healthy(self) -> bool:
        """Return whether etcd has a leader and can be read and written (no alarm is raised)."""
        try:
            status, body = self._connection.exchange("GET", "/health")
        except OSError:
            return False
        return status == 200 and b'"true"' in body

    def error(self, what: str) -> StoreError:
        """Return the error that says *what* this etcd did."""
        return StoreError(f"{self!r}: {what}", hint="is its machine up, and the way to it?")

    def _call(self, path: str, fields: dict[str, Any]) -> Response:
        status, body = self._exchange(path, msgspec.json.encode(fields))
        if status != 200:
            error = GoneError if status == 404 and _refusal(body) else StoreError
            raise error(f"{self!r}: {path}: {_refusal(body) or f'HTTP status {status}'}")
        try:
            # etcd's 64-bit numbers come as strings.
            response = msgspec.json.decode(body, type=Response, strict=False)
        except msgspec.DecodeError as error:
            raise StoreError(f"{self!r}: {path}: cannot read the answer: {error}") from error
        self.revision = response.header.revision or self.revision
        return response

    def _exchange(self, path: str, body: bytes) -> tuple[int, bytes]:
        if self._login is None:
            return self._answer(path, body)
        if self._token:
            answer = self._answer(path, body)
            if answer[0] != 401:  # a token ends after five minutes in which nobody used it
                return answer
        self._token = self._authenticated(*self._login)
        return self._answer(path, body)

    def _authenticated(self, user: str, password: str) -> str:
        """Return the token that stands for *user*, "" where etcd asks nobody who he is."""
        self._token = ""
        asked = msgspec.json.encode({"name": user, "password": password})
        status, body = self._answer("/auth/authenticate", asked)
        if status == 200:
            return msgspec.json.decode(body, type=_Authenticated).token
        refusal = _refusal(body)
        if "not enabled" in refusal:
            return ""
        raise StoreError(
            f"{self!r}: user {user!r}: {refusal or f'HTTP status {status}'}",
            hint="--etcd-username and --etcd-password say who asks",
        )

    def _answer(self, path: str, body: bytes) -> tuple[int, bytes]:
        answer = (404, b"")
        for prefix in list(self._prefixes):
            try:
                answer = self._connection.exchange("POST", prefix + path, body, token=self._token)
            except OSError as error:
                words = error.strerror or str(error) or type(error).__name__
                raise self.error(words.lower()) from error
            # 404 is also "no such lease", but then the answer is JSON.
            if answer[0] != 404 or _refusal(answer[1]):
                self._prefixes = [prefix]
                break
        return answer


def _refusal(body: bytes) -> str:
    """Return why the gateway refused, "" when *body* is not one of its answers."""
    try:
        refusal = msgspec.json.decode(body, type=Refusal)
    except msgspec.DecodeError:
        return ""
    return refusal.message or refusal.error
