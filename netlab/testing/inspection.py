"""What a lab's nodes hold, as text: their rules and the connections they remember."""

from __future__ import annotations

from collections.abc import Iterator

from netlab.errors import NetlabError
from netlab.lab.live import Live
from netlab.model.modes import Mode
from netlab.processes import run
from netlab.proxy.addresses import Family
from netlab.testing.answers import Texts

IPTABLES, NFT = ("iptables-nft-save",), ("nft", "list", "ruleset")
SAVE = {
    Mode.IPTABLES: (IPTABLES,),
    Mode.NFTABLES: (NFT,),
    Mode.IPVS: (IPTABLES, ("ipset", "save"), ("ipvsadm", "-Sn")),
    Mode.USERSPACE: (IPTABLES,),
}


def rule_set(netns: str, mode: str) -> str:
    """Return the rules of *netns* as the tools of proxy *mode* print them."""
    return "".join(run(argv, netns=netns).stdout for argv in SAVE[Mode(mode)])


def texts(live: Live) -> Texts:
    """Return rules, conntrack entries and status of *live*; what cannot be had is a note."""
    from netlab.cli.status import screen

    found: dict[str, str] = {}
    notes: list[str] = []
    lines: list[str] = []
    try:
        lines = screen(live.status())
        found["status.txt"] = "\n".join(lines) + "\n"
    except NetlabError as error:
        notes.append(f"status: {error}")
    for node in live.lab.nodes:
        netns = live.lab.netns(node.name)
        try:
            found[f"{node.name}.iptables.txt"] = run(
                ("iptables-nft-save", "-c"), netns=netns
            ).stdout
            found[f"{node.name}.nft.txt"] = run(NFT, netns=netns).stdout
            if live.lab.proxyMode == Mode.IPVS:
                found[f"{node.name}.ipvs.txt"] = rule_set(netns, Mode.IPVS)
            found[f"{node.name}.conntrack.txt"] = "".join(_connections(netns))
        except (NetlabError, OSError) as error:
            notes.append(f"{node.name}: {error}")
    return Texts(found, status=tuple(lines), notes=tuple(notes))


def _connections(netns: str) -> Iterator[str]:
    """Yield what the kernel remembers of the connections through *netns*, a line each."""
    from netlab.kernel import conntrack
    from netlab.kernel.netns import entered

    with entered(netns):
        entries = conntrack.entries(Family.IPV4)
    for entry in sorted(entries, key=str):
        state = f" {entry.state}" if entry.state else ""
        yield f"{entry}{state}, {entry.timeout} s left, id {entry.id}\n"
