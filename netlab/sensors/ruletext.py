"""Which rule a handle means, in the words of the tool that wrote it.

The kernel knows a rule by table, chain and handle. nft prints the handles of a chain's rules;
iptables does not, but it prints the rules in the kernel's order, which netlink gives the handles
of. A small table is listed whole, as a command takes longer to start than to print some hundred
rules; of a big one only the chains that are asked for, as printing it all takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import pack
from typing import TypeVar

from netlab.kernel import netlink
from netlab.kernel.generation import generation
from netlab.processes import run

IPTABLES = {"ip": "iptables-nft", "ip6": "ip6tables-nft"}
IPTABLES_TABLES = ("raw", "mangle", "nat", "filter", "security")
HOOKS = ("prerouting", "input", "forward", "output", "postrouting", "ingress")  # NF_INET_*
OTHER_HOOKS = {  # NF_NETDEV_*, NF_ARP_*
    "netdev": ("ingress", "egress"),
    "arp": ("input", "output", "forward"),
}
TRIES = 3  # for rules that are being changed
SMALL = 1000  # rules of a table that is listed whole

_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GET_CHAIN, _GET_RULE = 4, 7  # NFT_MSG_*
_FAMILY = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}  # NFPROTO_*
_NFT_RULE = re.compile(r"^\t\t(.*) # handle (\d+)$", re.MULTILINE)
_NFT_CHAIN = re.compile(r"^\tchain (\S+) \{.*$", re.MULTILINE)

Texts = dict[int, str]  # handle to text
Handles = dict[str, list[int]]  # chain to the handles of its rules, in their order
Listing = TypeVar("Listing")


class RuleTexts:
    """The rules of one namespace, which the calling thread is in; each is listed once."""

    def __init__(self) -> None:
        self._chains: dict[tuple[str, str, str], Texts] = {}
        self._hooks: dict[tuple[str, str, str], str] = {}
        self._generation = -1

    def look_again(self) -> None:
        """Forget what was listed if anybody changed the rules since: handles are given anew."""
        now = generation()
        if now != self._generation:
            self._chains, self._hooks, self._generation = {}, {}, now

    def text(self, family: str, table: str, chain: str, handle: int) -> str:
        """Return the rule's text; one that is no longer there is named by its handle."""
        key = (family, table, chain)
        for _ in range(2):  # a second time for a rule that is newer than the listing
            if handle in self._chains.get(key, {}):
                break
            self._list(*key)
        return self._chains[key].get(handle, f"(rule with handle {handle}, which is gone)")

    def chain(self, family: str, table: str, chain: str) -> Texts:
        """Return the rules of a chain in their order, as far as they are known, else listed now."""
        key = (family, table, chain)
        if key not in self._chains:
            self._list(*key)
        return self._chains[key]

    def _list(self, family: str, table: str, chain: str) -> None:
        whole = _steady(lambda: _table_texts(family, table))
        for name, texts in (whole or {}).items():
            self._chains[family, table, name] = texts
        if not whole or chain not in whole:
            self._chains[family, table, chain] = _texts(family, table, chain)

    def hook(self, family: str, table: str, chain: str) -> str:
        """Return where a base chain is called: `prerouting`, …; "" when it is gone."""
        key = (family, table, chain)
        if not self._hooks.get(key):
            self._hooks[key] = _hook(*key)
        return self._hooks[key]


def _steady(listing: Callable[[], Listing]) -> Listing:
    """Return a listing during which nobody changed the rules, as far as that can be had."""
    for _ in range(TRIES):
        before = generation()
        found = listing()
        if generation() == before:
            break
    return found


# -- a whole table


def _table_texts(family: str, table: str) -> dict[str, Texts] | None:
    """Return the texts of a small table by chain, without chains not listed; None of a big one."""
    handles = _handles(family, table)
    if sum(map(len, handles.values())) > SMALL:
        return None
    if family in IPTABLES and table in IPTABLES_TABLES:
        found = _iptables_table(family, table, handles)
        if found:
            return found
    # Terse (-t), or it would read every element of the maps that the chains look up.
    done = run(("nft", "-a", "-s", "-t", "list", "table", family, table), check=False)
    _, *parts = _NFT_CHAIN.split(done.stdout)
    return {name: _nft_rules(rules) for name, rules in zip(parts[::2], parts[1::2], strict=True)}


def _iptables_table(family: str, table: str, handles: Handles) -> dict[str, Texts]:
    """Return the chains as iptables-save prints them; {} when it did not make this table."""
    done = run((f"{IPTABLES[family]}-save", "-t", table), check=False)
    rules: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("-A "):
            _, chain, *rule = line.split(" ", 2)
            rules.setdefault(chain, []).append(" ".join(rule))
    return {
        chain: dict(zip(numbers, rules[chain], strict=True))
        for chain, numbers in handles.items()
        if len(rules.get(chain, ())) == len(numbers)
    }


# -- one chain


def _texts(family: str, table: str, chain: str) -> Texts:
    if family in IPTABLES and table in IPTABLES_TABLES:
        found = _steady(lambda: _iptables_texts(family, table, chain))
        if found is not None:
            return found
    done = run(("nft", "-a", "-s", "-t", "list", "chain", family, table, chain), check=False)
    return _nft_rules(done.stdout)


def _iptables_texts(family: str, table: str, chain: str) -> Texts | None:
    """Return the rules as iptables-save prints them; None when it did not make this table."""
    done = run((IPTABLES[family], "-t", table, "-S", chain), check=False)
    rules = [line.split(" ", 2)[2:] for line in done.stdout.splitlines() if line.startswith("-A ")]
    handles = _handles(family, table, chain).get(chain, [])
    if done.returncode or len(rules) != len(handles):
        return None
    return {handle: " ".join(rule) for handle, rule in zip(handles, rules, strict=True)}


def _nft_rules(listed: str) -> Texts:
    return {int(handle): rule for rule, handle in _NFT_RULE.findall(listed)}


# -- netlink


def _handles(family: str, table: str, chain: str = "") -> Handles:
    """Return the handles of the rules of a table, or of one chain of it."""
    asked = _asked(family) + netlink.text(1, table)
    found: Handles = {}
    for body in _replies(_GET_RULE, asked + (netlink.text(2, chain) if chain else b""), dump=True):
        held = netlink.attributes(body, 4)
        handle = int.from_bytes(held[3], "big")
        found.setdefault(netlink.string(held[2]), []).append(handle)
    return found


def _hook(family: str, table: str, chain: str) -> str:
    asked = _asked(family) + netlink.text(1, table) + netlink.text(3, chain)
    for body in _replies(_GET_CHAIN, asked, dump=False):
        hook = netlink.attributes(netlink.attributes(body, 4).get(4, b""))
        if 1 in hook:
            return OTHER_HOOKS.get(family, HOOKS)[int.from_bytes(hook[1], "big")]
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
