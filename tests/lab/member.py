"""A member of the overlay that netlab did not make: flannel's ways by iproute2 and etcdctl alone.

It takes a lease as flannel does (a granted lease of etcd, a transaction that demands a new key),
has a `flannel.1` as strace shows flanneld make it, and reads its peers from etcd. Nothing of
netlab's code is in it.
"""

from __future__ import annotations

import json
import os
import subprocess
from ipaddress import IPv4Network
from typing import Any

PREFIX = "/coreos.com/network"
ETCD = "http://192.168.50.10:2379"


class Member:
    """A flannel node in the namespace *netns*, reached by *address* on its card *uplink*."""

    def __init__(
        self, netns: str, address: str, subnet: str, *, backend: str = "vxlan", uplink: str = "eth0"
    ) -> None:
        self.netns, self.address, self.subnet = netns, address, IPv4Network(subnet)
        self.backend, self.uplink = backend, uplink
        self.mac = ""
        self.etcd_lease = ""
        self._known: dict[str, dict[str, Any]] = {}

    @property
    def key(self) -> str:
        return f"{PREFIX}/subnets/{str(self.subnet).replace('/', '-')}"

    @property
    def value(self) -> str:
        """The value flannel writes, byte for byte."""
        fields: dict[str, Any] = {
            "PublicIP": self.address,
            "PublicIPv6": None,
            "BackendType": self.backend,
        }
        if self.backend == "vxlan":
            fields["BackendData"] = {"VNI": 1, "VtepMAC": self.mac}
        return json.dumps(fields, separators=(",", ":"))

    def inside(self, *words: str, check: bool = True) -> str:
        return subprocess.run(
            ["ip", "netns", "exec", self.netns, *words],
            check=check,
            capture_output=True,
            text=True,
        ).stdout

    def etcdctl(self, *words: str, input: str | None = None) -> str:
        """Ask etcd from inside the namespace, over the lab's underlay."""
        return subprocess.run(
            ["ip", "netns", "exec", self.netns, "etcdctl", f"--endpoints={ETCD}", *words],
            env={**os.environ, "ETCDCTL_API": "3"},
            input=input,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def device(self, mac: str = "") -> None:
        """Make flannel.1 anew, with a random MAC unless one is given."""
        if self.backend != "vxlan":
            return
        self.inside("ip", "link", "del", "flannel.1", check=False)
        given = ["address", mac] if mac else []
        vxlan = ["id", "1", "local", self.address, "dev", self.uplink, "dstport", "8472"]
        self.inside(
            *("ip", "link", "add", "flannel.1", *given, "mtu", "1450"),
            *("type", "vxlan", *vxlan, "nolearning"),
        )
        network = self.subnet.network_address
        self.inside("ip", "addr", "add", f"{network}/32", "dev", "flannel.1")
        self.inside("ip", "link", "set", "flannel.1", "up")
        [link] = json.loads(self.inside("ip", "-j", "link", "show", "flannel.1"))
        self.mac = link["address"]
        self._known.clear()

    def rules(self) -> None:
        """Have the rules of `flanneld --ip-masq`, in the order in which it has them."""
        network, own = "10.244.0.0/16", str(self.subnet)
        self.inside("iptables", "-N", "FLANNEL-FWD")
        self.inside("iptables", "-A", "FORWARD", "-j", "FLANNEL-FWD")
        for end in ("-s", "-d"):
            self.inside("iptables", "-A", "FLANNEL-FWD", end, network, "-j", "ACCEPT")
        nat = ("iptables", "-t", "nat")
        self.inside(*nat, "-N", "FLANNEL-POSTRTG")
        self.inside(*nat, "-A", "POSTROUTING", "-j", "FLANNEL-POSTRTG")
        for line in (
            "-m mark --mark 0x4000/0x4000 -j RETURN",
            f"-s {own} -d {network} -j RETURN",
            f"-s {network} -d {own} -j RETURN",
            f"! -s {network} -d {own} -j RETURN",
            f"-s {network} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully",
            f"! -s {network} -d {network} -j MASQUERADE --random-fully",
        ):
            self.inside(*nat, "-A", "FLANNEL-POSTRTG", *line.split())

    def take(self, *, ttl: int = 86400) -> None:
        """Acquire the subnet: grant, then the transaction that demands that nobody has it."""
        self.etcd_lease = self.etcdctl("lease", "grant", str(ttl)).split()[1]
        put = f"put {self.key} {json.dumps(self.value)} --lease={self.etcd_lease}"
        said = self.etcdctl("txn", input=f'ver("{self.key}") = "0"\n\n{put}\n\n\n')
        assert "SUCCESS" in said, said

    def renew(self, *, ttl: int = 86400) -> None:
        """Renew as flannel does: a new lease and a plain put of the value; the old one runs out."""
        self.etcd_lease = self.etcdctl("lease", "grant", str(ttl)).split()[1]
        self.etcdctl("put", self.key, self.value, f"--lease={self.etcd_lease}")

    def leave(self) -> None:
        self.etcdctl("lease", "revoke", self.etcd_lease)

    def pod(self) -> str:
        """Have a server's address on the member, the first of its pods'; return it."""
        address = str(self.subnet[2])
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "addr", "replace", f"{address}/32", "dev", "lo")
        self.inside("sysctl", "-qw", "net.ipv4.ip_forward=1")
        return address

    def peers(self) -> dict[str, dict[str, Any]]:
        """Return the leases of the others, by subnet."""
        lines = self.etcdctl("get", "--prefix", f"{PREFIX}/subnets/").splitlines()
        found = {
            key.rpartition("/")[2].replace("-", "/"): json.loads(value)
            for key, value in zip(lines[::2], lines[1::2], strict=True)
        }
        return {net: one for net, one in found.items() if one["PublicIP"] != self.address}

    def follow(self) -> None:
        """Make the kernel hold a way to each peer, and to nobody else: one look at etcd."""
        peers = self.peers()
        for subnet in {*self._known, *peers}:
            old, new = self._known.get(subnet), peers.get(subnet)
            if old is not None and old != new:
                self._forget(subnet, old)
            if new is not None:
                self._reach(subnet, new)
        self._known = peers

    def _reach(self, subnet: str, peer: dict[str, Any]) -> None:
        if self.backend == "host-gw":
            via = ("via", peer["PublicIP"], "dev", self.uplink)
            self.inside("ip", "route", "replace", subnet, *via)
            return
        gateway, mac = subnet.partition("/")[0], peer["BackendData"]["VtepMAC"]
        at = ("dev", "flannel.1")
        self.inside("ip", "neigh", "replace", gateway, "lladdr", mac, *at, "nud", "permanent")
        self.inside("bridge", "fdb", "replace", mac, *at, "dst", peer["PublicIP"], "self")
        self.inside("ip", "route", "replace", subnet, "via", gateway, *at, "onlink")

    def _forget(self, subnet: str, peer: dict[str, Any]) -> None:
        self.inside("ip", "route", "del", subnet, check=False)
        if self.backend == "vxlan":
            gateway, mac = subnet.partition("/")[0], peer["BackendData"]["VtepMAC"]
            self.inside("ip", "neigh", "del", gateway, "dev", "flannel.1", check=False)
            self.inside("bridge", "fdb", "del", mac, "dev", "flannel.1", check=False)
