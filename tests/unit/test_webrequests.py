"""Which requests the path `ingress` asks of a controller."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from vhost_cases import ingress, objects, path

from netlab import vhosts
from netlab.model.inventory import inventory
from netlab.verify import webrequests
from netlab.verify.context import Context
from netlab.vhosts.model import Settings

PEM = "-----BEGIN CERTIFICATE-----\n"


def secret(**data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "pair", "namespace": "default"},
        "type": "kubernetes.io/tls",
        "stringData": data,
    }


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        ([secret(**{"tls.crt": PEM, "tls.key": PEM})], ["http", "https"]),
        ([], ["http"]),
        ([secret(**{"tls.crt": "hello", "tls.key": PEM})], ["http"]),
        ([secret(**{"tls.crt": PEM})], ["http"]),
    ],
    ids=["sound", "missing", "no PEM", "without a key"],
)
def test_only_a_known_certificate_is_asked_for(
    secrets: list[dict[str, Any]], expected: list[str]
) -> None:
    tls = [{"hosts": ["one.example"], "secretName": "pair"}]
    one = ingress("one", {"one.example": [path("Prefix", "/", "a")]}, tls=tls)
    classes = objects("hosts").of("IngressClass")
    documents = inventory([*classes, *objects("hosts").of("Service"), one, *secrets])
    context = cast(Context, SimpleNamespace(cluster=SimpleNamespace(documents=documents)))
    routing = vhosts.routing(documents, Settings())
    assert [found.scheme for found in webrequests.wanted_of(context, routing)] == expected
