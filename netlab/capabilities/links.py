"""Tries of devices and queueing: one netlink message each, in the namespace of the trial."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from struct import pack

from netlab.encapsulation import device
from netlab.kernel import netlink

NEWLINK, NEWQDISC = 16, 36  # linux/rtnetlink.h: RTM_*
IFNAME, MASTER, LINKINFO, INFO_KIND, INFO_DATA = 3, 10, 18, 1, 2  # linux/if_link.h: IFLA_*
VETH_PEER, VXLAN_ID, VXLAN_PORT = 1, 1, 15  # VETH_INFO_PEER, IFLA_VXLAN_ID, IFLA_VXLAN_PORT
UP = 1  # IFF_UP
LOOPBACK = 1  # index of lo in every namespace
MAKE = netlink.CREATE | netlink.EXCL
PORTS_MAX = 1 << 10  # linux/net/bridge/br_private.h: BR_MAX_PORTS; port 0 is never given out
BRIDGE_NAME = "nlbridge"


def header(index: int = 0, *, flags: int = 0) -> bytes:
    """Return struct ifinfomsg."""
    return pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)


def kind(name: str, *data: bytes) -> bytes:
    """Return the attribute that says what kind of link is meant."""
    details = (netlink.nest(INFO_DATA, *data),) if data else ()
    return netlink.nest(LINKINFO, netlink.text(INFO_KIND, name), *details)


def made(*requests: bytes) -> str:
    """Have the kernel do *requests*; return an empty remark. Raises NetlinkError."""
    opened = netlink.Socket()
    try:
        errors = opened.send(requests)
    finally:
        opened.close()
    if errors:
        raise errors[0]
    return ""


def link(name: str, kind_attribute: bytes) -> bytes:
    """Return the request for a new link."""
    body = header() + netlink.text(IFNAME, name) + kind_attribute
    return netlink.message(NEWLINK, MAKE, body)


def pair(name: str, peer: str, *, master: int = 0) -> bytes:
    """Return the request for a pair of veths; the first is a port of the bridge *master*."""
    other = netlink.nest(VETH_PEER, header() + netlink.text(IFNAME, peer))
    body = header() + netlink.text(IFNAME, name) + kind("veth", other)
    return netlink.message(NEWLINK, MAKE, body + (netlink.u32(MASTER, master) if master else b""))


def veth() -> str:
    return made(pair("nlveth0", "nlveth1"))


def bridge() -> str:
    return made(link(BRIDGE_NAME, kind("bridge")))


def vxlan() -> str:
    number = netlink.u32(VXLAN_ID, 1)
    port = netlink.attribute(VXLAN_PORT, pack("!H", 8472))
    return made(link("nlvxlan", kind("vxlan", number, port)))


def tun() -> str:
    """Make a tun device, which goes when it is closed."""
    opened = device.opened()
    try:
        device.attach(opened, "nltun")
    finally:
        os.close(opened)
    return ""


def dummy() -> str:
    return made(link("nldummy", kind("dummy")))


def lo_up() -> str:
    return made(netlink.message(NEWLINK, 0, header(LOOPBACK, flags=UP)))


def bridge_ports() -> str:
    """Plug ports into the bridge until one is refused; return how many it took."""
    master = socket.if_nametoindex(BRIDGE_NAME)
    opened = netlink.Socket()
    try:
        errors = opened.send([pair(f"nlp{i}", f"nlq{i}", master=master) for i in range(PORTS_MAX)])
    finally:
        opened.close()
    took = errors[0].index if errors else PORTS_MAX
    return f"at most {took} on one bridge"


def br_netfilter() -> str:
    """Let bridged packets meet iptables in this namespace; needs the bridge to be loaded."""
    setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if not setting.exists():
        raise FileNotFoundError(2, f"no {setting}")
    setting.write_text("1")
    return ""


def netem() -> str:
    """Put a delay of a millisecond on lo."""
    microsecond = 15  # psched ticks: linux/include/net/pkt_sched.h, PSCHED_SHIFT 6
    options = pack("=6I", 1000 * microsecond, 1000, 0, 0, 0, 0)  # struct tc_netem_qopt
    body = pack("=BxxxiIII", socket.AF_UNSPEC, LOOPBACK, 0, 0xFFFFFFFF, 0)  # struct tcmsg, at root
    body += netlink.text(1, "netem") + netlink.attribute(2, options)  # TCA_KIND, TCA_OPTIONS
    return made(netlink.message(NEWQDISC, MAKE, body))
