"""How a lab's etcd is reached: where it listens, by TLS or not, as whom one asks.

In a lab of one machine that is the master's address and nothing else. The words for the rest are
flanneld's: --etcd-endpoints (here --etcd), --etcd-cafile, --etcd-certfile, --etcd-keyfile,
--etcd-username, --etcd-password.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

import msgspec

from netlab.errors import UsageError
from netlab.store.etcd import PORT, Etcd
from netlab.store.http import Server

SCHEMES = ("http", "https")
_PREFIX = "NETLAB_ETCD"


class Access(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where an etcd is, and what it wants to be shown. `urls`: none, the master's own address."""

    urls: tuple[str, ...] = ()  # http://192.168.56.11:2379
    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""
    username: str = ""
    password: str = ""

    def etcd(self, master: str, *, timeout: float = 2.0) -> Etcd:
        """Return a client; *master*: the address to ask where `urls` names none. Raises UsageError:
        a file for TLS cannot be used."""
        if not self.urls:
            return Etcd(master, PORT, timeout=timeout)
        addresses = tuple(endpoint(url)[1:] for url in self.urls)
        tls = None
        if self.secured:
            from netlab.store.tls import context  # ssl takes longer to load than all else here

            tls = context(self.cafile, self.certfile, self.keyfile)
        login = (self.username, self.password) if self.username else None
        host, port = addresses[0]
        return Etcd(host, port, timeout=timeout, server=Server(addresses, tls), login=login)

    @property
    def secured(self) -> bool:
        return any(url.startswith("https:") for url in self.urls)

    @property
    def warning(self) -> str:
        """What is to be said of an etcd that anybody on the way can read and write, "" of none."""
        if self.secured:
            return ""
        hosts = [endpoint(url)[1] for url in self.urls]
        public = [host for host in hosts if not _is_private(host)]
        if not public:
            return ""
        return (
            f"etcd at {', '.join(public)} is not on a private address, and is asked without TLS: "
            "whoever reaches it rules the lab (https:// and --etcd-cafile, or a private network)"
        )

    def environment(self, master: str) -> dict[str, str]:
        """Return what tells a program in a pod all of this: what `from_environment` reads."""
        said = {
            "": ",".join(self.urls) or f"http://{master}:{PORT}",
            "_CAFILE": self.cafile,
            "_CERTFILE": self.certfile,
            "_KEYFILE": self.keyfile,
            "_USERNAME": self.username,
            "_PASSWORD": self.password,
        }
        return {_PREFIX + name: value for name, value in said.items() if value}


def from_environment(environment: Mapping[str, str]) -> Access:
    """Return the access that *environment* tells of; without NETLAB_ETCD that of this machine."""

    def said(name: str) -> str:
        return environment.get(_PREFIX + name, "")

    return Access(
        urls=tuple((said("") or f"http://127.0.0.1:{PORT}").split(",")),
        cafile=said("_CAFILE"),
        certfile=said("_CERTFILE"),
        keyfile=said("_KEYFILE"),
        username=said("_USERNAME"),
        password=said("_PASSWORD"),
    )


def endpoint(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an etcd's URL. Raises UsageError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port = None, 0
    if not host or parts.scheme not in SCHEMES or parts.path.strip("/") or parts.query:
        raise UsageError(
            f"--etcd {url}: that is no URL of an etcd", hint="for example http://192.168.56.11:2379"
        )
    return parts.scheme, host, port


def _is_private(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"  # where a name leads is not known
    return address.is_private or address.is_loopback or address.is_link_local
