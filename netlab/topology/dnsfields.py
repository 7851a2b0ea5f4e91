"""What a pod says of names: `dnsConfig` and `hostAliases`.

Source: kubernetes pkg/apis/core/validation/validation.go, validatePodDNSConfig (v1.30).
"""

from __future__ import annotations

from typing import Any

from netlab.dns import files
from netlab.model.services import canonical
from netlab.topology import values
from netlab.topology.labrules import Say
from netlab.topology.shapes import Each, Fields
from netlab.topology.tree import Path


def _address(value: Any) -> str:
    """Accept an address of either family: what a pod is told may lead nowhere here."""
    if wrong := values.string(value):
        return wrong
    return "" if canonical(value) else f"{value} is not an IP address (such as 10.96.0.10)"


def _search(value: Any) -> str:
    """Accept a domain that names are completed with, also with the dot at its end, or the root."""
    if wrong := values.string(value):
        return wrong
    return "" if value == "." else values.subdomain(value.removesuffix("."))


_OPTION = Fields({"name": values.string, "value": values.string}, required=("name",))
DNS_CONFIG = Fields(
    {"nameservers": Each(_address), "searches": Each(_search), "options": Each(_OPTION)}
)
HOST_ALIASES = Each(Fields({"ip": _address, "hostnames": Each(values.subdomain)}, required=("ip",)))


def check(spec: dict[str, Any], path: Path, say: Say) -> None:
    """Say everything in which a pod's *spec*, at *path*, asks for more than a resolver reads."""
    config = spec.get("dnsConfig")
    servers, searches = (
        given if isinstance(config, dict) and isinstance(given := config.get(name), list) else []
        for name in ("nameservers", "searches")
    )
    where: Path = (*path, "dnsConfig")
    if spec.get("dnsPolicy") == files.NONE and not servers:
        text = f"is empty, but dnsPolicy is {files.NONE} (at least one address)"
        say((*where, "nameservers"), text)
    if len(servers) > files.NAMESERVERS_MAX:
        say((*where, "nameservers"), f"has {len(servers)} (at most {files.NAMESERVERS_MAX})")
    if len(searches) > files.SEARCHES_MAX:
        say((*where, "searches"), f"has {len(searches)} (at most {files.SEARCHES_MAX})")
    length = len(" ".join(map(str, searches)))
    if length > files.SEARCH_CHARACTERS_MAX:
        most = files.SEARCH_CHARACTERS_MAX
        say((*where, "searches"), f"is {length} characters long (at most {most})")
