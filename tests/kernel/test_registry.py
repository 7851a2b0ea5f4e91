"""Kubernetes objects in a real etcd: read incrementally, written conditionally."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from etcd_process import EtcdProcess, running

from netlab.store import registry
from netlab.store.etcd import Etcd

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def process() -> Iterator[EtcdProcess]:
    with running() as process:
        yield process


@pytest.fixture
def etcd(process: EtcdProcess) -> Iterator[Etcd]:
    etcd = process.client()
    etcd.delete_prefix("")
    yield etcd
    etcd.close()


def pod(name: str, **status: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "spec": {"containers": [{"name": "c"}]},
        "status": status,
    }


def altered(name: str, **fields: Any) -> bytes:
    """Return a pod as etcd has it with other *fields*; those that are None are left out."""
    whole = pod(name) | fields
    return msgspec.json.encode({k: v for k, v in whole.items() if v is not None})


def with_container(name: str, **fields: Any) -> bytes:
    return altered(name, spec={"containers": [{"name": "c", **fields}]})


def change(verb: str, document: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(verb=verb, document=document)


def create(etcd: Etcd, *names: str) -> None:
    assert registry.write(etcd, [change("create", pod(name)) for name in names]) == []


def names(etcd: Etcd, **how: Any) -> list[str]:
    return [document["metadata"]["name"] for document in registry.documents(etcd, **how)[0]]


def named(etcd: Etcd, name: str) -> dict[str, Any]:
    documents, _ = registry.documents(etcd)
    return next(one for one in documents if one["metadata"]["name"] == name)


def test_what_is_written_is_read_with_its_version(etcd: Etcd) -> None:
    create(etcd, "b", "a")
    documents, revision = registry.documents(etcd)
    assert [one["metadata"]["name"] for one in documents] == ["a", "b"]
    item = etcd.get("/registry/pods/default/a")
    assert item is not None
    assert documents[0]["metadata"]["resourceVersion"] == str(item.mod_revision)
    assert revision >= item.mod_revision
    assert msgspec.json.decode(item.value) == pod("a")


def test_the_version_is_not_stored(etcd: Etcd) -> None:
    create(etcd, "a")
    assert registry.write(etcd, [change("update", named(etcd, "a"))]) == []
    item = etcd.get("/registry/pods/default/a")
    assert item is not None and b"resourceVersion" not in item.value


def test_every_reading_tells_what_is_there(process: EtcdProcess, etcd: Etcd) -> None:
    """The same connection reads again and again, while another one writes."""
    other = process.client()
    steps = [
        ("create", ["a", "b", "c"], ["a", "b", "c"]),
        ("delete", ["b"], ["a", "c"]),
        ("create", ["aa"], ["a", "aa", "c"]),
        ("update", ["c"], ["a", "aa", "c"]),
        ("delete", ["a", "aa", "c"], []),
        ("create", ["c"], ["c"]),
    ]
    for verb, which, expected in steps:
        assert registry.write(other, [change(verb, pod(name)) for name in which]) == []
        assert names(etcd) == expected, (verb, which)


def test_a_deletion_and_a_creation_that_keep_the_number_are_seen(etcd: Etcd) -> None:
    create(etcd, "a", "b")
    assert names(etcd) == ["a", "b"]
    registry.write(etcd, [change("delete", pod("a")), change("create", pod("c"))])
    assert names(etcd) == ["b", "c"]


def test_an_unchanged_value_is_not_decoded_again(process: EtcdProcess, etcd: Etcd) -> None:
    create(etcd, "a", "b")
    before = named(etcd, "a")
    registry.write(etcd, [change("update", pod("b", phase="Running"))])
    assert named(etcd, "a") is before
    assert named(etcd, "b")["status"] == {"phase": "Running"}
    # Another thread's client shares what was decoded.
    assert named(process.client(), "a") is before


def test_an_etcd_that_began_anew_is_read_anew() -> None:
    """Same keys, same number of them, a higher revision: only the connection tells."""
    with running() as process:
        etcd = process.client()
        create(etcd, "a", "b")
        registry.write(etcd, [change("update", pod("a", phase="old"))])
        assert named(etcd, "a")["status"] == {"phase": "old"}
        process.stop()
        process.wipe()
        fresh = process.ready()
        registry.write(fresh, [change("create", pod("a", phase="new")), change("create", pod("b"))])
        for _ in range(20):
            fresh.put("/elsewhere", b"")
        assert named(etcd, "a")["status"] == {"phase": "new"}


def test_two_etcds_are_not_taken_for_one(etcd: Etcd) -> None:
    """Equal keys at equal revisions, other values."""
    with running() as first, running() as second:
        clients = first.client(), second.client()
        for number, client in enumerate(clients):
            registry.write(client, [change("create", pod("a", phase=str(number)))])
        phases = [named(client, "a")["status"]["phase"] for client in clients]
        assert phases == ["0", "1"]


BAD = {
    "garbage": b"\x00\xff",
    "empty": b"",
    "a-list": b"[]",
    "a-string": b'"pod"',
    "no-kind": b'{"apiVersion":"v1","metadata":{"name":"no-kind"}}',
    "no-metadata": b'{"apiVersion":"v1","kind":"Pod"}',
    "metadata-a-list": b'{"apiVersion":"v1","kind":"Pod","metadata":[]}',
    "kind-a-number": b'{"apiVersion":"v1","kind":7,"metadata":{"name":"kind-a-number"}}',
    "name-a-number": b'{"apiVersion":"v1","kind":"Namespace","metadata":{"name":7}}',
    "deep": b'{"a":' * 20000,
    "another-key": msgspec.json.encode(pod("elsewhere")),
    "no-spec": altered("no-spec", spec=None),
    "spec-a-list": altered("spec-a-list", spec=[1]),
    "no-containers": altered("no-containers", spec={"nodeName": "n1"}),
    "node-a-number": altered("node-a-number", spec={"nodeName": 5, "containers": [{"name": "c"}]}),
    "no-uid": altered("no-uid", metadata={"name": "no-uid", "namespace": "default"}),
    "labels-a-list": altered(
        "labels-a-list",
        metadata={"name": "labels-a-list", "namespace": "default", "uid": "5", "labels": [1]},
    ),
    "../way-out": altered("../way-out"),
    "no-address": altered("no-address", status={"podIP": "banana"}),
    "status-a-string": altered("status-a-string", status="Running"),
    "conditions": altered("conditions", status={"conditions": [{"type": "Ready"}]}),
    "nameless-status": altered("nameless-status", status={"containerStatuses": [{}]}),
    "port-0": with_container("port-0", image="x", ports=[{"containerPort": 0}]),
    "port": with_container("port", ports=[{"containerPort": 70000}]),
    "protobuf": b"k8s\x00\n\x09\n\x02v1\x12\x03Pod",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_costs_one_warning_and_no_other_object(etcd: Etcd, name: str) -> None:
    create(etcd, "good")
    etcd.put(f"/registry/pods/default/{name}", BAD[name])
    warnings: list[str] = []
    for _ in range(3):
        documents, _ = registry.documents(etcd, warn=warnings.append)
        assert [one["metadata"]["name"] for one in documents] == ["good"]
    assert len(warnings) == 1
    assert f"/registry/pods/default/{name}" in warnings[0]


WORKLOADS = {
    "no-template": {"replicas": 1},
    "many": {"replicas": "many", "template": {"spec": {"containers": [{"name": "c"}]}}},
    "endless": {"replicas": 10**9, "template": {"spec": {"containers": [{"name": "c"}]}}},
    "bad-template": {"replicas": 1, "template": {"spec": {"containers": "c"}}},
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_that_cannot_be_acted_on_is_ignored(etcd: Etcd, name: str) -> None:
    create(etcd, "good")
    document = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "uid": "5"},
        "spec": WORKLOADS[name],
    }
    etcd.put(f"/registry/deployments/default/{name}", msgspec.json.encode(document))
    warnings: list[str] = []
    assert names(etcd, warn=warnings.append) == ["good"]
    assert len(warnings) == 1


def test_an_object_can_be_created_where_there_is_something_unreadable(etcd: Etcd) -> None:
    create(etcd, "good")
    etcd.put("/registry/pods/default/good", b"{")
    assert names(etcd) == []
    create(etcd, "good")
    assert names(etcd) == ["good"]


def test_a_key_that_is_no_text_costs_one_warning(etcd: Etcd) -> None:
    create(etcd, "good")
    etcd.put("/registry/pods/default/\udcff", msgspec.json.encode(pod("x")))
    warnings: list[str] = []
    documents, _ = registry.documents(etcd, warn=warnings.append)
    assert len(documents) == len(warnings) == 1
    warnings[0].encode()


@pytest.mark.parametrize(
    ("verb", "document"),
    [
        pytest.param("create", pod("a"), id="create-what-is-there"),
        pytest.param(
            "update",
            pod("a") | {"metadata": pod("a")["metadata"] | {"resourceVersion": "1"}},
            id="update-an-old-version",
        ),
        pytest.param(
            "delete",
            pod("a") | {"metadata": pod("a")["metadata"] | {"resourceVersion": "1"}},
            id="delete-an-old-version",
        ),
    ],
)
def test_what_no_longer_holds_is_handed_back(etcd: Etcd, verb: str, document: Any) -> None:
    create(etcd, "a")
    before = etcd.get("/registry/pods/default/a")
    late, fine = change(verb, document), change("create", pod("b"))
    assert registry.write(etcd, [late, fine]) == [late]
    assert etcd.get("/registry/pods/default/a") == before
    assert names(etcd) == ["a", "b"]


def test_a_key_may_be_deleted_and_created_at_once(etcd: Etcd) -> None:
    create(etcd, "a")
    changes = [change("delete", named(etcd, "a")), change("create", pod("a", phase="new"))]
    assert registry.write(etcd, changes) == []
    item = etcd.get("/registry/pods/default/a")
    assert item is not None and item.version == 1
    assert named(etcd, "a")["status"] == {"phase": "new"}


def test_a_thousand_objects_are_written_to_an_etcd_with_its_own_limits() -> None:
    with running(options=["--max-txn-ops=128", "--max-request-bytes=1572864"]) as process:
        etcd = process.client()
        wanted = [f"p{number:04}" for number in range(1000)]
        create(etcd, *wanted)
        assert names(etcd) == wanted


def test_replaced_writes_only_over_the_version_read(etcd: Etcd) -> None:
    create(etcd, "a", "b")
    a, b = (named(etcd, name) | {"status": {"phase": "Running"}} for name in ("a", "b"))
    registry.write(etcd, [change("update", pod("b", phase="Failed"))])
    (written,) = registry.replaced(etcd, [a, b])
    assert written["metadata"]["name"] == "a"
    assert written == named(etcd, "a")
    assert named(etcd, "b")["status"] == {"phase": "Failed"}


def test_an_event_ends_by_itself_in_an_hour_and_nothing_else_does(etcd: Etcd) -> None:
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": "default", "uid": "u"},
    }
    create(etcd, "p")
    assert registry.write(etcd, [change("create", event)]) == []
    stored = {item.key: item.lease for item in etcd.range("/registry/").items}
    assert stored["/registry/pods/default/p"] == 0
    left = etcd.time_to_live(stored["/registry/events/default/e"])
    assert registry.EVENT_TTL - 5 < left <= registry.EVENT_TTL + registry.EVENT_LEASE_SHARED
    assert registry.write(etcd, [change("update", event)]) == []
    again = etcd.get("/registry/events/default/e")
    assert again is not None and again.lease == stored["/registry/events/default/e"]
