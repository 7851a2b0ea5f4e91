"""A real flanneld, of whoever runs these tests, and a pod behind it that netlab did not make.

NETLAB_FLANNELD names the program. It takes its own lease, and makes its own devices and rules;
what it thinks of netlab's nodes is read from its log.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from ipaddress import ip_interface
from pathlib import Path

from labs import ROOT, Cli, asked, eventually, inside

PROGRAM = os.path.abspath(os.environ["NETLAB_FLANNELD"]) if "NETLAB_FLANNELD" in os.environ else ""
ETCD = "http://192.168.50.10:2379"
# What each says at its start without a subnet file and without TLS, and at its end.
USUAL = re.compile(
    r"no subnet found for key|This is insecure|Failed to close etcd client"
    r"|could not watch leases: context canceled|CompleteLease execute error err: canceled"
)
SERVER = """
import json, socket
server = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    one, peer = server.accept()
    one.recv(100)
    one.sendall(json.dumps({"client": peer[0].removeprefix("::ffff:")}).encode() + b"\\n")
    one.close()
"""


class Flanneld:
    """A flanneld with the options of docs/foreign.md, its subnet file called after *name*.

    *within*: the command that runs it in its namespace.
    """

    def __init__(self, within: list[str], directory: Path, name: str) -> None:
        self.within = within
        self.file = Path(f"/run/flannel/{name}.env")
        self.log_file = directory / f"{name}.log"
        self.log_file.touch()
        self.heard = 0  # how much of its log has been judged
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def on_node(cls, cli: Cli, node: str) -> Flanneld:
        """One that `netlab exec` runs."""
        within = [sys.executable, "-m", "netlab", "exec", "-L", cli.lab, f"node/{node}", "--"]
        return cls(within, cli.directory, f"{cli.lab}{node}")

    def start(self, *words: str) -> None:
        """Start it, and wait until it says that it is ready."""
        since = len(self.log())
        given = [f"--etcd-endpoints={ETCD}", "--iface=eth0", "--ip-masq"]
        command = [*self.within, PROGRAM, *given, f"--subnet-file={self.file}", *words]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        eventually(lambda: "flannel is ready" in self.log()[since:], what=f"ready: {self.log()}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal and wait for its end; nothing when it does not run."""
        if self.process is not None and self.process.poll() is None:
            os.kill(self._pid(), how)
        self.ended()

    def ended(self) -> None:
        """Wait until it has ended."""
        if self.process is not None:
            self.process.wait(20)
            self.process = None

    def _pid(self) -> int:
        """The flanneld itself, which `netlab exec` may have as its child."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children and "netlab" in self.within else pid

    def remove(self) -> None:
        self.end(signal.SIGKILL)
        self.file.unlink(missing_ok=True)

    def log(self) -> str:
        return self.log_file.read_text()

    def complaints(self) -> list[str]:
        """The warnings and errors that it logged since this was last asked, but the usual ones."""
        new, self.heard = self.log()[self.heard :], len(self.log())
        lines = [one for one in new.splitlines() if re.match(r"[WEF]\d{4} |panic:", one)]
        return [one for one in lines if not USUAL.search(one)]

    def environment(self) -> dict[str, str]:
        """FLANNEL_SUBNET, FLANNEL_MTU and the rest of its subnet file."""
        return dict(line.split("=", 1) for line in self.file.read_text().split())


class Behind:
    """docker0 in *netns* and one pod at it, as a container runtime has them by a subnet file."""

    def __init__(self, netns: str) -> None:
        self.netns, self.pod = netns, f"{netns}pod"
        self.addresses: list[str] = []  # the pod's, IPv4 first
        self._server: subprocess.Popen[bytes] | None = None

    def make(self, environment: dict[str, str]) -> None:
        """Make it all; a server in the pod says at port 80 who asks."""
        subprocess.run(["ip", "netns", "add", self.pod], check=True)
        mtu = environment["FLANNEL_MTU"]
        far = ("type", "veth", "peer", "name", "eth0", "mtu", mtu, "netns", self.pod)
        forward = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        inside(self.netns, "sysctl", "-qw", *forward)
        inside(self.netns, "ip", "link", "add", "docker0", "type", "bridge")
        inside(self.netns, *f"ip link add veth0 mtu {mtu} master docker0".split(), *far)
        for netns, device in ((self.netns, "docker0"), (self.netns, "veth0"), (self.pod, "eth0")):
            inside(netns, "ip", "link", "set", device, "up")
        for key in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"):
            if key in environment:
                self._address(environment[key])
        self._server = subprocess.Popen(["ip", "netns", "exec", self.pod, "python3", "-c", SERVER])
        eventually(lambda: ":80" in inside(self.pod, "ss", "-Hltn"), what="its server listens")

    def _address(self, gateway: str) -> None:
        here = ip_interface(gateway)
        own = f"{here.ip + 1}/{here.network.prefixlen}"
        nodad = ["nodad"] if here.version == 6 else []
        inside(self.netns, "ip", "addr", "add", gateway, "dev", "docker0", *nodad)
        inside(self.pod, "ip", "addr", "add", own, "dev", "eth0", *nodad)
        inside(self.pod, "ip", "route", "add", "default", "via", str(here.ip))
        self.addresses.append(str(here.ip + 1))

    def remove(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        subprocess.run(["ip", "netns", "del", self.pod], capture_output=True)


def pods(cli: Cli) -> dict[str, list[str]]:
    """The addresses of each of netlab's pods, IPv4 first."""
    return {
        pod["metadata"]["name"]: [one["ip"] for one in pod["status"].get("podIPs", [])]
        for pod in cli.get("pods")["items"]
    }


def meet(here: tuple[str, list[str]], there: tuple[str, list[str]]) -> None:
    """Both pods, each a namespace and its addresses, ask each other, and see who asks."""
    for (netns, own), (_, others) in ((here, there), (there, here)):
        for mine, other in zip(own, others, strict=True):
            assert asked(netns, other)["client"] == mine
