"""What a rule is for, in Kubernetes' words: known from who asks for it, never by reading it.

The chains of kube-proxy are called after what they are for (`proxy.names`), so the names that the
present Services and endpoints give say whose chain a rule leads to. Only what a rule does at its
end (`-j DNAT …`, `masquerade`), and that it is one of session affinity, is told by its own words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from netlab import world
from netlab.balancing import rules as balancing
from netlab.packets import RuleHit
from netlab.proxy import Endpoint, ServicePort, names
from netlab.telling.naming import Names
from netlab.telling.policies import PolicyMeanings, is_of_policies

# Chains that all Services share: what it means to be led there.
_SHARED = {
    "KUBE-MARK-MASQ": "mark it: its source is to be replaced",
    "KUBE-MARK-DROP": "mark it: it is to be dropped",
    "mark-for-masquerade": "mark it: its source is to be replaced",
    "reject-chain": "refuse it",
}
_DOING = (  # how a rule ends, in the words of both tools, and what that is
    ("MASQUERADE", "its source becomes the address it leaves from"),
    ("masquerade", "its source becomes the address it leaves from"),
    ("REJECT", "refuse it"),
    ("reject", "refuse it"),
)
_TO_PORTALS = ("KUBE-PORTALS-", "KUBE-NODEPORT-")  # chains of userspace mode
_AFFINITY = ("--rcheck", "@affinity-")  # how both tools ask whether a client was there before


class Choice(NamedTuple):
    """An endpoint among those a chain chooses from: which it is, of how many."""

    endpoint: str  # `default/web-2 10.244.3.2:80`
    number: int
    of: int

    def __str__(self) -> str:
        """`endpoint default/web-2 10.244.3.2:80, 2 of 3, p 0.33`."""
        if self.of == 1:
            return f"endpoint {self.endpoint}, the only one"
        return f"endpoint {self.endpoint}, {self.number} of {self.of}, p {1 / self.of:.2g}"


class Meanings:
    """The meanings of the chains that *ports* have, in each mode."""

    def __init__(
        self,
        ports: Iterable[ServicePort],
        who: Names,
        policies: PolicyMeanings | None = None,
        portals: Mapping[int, str] | None = None,
    ) -> None:
        """*portals*: of userspace mode, ports of the node that lead to Services, each with its."""
        self._portals = portals or {}
        self._who = who
        self._policies = policies or PolicyMeanings()
        self._services: dict[str, str] = {}
        self._choices: dict[tuple[str, str], Choice] = {}  # by the chain that chooses, and chosen
        self._endpoints: dict[str, str] = {}
        for port in ports:
            self._take(port)

    def _take(self, port: ServicePort) -> None:
        sets = {"SVC": port.cluster, "SVL": port.local, "service": port.cluster}
        sets["local"] = port.local
        for prefix in ("SVC", "SVL", "EXT", "FW"):
            chain = names.iptables_chain(prefix, port)
            self._take_chain(chain, port, sets.get(prefix, ()), names.iptables_endpoint_chain)
        for prefix in ("service", "local", "external", "firewall"):
            self._take_chain(
                names.nft_chain(prefix, port),
                port,
                sets.get(prefix, ()),
                lambda service, end: names.nft_endpoint("endpoint", service, end),
            )

    def _take_chain(
        self,
        chain: str,
        port: ServicePort,
        chosen: tuple[Endpoint, ...],
        name: NameOf,
    ) -> None:
        self._services[chain] = f"Service {port.text}"
        for number, one in enumerate(chosen, start=1):
            title = f"{self._who.who(one.address)} {one.text}".strip()
            target = name(port, one)
            self._choices[chain, target] = Choice(title, number, len(chosen))
            self._endpoints[target] = title

    def of(self, hit: RuleHit) -> str:
        """Return what the rule of *hit* is for, "" when that is not known."""
        if is_of_policies(hit):
            return self._policies.of(hit)
        how, _, target = hit.verdict.partition(" ")
        if hit.table == balancing.TABLE:
            return self._balanced(hit, target)
        if how in ("jump", "goto") and target:
            again = any(word in hit.rule for word in _AFFINITY)
            if again and target in self._endpoints:
                return f"endpoint {self._endpoints[target]}, where this client was before"
            choice = self._choices.get((hit.chain, target))
            if choice is not None:
                return str(choice)
            if target in self._endpoints:
                return f"endpoint {self._endpoints[target]}"
            return self._services.get(target, "") or _SHARED.get(target, "")
        return self._done(hit)

    def _balanced(self, hit: RuleHit, target: str) -> str:
        """Return what a rule of the balancer is for: it says so itself, and its mark says where."""
        if target:
            return f"Service {balancing.service_of(target)}"
        said = balancing.said(hit.rule)
        if said and hit.mark:
            node = world.address_of(hit.mark)
            return f"{said}: {self._who.who(node) or node}"
        return said

    def _done(self, hit: RuleHit) -> str:
        words = hit.rule.split()
        if words and hit.chain.startswith(_TO_PORTALS):
            port = words[-1].rpartition(":")[2]
            service = self._portals.get(int(port)) if port.isdecimal() else None
            return f"Service {service}, into the proxy's port" if service else ""
        for word in ("--to-destination", "to"):
            if word in words[:-1] and ("DNAT" in words or "dnat" in words):
                address, _, _port = words[words.index(word) + 1].rpartition(":")
                who = self._who.who(address)
                return f"to {who}" if who else ""
        for word, meaning in _DOING:
            if word in words:
                return meaning
        return ""

    def service_of(self, hits: Iterable[RuleHit]) -> str:
        """Return the Service port whose chain the packet was led to, `default/web:http`."""
        for hit in hits:
            found = self._services.get(hit.verdict.partition(" ")[2], "")
            if found:
                return found.removeprefix("Service ")
        return ""


class NameOf(Protocol):
    def __call__(self, service: ServicePort, endpoint: Endpoint) -> str: ...
