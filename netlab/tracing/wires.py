"""What is watched for a conversation: the devices, the rules, the kernel's memory of flows."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from netlab import world
from netlab.cluster import Cluster
from netlab.errors import CapabilityError, NetlabError
from netlab.journeys import NamedConnection, NamedEntry
from netlab.kernel import conntrack
from netlab.kernel.ipvs_connections import connections
from netlab.kernel.netns import entered, exists
from netlab.packets import Entry, Flow, Passing, Protocol, RuleHit, VirtualConnection
from netlab.paths.places import OUTSIDE
from netlab.proxy.addresses import Family
from netlab.sensors import dissect, sieve
from netlab.sensors.capture import Capture, Kept
from netlab.sensors.ruletrace import RuleTrace
from netlab.sensors.traceswitch import WINDOW, Selector, families_of_tables
from netlab.targets import endpoint_addresses, endpoint_slices
from netlab.telling.naming import Names
from netlab.telling.selecting import Caught, Opening
from netlab.tracing import nexthops
from netlab.tracing.asking import Asking

PODS = 64  # endpoints that are watched at most: each costs a ring of a megabyte
NODES = 16  # nodes that are watched though the flow has no business there
FRAMES = 2000  # room of a ring
PORTS = 20  # of servers, that a filter tells apart
ROUNDS = 40  # hops that a packet may have before it, each through a queue
DRAINING = 0.05  # seconds for a datagram over lo
SIOCGIFMTU = 0x8921  # netdevice(7)


def service_of(names: Names, flow: Flow) -> str:
    """Return the Service that *flow* asks, `default/web`; "" if it asks none.

    A port that is one's on a node's own address may be served at each of its others, too.
    """
    to, port = flow.destination, flow.destination_port
    found = names.service(to, port, flow.protocol)
    if not found and (to.startswith("127.") or names.is_node(to)):
        found = names.node_port(port, flow.protocol)
    return found.partition(":")[0]


def watched(
    cluster: Cluster,
    asked: Asking,
    names: Names,
    *,
    elsewhere: Callable[[str], str] = lambda netns: "",
) -> list[str]:
    """Return the namespaces in which a conversation may show, its sender's first.

    *elsewhere*: on which other machine a namespace is.
    """
    lab = cluster.lab
    start, goal = asked.source, asked.destination.place
    namespace, _, service = service_of(names, asked.flow).partition("/")
    ends = set(endpoint_addresses(cluster, namespace, service))
    pods = [pod for pod in cluster.pods if pod.ip in ends and not pod.host_network]
    near = {place.node.name for place in (start, goal) if place.node}
    near |= {pod.node for pod in cluster.pods if pod.ip in ends}
    found = [start.netns, goal.netns, *(pod.netns for pod in pods[:PODS])]
    found += [node.netns for node in cluster.nodes if node.name in near]
    found += [node.netns for node in cluster.nodes[:NODES]]
    found += [lab.netns(world.UNDERLAY), lab.netns(world.GATEWAY)]
    if lab.balancer is not None and lab.balancer.holds(asked.flow.destination):
        found += [lab.netns(world.BALANCER)]
    if not goal.netns and start.member not in OUTSIDE:
        found += [lab.netns(world.INTERNET)]
    return [name for name in dict.fromkeys(found) if name and (elsewhere(name) or exists(name))]


def server_ports(cluster: Cluster, names: Names, asked: Asking) -> list[int]:
    """Return the ports that servers of a conversation may have."""
    namespace, _, service = service_of(names, asked.flow).partition("/")
    ports = {asked.flow.destination_port}
    for one in endpoint_slices(cluster, namespace, service):
        ports.update(port["port"] for port in one.get("ports") or () if port.get("port"))
    return sorted(ports - {0})[:PORTS]


class Wires:
    """A context manager: from its start to its end all that is of a conversation is seen.

    Raises CapabilityError, KernelError.
    """

    distant = False  # whether some of it is seen by other machines, and told when asked

    def __init__(
        self,
        names_of: Sequence[str],
        opening: Opening,
        flow: Flow,
        ports: Collection[int],
        further: Sequence[Selector] = (),
    ) -> None:
        """*further*: of what a process may make of the conversation."""
        self.names_of = tuple(names_of)
        window = None if opening.sequence is None else opening.sequence // WINDOW
        behind = {one.flow.destination_port for one in further}
        program = sieve.conversation(window, opening.payload, ports, behind)
        self.capture = Capture(self.names_of, frames=FRAMES, program=program)
        traced = [name for name in self.names_of if has_rules(name)]
        selector = Selector(
            Flow("", "", flow.protocol),
            token=opening.payload,
            conversation=opening.sequence or 0,
        )
        self._trace = RuleTrace(traced, [selector, *further])
        self.blind = ""  # why no rules are told

    def __enter__(self) -> Wires:
        # In both the kernel waits for every CPU, many times: they wait side by side.
        with ThreadPoolExecutor(1) as pool:
            capturing = pool.submit(self.capture.__enter__)
            try:
                self._trace.__enter__()
            except CapabilityError as error:
                self.blind = str(error)
            except BaseException:
                capturing.add_done_callback(lambda _: self.capture.close())
                raise
        try:
            capturing.result()
        except BaseException:
            self._trace.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with ThreadPoolExecutor(1) as pool:
            closing = pool.submit(self.capture.close)
            try:
                self._trace.close()
            finally:
                closing.result()

    @property
    def lost(self) -> int:
        """How many frames there was no room for; a rule trace that overflowed counts as one."""
        return self.capture.lost + bool(self._trace.lost)

    def gather(self) -> None:
        """Take in what other machines have seen until now."""

    def caught(self) -> list[Caught]:
        """Return every packet that passed the filter, oldest first."""
        return taken_apart(self.capture, self.capture.every(), {})

    def passings(self) -> list[Passing]:
        """Return what the kernel told of the conversation's packets and rules."""
        return self._trace.passes(lambda _: True)

    def dropped(self) -> bool:
        """Return whether a rule or a policy has dropped a packet of the conversation."""
        return self._trace.ended()

    def listed(self, hit: RuleHit, chain: str) -> dict[int, str]:
        """Return the rules of a chain of the table that *hit* is in, handle to text."""
        return self._trace.listed(hit, chain)

    def kernels(self) -> nexthops.Kernels:
        """Return whom to ask what sent a packet on."""
        return nexthops.Kernels()

    def remembered(
        self,
        names: Names,
        netns_names: Collection[str],
        flows: Collection[Flow],
        protocol: Protocol,
        *,
        ids: Collection[int] = (),
    ) -> tuple[list[NamedEntry], list[NamedConnection]]:
        """Return what conntrack and ip_vs there remember of *flows*; the words are of `entries`."""
        found = remembered(names, netns_names, flows, protocol, ids=ids)
        carried = connected(netns_names, flows)
        return found, [NamedConnection(names.place(netns), one) for netns, one in carried]


