"""What ipvs mode has without any Service: the device for addresses, sets, chains and jumps.

A rule that matches a set is there once the set has an element, as upstream.
Source: kubernetes pkg/proxy/ipvs/proxier.go, iptablesJumpChain, ipsetWithIptablesChain and
writeIptablesRules, v1.33.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from netlab.proxy import hostport_rules
from netlab.proxy.addresses import Family
from netlab.proxy.iptables_frame import (
    FIREWALL,
    FORWARD,
    LOOPBACK,
    MARK,
    MARK_MASQ,
    POSTROUTING,
    SERVICES,
)
from netlab.proxy.iptables_frame import postrouting as marked
from netlab.proxy.iptables_words import FILTER, NAT, REJECT, chain, comment, from_others, jumps
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
    SETS,
    SOURCE_CIDR,
    SOURCE_IP,
    empty_set,
    set_key,
    set_name,
)
from netlab.proxy.options import Situation
from netlab.proxy.ruleset import Block, Key, Shared, Sort

DEVICE = "kube-ipvs0"  # a dummy: every address that is served is the node's own there
LINK = "link"  # the `table` of its block

TO_NODE_PORTS = "KUBE-NODE-PORT"
TO_LOAD_BALANCERS = "KUBE-LOAD-BALANCER"
SOURCE_RANGES = "KUBE-SOURCE-RANGES-FIREWALL"
IN_FILTER = "KUBE-IPVS-FILTER"  # what comes in to a served address, but for no served port
OUT_FILTER = "KUBE-IPVS-OUT-FILTER"  # what the node itself sends to where it is not let in

_TO_PORTALS = f"{comment('kubernetes service portals')} -j {SERVICES}"
_TO_FIREWALL = f"{comment('kube-proxy firewall rules')} -j {FIREWALL}"
_TO_FILTER = comment("kubernetes ipvs access filter")


def addresses_key(family: Family) -> Key:
    """Return the key of the block of addresses on DEVICE."""
    return family, Sort.ADDRESSES, LINK, DEVICE


def frame(situation: Situation, used: Collection[Key] = ()) -> list[Shared]:
    """Return the blocks that are there without any Service, in the node's *situation*.

    *used*: the keys of those that some Service has lines in.
    """
    family = situation.family
    blocks = [
        Block(*addresses_key(family)),
        *(empty_set(family, name) for name in SETS),
        *_filter(situation, used),
        *_nat(situation, used),
    ]
    return [Shared(block) for block in blocks]


def hostport_frame(situation: Situation) -> list[Shared]:
    """Return the blocks that are there beside when a pod has a hostPort."""
    return hostport_rules.hostport_frame(situation, frame)


def _nat_jumps(family: Family) -> list[Block]:
    to_masquerade = f"{comment('kubernetes postrouting rules')} -j {POSTROUTING}"
    return [
        jumps(family, NAT, "PREROUTING", _TO_PORTALS),
        jumps(family, NAT, "OUTPUT", _TO_PORTALS),
        jumps(family, NAT, "POSTROUTING", to_masquerade),
    ]


class _Sets:
    """Matches of the sets of one family, of those that are in use."""

    def __init__(self, family: Family, used: Collection[Key]) -> None:
        self._family = family
        self._used = used

    def match(self, name: str, which: str) -> str:
        """Return `-m set --match-set KUBE-CLUSTER-IP dst,dst`."""
        return f"-m set --match-set {set_name(name, self._family)} {which}"

    def rules(self, name: str, which: str, *ends: str, before: str = "") -> Iterator[str]:
        """Yield a rule for each of *ends*, if the set *name* has elements."""
        if set_key(self._family, name) in self._used:
            said = comment(SETS[name].comment)
            for end in ends:
                yield f"{before}{said} {self.match(name, which)} {end}"


def _filter(situation: Situation, used: Collection[Key]) -> Iterator[Block]:
    family, sets = situation.family, _Sets(situation.family, used)
    served = [
        *((one, "dst,dst") for one in (LOAD_BALANCER, CLUSTER_IP, EXTERNAL_IP, EXTERNAL_IP_LOCAL)),
        (HEALTH_CHECK, "dst"),
    ]
    refused = f"-m conntrack --ctstate NEW {sets.match(IPVS_IPS, 'dst')} -j {REJECT[family]}"
    health = f"{comment(SETS[HEALTH_CHECK].comment)} {sets.match(HEALTH_CHECK, 'dst')} -j ACCEPT"
    established = "-m conntrack --ctstate RELATED,ESTABLISHED"
    forwarded = (
        f"{comment('kubernetes forwarding rules')} -m mark --mark {MARK}/{MARK} -j ACCEPT",
        f"{comment('kubernetes forwarding conntrack rule')} {established} -j ACCEPT",
    )
    ranges = (
        *sets.rules(SOURCE_CIDR, "dst,dst,src", "-j RETURN"),
        *sets.rules(SOURCE_IP, "dst,dst,src", "-j RETURN"),
        "-j DROP",
    )
    limited = tuple(sets.rules(LOAD_BALANCER_FW, "dst,dst", f"-j {SOURCE_RANGES}"))
    returns = (f"{sets.match(name, which)} -j RETURN" for name, which in served)
    to_health = f"{comment('kubernetes health check rules')} -j {TO_NODE_PORTS}"
    to_forward = f"{comment('kubernetes forwarding rules')} -j {FORWARD}"
    yield chain(family, FILTER, FORWARD, forwarded)
    yield chain(family, FILTER, TO_NODE_PORTS, (health,))
    yield chain(family, FILTER, FIREWALL, limited)
    yield chain(family, FILTER, SOURCE_RANGES, ranges)
    yield chain(family, FILTER, IN_FILTER, (*returns, refused))
    yield chain(family, FILTER, OUT_FILTER)
    yield jumps(family, FILTER, "INPUT", f"{_TO_FILTER} -j {IN_FILTER}", _TO_FIREWALL, to_health)
    yield jumps(family, FILTER, "FORWARD", _TO_FIREWALL, to_forward)
    yield jumps(family, FILTER, "OUTPUT", f"{_TO_FILTER} -j {OUT_FILTER}")


def _nat(situation: Situation, used: Collection[Key]) -> Iterator[Block]:
    family, sets = situation.family, _Sets(situation.family, used)
    hairpin = sets.rules(LOOP_BACK, "dst,dst,src", "-j MASQUERADE")
    balanced = sets.rules(LOAD_BALANCER_LOCAL, "dst,dst", "-j RETURN")
    yield chain(family, NAT, SERVICES, tuple(_services(situation, used)))
    yield chain(family, NAT, POSTROUTING, (*hairpin, *marked()))
    yield chain(family, NAT, TO_NODE_PORTS, tuple(_node_ports(sets)))
    yield chain(family, NAT, TO_LOAD_BALANCERS, (*balanced, f"-j {MARK_MASQ}"))
    yield chain(family, NAT, MARK_MASQ, (f"-j MARK --set-xmark {MARK}/{MARK}",))
    yield from _nat_jumps(family)


def _services(situation: Situation, used: Collection[Key]) -> Iterator[str]:
    """Yield who is to be masqueraded, by where it goes; what is served is accepted, lest others'
    rules send it elsewhere."""
    family, sets = situation.family, _Sets(situation.family, used)
    to_mark = f"-j {MARK_MASQ}"
    accepted = (
        "-m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT",
        "-m addrtype --dst-type LOCAL -j ACCEPT",
    )
    yield f"-s {LOOPBACK[family]} -j RETURN"
    yield from sets.rules(LOAD_BALANCER, "dst,dst", f"-j {TO_LOAD_BALANCERS}")
    if situation.masquerade_all:
        yield from sets.rules(CLUSTER_IP, "dst,dst", to_mark)
    elif not situation.pods.known:
        # A process that has not chosen its address has that which it goes to: nobody could answer.
        yield from sets.rules(CLUSTER_IP, "src,dst", to_mark)
    elif (others := from_others(situation.pods)) is not None:
        yield from sets.rules(CLUSTER_IP, "dst,dst", to_mark, before=others)
    yield from sets.rules(EXTERNAL_IP, "dst,dst", to_mark, *accepted)
    yield from sets.rules(EXTERNAL_IP_LOCAL, "dst,dst", *accepted)
    yield f"-m addrtype --dst-type LOCAL -j {TO_NODE_PORTS}"
    for name in (CLUSTER_IP, LOAD_BALANCER):
        if set_key(family, name) in used:
            yield f"{sets.match(name, 'dst,dst')} -j ACCEPT"


def _node_ports(sets: _Sets) -> Iterator[str]:
    for protocol, name in NODE_PORT.items():
        which = "dst,dst" if protocol == "SCTP" else "dst"
        before = f"-p {protocol.lower()} "
        yield from sets.rules(NODE_PORT_LOCAL[protocol], which, "-j RETURN", before=before)
        yield from sets.rules(name, which, f"-j {MARK_MASQ}", before=before)
