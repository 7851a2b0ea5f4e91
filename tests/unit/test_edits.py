"""What kubectl's verbs make of objects, and what they refuse, in its words."""

from __future__ import annotations

import pytest

from netlab import edits
from netlab.errors import NetlabError, UsageError
from netlab.model.kubernetes import Document

WEB: Document = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {"replicas": 2, "template": {"spec": {}}},
}
NODE: Document = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {}}


def test_scaling_changes_the_replicas_and_nothing_else() -> None:
    new = edits.scaled(WEB, 5)
    assert new == {**WEB, "spec": {**WEB["spec"], "replicas": 5}}
    assert WEB["spec"]["replicas"] == 2
    assert edits.scaled(WEB, 2) is WEB
    assert edits.scaled(WEB, 3, current=2)["spec"]["replicas"] == 3


def test_an_object_that_says_no_replicas_has_one() -> None:
    assert edits.replicas_of({"spec": {}}) == 1
    assert edits.replicas_of({"spec": {"replicas": 0}}) == 0


def test_scaling_from_another_number_is_refused() -> None:
    with pytest.raises(NetlabError, match="Expected replicas to be 3, was 2"):
        edits.scaled(WEB, 5, current=3)


@pytest.mark.parametrize("kind", ["Service", "DaemonSet", "Node"])
def test_what_has_no_replicas_is_not_scaled(kind: str) -> None:
    with pytest.raises(UsageError, match="has no replicas"):
        edits.scaled({**WEB, "kind": kind}, 5)


LABELS = [
    (["tier=db"], {"app": "web", "tier": "db"}),
    (["app-"], {}),
    (["app-", "tier="], {"tier": ""}),
    (["k8s.io/x=1"], {"app": "web", "k8s.io/x": "1"}),
    (["app=web"], {"app": "web"}),
    (["nope-"], {"app": "web"}),
]


@pytest.mark.parametrize(("words", "labels"), LABELS, ids=lambda v: str(v))
def test_labels_are_set_and_removed(words: list[str], labels: dict[str, str]) -> None:
    wanted = edits.pairs(words, labels=True)
    new = edits.paired(WEB, "labels", wanted, overwrite=False)
    assert new["metadata"]["labels"] == labels
    assert (new is WEB) == (labels == WEB["metadata"]["labels"])


def test_a_label_is_replaced_only_when_told() -> None:
    wanted = edits.pairs(["app=other"], labels=True)
    with pytest.raises(NetlabError, match=r"'app' already has a value \(web\), and --overwrite"):
        edits.paired(WEB, "labels", wanted, overwrite=False)
    new = edits.paired(WEB, "labels", wanted, overwrite=True)
    assert new["metadata"]["labels"] == {"app": "other"}


@pytest.mark.parametrize(
    "words", [["app"], ["=x"], ["a b=c"], ["a=b c"], ["a=b", "a-"], ["a/b/c=d"], ["a=" + 64 * "x"]]
)
def test_what_is_no_label_is_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        edits.pairs(words, labels=True)


def test_an_annotation_may_hold_any_text() -> None:
    wanted = edits.pairs(["why=new image, of today=1"], labels=False)
    assert wanted.set == {"why": "new image, of today=1"}


def test_a_node_is_cordoned_and_uncordoned() -> None:
    on = edits.cordoned(NODE, True)
    assert on["spec"] == {"unschedulable": True}
    assert edits.cordoned(on, True) is on
    assert edits.cordoned(on, False) == NODE
    assert edits.cordoned(NODE, False) is NODE


def tainted(node: Document, *words: str, overwrite: bool = False) -> Document:
    return edits.tainted(node, *edits.taints(words), overwrite=overwrite)


def test_taints_are_set_replaced_and_removed() -> None:
    one = tainted(NODE, "a=b:NoSchedule")
    assert one["spec"]["taints"] == [{"key": "a", "value": "b", "effect": "NoSchedule"}]
    two = tainted(one, "a:NoExecute")
    assert len(two["spec"]["taints"]) == 2
    other = tainted(one, "a=c:NoSchedule", overwrite=True)
    assert other["spec"]["taints"][0]["value"] == "c"
    assert tainted(two, "a:NoSchedule-")["spec"]["taints"] == [{"key": "a", "effect": "NoExecute"}]
    assert tainted(two, "a-") == NODE


@pytest.mark.parametrize(
    ("node", "word", "said"),
    [
        (NODE, "a-", 'taint "a" not found'),
        (NODE, "a:NoSchedule-", 'taint "a:NoSchedule" not found'),
        (tainted(NODE, "a:NoSchedule"), "a=c:NoSchedule", "node n1 already has a taint"),
    ],
)
def test_taints_that_are_there_or_not_are_refused(node: Document, word: str, said: str) -> None:
    with pytest.raises(NetlabError, match=said):
        tainted(node, word)


@pytest.mark.parametrize("word", ["a=b", "a=b:Never", ":NoSchedule", "a b:NoSchedule", "a:-"])
def test_what_is_no_taint_is_refused(word: str) -> None:
    with pytest.raises(UsageError):
        edits.taints([word])


def test_a_restart_is_an_annotation_of_the_template() -> None:
    new = edits.restarted(WEB, at="2024-05-01T10:00:00Z")
    meta = new["spec"]["template"]["metadata"]
    assert meta == {"annotations": {"kubectl.kubernetes.io/restartedAt": "2024-05-01T10:00:00Z"}}
    with pytest.raises(NetlabError, match="can't restart paused deployment"):
        edits.restarted(edits.paused(WEB, True), at="")
    with pytest.raises(UsageError):
        edits.restarted(NODE, at="")


def test_a_deployment_is_paused_and_resumed() -> None:
    on = edits.paused(WEB, True)
    assert on["spec"]["paused"] is True
    assert edits.paused(on, False) == WEB
    for document, word in ((on, "already paused"), (WEB, "not paused")):
        with pytest.raises(NetlabError, match=word):
            edits.paused(document, document is on)
    with pytest.raises(UsageError):
        edits.paused({**WEB, "kind": "StatefulSet"}, True)
