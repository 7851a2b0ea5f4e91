"""Which rule a handle means, in the words of the tool that wrote it.

The kernel knows a rule by table, chain and handle. nft prints the handles of a chain's rules;
iptables does not, but it prints the rules in the kernel's order, which netlink gives the handles
of. Only chains that are asked for are listed, never a whole rule set.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import pack

from netlab.kernel import netlink
from netlab.kernel.generation import generation
from netlab.processes import run

IPTABLES = {"ip": "iptables-nft", "ip6": "ip6tables-nft"}
IPTABLES_TABLES = ("raw", "mangle", "nat", "filter", "security")
HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")  # NF_INET_*
TRIES = 3  # for a chain that is being changed

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_CHAIN, _GET_RULE = 4, 7  # NFT_MSG_*
_FAMILY = {"inet": 1, "ip": 2, "bridge": 7, "ip6": 10}
_NFT_RULE = re.compile(r"^\t\t(.*) # handle (\d+)$", re.MULTILINE)

Texts = dict[int, str]  # handle to text


class RuleTexts:
    """The rules of one namespace, which the calling thread is in; each chain is listed once."""

    def __init__(self) -> None:
        self._chains: dict[tuple[str, str, str], Texts] = {}
        self._hooks: dict[tuple[str, str, str], str] = {}

    def text(self, family: str, table: str, chain: str, handle: int) -> str:
        """Return the rule's text; one that is no longer there is named by its handle."""
        key = (family, table, chain)
        for _ in range(2):  # a second time for a rule that is newer than the listing
            if handle in self._chains.get(key, {}):
                break
            self._chains[key] = _texts(*key)
        return self._chains[key].get(handle, f"(rule with handle {handle}, which is gone)")

    def chain(self, family: str, table: str, chain: str) -> Texts:
        """Return the rules of a chain in their order, as far as they are known, else listed now."""
        key = (family, table, chain)
        if key not in self._chains:
            self._chains[key] = _texts(*key)
        return self._chains[key]

    def hook(self, family: str, table: str, chain: str) -> str:
        """Return where a base chain is called: `prerouting`, …; "" when it is gone."""
        key = (family, table, chain)
        if not self._hooks.get(key):
            self._hooks[key] = _hook(*key)
        return self._hooks[key]


def _texts(family: str, table: str, chain: str) -> Texts:
    if family in IPTABLES and table in IPTABLES_TABLES:
        found = _steady(lambda: _iptables_texts(family, table, chain))
        if found is not None:
            return found
    return _nft_texts(family, table, chain)


def _steady(listing: Callable[[], Texts | None]) -> Texts | None:
    """Return a listing during which nobody changed the rules, as far as that can be had."""
    found = None
    for _ in range(TRIES):
        before = generation()
        found = listing()
        if generation() == before:
            break
    return found


def _iptables_texts(family: str, table: str, chain: str) -> Texts | None:
    """Return the rules as iptables-save prints them; None when it did not make this table."""
    done = run((IPTABLES[family], "-t", table, "-S", chain), check=False)
    rules = [line.split(" ", 2)[2] for line in done.stdout.splitlines() if line.startswith("-A ")]
    handles = _handles(family, table, chain)
    if done.returncode or len(rules) != len(handles):
        return None
    return dict(zip(handles, rules, strict=True))


def _nft_texts(family: str, table: str, chain: str) -> Texts:
    # Terse (-t), or it would read every element of the maps that the chain looks up.
    done = run(("nft", "-a", "-s", "-t", "list", "chain", family, table, chain), check=False)
    return {int(handle): rule for rule, handle in _NFT_RULE.findall(done.stdout)}


def _handles(family: str, table: str, chain: str) -> list[int]:
    """Return the handles of the rules of a chain, in their order."""
    asked = _asked(family) + netlink.text(1, table) + netlink.text(2, chain)
    bodies = _replies(_GET_RULE, asked, dump=True)
    return [int.from_bytes(netlink.attributes(body, 4)[3], "big") for body in bodies]


def _hook(family: str, table: str, chain: str) -> str:
    asked = _asked(family) + netlink.text(1, table) + netlink.text(3, chain)
    for body in _replies(_GET_CHAIN, asked, dump=False):
        hook = netlink.attributes(netlink.attributes(body, 4).get(4, b""))
        if 1 in hook:
            return HOOKS[int.from_bytes(hook[1], "big")]
    return ""


def _asked(family: str) -> bytes:
    return pack("=BBH", _FAMILY[family], 0, 0)


def _replies(kind: int, asked: bytes, *, dump: bool) -> list[bytes]:
    connection = netlink.Socket(netlink.NETFILTER)
    try:
        if dump:
            return connection.dump(_SUBSYSTEM | kind, asked)
        found = connection.ask([netlink.message(_SUBSYSTEM | kind, 0, asked)])
        return [body for body in found if not isinstance(body, netlink.NetlinkError)]
    except netlink.NetlinkError:
        return []  # the chain is gone
    finally:
        connection.close()
