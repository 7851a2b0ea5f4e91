"""Names as whoever asks would have them: looked up in the lab's own DNS, from where they are."""

from __future__ import annotations

from typing import NamedTuple

from netlab import world
from netlab.cluster import Cluster
from netlab.dns import views, wire
from netlab.dns.files import Resolving
from netlab.errors import NetlabError
from netlab.kernel.netns import entered
from netlab.nameserver import stub
from netlab.paths import Place

SECONDS = 0.5  # for each answer: a trace does not wait for a resolver as long as a program would


class Looked(NamedTuple):
    """What became of a name: its address and its whole name; or why it has none."""

    address: str = ""
    name: str = ""
    why: str = ""


def looked_up(cluster: Cluster, source: Place, word: str) -> Looked:
    """Return what *word* is for a program at *source*, by its own resolv.conf."""
    resolving = resolving_of(cluster, source)
    server = resolving.nameservers[0] if resolving.nameservers else "nobody"
    try:
        with entered(source.netns):
            name, answer = stub.resolved(resolving, word, seconds=SECONDS)
    except NetlabError as error:
        return Looked(why=str(error))
    found = wire.texts(one for one in answer.answers if one.type == wire.A)
    if not found:
        return Looked(why=f"{server} knows no address of it")
    return Looked(found[0], wire.text_of(name).rstrip("."), f"asked of {server}")


def resolving_of(cluster: Cluster, source: Place) -> Resolving:
    """Return how programs at *source* resolve names."""
    if source.pod is not None:
        pod = source.pod
        document = cluster.documents.named("Pod", pod.namespace, pod.name)
        assert document is not None
        return views.of_pod(cluster.lab, document, cluster.documents).resolving
    name = source.node.name if source.node else source.member or world.CLIENT
    return views.of_machine(cluster.lab, name).resolving
