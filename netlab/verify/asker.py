"""A pod that asks the cluster's DNS for names, as a program in it would."""

from __future__ import annotations

import time
from collections.abc import Sequence

from netlab import patience
from netlab.cluster import PodState
from netlab.controllers import clusterdns
from netlab.dns import views, wire
from netlab.errors import NetlabError
from netlab.kernel.netns import entered
from netlab.nameserver import stub
from netlab.targets import endpoint_addresses
from netlab.verify.context import Context, Failure, Skip
from netlab.verify.replicas import document_of

STARTS_WITHIN = patience.seconds(3.0)  # seconds that a DNS pod may take to open its port
DNS = f"{clusterdns.NAMESPACE}/{clusterdns.SERVICE}"


class Asker:
    """A pod that asks for names, as a program in it would."""

    def __init__(self, context: Context, pod: PodState) -> None:
        self.pod = pod
        self.domain = context.lab.dns.domain
        document = document_of(context.cluster, pod)
        self.resolving = views.of_pod(context.lab, document, context.cluster.documents).resolving

    def ask(self, name: str, kind: str, *, tcp: bool = False) -> tuple[str, wire.Answer]:
        """Return the name that *name* was completed to, and the answer. Raises Failure."""
        began = time.monotonic()
        while True:
            try:
                with entered(self.pod.netns):
                    found, answer = stub.resolved(self.resolving, name, wire.TYPES[kind], tcp=tcp)
                return wire.text_of(found), answer
            except NetlabError as error:
                if time.monotonic() - began > STARTS_WITHIN:
                    files = self.resolving.text().strip()
                    raise Failure(
                        f"{self.pod.title} asks for {name} {kind}: {error}",
                        last_seen=f"{self.pod.title}: /etc/resolv.conf: {files}",
                        expected_next="an answer",
                    ) from error

    def told(self, name: str, kind: str, wanted: Sequence[str], *, tcp: bool = False) -> str:
        """Ask, and be told just *wanted*; return that in words. Raises Failure."""
        found, answer = self.ask(name, kind, tcp=tcp)
        said = wire.texts(one for one in answer.answers if one.type == wire.TYPES[kind])
        if sorted(said) != sorted(wanted):
            raise Failure(
                f"{self.pod.title} asks for {name} {kind} and is told {_words(said, answer)}",
                last_seen=f"{self.pod.title}: {found} {kind}",
                expected_next=", ".join(wanted),
            )
        completed = "" if found == name or found == f"{name}." else f" ({found})"
        how = " over TCP" if tcp else ""
        return f"{self.pod.title}: {name}{completed} {kind}{how}: {', '.join(sorted(said))}"

    def denied(self, name: str) -> str:
        """Ask, and be told that there is no such name; return that in words. Raises Failure."""
        found, answer = self.ask(name, "A")
        if answer.rcode != wire.NXDOMAIN:
            raise Failure(
                f"{self.pod.title} asks for {name} and is told "
                f"{_words(wire.texts(answer.answers), answer)}",
                last_seen=f"{self.pod.title}: {found} A",
                expected_next="NXDOMAIN",
            )
        return f"{self.pod.title}: {name}: NXDOMAIN"


def _words(said: Sequence[str], answer: wire.Answer) -> str:
    code = answer.rcode
    rcode = wire.RCODES[code] if code < len(wire.RCODES) else str(code)
    return ", ".join(said) or (f"nothing ({rcode})")


def clients(context: Context, namespace: str = "") -> list[PodState]:
    """Return the pods that ask the cluster's DNS, of one namespace or all. Raises Skip."""
    address = clusterdns.address(context.lab, context.cluster.documents)
    served = endpoint_addresses(context.cluster, clusterdns.NAMESPACE, clusterdns.SERVICE)
    if not address or not served:
        raise Skip(f"needs Service {DNS} with an endpoint")
    found = [
        pod
        for pod in context.senders
        if namespace in ("", pod.namespace) and address in Asker(context, pod).resolving.nameservers
    ]
    if not found:
        raise Skip(f"needs a pod whose resolv.conf has {address}")
    return found


def own_first(context: Context, name: str, addresses: dict[str, str]) -> list[str]:
    """See pods of each namespace get the address of their own Service *name*.

    *addresses*: cluster IPs by namespace. Raises Failure; Skip where nobody asks.
    """
    lines = []
    for namespace, address in addresses.items():
        asker = Asker(context, clients(context, namespace)[0])
        lines.append(asker.told(name, "A", [address]))
        for other, its in addresses.items():
            if other != namespace:
                lines.append(asker.told(f"{name}.{other}", "A", [its]))
    return lines
