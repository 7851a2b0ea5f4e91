"""What this machine can do, found by trying: never by asking for a version.

`tried()` does every try of `TRIES` in a child process, inside namespaces that vanish with it, so
nothing is left and nothing of the host's is touched. A try is a function that does the thing and
returns a short remark; an error means that the machine cannot.

    trial   the child process, its namespaces, its report
    links   devices and queueing, by netlink
    rules   nftables, iptables, tracing, conntrack, ip_vs, ipsets
    system  namespaces, sockets, programs, limits
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from netlab.capabilities import links, rules, system, trial
from netlab.errors import CapabilityError
from netlab.model.modes import Mode


class Capability(NamedTuple):
    """One thing a machine can or cannot do."""

    name: str
    ok: bool
    required: bool  # whether a lab as netlab makes it today needs it
    needed_by: str
    detail: str  # what was seen: a version, a number, the kernel's refusal
    remedy: str  # what to install, load or allow when it is missing


class Try(NamedTuple):
    """One capability and how it is tried; `attempt` returns a remark or raises."""

    name: str
    attempt: Callable[[], str]
    needed_by: str
    remedy: str
    required: bool = True


def _module(name: str, option: str) -> str:
    return f"a kernel with {option}; where it is a module: modprobe {name}"


# In order: each runs in the same throw-away network namespace as those before it.
TRIES: tuple[Try, ...] = (
    Try(
        "user namespace",
        system.user_namespace,
        "labs without root",
        "sysctl kernel.unprivileged_userns_clone=1, or "
        "kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu; or use sudo",
        required=False,
    ),
    Try("net namespace", system.net_namespace, "every machine and pod", "root, or user namespaces"),
    Try("mount namespace", system.mount_namespace, "exec in pods", "root, or user namespaces"),
    Try("uts namespace", system.uts_namespace, "host names of pods", "CONFIG_UTS_NS"),
    Try("ipc namespace", system.ipc_namespace, "containers of one pod", "CONFIG_IPC_NS"),
    Try("pid namespace", system.pid_namespace, "exec in pods", "CONFIG_PID_NS"),
    Try("pidfd", system.pidfd, "ending only our own processes", "Linux 5.3 or newer"),
    Try("veth", links.veth, "every cable", _module("veth", "CONFIG_VETH")),
    Try("bridge", links.bridge, "docker0, underlay segments", _module("bridge", "CONFIG_BRIDGE")),
    Try(
        "bridge ports",
        links.bridge_ports,
        "pods of one node",
        "spread the pods over more nodes",
        required=False,
    ),
    Try("vxlan", links.vxlan, "flannel's tunnel", _module("vxlan", "CONFIG_VXLAN")),
    Try(
        "tun",
        links.tun,
        "flannel's back end udp",
        f"{_module('tun', 'CONFIG_TUN')}; mkdir -p /dev/net; mknod /dev/net/tun c 10 200",
        required=False,
    ),
    Try(
        "br_netfilter",
        links.br_netfilter,
        "NAT between pods of one node",
        _module("br_netfilter", "CONFIG_BRIDGE_NETFILTER"),
    ),
    Try("nft", rules.nft, "the gateway's firewall", "apt install nftables"),
    Try(
        "conntrack",
        rules.conntrack,
        "firewall, NAT",
        _module("nf_conntrack", "CONFIG_NF_CONNTRACK"),
    ),
    Try(
        "nft fwd",
        rules.nft_fwd,
        "a balancer beside machines of their own",
        _module("nft_fwd_netdev", "CONFIG_NFT_FWD_NETDEV, CONFIG_NF_TABLES_NETDEV"),
        required=False,
    ),
    Try("iptables-nft", rules.iptables_nft, "flannel's rules", "apt install iptables"),
    Try(
        "one iptables",
        rules.no_legacy,
        "rules that all tools see",
        "update-alternatives --set iptables /usr/sbin/iptables-nft, and unload ip_tables",
        required=False,
    ),
    Try(
        "IPv6",
        rules.ipv6,
        "dual-stack labs",
        "a kernel with CONFIG_IPV6 and CONFIG_NF_TABLES_IPV6, started without ipv6.disable=1",
        required=False,
    ),
    Try("etcd", system.etcd, "leases and objects", "apt install etcd-server"),
    Try(
        "nginx",
        system.nginx,
        "ingress controllers",
        "apt install nginx libnginx-mod-http-lua",
        required=False,
    ),
    Try("ip", system.ip, "reading a lab by hand", "apt install iproute2", required=False),
    Try("AF_PACKET ring", system.packet_ring, "verify, trace, capture", "CONFIG_PACKET"),
    Try("open files", system.open_files, "1000 pods", "ulimit -Hn 65536", required=False),
    Try(
        "nft trace",
        rules.nft_trace,
        "trace, why, naming the rule that fired",
        _module("nf_tables", "CONFIG_NF_TABLES"),
        required=False,
    ),
    Try(
        "TCP_REPAIR",
        system.first_sequence,
        "trace and why over TCP",
        "root, or a user namespace; Linux 3.5 or newer",
        required=False,
    ),
    Try(
        "drop reasons",
        system.drop_reasons,
        "the kernel's own reason in why",
        "root, and a kernel with CONFIG_FTRACE",
        required=False,
    ),
    Try(
        "SCTP",
        system.sctp,
        "containerPorts with protocol SCTP",
        _module("sctp", "CONFIG_IP_SCTP"),
        required=False,
    ),
    Try(
        "dummy",
        links.dummy,
        "kube-ipvs0 of proxyMode ipvs",
        _module("dummy", "CONFIG_DUMMY"),
        required=False,
    ),
    Try(
        "ip_vs",
        rules.ip_vs,
        "proxyMode ipvs",
        _module("ip_vs", "CONFIG_IP_VS"),
        required=False,
    ),
    Try(
        "ip_set",
        rules.ip_set,
        "proxyMode ipvs",
        _module("ip_set", "CONFIG_IP_SET, CONFIG_NETFILTER_XT_SET and _XT_MATCH_IPVS"),
        required=False,
    ),
    Try(
        "netem",
        links.netem,
        "delay and loss on cables",
        _module("sch_netem", "CONFIG_NET_SCH_NETEM"),
        required=False,
    ),
)


# What a proxy mode needs beside what every lab does.
OF_MODE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {Mode.IPVS: ("dummy", "ip_vs", "ip_set")},
)


def require_mode(mode: str) -> None:
    """Raise CapabilityError unless nodes of this machine can serve by proxy *mode*. See `tried`."""
    needed = OF_MODE.get(mode, ())
    missing = [one for one in tried(*needed) if not one.ok] if needed else []
    if missing:
        names = ", ".join(one.name for one in missing)
        raise CapabilityError(
            f"proxy mode {mode} needs {names}, which this machine lacks",
            hint="`netlab doctor` tells more; `scripts/vm -- netlab …` runs a kernel that has it",
        )


def require_ipv6() -> None:
    """Raise CapabilityError unless pods of this machine can have IPv6. See `tried`."""
    (ipv6,) = tried("IPv6")
    if not ipv6.ok:
        raise CapabilityError(
            f"network.EnableIPv6 needs IPv6, which this machine lacks: {ipv6.detail}",
            hint=ipv6.remedy,
        )


def require_handing_on() -> None:
    """Raise CapabilityError unless this machine can have the balancer of others. See `tried`."""
    (fwd,) = tried("nft fwd")
    if not fwd.ok:
        raise CapabilityError(
            f"the balancer needs nft fwd, which this machine lacks: {fwd.detail}", hint=fwd.remedy
        )


def available_modes() -> list[Mode]:
    """Return the proxy modes that nodes of this machine can serve by. See `tried`."""
    needed = sorted({name for names in OF_MODE.values() for name in names})
    there = {one.name for one in tried(*needed) if one.ok}
    return [mode for mode in Mode if there.issuperset(OF_MODE.get(mode, ()))]


def tried(*names: str) -> list[Capability]:
    """Return what this machine can do, of *names* or of all; in the order of `TRIES`.

    All take about a second. Must be called while the process has one thread: it forks.
    """
    tries = [a for a in TRIES if not names or a.name in names]
    outcomes = trial.outcomes([a.attempt for a in tries])
    return [
        Capability(a.name, ok, a.required, a.needed_by, detail, "" if ok else a.remedy)
        for a, (ok, detail) in zip(tries, outcomes, strict=True)
    ]
