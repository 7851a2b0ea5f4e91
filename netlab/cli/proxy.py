"""proxy: a kube-proxy driven by files, for one network namespace, without a lab."""

from __future__ import annotations

import gc
import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import click

from netlab.cli import options
from netlab.cli.lifecycle import count
from netlab.errors import CapabilityError, InputError, NotFoundError, UsageError
from netlab.model import durations
from netlab.model.modes import PROXY_MODES, SCHEDULERS, TIMEOUT_MAX

if TYPE_CHECKING:
    from netlab.agent.kubeproxy import KubeProxy, Pass
    from netlab.model.kubernetes import Document
    from netlab.model.services import ProxyNode
    from netlab.proxy import DetectLocal, Options

DETECTORS = "cluster-cidr=CIDR[,CIDR]|node-cidr[=CIDR]|bridge=NAME|interface-prefix=P|none"
LOOK = 0.1  # seconds between two looks at the files
DRIFT_LOOK = 0.5  # seconds between two looks at the namespace's commits


class Given(NamedTuple):
    """What the files hold: objects, and the node the proxy is on."""

    documents: list[Document]
    node: ProxyNode


@options.command(
    "proxy",
    example="""
    netlab proxy -f services.yaml --dry-run
    netlab proxy -f services.yaml --netns n1 --detect-local cluster-cidr=10.244.0.0/16
    netlab proxy -f objects/ --netns n1 --proxy-mode nftables --watch
    kubectl get svc,endpointslices,nodes -A -o yaml | netlab proxy -f - --node n1 --netns n1
    netlab proxy --cleanup --netns n1
    """,
)
@click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    metavar="OBJECTS",
    help="Services, EndpointSlices, Nodes (and Pods, for hostPorts): files, directories, or -.",
)
@click.argument("more", nargs=-1, metavar="[OBJECTS]...", type=click.Path())
@click.option(
    "--node", "node_name", metavar="NAME", help="The node to be; default: the files' only one."
)
@click.option(
    "--netns", metavar="NS", help="Namespace, by name or path; default: the one this runs in."
)
@click.option("--proxy-mode", "mode", type=click.Choice(PROXY_MODES), default="iptables")
@click.option(
    "--detect-local",
    default="none",
    metavar="HOW",
    help=f"How pods of this node are told from others: {DETECTORS}.",
)
@click.option("--masquerade-all", is_flag=True, help="Masquerade all traffic to cluster IPs.")
@click.option(
    "--nodeport-addresses",
    metavar="CIDR,...|primary",
    help="Where NodePorts are; default: everywhere (nftables: primary).",
)
@click.option(
    "--localhost-nodeports",
    type=click.BOOL,
    default=True,
    metavar="BOOL",
    help="NodePorts on 127.0.0.1 too (iptables, IPv4).",
)
@click.option("--service-cidr", metavar="CIDR,...", help="Where all cluster IPs are (nftables).")
@click.option(
    "--ipvs-scheduler", type=click.Choice(SCHEDULERS), default=SCHEDULERS[0], help="Of ipvs mode."
)
@click.option(
    "--ipvs-strict-arp",
    is_flag=True,
    help="No link answers for addresses that are on another (ipvs).",
)
@click.option(
    "--ipvs-tcp-timeout",
    metavar="TIME",
    default="0s",
    help="Of what ip_vs remembers (15m0s).",
)
@click.option("--ipvs-tcpfin-timeout", metavar="TIME", default="0s", help="After a FIN.")
@click.option("--ipvs-udp-timeout", metavar="TIME", default="0s", help="The same of UDP.")
@click.option(
    "--ipvs-exclude-cidrs",
    metavar="CIDR,...",
    help="Where virtual servers that others made are left alone.",
)
@click.option("--dry-run", is_flag=True, help="Print what the tools would be given.")
@click.option("--watch", is_flag=True, help="Go on: follow the files, repair what others alter.")
@click.option("--cleanup", is_flag=True, help="Remove all rules of a kube-proxy.")
@click.pass_context
def proxy(
    ctx: click.Context,
    files: tuple[str, ...],
    more: tuple[str, ...],
    node_name: str | None,
    netns: str | None,
    mode: str,
    detect_local: str,
    masquerade_all: bool,
    nodeport_addresses: str | None,
    localhost_nodeports: bool,
    service_cidr: str | None,
    ipvs_scheduler: str,
    ipvs_strict_arp: bool,
    ipvs_tcp_timeout: str,
    ipvs_tcpfin_timeout: str,
    ipvs_udp_timeout: str,
    ipvs_exclude_cidrs: str | None,
    dry_run: bool,
    watch: bool,
    cleanup: bool,
) -> int:
    """Program one namespace as a node's kube-proxy would, from files.

    Done when the kernel agrees; run again with changed files, it applies the difference.
    """
    sources = (*files, *more)
    if cleanup and sources:
        raise UsageError("--cleanup with objects", hint="netlab proxy --cleanup [--netns NS]")
    if sum((dry_run, watch, cleanup)) > 1:
        raise UsageError("more than one of --dry-run, --watch, --cleanup", hint="give one")
    spared = _prefixes("--ipvs-exclude-cidrs", ipvs_exclude_cidrs)
    if cleanup:
        return _cleaned(netns, spared)
    if not sources:
        raise UsageError("no objects given", hint="netlab proxy -f FILE|DIR|-")
    from netlab.proxy import Mode, Options
    from netlab.proxy.options import Timeouts

    how, pods, interface = detector(detect_local)
    chosen = Options(
        mode=Mode(mode),
        detect_local=how,
        pod_cidrs=pods,
        interface=interface,
        masquerade_all=masquerade_all,
        node_port_addresses=parts(nodeport_addresses),
        localhost_node_ports=localhost_nodeports,
        service_cidrs=parts(service_cidr),
        scheduler=ipvs_scheduler,
        strict_arp=True if ipvs_strict_arp else None,
        timeouts=Timeouts(
            tcp=_timeout("--ipvs-tcp-timeout", ipvs_tcp_timeout),
            tcp_fin=_timeout("--ipvs-tcpfin-timeout", ipvs_tcpfin_timeout),
            udp=_timeout("--ipvs-udp-timeout", ipvs_udp_timeout),
        ),
        exclude_cidrs=spared,
    )
    if chosen.mode is Mode.USERSPACE and not (watch or dry_run):
        raise UsageError(
            "userspace mode is a process, and would end with this command",
            hint="add --watch, or --dry-run to see the rules",
        )
    if watch and "-" in sources:
        raise UsageError("--watch cannot follow standard input", hint="name a file")
    # What is read and made stays: to look through it for garbage, again and again, took as long as
    # to make it (10,000 Services).
    gc.disable()
    given = _given(sources, node_name, aloud=True)
    if dry_run:
        return _printed(given, chosen)
    from netlab.kernel import turns

    with _inside(netns), turns.post() if watch else turns.turn():
        if watch:
            return _followed(sources, node_name, given, chosen)
        return _once(given, chosen)


