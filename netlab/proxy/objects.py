"""From stored documents to what a node serves, kept as they change.

1. The whole listing is given each time; what differs is found by the documents' identity, so a
   change costs what changed (documents are never altered in place: see store/registry).
2. An object that cannot be read is left out with a warning, and never refuses the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from netlab.model.kubernetes import Document, Pod, view
from netlab.model.services import EndpointSlice, ProxyNode, Service, refusal
from netlab.proxy.addresses import Family
from netlab.proxy.claims import Claims, Owner
from netlab.proxy.hostport import host_ports
from netlab.proxy.options import Options, Situation, situations
from netlab.proxy.service import NOTHING, Served, misnamed, served, service_name

Changed = dict[Owner, Served]


class Objects:
    """The Services, slices and pods a proxy on *node* knows. Raises UsageError: a wrong option."""

    def __init__(
        self, node: ProxyNode, options: Options, *, local: Iterable[str] | None = None
    ) -> None:
        """*local*: the addresses the node's links have; None: that is not known."""
        self.node = node
        self.options = options
        self.situations: Mapping[Family, Situation] = situations(node, options, local=local)
        self._claims = Claims()
        self._documents: dict[int, Document] = {}
        self._services: dict[Owner, Service] = {}
        self._slices: dict[Owner, dict[str, EndpointSlice]] = {}
        self._sliced: dict[tuple[str, str], Owner] = {}  # whose a slice is
        self._pods: dict[Owner, Pod] = {}
        self._warnings: dict[Owner, tuple[str, ...]] = {}
        self._unread: dict[tuple[str, Owner], str] = {}

    @property
    def warnings(self) -> list[str]:
        """What is left out, and why, as of the last `take`."""
        found = [line for _, lines in sorted(self._warnings.items()) for line in lines]
        return list(dict.fromkeys([*self._unread.values(), *found, *self._claims.all_disputes()]))

    def take(self, documents: Iterable[Document]) -> Changed:
        """Take all there is now; return what those Services and pods have that may differ.

        Other kinds are passed over.
        """
        listed = list(documents)
        now = dict(zip(map(id, listed), listed, strict=True))
        before = self._documents
        self._documents = now
        touched: set[Owner] = set()
        for gone in before.keys() - now.keys():
            touched |= self._drop(before[gone])
        for new in now.keys() - before.keys():
            touched |= self._add(now[new])
        concerned: set[Owner] = set()
        for owner in touched:
            concerned |= self._claims.put(owner, self._decided(owner))
        return {owner: self._claims.share(owner) for owner in sorted(concerned)}

    def shares(self) -> Changed:
        """Return what every Service and pod has."""
        return {owner: self._claims.share(owner) for owner in self._claims.owners()}

    def _drop(self, document: Document) -> set[Owner]:
        owner = _owner(document)
        self._unread.pop((document["kind"], owner), None)
        match document["kind"]:
            case "Service":
                self._services.pop(owner, None)
                return {owner}
            case "Pod":
                return {owner} if self._pods.pop(owner, None) else set()
            case "EndpointSlice":
                return self._drop_slice(owner.namespace, owner.name)
        return set()

    def _drop_slice(self, namespace: str, name: str) -> set[Owner]:
        of = self._sliced.pop((namespace, name), None)
        if of is None:
            return set()
        del self._slices[of][name]
        if not self._slices[of]:
            del self._slices[of]
        return {of}

    def _add(self, document: Document) -> set[Owner]:
        owner = _owner(document)
        try:
            match document["kind"]:
                case "Service":
                    service = view(document, Service)
                    if wrong := misnamed(service):
                        self._unread["Service", owner] = wrong
                    elif not refusal(document):
                        self._services[owner] = service
                    return {owner}
                case "Pod":
                    return self._add_pod(owner, document)
                case "EndpointSlice":
                    one = view(document, EndpointSlice)
                    of = Owner(False, *service_name(one))
                    self._slices.setdefault(of, {})[owner.name] = one
                    self._sliced[owner.namespace, owner.name] = of
                    return {of}
        except msgspec.ValidationError as error:
            title = f"{document['kind']} {owner.namespace}/{owner.name}"
            self._unread[document["kind"], owner] = f"{title}: {error}"
        return set()

    def _add_pod(self, owner: Owner, document: Document) -> set[Owner]:
        if (document.get("spec") or {}).get("nodeName") != self.node.metadata.name:
            return set()
        pod = view(document, Pod)
        if not any(port.hostPort for one in pod.spec.containers for port in one.ports):
            return set()
        self._pods[owner] = pod
        return {owner}

    def _decided(self, owner: Owner) -> Served:
        said: dict[str, None] = {}

        def say(warning: str) -> None:
            said[warning] = None

        found = NOTHING
        if owner in self._services:
            slices = list(self._slices.get(owner, {}).values())
            found = served(self._services[owner], slices, self.situations, say)
        elif owner in self._pods:
            found = Served(host_ports([self._pods[owner]], self.node.metadata.name, say), [])
        self._warnings.pop(owner, None)
        if said:
            self._warnings[owner] = tuple(said)
        return found


def _owner(document: Document) -> Owner:
    meta = document["metadata"]
    # What is no text is refused once the document is read.
    return Owner(document["kind"] == "Pod", str(meta.get("namespace", "")), str(meta["name"]))
