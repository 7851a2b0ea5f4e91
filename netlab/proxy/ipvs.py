"""Services in ipvs mode, as kube-proxy writes them: virtual servers, sets and addresses.

1. A virtual server is one block: its head are the words that `ipvsadm -A` takes after address and
   port, its lines those of `ipvsadm -a`, as `ipvsadm -Sn` prints both.
2. Nothing is decided here; a NodePort comes with an address, one frontend for each of the node's.
3. Packets reach ip_vs on their way in to the node's own addresses, so every address that is served
   is one, on a device that is never up. The sets tell iptables what ip_vs does not do: whose source
   is replaced, and who is kept out.

Source: kubernetes pkg/proxy/ipvs/proxier.go, syncProxyRules, v1.33. It differs in three points:

1. A range of length 0 is two of length 1: a set cannot hold it, and kube-proxy lets nobody in.
2. The node, where it is kept out, is with whatever address it has, not with the served one alone.
3. Who hashes to a real server that is ending goes to another: see `FLAGS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netlab.proxy import hostport_rules
from netlab.proxy.addresses import contains, socket_address
from netlab.proxy.frontend import Frontend, HealthCheck, Kind, Policy, ServicePort, by_port
from netlab.proxy.iptables_words import FILTER, chain_key, host
from netlab.proxy.ipvs_frame import OUT_FILTER, addresses_key, frame, hostport_frame
from netlab.proxy.ipvs_sets import (
    CLUSTER_IP,
    EXTERNAL_IP,
    EXTERNAL_IP_LOCAL,
    HEALTH_CHECK,
    IPVS_IPS,
    LOAD_BALANCER,
    LOAD_BALANCER_FW,
    LOAD_BALANCER_LOCAL,
    LOOP_BACK,
    NODE_PORT,
    NODE_PORT_LOCAL,
    SOURCE_CIDR,
    SOURCE_IP,
    set_key,
)
from netlab.proxy.options import Situation
from netlab.proxy.ruleset import Block, Blocks, Key, Part, Sort

__all__ = ["frame", "hostport_frame", "part"]

SERVERS = "ipvs"  # the `table` of their blocks
WEIGHT = 1  # of every real server; one that is ending has 0
FLAG = {"TCP": "-t", "UDP": "-u", "SCTP": "--sctp-service"}
NUMBER = {"TCP": 6, "UDP": 17, "SCTP": 132}
# Of schedulers that hash. kube-proxy lets none fall back, so that clients who hash to a real server
# that is ending are refused for as long as it ends (kubernetes#139497).
FLAGS = {"mh": "mh-fallback,mh-port", "sh": "sh-fallback"}

Line = tuple[Key, str]


def part(
    frontends: Sequence[Frontend],
    health_checks: Sequence[HealthCheck],
    situation: Situation,
    *,
    large: bool,
) -> Part:
    """Return what one Service, or the hostPorts of one pod, has in one family.

    *large* is of no account: nothing carries comments.
    """
    if frontends and frontends[0].kind is Kind.HOST_PORT:
        return hostport_rules.part(frontends)
    blocks: dict[Key, Block] = {}
    entries: dict[Key, dict[str, None]] = {}
    for service, mine in by_port(frontends):
        for one in mine:
            server = _server(one, situation)
            blocks.setdefault(server.key, server)
        for key, line in _entries(service, mine, situation):
            entries.setdefault(key, {})[line] = None
    for check in health_checks:
        key = set_key(check.family, HEALTH_CHECK)
        entries.setdefault(key, {})[str(check.port)] = None
    return Part(
        tuple(blocks.values()), tuple((key, tuple(lines)) for key, lines in entries.items())
    )


def not_spared(there: Blocks, wanted: Blocks, prefixes: Sequence[str]) -> Blocks:
    """Return what is *there* without the virtual servers at addresses in the canonical *prefixes*
    that are not *wanted*: they are others', and stay.

    Source: kubernetes pkg/proxy/ipvs/proxier.go, cleanLegacyService, v1.33.
    """
    if not prefixes:
        return there

    def is_spared(block: Block) -> bool:
        if block.sort is not Sort.SERVER or block.key in wanted:
            return False
        host = block.name.partition(" ")[2].rpartition(":")[0].strip("[]")
        return any(contains(one, host) for one in prefixes)

    return {key: block for key, block in there.items() if not is_spared(block)}


def server_name(protocol: str, address: str, port: int) -> str:
    """Return the name of a virtual server's block: `TCP 10.96.0.1:443`."""
    return f"{protocol} {socket_address(address, port)}"


