"""What a pod or machine reads before it asks DNS: /etc/resolv.conf, /etc/hosts, its host name.

Source: kubelet pkg/kubelet/network/dns/dns.go, kubelet_pods.go (v1.30).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

CLUSTER_FIRST, DEFAULT, NONE = "ClusterFirst", "Default", "None"
# What resolvers read and the API server lets in: pkg/apis/core/validation, MaxDNS…
NAMESERVERS_MAX = 3
SEARCHES_MAX = 32
SEARCH_CHARACTERS_MAX = 2048
NDOTS = "ndots:5"
HOSTNAME_MAX = 63  # characters of a pod's own host name; longer names of pods are cut
FQDN_MAX = 64  # bytes of a kernel's host name: linux/utsname.h, __NEW_UTS_LEN


class Resolving(NamedTuple):
    """Whom to ask, how to complete a name, and with which options."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def text(self) -> str:
        """Return it as /etc/resolv.conf, within the limits of resolvers: resolv.conf(5)."""
        searches: list[str] = []
        for one in self.searches[:SEARCHES_MAX]:
            if len(" ".join([*searches, one])) > SEARCH_CHARACTERS_MAX:
                break
            searches.append(one)
        lines = [f"search {' '.join(searches)}"] if searches else []
        lines += [f"nameserver {one}" for one in self.nameservers[:NAMESERVERS_MAX]]
        lines += [f"options {' '.join(self.options)}"] if self.options else []
        return "".join(f"{line}\n" for line in lines)


def of_pod(
    spec: Mapping[str, Any], *, namespace: str, domain: str, cluster: str, node: Resolving
) -> Resolving:
    """Return how a pod of *spec* resolves names.

    *cluster*: the address of the cluster's DNS, "" without one: pods then resolve as their node
    does; *node*: how that is.
    """
    policy = spec.get("dnsPolicy") or CLUSTER_FIRST
    on_host = bool(spec.get("hostNetwork"))
    if policy == NONE:
        base = Resolving()
    elif not cluster or policy == DEFAULT or (policy == CLUSTER_FIRST and on_host):
        base = node
    else:
        own = (f"{namespace}.svc.{domain}", f"svc.{domain}", domain)
        base = Resolving((cluster,), _once([*own, *node.searches]), (NDOTS,))
    return _with(base, spec.get("dnsConfig") or {})


def _with(base: Resolving, config: Mapping[str, Any]) -> Resolving:
    """Return *base* with what a pod's dnsConfig adds to it, or says otherwise."""
    values = {option.partition(":")[0]: option for option in base.options}
    for option in config.get("options") or ():
        value = option.get("value")
        name = str(option.get("name", ""))
        values[name] = f"{name}:{value}" if value not in (None, "") else name
    return Resolving(
        _once([*base.nameservers, *map(str, config.get("nameservers") or ())]),
        _once([*base.searches, *map(str, config.get("searches") or ())]),
        tuple(values.values()),
    )


def _once(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def hostname(spec: Mapping[str, Any], pod: str) -> str:
    """Return the first label of a pod's name: `hostname` of its *spec*, or the *pod*'s own."""
    return str(spec.get("hostname") or "") or pod[:HOSTNAME_MAX].rstrip("-.")


def fqdn(spec: Mapping[str, Any], *, namespace: str, pod: str, domain: str) -> str:
    """Return a pod's full name, "" for one without `subdomain`."""
    subdomain = str(spec.get("subdomain") or "")
    own = hostname(spec, pod)
    return f"{own}.{subdomain}.{namespace}.svc.{domain}" if subdomain else ""


def kernel_hostname(spec: Mapping[str, Any], *, namespace: str, pod: str, domain: str) -> str:
    """Return what `hostname` prints in a pod: its first label, or all if the spec says so.

    What does not fit the kernel is cut; the kubelet does not start such a pod.
    """
    whole = fqdn(spec, namespace=namespace, pod=pod, domain=domain)
    chosen = whole if whole and spec.get("setHostnameAsFQDN") else hostname(spec, pod)
    return chosen[:FQDN_MAX]


def hosts(
    address: str,
    names: Sequence[str],
    *,
    address6: str = "",
    aliases: Iterable[Mapping[str, Any]] = (),
    host: str = "",
) -> str:
    """Return a pod's /etc/hosts: *names* are its own, the full one first.

    *address6*: its address of IPv6, if it has one; *host*: for a pod in its node's network, what
    the node's own file has.
    """
    every = [one for one in (address, address6) if one and names]
    own = "".join("\t".join((one, *names)) + "\n" for one in every)
    text = (
        "# Kubernetes-managed hosts file (host network).\n" + host
        if host
        else "# Kubernetes-managed hosts file.\n" + LOCAL + own
    )
    lines = [
        f"{one.get('ip', '')}\t" + "\t".join(map(str, one.get("hostnames") or ())) + "\n"
        for one in aliases
    ]
    return text + ("\n# Entries added by HostAliases.\n" + "".join(lines) if lines else "")


LOCAL = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "fe00::0\tip6-mcastprefix\n"
    "fe00::1\tip6-allnodes\n"
    "fe00::2\tip6-allrouters\n"
)
SERVICES_SWITCH = (  # /etc/nsswitch.conf: names from files and DNS, as in a container's image
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n"
    "protocols: files\nservices: files\nethers: files\nrpc: files\n"
)
