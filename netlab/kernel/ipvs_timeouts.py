"""How long ip_vs remembers a connection without a packet, in the namespace of the calling thread.

Numbers: linux/ip_vs.h; net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_genl_set_config, v6.12.
"""

from __future__ import annotations

from struct import pack

from netlab.errors import KernelError
from netlab.kernel import ipvs, ipvs_messages, netlink
from netlab.kernel.netlink import NetlinkError, message, u32
from netlab.proxy.options import USUAL, Timeouts

NAME = "ip_vs.timeout_{}"  # what one is called beside sysctls, of which it is none
_SET_CONFIG, _GET_CONFIG = 12, 13  # IPVS_CMD_*
_ATTRIBUTES = {"tcp": 4, "tcp_fin": 5, "udp": 6}  # IPVS_CMD_ATTR_TIMEOUT_*


def read() -> Timeouts:
    """Return the timeouts there are. Raises KernelError, CapabilityError."""
    opened = netlink.Socket(netlink.GENERIC)
    try:
        kind = ipvs_messages.family_id(opened)
        (reply,) = opened.ask([message(kind, 0, pack("=BBH", _GET_CONFIG, 1, 0))])
    finally:
        opened.close()
    if isinstance(reply, NetlinkError):
        raise KernelError(f"cannot read ip_vs's timeouts: {reply}") from reply
    found = netlink.attributes(reply, 4)
    return Timeouts(**{name: netlink.number(found[at]) for name, at in _ATTRIBUTES.items()})


def unlike(wanted: Timeouts) -> dict[str, int]:
    """Return by name those of the timeouts *wanted* that are others here; 0 is as it is."""
    asked = {name: value for name in _ATTRIBUTES if (value := getattr(wanted, name))}
    if not asked:
        return {}
    here = read() if ipvs.LISTING.exists() else USUAL
    return {name: value for name, value in asked.items() if getattr(here, name) != value}


def make(wanted: Timeouts) -> dict[str, str]:
    """Set those of the timeouts *wanted* that are others here; return them, by names as `NAME`.

    Raises KernelError, CapabilityError.
    """
    changed = unlike(wanted)
    if not changed:
        return {}
    body = b"".join(u32(_ATTRIBUTES[name], value) for name, value in changed.items())
    opened = netlink.Socket(netlink.GENERIC)
    try:
        kind = ipvs_messages.family_id(opened)
        for error in opened.send([message(kind, 0, pack("=BBH", _SET_CONFIG, 1, 0) + body)]):
            raise KernelError(f"cannot set ip_vs's timeouts: {error}") from error
    finally:
        opened.close()
    return {NAME.format(name): str(value) for name, value in changed.items()}
