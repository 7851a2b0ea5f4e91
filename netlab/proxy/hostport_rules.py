r"""hostPorts in iptables mode, as the CNI plugin portmap writes them.

Its chains are in the nat table only, and there only when a pod has a hostPort, so that other nodes
list what kube-proxy alone would have. Their names are our own (the plugin's begin with CNI-), so
that a real plugin's on the same machine are never taken for ours. Four more things differ from it:

1. It names a pod's chain for the sandbox's id; here, where pods have none, for namespace and name.
2. Its rules are in the order in which pods came; here in the order of their names.
3. It masquerades whoever is of the pod's subnet, since un-translating a reply within one bridge may
   fail; here, where bridges hand packets to iptables, only the pod itself.
4. It knows 127.0.0.1 only; here whoever has a loopback address as source is masqueraded.

Source: containernetworking/plugins plugins/meta/portmap/portmap_iptables.go (main, after v1.8) and
pkg/utils, MustFormatChainNameWithPrefix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha512

from netlab.proxy import iptables_frame
from netlab.proxy.addresses import Family
from netlab.proxy.frontend import Frontend
from netlab.proxy.iptables_words import NAT, chain, chain_key, comment, host, jumps
from netlab.proxy.options import Situation
from netlab.proxy.ruleset import Block, Part, Shared, Sort

MARK = "0x2000"  # bit 13: to be masqueraded
NETWORK = "cbr0"  # the network's name in flannel's CNI configuration

DNAT = "NETLAB-HOSTPORT-DNAT"
SET_MARK = "NETLAB-HOSTPORT-SETMARK"
MASQ = "NETLAB-HOSTPORT-MASQ"

LONGEST_NAME = 28  # characters of a chain's name
LONGEST_COMMENT = 255
MOST_PORTS = 15  # in one multiport match


def hostport_frame(
    situation: Situation, frame: Callable[[Situation], list[Shared]] = iptables_frame.frame
) -> list[Shared]:
    """Return the blocks that are there when a pod of the node has a hostPort.

    Its jumps are those of the *frame* and its own, and stand in their place.
    """
    family = situation.family
    to_mark = f"{comment('CNI portfwd masquerade mark')} -j MARK --set-xmark {MARK}/{MARK}"
    to_masq = f"{comment('CNI portfwd requiring masquerade')} -j {MASQ}"
    to_dnat = f"-m addrtype --dst-type LOCAL -j {DNAT}"
    blocks = [
        chain(family, NAT, DNAT),
        chain(family, NAT, SET_MARK, (to_mark,)),
        chain(family, NAT, MASQ, (f"-m mark --mark {MARK}/{MARK} -j MASQUERADE",)),
    ]
    held = {one.block.key: one.block.lines for one in frame(situation)}
    for name in ("PREROUTING", "OUTPUT", "POSTROUTING"):
        theirs = held.get((family, Sort.JUMPS, NAT, name), ())
        lines = (to_masq, *theirs) if name == "POSTROUTING" else (*theirs, to_dnat)
        blocks.append(jumps(family, NAT, name, *lines))
    return [Shared(block) for block in blocks]


def part(frontends: Sequence[Frontend]) -> Part:
    """Return the rules of *frontends*, the hostPorts of one pod in one family."""
    pod = frontends[0].service
    identity = f"{pod.namespace}/{pod.name}"
    name = chain_name(NETWORK, identity)
    lines = tuple(line for one in frontends for line in _lines(one))
    said = comment(f'dnat name: "{NETWORK}" id: "{identity}"'[:LONGEST_COMMENT])
    entries = tuple(_entries(frontends, said, name))
    blocks: tuple[Block, ...] = (chain(pod.family, NAT, name, lines),)
    return Part(blocks, ((chain_key(pod.family, NAT, DNAT), entries),))


def chain_name(network: str, identity: str) -> str:
    """Return `NETLAB-DN-…`, the chain of what is called *identity* in the *network*."""
    return f"NETLAB-DN-{sha512((network + identity).encode()).hexdigest()}"[:LONGEST_NAME]


def _entries(frontends: Sequence[Frontend], said: str, name: str) -> Iterator[str]:
    ports: dict[str, list[str]] = {}
    for one in frontends:
        ports.setdefault(one.service.protocol.lower(), []).append(str(one.port))
    for protocol, numbers in sorted(ports.items()):
        for first in range(0, len(numbers), MOST_PORTS):
            some = ",".join(numbers[first : first + MOST_PORTS])
            yield f"-p {protocol} {said} -m multiport --dports {some} -j {name}"


def _lines(frontend: Frontend) -> Iterator[str]:
    """Yield the lines of one hostPort: who gets the node's address as source, and where to."""
    protocol = frontend.service.protocol.lower()
    to = f"-p {protocol} -m {protocol} --dport {frontend.port}"
    on = f"-d {host(frontend.address)} " if frontend.address else ""
    for endpoint in frontend.service.cluster:
        yield f"-s {host(endpoint.address)} {on}{to} -j {SET_MARK}"
        if frontend.service.family is Family.IPV4:
            yield f"-s 127.0.0.0/8 {on}{to} -j {SET_MARK}"
        yield f"{on}{to} -j DNAT --to-destination {endpoint.text}"
