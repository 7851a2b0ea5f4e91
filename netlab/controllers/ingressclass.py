"""The class of Ingresses that name none: the default one, if there is one.

In a cluster an admission plugin fills it in when the Ingress is created; here whenever both are
there, so that the order in which files are applied does not matter.
Source: kubernetes plugin/pkg/admission/network/defaultingressclass/admission.go (v1.30).
"""

from __future__ import annotations

from collections.abc import Iterable

from netlab.controllers.change import Change, Verb
from netlab.model.kubernetes import Document

DEFAULT = "ingressclass.kubernetes.io/is-default-class"  # annotation of an IngressClass
OLD_CLASS = "kubernetes.io/ingress.class"  # annotation of an Ingress, from before classes


def classed(ingresses: Iterable[Document], classes: Iterable[Document]) -> list[Change]:
    """Return what gives each of *ingresses* without a class the default one of *classes*.

    Of several defaults the youngest counts, then the first by name.
    """
    defaults = [one for one in classes if _annotations(one).get(DEFAULT) == "true"]
    if not defaults:
        return []
    newest = max(one["metadata"].get("creationTimestamp") or "" for one in defaults)
    name = min(
        one["metadata"]["name"]
        for one in defaults
        if (one["metadata"].get("creationTimestamp") or "") == newest
    )
    return [
        Change(Verb.UPDATE, {**one, "spec": {**one["spec"], "ingressClassName": name}})
        for one in ingresses
        if isinstance(one.get("spec"), dict)
        and one["spec"].get("ingressClassName") is None
        and OLD_CLASS not in _annotations(one)
    ]


def _annotations(document: Document) -> Document:
    found = document["metadata"].get("annotations")
    return found if isinstance(found, dict) else {}
