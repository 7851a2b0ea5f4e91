"""The texts between ipvs mode's blocks and tools: what these are given, and what the kernel lists.

What nobody reaches yet is made ahead of the rules of iptables, and what they still need goes behind
them: `ahead` and `behind` of a step's two sides.
Source: ipvsadm(8), ipset(8), ip(8); Linux net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_info_seq_show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from netlab.proxy.addresses import Family, socket_address
from netlab.proxy.ipvs import FLAG, SERVERS, server_name
from netlab.proxy.ipvs_frame import DEVICE
from netlab.proxy.ruleset import Block, Sort, Step

OWN_SORTS = (Sort.IPSET, Sort.SERVER, Sort.ADDRESSES)  # what is not iptables'
FORWARD = {"Masq": "-m", "Route": "-g", "Tunnel": "-i", "Local": "-m"}


class Real(NamedTuple):
    """A real server as the kernel lists it."""

    text: str  # 10.244.1.2:80
    forward: str  # -m
    weight: int
    active: int  # connections that are established
    inactive: int  # others that are remembered

    @property
    def line(self) -> str:
        """As in a block."""
        return f"-r {self.text} {self.forward} -w {self.weight}"

    @property
    def connections(self) -> int:
        return self.active + self.inactive


class Server(NamedTuple):
    """A virtual server as the kernel lists it."""

    family: Family
    protocol: str
    address: str
    port: int
    scheduler: str
    timeout: int  # seconds a client stays at its real server; 0: it does not
    flags: str  # of its scheduler, as ipvsadm writes them: `mh-fallback,mh-port`
    reals: tuple[Real, ...]

    @property
    def name(self) -> str:
        """Of its block."""
        return server_name(self.protocol, self.address, self.port)

    @property
    def ending(self) -> tuple[Real, ...]:
        """The real servers that get no new connections, and still have old ones."""
        return tuple(one for one in self.reals if not one.weight and one.connections)

    @property
    def block(self) -> Block:
        """It as a block, without those that are `ending`."""
        words = f"-s {self.scheduler}" + (f" -p {self.timeout}" if self.timeout else "")
        words += f" -b {self.flags}" if self.flags else ""
        lines = tuple(one.line for one in self.reals if one.weight or not one.connections)
        return Block(self.family, Sort.SERVER, SERVERS, self.name, (words,), lines)


# ---------------------------------------------------------------------------- from the kernel


def reals(listed: str) -> dict[str, tuple[Real, ...]]:
    """Return the real servers that /proc/net/ip_vs lists, by the names of their virtual servers."""
    found: dict[str, list[Real]] = {}
    here: list[Real] = []
    for line in listed.splitlines()[1:]:
        words = line.split()
        if line.startswith("  ->"):
            if words[1][:1] != "R":  # a title
                text = socket_address(*_place(words[1]))
                forward = FORWARD.get(words[2], "-m")
                here.append(Real(text, forward, int(words[3]), int(words[4]), int(words[5])))
        else:
            here = []
            if words[0] in FLAG:
                found[server_name(words[0], *_place(words[1]))] = here
    return {name: tuple(each) for name, each in found.items()}


@lru_cache(maxsize=1 << 16)
def _place(words: str) -> tuple[str, int]:
    """Return address and port of `0A600001:01BB` or `[fd00:0000:…:0001]:01BB`."""
    host, _, port = words.rpartition(":")
    if host.startswith("["):
        return str(IPv6Address(host[1:-1])), int(port, 16)
    return str(IPv4Address(int(host, 16))), int(port, 16)


# ------------------------------------------------------------------------------- to the tools


def own(steps: Iterable[Step]) -> list[Step]:
    """Return those of *steps* that are not about iptables' rules, by name."""
    found = (step for step in steps if step.block.sort in OWN_SORTS)
    return sorted(found, key=lambda step: step.block.key)


def others(steps: Iterable[Step]) -> list[Step]:
    """Return those of *steps* that are about iptables' rules."""
    return [step for step in steps if step.block.sort not in OWN_SORTS]


def ahead(steps: Sequence[Step]) -> list[tuple[str, str]]:
    """Return the commands, each with its input, that make what *steps* add."""
    sets, links, virtual = [], [], []
    for new, old in steps:
        if new is None:
            continue
        had = frozenset(old.lines) if old else frozenset()
        more = [line for line in new.lines if line not in had]
        match new.sort:
            case Sort.IPSET:
                if old is None:
                    sets.append(f"create {new.name} {new.head[0]}")
                sets += [f"add {new.name} {line}" for line in more]
            case Sort.ADDRESSES:
                if old is None:
                    links.append(f"link add {DEVICE} type dummy")
                links += [f"addr add {line} dev {DEVICE}" for line in more]
            case Sort.SERVER:
                at = _at(new)
                if old is None or old.head != new.head:
                    virtual.append(f"{'-A' if old is None else '-E'} {at} {new.head[0]}")
                virtual += [f"-a {at} {line}" for line in more]
    if len(links) > 1:  # the device is one for both families
        links = list(dict.fromkeys(links))
    return _given(("ipset restore -exist", sets), ("ip -batch -", links), ("ipvsadm -R", virtual))


def behind(steps: Sequence[Step]) -> list[tuple[str, str]]:
    """Return the commands, each with its input, that remove what *steps* take away."""
    sets, links, virtual = [], [], []
    for new, old in steps:
        if old is None:
            continue
        kept = frozenset(new.lines) if new else frozenset()
        less = [line for line in old.lines if line not in kept]
        match old.sort:
            case Sort.IPSET:
                gone = [f"del {old.name} {line}" for line in less]
                sets += gone if new else [f"destroy {old.name}"]
            case Sort.ADDRESSES:
                links += [f"addr del {line} dev {DEVICE}" for line in less]
                if new is None:
                    links.append(f"link del {DEVICE}")
            case Sort.SERVER:
                at = _at(old)
                gone = [f"-d {at} -r {line.split(' ')[1]}" for line in less]
                virtual += gone if new else [f"-D {at}"]
    if f"link del {DEVICE}" in links:
        links = [f"link del {DEVICE}"]
    return _given(("ip -batch -", links), ("ipvsadm -R", virtual), ("ipset restore", sets))


def _at(block: Block) -> str:
    protocol, _, place = block.name.partition(" ")
    return f"{FLAG[protocol]} {place}"


def _given(*commands: tuple[str, list[str]]) -> list[tuple[str, str]]:
    return [(command, "\n".join(lines) + "\n") for command, lines in commands if lines]
