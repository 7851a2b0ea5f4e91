"""The rules and queues that stand for bad cables: what they lose, and who is kept from etcd.

1. The table belongs to the bridge a cable is plugged into (the underlay's, or a node's docker0) and
   sees every frame of its port, both ways: what is lost is lost before the machine's own rules.
2. Loss is netem's where the kernel has it: a queue loses what it sends, so there is one at either
   end of the cable. Else it is a rule that drops by chance, both ways; its comment is the command.
3. The machine is the only one kept from etcd: its pods' traffic goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from netlab.errors import NotFoundError
from netlab.model.faults import Fault, Sort
from netlab.model.lab import Lab
from netlab.objects import Netem, NftTable

FAMILY, TABLE = "bridge", "netlab-faults"
ETCD_PORTS = "2379-2380"  # of clients and peers
SHARES = 10_000  # a loss is so many of these; a hundredth of a percent


def carried(lab: Lab, running: Lab | None) -> Lab:
    """Return *lab*, as files declare it, with the faults of the *running* lab that still concern
    it: not those of nodes it has no more, nor a node's adding or removal, which it decides."""
    nodes = {node.name for node in lab.nodes}
    left = () if running is None else {node.name for node in running.nodes} - nodes
    kept = [
        fault
        for fault in (running.faults if running is not None else ())
        if fault.breaks and fault.target not in left
    ]
    return replace(lab, faults=tuple(kept))


def require_power(lab: Lab, node: str) -> None:
    """Raise NotFoundError for a *node* that is switched off: nothing is there."""
    if fault := lab.faulted(Sort.NODE_STOP, node):
        raise NotFoundError(f"{fault.words}, by `{fault.command}`", hint=fault.undo)


def queues(netns: str, late: Mapping[str, Fault], lossy: Mapping[str, Fault]) -> list[Netem]:
    """Return the queues of ports, by device in *netns*, that send late what goes to a machine, or
    lose it by netem."""
    sure = Fault(Sort.LINK_LOSS)
    lossy = {device: one for device, one in lossy.items() if one.netem}
    return [
        Netem(
            netns,
            device,
            late.get(device, sure).delay,
            late.get(device, sure).jitter,
            share(lossy.get(device, sure).loss),
        )
        for device in {**late, **lossy}
    ]


def far_queues(lab: Lab, target: str, netns: str, device: str) -> list[Netem]:
    """Return the queue of a machine's or pod's own card, which loses by netem what it sends."""
    lossy = lab.faulted(Sort.LINK_LOSS, target)
    return [] if lossy is None else queues(netns, {}, {device: lossy})


def rules(
    netns: str, lossy: Mapping[str, Fault], cut: Mapping[str, Fault], *, etcd: str = ""
) -> list[NftTable]:
    """Return the table for the ports that lose frames and those that are cut off from *etcd*.

    By device in *netns*. No table at all when there are none.
    """
    incoming = [*_losing("iifname", lossy), *_cutting("iifname", "daddr", "dport", cut, etcd)]
    outgoing = [*_losing("oifname", lossy), *_cutting("oifname", "saddr", "sport", cut, etcd)]
    if not incoming:
        return []
    body = _chain("from-cable", "prerouting", "dstnat", incoming)
    body += "\n" + _chain("to-cable", "postrouting", "srcnat", outgoing)
    return [NftTable(netns, FAMILY, TABLE, body)]


def _chain(name: str, hook: str, priority: str, lines: Iterable[str]) -> str:
    head = f"\tchain {name} {{\n\t\ttype filter hook {hook} priority {priority}; policy accept;\n"
    return head + "".join(f"\t\t{line}\n" for line in lines) + "\t}\n"


def _losing(match: str, lossy: Mapping[str, Fault]) -> list[str]:
    return [
        f'{match} "{device}" {chance(fault.loss)}counter drop comment "{fault.command}"'
        for device, fault in lossy.items()
        if not fault.netem
    ]


def _cutting(match: str, address: str, port: str, cut: Mapping[str, Fault], etcd: str) -> list[str]:
    return [
        f'{match} "{device}" ip {address} {etcd} tcp {port} {ETCD_PORTS} counter drop'
        f' comment "{fault.command}"'
        for device, fault in cut.items()
    ]


def share(loss: float) -> float:
    """Return *loss* in percent, rounded to what is counted, and something if it is anything."""
    return max(100 / SHARES, round(loss, 2)) if loss else 0.0


def chance(loss: float) -> str:
    """Return the match that holds for *loss* percent of all frames, none for all of them."""
    part = round(share(loss) * SHARES / 100)
    return f"numgen random mod {SHARES} < {part} " if part < SHARES else ""
