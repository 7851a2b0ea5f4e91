"""Names: the cluster's DNS behind its Service, aliases of ExternalName, names of pods that stay."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec

from netlab import patience
from netlab.cluster import Cluster, PodState
from netlab.controllers import clusterdns
from netlab.dns import wire
from netlab.journeys import Journey, Rewrite, RewriteKind, Rule, Seen
from netlab.model.kubernetes import Document, view
from netlab.model.modes import Mode
from netlab.model.services import EXTERNAL_NAME, Service
from netlab.packets import Flow, Leg, Protocol
from netlab.sensors.sending import send
from netlab.sensors.token import token
from netlab.targets import endpoint_addresses
from netlab.tracing import shot
from netlab.verify.asker import DNS, Asker, clients
from netlab.verify.context import Checked, Context, Failure, Listener, Skip, listeners, usable
from netlab.verify.following import holding
from netlab.verify.replicas import document_of, somebody_replaces

NOBODY = "no-such-service"  # of a Service; and a name outside, below .invalid (RFC 6761)
WITHIN = patience.seconds(1.0)  # seconds until DNS tells what etcd holds
BACK_WITHIN = patience.seconds(10.0)  # seconds until a deleted pod of a StatefulSet runs again
ANSWERS_WITHIN = patience.seconds(2.0)  # seconds
LOOK = 0.02  # seconds


class _Known(msgspec.Struct, frozen=True):
    """A lab as it is known, for a trace."""

    known: Cluster

    def cluster(self) -> Cluster:
        return self.known


# -- dns-service


def dns_service(context: Context) -> Checked:
    if context.machines is not None and context.lab.proxyMode == Mode.USERSPACE:
        raise Skip("needs a trace, which in userspace mode is followed on one machine only")
    pod = clients(context)[0]
    asker, checked = Asker(context, pod), Checked()
    service = _named_service(context, pod)
    meta, (port, *_) = service.metadata, service.spec.ports or []
    address, domain = service.cluster_ips[0], asker.domain
    whole = f"{meta.name}.{meta.namespace}.svc.{domain}."
    asker.ask(whole, "A")  # a DNS pod that was just made is waited for
    for protocol in (Protocol.UDP, Protocol.TCP):
        checked.evidence += _on_the_wire(context, pod, protocol, whole)
    names = [f"{meta.name}.{meta.namespace}", f"{meta.name}.{meta.namespace}.svc", whole]
    names = [meta.name, *names] if meta.namespace == pod.namespace else names
    tcp = False
    for name in names:
        checked.evidence.append(asker.told(name, "A", [address], tcp=tcp))
        tcp = not tcp
    located = f"_{port.name}._{port.protocol.lower()}.{whole}"
    checked.evidence.append(asker.told(located, "SRV", [f"0 100 {port.port} {whole}"]))
    reverse = wire.text_of(wire.reverse_name(address))
    checked.evidence.append(asker.told(reverse, "PTR", [whole]))
    checked.evidence.append(asker.denied(f"{NOBODY}.{meta.namespace}.svc.{domain}."))
    for name, outside in list(context.lab.outside_names.items())[:1]:
        checked.evidence.append(f"{asker.told(f'{name}.', 'A', [outside])} (forwarded)")
    checked.evidence.append(asker.denied(f"{NOBODY}.invalid."))
    return checked


def _named_service(context: Context, pod: PodState) -> Service:
    """Return a Service with a cluster IP and a named port; one of the pod's namespace if there is
    one. Raises Skip."""
    found = [
        service
        for document in context.cluster.documents.of("Service")
        if (service := view(document, Service)).cluster_ips
        and service.spec.ports
        and service.spec.ports[0].name
        and len({(one.name, one.protocol) for one in service.spec.ports}) == len(service.spec.ports)
    ]
    found.sort(key=lambda one: one.metadata.namespace != pod.namespace)
    if not found:
        raise Skip("needs a Service with a cluster IP and a named port")
    return found[0]


def _on_the_wire(context: Context, pod: PodState, protocol: Protocol, name: str) -> list[str]:
    """Follow one query through the rules to a DNS pod and back; return what was seen.

    Raises Failure when it was not answered, or did not go through the Service.
    """
    asked = shot.trace(
        _Known(context.cluster),
        pod.title,
        f"svc/{DNS}",
        protocol=protocol,
        port=clusterdns.PORT,
        dns=name.rstrip("."),
        machines=context.machines,
    )
    what = f"{pod.title} -> {DNS}:{clusterdns.PORT}/{protocol}: {name} A"
    sent = _step(asked, Rewrite, lambda one: one.kind is RewriteKind.DNAT)
    rules = _sending(asked)
    served = endpoint_addresses(context.cluster, clusterdns.NAMESPACE, clusterdns.SERVICE)
    if not asked.answered or asked.says.get("rcode") != "NOERROR":
        raise Failure(
            f"{what}: {asked.refused or asked.says.get('rcode') or 'not answered'}",
            last_seen=_last(asked),
            expected_next="an answer of the cluster's DNS",
        )
    who, _, end = asked.endpoint.rpartition(" ")
    to = end.rpartition(":")[0]
    if sent is None or to not in served or not rules:
        raise Failure(
            f"{what}: answered, but no rule of Service {DNS} was seen to send it on",
            last_seen=_last(asked),
            expected_next=f"a DNAT to one of {', '.join(served)}",
        )
    here = [
        f"{step.place} {step.device}"
        for track in asked.tracks
        if track.leg is Leg.REQUEST
        for step in track.steps
        if isinstance(step, Seen) and step.flow.destination == to
    ]
    return [
        f"{what}: answered by {who or to}, last seen on {here[-1] if here else sent.place}",
        *(f"  {rule}" for rule in rules),
    ]


def _sending(asked: Journey) -> list[str]:
    """Return what sent the first packet on: rules; in ipvs mode, a virtual server."""
    hits = [
        step.hit
        for track in asked.tracks[:1]
        for step in track.steps
        if isinstance(step, Rule) and step.fitted and step.means
    ]
    carried = [one.connection for one in asked.virtual]
    return [
        *(f"{hit.chain}: {hit.rule}" for hit in hits if hit.rule),
        *(f"{one.server}: -s {one.scheduler} -r {one.real} -m" for one in carried),
    ]


def _step(
    journey: Journey, kind: type[Rewrite], wanted: Callable[[Rewrite], bool]
) -> Rewrite | None:
    steps = (step for track in journey.tracks for step in track.steps)
    return next((one for one in steps if isinstance(one, kind) and wanted(one)), None)


def _last(journey: Journey) -> str:
    seen = [step for track in journey.tracks for step in track.steps if isinstance(step, Seen)]
    return f"{seen[-1].place} {seen[-1].device}" if seen else journey.source


# -- externalname


def externalname(context: Context) -> Checked:
    found = [
        service
        for document in context.cluster.documents.of("Service")
        if (service := view(document, Service)).spec.type == EXTERNAL_NAME
    ]
    if not found:
        raise Skip("needs a Service of type ExternalName")
    asker, checked = Asker(context, clients(context)[0]), Checked()
    for service in found:
        checked.evidence += _alias(context, asker, service)
    return checked


def _alias(context: Context, asker: Asker, service: Service) -> list[str]:
    meta, target = service.metadata, f"{service.spec.externalName.rstrip('.').lower()}."
    name = f"{meta.name}.{meta.namespace}.svc.{asker.domain}."
    lines = [asker.told(name, "CNAME", [target])]
    _, answer = asker.ask(name, "A")
    addresses = wire.texts(one for one in answer.answers if one.type == wire.A)
    if addresses:
        lines.append(f"{asker.pod.title}: {name} A: {target} {', '.join(addresses)}")
    if service.spec.clusterIP:
        raise Failure(
            f"Service {meta.namespace}/{meta.name} has the cluster IP {service.spec.clusterIP}",
            expected_next="none: an ExternalName is a name, not an address",
        )
    named = holding(context, f"{meta.namespace}/{meta.name}", {})
    if named:
        raise Failure(
            f"the rules of {', '.join(node.name for node in named)} name Service "
            f"{meta.namespace}/{meta.name}",
            expected_next="no rule: nothing is proxied",
        )
    lines.append(f"{meta.namespace}/{meta.name}: no cluster IP, and no node has a rule for it")
    return lines


# -- headless


def headless(context: Context) -> Checked:
    context.renew()
    service, pods = _stateful(context)
    meta = service.metadata
    others = [pod for pod in clients(context) if pod.uid not in {one.uid for one in pods}]
    if not others:
        raise Skip("needs a pod that asks, beside those it asks for")
    asker, checked = Asker(context, others[0]), Checked()
    whole = f"{meta.name}.{meta.namespace}.svc.{asker.domain}."
    checked.evidence.append(asker.told(whole, "A", [pod.ip for pod in pods]))
    for pod in pods:
        checked.evidence.append(asker.told(f"{pod.hostname}.{whole}", "A", [pod.ip]))
    checked.evidence += _scheduled_again(context, asker, pods[0], whole)
    return checked


def _stateful(context: Context) -> tuple[Service, list[PodState]]:
    """Return a headless Service and its pods, all of a StatefulSet. Raises Skip."""
    for document in context.cluster.documents.of("Service"):
        service = view(document, Service)
        meta = service.metadata
        if not service.spec.headless:
            continue
        held = set(endpoint_addresses(context.cluster, meta.namespace, meta.name))
        pods = [pod for pod in context.pods if pod.ip in held]
        if pods and all(pod.owner.startswith("StatefulSet/") for pod in pods):
            return service, sorted(pods, key=lambda pod: pod.name)
    raise Skip("needs a headless Service of a StatefulSet with a running pod")


def _scheduled_again(context: Context, asker: Asker, old: PodState, whole: str) -> Iterable[str]:
    """Delete a pod, and find the one that takes its place by the same name. Raises Failure."""
    name = f"{old.hostname}.{whole}"
    somebody_replaces(context, old)
    context.delete(document_of(context.cluster, old))
    new = _again(context, old)
    began = time.monotonic()
    while True:
        _, answer = asker.ask(name, "A")
        if wire.texts(answer.answers) == [new.ip]:
            break
        if time.monotonic() - began > WITHIN:
            asker.told(name, "A", [new.ip])
        time.sleep(LOOK)
    took = time.monotonic() - began
    lines = [
        f"deleted {old.title} (uid {old.uid[:8]}, {old.ip} on {old.node}); {new.title} "
        f"(uid {new.uid[:8]}) has {new.ip} on {new.node}, and its name leads there "
        f"{took * 1000:.0f} ms later",
        asker.told(name, "A", [new.ip]),
    ]
    for port in listeners(new)[:1]:
        lines.append(_answers(asker, new, port))
    return lines


def _answers(asker: Asker, pod: PodState, port: Listener) -> str:
    """See *pod* answer at its address; return that in words. Raises Failure.

    Not followed over devices: its namespace has a name under which sensors still hear the old one.
    """
    flow = Flow("", pod.ip, port.protocol, 0, port.port)
    deadline, answer = time.monotonic() + ANSWERS_WITHIN, None
    with send(asker.pod.netns, flow, token()) as sent:
        while answer is None and time.monotonic() < deadline:
            answer = sent.answer()
            time.sleep(0 if answer else LOOK)
    said = (answer.says.get("pod") or answer.refused) if answer else None
    where = f"{pod.ip}:{port.port}/{port.protocol}"
    if said != pod.name:
        raise Failure(
            f"{asker.pod.title} -> {where}: {said or 'no answer'}",
            expected_next=f"an answer of {pod.title}",
        )
    return f"{where} is answered by {said}"


def _again(context: Context, old: PodState) -> PodState:
    """Wait for the pod that has the name of *old*, ready. Raises Failure."""
    deadline = time.monotonic() + BACK_WITHIN
    while time.monotonic() < deadline:
        for pod in usable(context.refreshed()):
            if pod.title == old.title and pod.uid != old.uid and _ready(context, pod):
                return pod
        time.sleep(LOOK)
    raise Failure(
        f"deleted {old.title}; no pod of that name is ready after {BACK_WITHIN:.0f} s",
        last_seen=f"{old.owner} with {old.title} deleted",
        expected_next=f"{old.title} with a new uid, running",
    )


def _ready(context: Context, pod: PodState) -> bool:
    document: Document = document_of(context.refreshed(), pod)
    conditions = (document.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
