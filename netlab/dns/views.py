"""How pods and machines of a lab are called, and what their /etc says of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from netlab import world
from netlab.controllers import clusterdns
from netlab.dns import files
from netlab.dns.files import Resolving
from netlab.model.inventory import Inventory
from netlab.model.kubernetes import Document
from netlab.model.lab import Lab, like


class View(NamedTuple):
    """A host name, files of /etc by name, and how names are resolved, as one of them says."""

    hostname: str
    files: Mapping[str, str]
    resolving: Resolving


def resolving(lab: Lab) -> Resolving:
    """Return how the machines of *lab* resolve names: by the resolver on the internet."""
    return Resolving((lab.resolver,))


def of_machine(lab: Lab, name: str) -> View:
    """Return the view of a node, or of a member of the world."""
    own = [node.address for node in lab.nodes if node.name == name]
    own = own or world.member_addresses(lab).get(name, [])[:1]
    hosts = files.LOCAL + "".join(f"{address}\t{name}\n" for address in own)
    found = resolving(lab)
    return View(name, _files(name, hosts, found), found)


def of_pod(lab: Lab, document: Document, objects: Inventory) -> View:
    """Return the view of the pod *document*; *objects*: those of the lab, for its DNS."""
    meta, spec = document["metadata"], document.get("spec") or {}
    namespace, name, domain = meta["namespace"], meta["name"], lab.dns.domain
    aliases = spec.get("hostAliases") or ()
    if spec.get("hostNetwork"):
        node = of_machine(lab, str(spec.get("nodeName") or ""))
        hostname = node.hostname
        hosts = files.hosts("", (), aliases=aliases, host=node.files["hosts"])
    else:
        hostname = files.kernel_hostname(spec, namespace=namespace, pod=name, domain=domain)
        names = _names(spec, namespace=namespace, pod=name, domain=domain)
        status = document.get("status") or {}
        listed = [str(one.get("ip") or "") for one in status.get("podIPs") or ()]
        address, address6 = str(status.get("podIP") or ""), like("::", listed)
        hosts = files.hosts(address, names, address6=address6, aliases=aliases)
    found = files.of_pod(
        spec,
        namespace=namespace,
        domain=domain,
        cluster=clusterdns.address(lab, objects),
        node=resolving(lab),
    )
    return View(hostname, _files(hostname, hosts, found), found)


def _names(spec: Mapping[str, Any], *, namespace: str, pod: str, domain: str) -> list[str]:
    whole = files.fqdn(spec, namespace=namespace, pod=pod, domain=domain)
    return [*filter(None, [whole]), files.hostname(spec, pod)]


def _files(hostname: str, hosts: str, found: Resolving) -> dict[str, str]:
    return {
        "hosts": hosts,
        "hostname": f"{hostname}\n",
        "resolv.conf": found.text(),
        "nsswitch.conf": files.SERVICES_SWITCH,
    }
