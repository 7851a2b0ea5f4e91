"""hostPorts in nftables mode, as the CNI plugin portmap writes them.

They have a table of their own in each family, `ip netlab-hostport` and `ip6 netlab-hostport`, and
only on a node where a pod has a hostPort; the plugin's is `inet cni_hostport`, and a real one's on
the same machine is never taken for ours. Five more things differ from it:

1. It names a pod's rules for the sandbox's id; here, where pods have none, for namespace and name.
2. Its rules are in the order in which pods came; here in the order of their names.
3. It translates what passes through the node to another, if the port fits; here, as with iptables,
   only what is for the node.
4. It knows 127.0.0.1 only; here whoever has a loopback address as source is masqueraded.
5. Rules that translate count how often they did.

Source: containernetworking/plugins plugins/meta/portmap/portmap_nftables.go (main, after v1.8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netlab.proxy.addresses import Family
from netlab.proxy.frontend import Frontend
from netlab.proxy.nftables_words import IP, LOOPBACK, base_chain, chain, chain_key, comment
from netlab.proxy.options import Situation
from netlab.proxy.ruleset import Key, Part, Shared

TABLE = "netlab-hostport"
ONE_ADDRESS = "hostip_hostports"  # hostPorts with a hostIP
ANY_ADDRESS = "hostports"
MASQUERADING = "masquerading"

_DISPATCH = tuple(f"fib daddr type local jump {one}" for one in (ONE_ADDRESS, ANY_ADDRESS))


def hostport_frame(situation: Situation) -> list[Shared]:
    """Return the blocks that are there when a pod of the node has a hostPort."""
    family = situation.family
    blocks = [
        chain(family, TABLE, ONE_ADDRESS),
        chain(family, TABLE, ANY_ADDRESS),
        base_chain(family, TABLE, "prerouting", "nat hook prerouting priority dstnat", _DISPATCH),
        base_chain(family, TABLE, "output", "nat hook output priority -100", _DISPATCH),
        base_chain(family, TABLE, MASQUERADING, "nat hook postrouting priority srcnat", ()),
    ]
    return [Shared(block) for block in blocks]


def part(frontends: Sequence[Frontend]) -> Part:
    """Return the rules of *frontends*, the hostPorts of one pod in one family."""
    entries: dict[Key, dict[str, None]] = {}
    for one in frontends:
        for name, rule in _rules(one):
            key = chain_key(one.service.family, TABLE, name)
            entries.setdefault(key, {})[rule] = None
    return Part((), tuple((key, tuple(lines)) for key, lines in entries.items()))


def _rules(frontend: Frontend) -> Iterator[tuple[str, str]]:
    """Yield the chains and rules of one hostPort."""
    service = frontend.service
    ip = IP[service.family]
    said = comment(f"{service.namespace}/{service.name}")
    name, to = ANY_ADDRESS, f"{service.protocol.lower()} dport {frontend.port}"
    if frontend.address:
        name, to = ONE_ADDRESS, f"{ip} daddr {frontend.address} {to}"
    for endpoint in service.cluster:
        yield name, f"{to} counter dnat to {endpoint.text} {said}"
        own = f"{ip} daddr {endpoint.address} masquerade {said}"
        yield MASQUERADING, f"{ip} saddr {endpoint.address} {own}"
        if service.family is Family.IPV4:
            yield MASQUERADING, f"{ip} saddr {LOOPBACK[service.family]} {own}"
