"""etcd's answers and events as its JSON gateway writes them, decoded.

Bytes are base64, 64-bit numbers stand in quotes, and what is zero is left out.
Source: etcd api/etcdserverpb/rpc.proto, api/mvccpb/kv.proto.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class KeyValue(msgspec.Struct, frozen=True):
    """One key as etcd has it. Bytes of the key that are not UTF-8 are surrogate escapes.

    In an event, version 0 is a key that was deleted.
    """

    key: str
    value: bytes
    mod_revision: int = 0
    create_revision: int = 0
    version: int = 0
    lease: int = 0


class Header(msgspec.Struct):
    revision: int = 0


class _Item(msgspec.Struct):
    """A KeyValue on the wire."""

    key: bytes
    value: bytes = b""
    mod_revision: int = 0
    create_revision: int = 0
    version: int = 0
    lease: int = 0


class Response(msgspec.Struct):
    """What any of the gateway's answers may hold, as far as it is read here."""

    header: Header = msgspec.field(default_factory=Header)
    kvs: list[_Item] = []
    count: int = 0
    succeeded: bool = False
    responses: list[dict[str, Response]] = []
    ID: int = 0
    TTL: int = 0
    deleted: int = 0


class _Event(msgspec.Struct):
    kv: _Item


class Notice(msgspec.Struct):
    """One message of a watch: its acknowledgement, its end, or events."""

    header: Header = msgspec.field(default_factory=Header)
    created: bool = False
    canceled: bool = False
    events: list[_Event] = []

    def items(self) -> list[KeyValue]:
        """Return the keys that were written or deleted, in that order."""
        return key_values(event.kv for event in self.events)


class Line(msgspec.Struct):
    """One line of a stream; without a result it tells of an error."""

    result: Notice | None = None


class Refusal(msgspec.Struct):
    error: str = ""
    message: str = ""


def key_values(items: Iterable[_Item]) -> list[KeyValue]:
    """Return *items* with their keys as text."""
    return [
        KeyValue(
            *(item.key.decode("utf-8", "surrogateescape"), item.value, item.mod_revision),
            *(item.create_revision, item.version, item.lease),
        )
        for item in items
    ]