def real_server(text: str, weight: int = WEIGHT) -> str:
    """Return the line of the real server *text*, `10.244.1.2:80`."""
    return f"-r {text} -m -w {weight}"


def _server(frontend: Frontend, situation: Situation) -> Block:
    service = frontend.service
    words = f"-s {situation.scheduler}"
    if service.affinity:
        words += f" -p {service.affinity}"
    if situation.scheduler in FLAGS:
        words += f" -b {FLAGS[situation.scheduler]}"
    name = server_name(service.protocol, frontend.address, frontend.port)
    used = service.of(frontend.ways[0].policy) if frontend.ways else ()
    lines = tuple(real_server(one.text) for one in used)
    return Block(service.family, Sort.SERVER, SERVERS, name, (words,), lines)


def _entries(
    service: ServicePort, frontends: Sequence[Frontend], situation: Situation
) -> Iterator[Line]:
    """Yield what the *frontends* of one port add to the sets, device and chains all share."""
    family, protocol = service.family, service.protocol.lower()
    for end in service.known:
        if end.local:
            element = f"{end.address},{protocol}:{end.port},{end.address}"
            yield set_key(family, LOOP_BACK), element
    for one in frontends:
        at = f"{one.address},{protocol}:{one.port}"
        if one.kind is not Kind.NODE_PORT and one.address not in situation.local:
            yield addresses_key(family), host(one.address)
            yield set_key(family, IPVS_IPS), one.address
        match one.kind:
            case Kind.CLUSTER_IP:
                yield set_key(family, CLUSTER_IP), at
            case Kind.EXTERNAL_IP:
                local = one.policy is Policy.LOCAL
                yield set_key(family, EXTERNAL_IP_LOCAL if local else EXTERNAL_IP), at
            case Kind.LOAD_BALANCER:
                yield set_key(family, LOAD_BALANCER), at
                if one.policy is Policy.LOCAL:
                    yield set_key(family, LOAD_BALANCER_LOCAL), at
                if one.sources:
                    yield from _limited(one, at)
            case Kind.NODE_PORT:
                element = at if service.protocol == "SCTP" else str(one.port)
                yield set_key(family, NODE_PORT[service.protocol]), element
                if one.policy is Policy.LOCAL:
                    yield set_key(family, NODE_PORT_LOCAL[service.protocol]), element


def _limited(frontend: Frontend, at: str) -> Iterator[Line]:
    """Yield who may use a load balancer's address, *at* as sets write it."""
    family = frontend.service.family
    yield set_key(family, LOAD_BALANCER_FW), at
    for prefix in frontend.sources:
        if prefix == frontend.address:
            yield set_key(family, SOURCE_IP), f"{at},{prefix}"
        elif prefix.endswith("/0"):
            halves = ("0.0.0.0/1", "128.0.0.0/1") if "." in prefix else ("::/1", "8000::/1")
            for half in halves:
                yield set_key(family, SOURCE_CIDR), f"{at},{half}"
        else:
            # Sets list a single address without its length.
            whole = prefix.removesuffix("/128" if ":" in prefix else "/32")
            yield set_key(family, SOURCE_CIDR), f"{at},{whole}"
    if frontend.address not in frontend.sources:
        number, port = NUMBER[frontend.service.protocol], frontend.port
        virtual = f"--vproto {number} --vaddr {frontend.address} --vport {port}"
        line = f"-m addrtype --src-type LOCAL -m ipvs {virtual} -j DROP"
        yield chain_key(family, FILTER, OUT_FILTER), line
