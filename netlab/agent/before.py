"""How a machine's own settings were before netlab changed them, to be put back when it leaves.

Only a machine that is a node has such: a namespace that netlab makes goes with its settings. They
are read once, before the first change; after a reboot they are the machine's own again anyway, as
is what is remembered: both end with it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from netlab.kernel import settings
from netlab.proxy.settings import BRIDGE, CONNTRACK, ROUTE_LOCALNET, STRICT_ARP, VIRTUAL_SERVERS
from netlab.stacks import FORWARDS_IPV6

FILE = "settings.json"
# What netlab sets on a node: its own loop (`cni.node_objects`), and a proxy of whatever mode.
OURS = {
    "net.ipv4.ip_forward": "1",
    FORWARDS_IPV6: "1",
    ROUTE_LOCALNET: "1",
    **BRIDGE,
    **CONNTRACK,
    **VIRTUAL_SERVERS,
    **STRICT_ARP,
}


def remember(run: Path) -> None:
    """Keep the settings of the calling thread's namespace as they are, unless some are kept."""
    if not (run / FILE).exists():
        held = {name: value for name in OURS if (value := settings.read(name)) is not None}
        beginning = (run / FILE).with_suffix(".new")
        beginning.write_bytes(msgspec.json.encode(held))
        beginning.rename(run / FILE)


def restore(run: Path) -> dict[str, str]:
    """Put back what was kept, where the setting is still as netlab made it; return what was.

    What somebody else has changed since is theirs.
    """
    try:
        held = msgspec.json.decode((run / FILE).read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    done = {}
    for name, value in held.items():
        if name in OURS and settings.read(name) == OURS[name] != value:
            settings.write(name, value)
            done[name] = value
    return done
