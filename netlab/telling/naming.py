"""Who is meant by an address, a port, a namespace: the lab's words for them."""

from __future__ import annotations

from netlab import attachments, world
from netlab.annotation.names import addresses_of, services_of
from netlab.cluster import Cluster
from netlab.journeys import Place
from netlab.model.modes import Mode
from netlab.model.services import Service
from netlab.packets import Flow, Protocol


class Names:
    """The names of a lab's addresses and namespaces at one moment."""

    def __init__(self, cluster: Cluster) -> None:
        lab = cluster.lab
        self._places: dict[str, Place] = {
            lab.netns(member): Place(lab.netns(member), "member", member)
            for member in world.MEMBERS
        }
        self._underlay = lab.netns(world.UNDERLAY)
        self._addresses: dict[str, tuple[str, str]] = {}  # to title and namespace
        for member, addresses in world.member_addresses(lab).items():
            for one in addresses:
                self._addresses[one] = (member, lab.netns(member))
        for node in cluster.nodes:
            self._places[node.netns] = Place(node.netns, "node", node.name)
            for one in (node.address, node.bridge_address, node.tunnel_address):
                if one:
                    self._addresses[one] = (node.name, node.netns)
        for pod in cluster.pods:
            if pod.host_network:
                continue
            self._places[pod.netns] = Place(pod.netns, "pod", pod.title, pod.node)
            if pod.ip:
                self._addresses[pod.ip] = (pod.title, pod.netns)
        self._bridges = {node.netns: node.declared.bridge for node in cluster.nodes}
        self._services: dict[tuple[str, int, str], str] = {}
        self._node_ports: dict[tuple[int, str], str] = {}
        for service in services_of(cluster):
            self._take_service(service)
        self._by_ip_vs = lab.proxyMode == Mode.IPVS
        self._node_addresses = {node.address for node in cluster.nodes}

    def _take_service(self, service: Service) -> None:
        title = f"{service.metadata.namespace}/{service.metadata.name}"
        for port in service.spec.ports or ():
            name, protocol = f"{title}:{port.name}" if port.name else title, port.protocol.lower()
            for address in addresses_of(service):
                self._services[address, port.port, protocol] = name
            if port.nodePort:
                self._node_ports[port.nodePort, protocol] = name

    def place(self, netns: str) -> Place:
        """Return where *netns* is in the lab; a namespace of nobody's is called by its name."""
        return self._places.get(netns) or Place(netns, "member", netns)

    def is_foreign(self, netns: str, device: str) -> bool:
        """Return whether a device is the underlay's port for an attached namespace."""
        return netns == self._underlay and device.startswith(attachments.PORT)

    def bridge(self, netns: str) -> str:
        """Return the name of a node's bridge, "" where pods have none."""
        return self._bridges.get(netns, "")

    def service(self, address: str, port: int, protocol: Protocol) -> str:
        """Return the Service port served at an address, `default/web:http`; "" if none is."""
        found = self._services.get((address, port, str(protocol)), "")
        if not found and address in self._node_addresses:
            found = self.node_port(port, protocol)
        return found

    def node_port(self, port: int, protocol: Protocol) -> str:
        """Return the Service port that has *port* on the nodes, "" if none has."""
        return self._node_ports.get((port, str(protocol)), "")

    def by_ip_vs(self, netns: str, asked: Flow) -> bool:
        """Return whether ip_vs of *netns* sends on what is *asked*: in ipvs mode every node's does,
        for Services; no rule does."""
        if not self._by_ip_vs or self.place(netns).kind != "node":
            return False
        at = asked.destination, asked.destination_port, asked.protocol
        here = self.home(asked.destination) == netns
        return bool(self.service(*at) or (here and self.node_port(*at[1:])))

    def is_node(self, address: str) -> bool:
        """Return whether an address is one of a node's: on the underlay, its bridge, its tunnel."""
        return self._places[self.home(address)].kind == "node" if self.home(address) else False

    def served_at(self, address: str) -> dict[str, str]:
        """Return the ports that Services serve at an address, `80/tcp`, each with its Service."""
        return {
            f"{port}/{protocol}": name
            for (at, port, protocol), name in sorted(self._services.items())
            if at == address
        }

    def who(self, address: str, port: int = 0, protocol: Protocol = Protocol.TCP) -> str:
        """Return whose an address is: a Service's, a pod's, a node's; "" if nobody's."""
        service = self.service(address, port, protocol)
        return f"Service {service}" if service else self._addresses.get(address, ("", ""))[0]

    def home(self, address: str) -> str:
        """Return the namespace that has an address, "" if none has."""
        return self._addresses.get(address, ("", ""))[1]

    def destination(self, flow: Flow) -> str:
        """Return who is asked by *flow*, or the bare address."""
        found = self.who(flow.destination, flow.destination_port, flow.protocol)
        return found or flow.destination
