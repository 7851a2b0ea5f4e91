"""What a test does to its lab while it runs: the commands of netlab by names of their own."""

from __future__ import annotations

from collections.abc import Mapping

__tracebackhide__ = True  # pytest: a failure in here is shown where the test called


def _name(machine: object) -> str:
    """Return what a command calls a machine, given by its name or as the lab has it."""
    return str(machine)


class Changes:
    """Each waits until the lab has converged, as far as what it broke lets it.

    A lab that tests share stays as they leave it: `clear_faults` mends all that is broken.
    """

    def command(self, *words: str) -> str:
        raise NotImplementedError

    def scale(self, workload: str, replicas: int, *, namespace: str = "default") -> None:
        """Give `deployment/web` so many replicas."""
        self.command("scale", workload, f"--replicas={replicas}", "-n", namespace)

    def label(
        self, what: str, *pairs: str, overwrite: bool = True, namespace: str = "default"
    ) -> None:
        """Set (`a=b`) or remove (`a-`) labels of `pod/a`."""
        self._paired("label", what, pairs, overwrite, namespace)

    def annotate(
        self, what: str, *pairs: str, overwrite: bool = True, namespace: str = "default"
    ) -> None:
        """Set (`a=b`) or remove (`a-`) annotations of `pod/a`."""
        self._paired("annotate", what, pairs, overwrite, namespace)

    def _paired(
        self, verb: str, what: str, pairs: tuple[str, ...], overwrite: bool, namespace: str
    ) -> None:
        told = ["--overwrite"] if overwrite else []
        self.command(verb, what, *pairs, *told, "-n", namespace)

    def cordon(self, node: object) -> None:
        self.command("cordon", _name(node))

    def uncordon(self, node: object) -> None:
        self.command("uncordon", _name(node))

    def drain(self, node: object, *, force: bool = True) -> None:
        """Cordon a node and evict its pods; *force*: those that nobody replaces, too."""
        more = ["--force", "--delete-emptydir-data"] if force else []
        self.command("drain", _name(node), "--ignore-daemonsets", *more)

    def taint(self, node: object, *taints: str) -> None:
        """Set (`key=value:NoSchedule`) or remove (`key-`) taints."""
        self.command("taint", "node", _name(node).removeprefix("node/"), *taints)

    def restart(self, workload: str, *, namespace: str = "default") -> None:
        """Replace all pods of `deployment/web`."""
        self.command("rollout", "restart", workload, "-n", namespace)

    def link_down(self, *machines: object) -> None:
        """Pull the cables of nodes, of other machines (`gateway`), or of pods (`shop/cart`)."""
        self.command("link", "down", *map(_name, machines))

    def link_up(self, *machines: object) -> None:
        self.command("link", "up", *map(_name, machines))

    def link_loss(self, machine: object, percent: float) -> None:
        """Have a cable lose so much of all frames, each way; 0 ends it."""
        self.command("link", "loss", _name(machine), f"{percent:g}%")

    def link_delay(self, machine: object, milliseconds: float, jitter: float = 0.0) -> None:
        """Have what goes to a machine take longer; 0 ends it. Raises CapabilityError."""
        self.command("link", "delay", _name(machine), f"{milliseconds:g}ms", f"{jitter:g}ms")

    def link_clear(self, *machines: object) -> None:
        """Mend the cables of *machines*, or all of them."""
        self.command("link", "clear", *map(_name, machines))

    def add_node(self, name: str, *, address: str = "", labels: Mapping[str, str] = {}) -> None:
        """Add a node to the running lab, with the first free address if none is given."""
        pairs = [f"--label={key}={value}" for key, value in labels.items()]
        self.command("node", "add", name, *([f"--address={address}"] if address else []), *pairs)

    def remove_node(self, node: object) -> None:
        self.command("node", "remove", _name(node))

    def stop_node(self, node: object) -> None:
        """Cut a node's power."""
        self.command("node", "stop", _name(node))

    def start_node(self, node: object) -> None:
        self.command("node", "start", _name(node))

    def stop_etcd(self) -> None:
        """End etcd, and have it stay so."""
        self.command("fault", "etcd-stop")

    def start_etcd(self) -> None:
        self.command("fault", "clear", "etcd-stop")

    def partition_etcd(self, *nodes: object) -> None:
        """Keep nodes, not their pods, from etcd."""
        self.command("fault", "etcd-partition", *map(_name, nodes))

    def clear_faults(self) -> None:
        """Mend all that was broken on purpose."""
        self.command("fault", "clear")