def detector(text: str) -> tuple[DetectLocal, tuple[str, ...], str]:
    """Return how to detect local pods, their prefixes, and the name of an interface."""
    from netlab.proxy import DetectLocal

    word, _, value = text.partition("=")
    if word not in list(DetectLocal):
        raise UsageError(f"--detect-local {text}: no such way", hint=DETECTORS)
    how = DetectLocal(word)
    if how is DetectLocal.NONE and value:
        raise UsageError(f"--detect-local {text}: none has no value", hint=DETECTORS)
    if how in (DetectLocal.CLUSTER_CIDR, DetectLocal.NODE_CIDR):
        if how is DetectLocal.CLUSTER_CIDR and not value:
            raise UsageError("--detect-local cluster-cidr needs a prefix", hint=DETECTORS)
        return how, parts(value), ""
    return how, (), value


def parts(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _timeout(option: str, text: str) -> int:
    """Return the seconds of a duration. Raises UsageError naming the *option*."""
    from netlab.topology import values

    if wrong := values.duration(TIMEOUT_MAX)(text):
        raise UsageError(f"{option}: {wrong}")
    return durations.seconds(text)


def _prefixes(option: str, text: str | None) -> tuple[str, ...]:
    """Return canonical prefixes. Raises UsageError naming the *option*."""
    from netlab.proxy.addresses import network

    found = {one: network(one) for one in parts(text)}
    if wrong := [one for one, canonical in found.items() if not canonical]:
        raise UsageError(f"{option}: {wrong[0]} is no prefix", hint="like 10.0.0.0/8")
    return tuple(found.values())


def _given(sources: tuple[str, ...], node_name: str | None, *, aloud: bool) -> Given:
    """Return what the files hold. Raises InputError, with every mistake."""
    from netlab.model.kubernetes import Meta, view
    from netlab.model.services import ProxyNode
    from netlab.topology.stored import stored

    documents, notes = stored(sources, stdin=sys.stdin)
    nodes = {one["metadata"]["name"]: one for one in documents if one["kind"] == "Node"}
    if node_name is None:
        node_name = next(iter(nodes)) if len(nodes) == 1 else os.uname().nodename
    if node_name in nodes:
        node = view(nodes[node_name], ProxyNode)
    else:
        node = ProxyNode(metadata=Meta(name=node_name))
        known = f"; they have {', '.join(nodes)}" if nodes else ""
        notes.append(f"no Node {node_name} in the files: no address of it is known{known}")
    if aloud:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    return Given(documents, node)


def _inside(netns: str | None) -> AbstractContextManager[None]:
    """Be in the namespace *netns*. Raises NotFoundError; CapabilityError without privilege."""
    if netns is None:
        if os.geteuid():
            raise CapabilityError(
                "programming the network needs root", hint="sudo, or --dry-run to see the rules"
            )
        return nullcontext()
    options.be_root()
    from netlab.kernel import netns as namespaces

    if not namespaces.exists(netns):
        raise NotFoundError(f"no network namespace {netns}", hint="ip netns list")
    return namespaces.entered(netns)


def _printed(given: Given, chosen: Options) -> int:
    from netlab.agent.kubeproxy import KubeProxy

    kube_proxy = KubeProxy(chosen, answering=False)
    steps = kube_proxy.wanted(given.documents, given.node)
    for text in kube_proxy.texts(steps):
        sys.stdout.write(text)
    _warn(kube_proxy, set())
    return 0


def _warn(kube_proxy: KubeProxy, told: set[str]) -> None:
    """Print the warnings that were not *told* yet."""
    for line in kube_proxy.warnings:
        if line not in told:
            print(f"warning: {line}", file=sys.stderr)
            told.add(line)


def _once(given: Given, chosen: Options) -> int:
    from netlab.agent.kubeproxy import KubeProxy

    kube_proxy = KubeProxy(chosen, answering=False)
    begun = time.monotonic()
    done = kube_proxy.agree(given.documents, given.node)
    _warn(kube_proxy, set())
    if ports := sorted({check.port for check in kube_proxy.health_checks}):
        listed = ", ".join(map(str, ports))
        print(f"note: health-check ports are answered with --watch: {listed}", file=sys.stderr)
    print(f"{_summary(chosen, done)} in {time.monotonic() - begun:.2f} s")
    return 0


def _summary(chosen: Options, done: Pass) -> str:
    """Return `iptables: 24 chains written, 2 removed; 1 UDP flow forgotten`."""
    written = sum(step.new is not None for step in done.steps)
    parts = [f"{count(written, 'block')} written"] if written else []
    if len(done.steps) > written:
        parts.append(f"{len(done.steps) - written} removed")
    if done.forgotten:
        parts.append(f"{count(len(done.forgotten), 'UDP flow')} forgotten")
    parts += [f"{name}={value}" for name, value in done.settings.items()]
    return f"{chosen.mode}: {', '.join(parts) or 'nothing to change'}"


def _followed(
    sources: tuple[str, ...], node_name: str | None, given: Given, chosen: Options
) -> int:
    """Keep the namespace as the files say until interrupted."""
    from netlab.agent.kubeproxy import KubeProxy
    from netlab.cli.menu import complain
    from netlab.errors import NetlabError

    kube_proxy = KubeProxy(chosen)
    told: set[str] = set()
    stamp = _stamp(sources)
    first, due, failing = True, True, ""
    looked = 0.0
    try:
        while True:
            now = time.monotonic()
            if (new := _stamp(sources)) != stamp:
                stamp = new
                try:
                    given, due = _given(sources, node_name, aloud=False), True
                except InputError as error:
                    for mistake in error.mistakes:
                        complain(mistake)
                    complain("error: the files are not followed until they are right again")
            if due or now - looked > DRIFT_LOOK:
                try:
                    done = kube_proxy.agree(given.documents, given.node)
                    _warn(kube_proxy, told)
                    if first or done.steps or done.forgotten or failing:
                        took = time.monotonic() - now
                        print(f"{_summary(chosen, done)} in {took:.2f} s", flush=True)
                    for problem in done.problems:
                        if problem not in told:
                            complain(f"problem: {problem}")
                            told.add(problem)
                    if first:
                        gc.freeze()
                        gc.enable()
                    first, failing = False, ""
                except NetlabError as error:
                    if str(error) != failing:
                        complain(f"error: {error}")
                    failing = str(error)
                due, looked = False, time.monotonic()
            time.sleep(LOOK)
    finally:
        kube_proxy.close()


def _stamp(sources: tuple[str, ...]) -> tuple[tuple[str, int, int, int], ...]:
    """Return what changes when a file of *sources* does, comes or goes."""
    found = []
    for source in sources:
        paths = [source]
        if os.path.isdir(source):
            paths += [os.path.join(top, one) for top, _, names in os.walk(source) for one in names]
        for path in sorted(paths):
            try:
                status = os.stat(path)
            except OSError:
                continue
            found.append((path, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)


def _cleaned(netns: str | None, spared: tuple[str, ...]) -> int:
    from netlab.agent import leftovers
    from netlab.kernel import turns

    with _inside(netns), turns.turn():
        removed = leftovers.cleanup(spared)
    print(f"{count(len(removed), 'block')} removed" if removed else "nothing to remove")
    return 0
