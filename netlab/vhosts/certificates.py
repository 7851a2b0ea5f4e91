"""Secrets of type kubernetes.io/tls into PEM."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from typing import Any

import msgspec

from netlab.model.inventory import Inventory
from netlab.vhosts.documents import TLS_SECRET


class Pair(msgspec.Struct, frozen=True):
    """A certificate, perhaps followed by those that signed it, and its key, as PEM."""

    certificate: str
    key: str


class Unusable(Exception):
    """Why a Secret gives no certificate; `reason` is that of an event."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def pair(objects: Inventory, secret: str) -> Pair:
    """Return what the Secret called `namespace/name` holds. Raises Unusable.

    Whether key and certificate belong together, only a TLS library can say.
    """
    namespace, _, name = secret.partition("/")
    document = objects.named("Secret", namespace, name)
    if document is None:
        raise Unusable("SecretNotFound", f"no Secret {secret}")
    kind = document.get("type", "Opaque")
    if kind != TLS_SECRET:
        raise Unusable("SecretInvalid", f"Secret {secret} is of type {kind}, not {TLS_SECRET}")
    return Pair(_pem(document, "tls.crt", secret), _pem(document, "tls.key", secret))


def _pem(document: dict[str, Any], field: str, secret: str) -> str:
    plain, coded = (
        given.get(field) if isinstance(given := document.get(name), dict) else None
        for name in ("stringData", "data")
    )
    if plain is None and coded is None:
        raise Unusable("SecretInvalid", f"Secret {secret} has no {field}")
    try:
        text = (
            str(plain)
            if plain is not None
            else b64decode(str(coded), validate=True).decode("ascii")
        )
    except (Error, TypeError, ValueError):
        raise Unusable("SecretInvalid", f"{field} of Secret {secret} is not base64 text") from None
    if "-----BEGIN " not in text:
        raise Unusable("SecretInvalid", f"{field} of Secret {secret} is no PEM")
    return text.strip() + "\n"
