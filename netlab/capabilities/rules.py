"""Tries of packet rules, in the namespace of the trial: loaded and asked back, not looked up."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from netlab import patience
from netlab.capabilities import links
from netlab.kernel import ipset, ipvs, netlink
from netlab.processes import run
from netlab.proxy.addresses import Family
from netlab.proxy.ipvs_sets import CLUSTER_IP, empty_set
from netlab.proxy.ruleset import Block, Sort, Step

NFTRACE_GROUP = 9  # linux/netfilter/nfnetlink.h: NFNLGRP_NFTRACE
CHAIN = "NETLAB-TRY"
PATIENCE = patience.seconds(2.0)  # seconds for a trace message


def nft() -> str:
    run(["nft", "-f", "-"], input="table ip nltry { chain c { counter drop; }; }\n")
    return run(["nft", "--version"]).stdout.split(" (")[0].strip()


def nft_fwd() -> str:
    """Load a rule that hands packets on to a neighbour before IP gets them."""
    hook = "type filter hook ingress device lo priority 0"
    rule = "meta protocol ip fwd ip to 192.0.2.1 device lo"
    run(["nft", "-f", "-"], input=f"table netdev nltry {{ chain c {{ {hook}; {rule}; }}; }}\n")
    return ""


def conntrack() -> str:
    hook = "type filter hook forward priority 0"
    rules = f"table ip nltry {{ chain f {{ {hook}; ct state new drop; }}; }}"
    run(["nft", "-f", "-"], input=rules + "\n")
    return ""


def iptables_nft() -> str:
    """Load a rule as flannel's are, NAT and all."""
    return _masquerading("iptables")


def ipv6() -> str:
    """Have IPv6, and load such a rule of it."""
    if not Path("/proc/sys/net/ipv6").is_dir():
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    return _masquerading("ip6tables")


def _masquerading(tool: str) -> str:
    rule = "-m comment --comment try -j MASQUERADE --random-fully"
    script = f"*nat\n:{CHAIN} - [0:0]\n-A {CHAIN} {rule}\nCOMMIT\n"
    run([f"{tool}-nft-restore", "--noflush", "--wait"], input=script)
    return run([f"{tool}-nft", "--version"]).stdout.strip()


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
    """Make a virtual server, as kube-proxy does; the kernel loads what it needs where it may."""
    block = Block(Family.IPV4, Sort.SERVER, "ipvs", "TCP 198.51.100.0:20000", ("-s rr",))
    ipvs.write([Step(block, None)])
    return ""


def ip_set() -> str:
    """Make a set, and rules that match it, and what else those of ipvs mode match."""
    ipset.make([Step(empty_set(Family.IPV4, CLUSTER_IP), None)])
    rules = [
        f"-A {CHAIN}-SET {one} -j RETURN"
        for one in (
            f"-m set --match-set {CLUSTER_IP} dst,dst",
            "-m physdev ! --physdev-is-in",
            "-m ipvs --vproto 6 --vaddr 198.51.100.0 --vport 1",
        )
    ]
    script = "\n".join(["*filter", f":{CHAIN}-SET - [0:0]", *rules, "COMMIT", ""])
    run(["iptables-nft-restore", "--noflush", "--wait"], input=script)
    return ""
