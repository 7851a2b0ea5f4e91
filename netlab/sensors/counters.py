"""What the kernel has counted: how often a rule has fired, what a process was too slow for."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from netlab import firewall
from netlab.kernel.netns import entered
from netlab.processes import run

NOT_PUBLISHED = "not published"  # the comment of the gateway's last rule
MASQUERADE = re.compile(r"^\[(\d+):\d+\] (-A FLANNEL-POSTRTG .*-j MASQUERADE.*)$", re.MULTILINE)


def dropped(netns: str, *, of: str = "") -> int | None:
    """Return how many packets the gateway's rule "not published" dropped; None: no such rule.

    *of*: an address of the family that is meant; IPv4 without.
    """
    argv = ["nft", "-j", "list", "table", firewall.family_of(of), firewall.NAME]
    listing = run(argv, netns=netns, check=False)
    if listing.returncode:
        return None
    for entry in msgspec.json.decode(listing.stdout)["nftables"]:
        rule: dict[str, Any] = entry.get("rule", {})
        if rule.get("comment") == NOT_PUBLISHED:
            for expression in rule["expr"]:
                if "counter" in expression:
                    return int(expression["counter"]["packets"])
    return None


def masqueraded(netns: str, *, of: str = "") -> dict[str, int]:
    """Return a node's masquerading rules of flannel's, each with its packets (one per flow).

    *of*: an address of the family that is meant; IPv4 without.
    """
    tool = f"{firewall.family_of(of)}tables-nft-save"
    listing = run([tool, "-c", "-t", "nat"], netns=netns).stdout
    return {rule: int(packets) for packets, rule in MASQUERADE.findall(listing)}


def overrun(netns: str, device: str, port: int) -> int:
    """Return how many packets the process behind tun *device* and UDP *port* had no room for."""
    with entered(netns), open("/proc/thread-self/net/dev") as links:
        rows = [line.replace(":", " ").split() for line in links]
    lost = sum(int(row[12]) for row in rows if row[0] == device)  # not sent: its queue was full
    with entered(netns), open("/proc/thread-self/net/udp") as sockets:
        next(sockets)
        found = [line.split() for line in sockets]
    return lost + sum(int(one[12]) for one in found if one[1].endswith(f":{port:04X}"))
