"""Tries of packet rules, in the namespace of the trial: loaded and asked back, not looked up."""

from __future__ import annotations

import socket
from pathlib import Path
from struct import pack

from netlab import patience
from netlab.capabilities import links
from netlab.kernel import netlink
from netlab.processes import run

NFTRACE_GROUP = 9  # linux/netfilter/nfnetlink.h: NFNLGRP_NFTRACE
GENERIC, CONTROL, GETFAMILY, FAMILY_NAME = 16, 16, 3, 2  # linux/genetlink.h
CHAIN = "NETLAB-TRY"
PATIENCE = patience.seconds(2.0)  # seconds for a trace message


def nft() -> str:
    run(["nft", "-f", "-"], input="table ip nltry { chain c { counter drop; }; }\n")
    return run(["nft", "--version"]).stdout.split(" (")[0].strip()


def conntrack() -> str:
    hook = "type filter hook forward priority 0"
    rules = f"table ip nltry {{ chain f {{ {hook}; ct state new drop; }}; }}"
    run(["nft", "-f", "-"], input=rules + "\n")
    return ""


def iptables_nft() -> str:
    """Load a rule as flannel's are, NAT and all."""
    rule = "-m comment --comment try -j MASQUERADE --random-fully"
    script = f"*nat\n:{CHAIN} - [0:0]\n-A {CHAIN} {rule}\nCOMMIT\n"
    run(["iptables-nft-restore", "--noflush", "--wait"], input=script)
    return run(["iptables-nft", "--version"]).stdout.strip()


def no_legacy() -> str:
    """Check that plain `iptables` shows what iptables-nft loaded, and no legacy table is there."""
    listed = run(["iptables", "-t", "nat", "-S"], check=False).stdout
    if CHAIN not in listed:
        raise OSError(0, "the command iptables is not the nf_tables variant")
    legacy = Path("/proc/net/ip_tables_names")
    if legacy.exists() and legacy.read_text().strip():
        raise OSError(0, "legacy tables are loaded in every new namespace")
    return ""


def nft_trace() -> str:
    """Trace one packet over lo and see the kernel tell of it."""
    links.lo_up()
    hook = "type filter hook output priority -400"
    rules = f"table ip nltrace {{ chain c {{ {hook}; meta nftrace set 1; }}; }}"
    run(["nft", "-f", "-"], input=rules + "\n")
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink.NETFILTER) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        listener.bind((0, 0))
        listener.setsockopt(netlink.SOL_NETLINK, netlink.ADD_MEMBERSHIP, NFTRACE_GROUP)
        listener.settimeout(PATIENCE)
        sender.sendto(b"try", ("127.0.0.1", 9))
        listener.recv(4096)
    return ""


def ip_vs() -> str:
    """Ask for ip_vs's own netlink family; the kernel loads the module for it where it may."""
    body = pack("=BBH", GETFAMILY, 1, 0) + netlink.text(FAMILY_NAME, "IPVS")
    opened = netlink.Socket(GENERIC)
    try:
        (reply,) = opened.ask([netlink.message(CONTROL, 0, body)])
    finally:
        opened.close()
    if isinstance(reply, netlink.NetlinkError):
        raise reply
    return ""