def taken_apart(
    capture: Capture, frames: Iterable[Kept], mtus: dict[tuple[str, int], int]
) -> list[Caught]:
    """Return the packets that *frames* show. *mtus*: of devices (by namespace and index), as far
    as they are known already."""
    found = []
    for kept in frames:
        device = capture.device(kept.netns, kept.frame)
        sighting = dissect.sighting(kept.frame, netns=kept.netns, device=device)
        if sighting is None:
            continue
        key = kept.netns, kept.frame.ifindex
        if key not in mtus:
            mtus[key] = _mtu(kept.netns, device)
        found.append(Caught(sighting, kept.frame.data, mtus[key]))
    return found


def has_rules(netns: str) -> bool:
    try:
        with entered(netns):
            return bool(families_of_tables())
    except (NetlabError, OSError):
        return False  # it is gone meanwhile


def _mtu(netns: str, device: str) -> int:
    request = struct.pack("16si12x", device.encode(), 0)
    try:
        with entered(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            answer = fcntl.ioctl(sock.fileno(), SIOCGIFMTU, request)
    except (NetlabError, OSError):
        return 0
    return int(struct.unpack_from("i", answer, 16)[0])


def remembered(
    names: Names,
    netns_names: Iterable[str],
    flows: Collection[Flow],
    protocol: Protocol,
    *,
    ids: Collection[int] = (),
) -> list[NamedEntry]:
    """Return `entries`, each with the place it is in."""
    found = entries(netns_names, flows, protocol, ids=ids)
    return [NamedEntry(names.place(netns), one) for netns, one in found]


def entries(
    netns_names: Iterable[str],
    flows: Collection[Flow],
    protocol: Protocol,
    *,
    ids: Collection[int] = (),
) -> list[tuple[str, Entry]]:
    """Return what the kernels of these namespaces remember of *flows*, each with its namespace.

    *ids*: of the entries that the packets had, as far as the kernel told: echoes have no ports, so
    others between the same ends look the same.
    """
    told = ids if protocol is Protocol.ICMP else ()
    ports = {flow.destination_port for flow in flows} - {0}
    found: list[tuple[str, Entry]] = []
    for netns in netns_names:
        try:
            with entered(netns):
                listed = conntrack.entries(Family.IPV4, protocol, ports=ports)
        except NetlabError:
            continue
        found += [
            (netns, one) for one in listed if one.original in flows and (not told or one.id in told)
        ]
    return found


def connected(
    netns_names: Iterable[str], flows: Collection[Flow]
) -> list[tuple[str, VirtualConnection]]:
    """Return what ip_vs of these namespaces remembers of *flows*, each with its namespace."""
    found: list[tuple[str, VirtualConnection]] = []
    for netns in netns_names:
        try:
            with entered(netns):
                found += [(netns, one) for one in connections(flows)]
        except NetlabError:
            continue
    return found


def drained(times: int) -> None:
    """Return when what every CPU had to receive has been received, *times* times over.

    A datagram over `lo` comes behind all that was in the queue of the CPU it is sent on
    (net/core/dev.c, enqueue_to_backlog), whatever namespace that was for; each time round, what was
    there may have moved on to the next device, and so to the end of the same queue. Only a process
    takes a packet to another CPU, hence all of them twice. Moving a thread costs more than all its
    datagrams, so it stays on a CPU for all its times.
    """
    mine = os.sched_getaffinity(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DRAINING)
        try:
            sock.bind(("127.0.0.1", 0))
            for cpu in [*mine, *mine]:
                os.sched_setaffinity(0, {cpu})
                for _ in range(times):
                    sock.sendto(b"", sock.getsockname())
                    sock.recv(1)
        except OSError:
            time.sleep(DRAINING)  # this namespace has no lo; a queue takes microseconds
        finally:
            os.sched_setaffinity(0, mine)
