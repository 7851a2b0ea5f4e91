"""iptables-restore --noflush over dictionaries: what its texts do, and what the kernel refuses."""

from __future__ import annotations

import shlex
from typing import Any

Chains = dict[str, list[str]]
BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
VERDICTS = ("ACCEPT", "DROP", "RETURN", "MARK", "MASQUERADE", "DNAT", "REJECT")


class Refused(Exception):
    """What iptables-restore or the kernel would not do."""


class Tables:
    """The tables of one family. A text changes each of them at its COMMIT, or raises Refused."""

    def __init__(self) -> None:
        self.tables = {
            table: {chain: list[str]() for chain in BUILT_IN}
            for table in ("mangle", "filter", "nat")
        }
        self.commits = 0

    def restore(self, text: str) -> None:
        table, chains = "", dict[str, list[str]]()
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:]
                chains = {name: list(rules) for name, rules in self.tables[table].items()}
            elif line == "COMMIT":
                _check(chains)
                self.commits += chains != self.tables[table]
                self.tables[table] = chains
                table, chains = "", {}
            elif line.startswith(":"):
                name, policy, counters = line[1:].split(" ")
                assert (policy, counters) == ("-", "[0:0]")
                chains[name] = []
            else:
                _do(chains, line)
        assert not table, "a table without COMMIT"

    def saved(self) -> str:
        """Return what iptables-save prints of it."""
        lines = []
        for table, chains in self.tables.items():
            lines.append(f"*{table}")
            lines += [f":{name} {'ACCEPT' if name in BUILT_IN else '-'} [0:0]" for name in chains]
            lines += [f"-A {name} {rule}" for name, rules in chains.items() for rule in rules]
            lines.append("COMMIT")
        return "".join(f"{line}\n" for line in lines)

    def reach(self) -> dict[str, Any]:
        """Return all that packets can meet, by table."""
        return {
            table: [_expanded(chains, name) for name in BUILT_IN]
            for table, chains in self.tables.items()
        }


def _do(chains: Chains, line: str) -> None:
    verb, name, *rest = line.split(" ", 2)
    rule = rest[0] if rest else ""
    if name not in chains:
        raise Refused(f"no chain: {line}")
    rules = chains[name]
    if verb == "-A":
        rules.append(rule)
    elif verb == "-I":
        number, _, rule = rule.partition(" ")
        if int(number) > len(rules) + 1:
            raise Refused(f"index too big: {line}")
        rules.insert(int(number) - 1, rule)
    elif verb == "-D":
        if rule not in rules:
            raise Refused(f"no such rule: {line}")
        rules.remove(rule)
    elif verb == "-X":
        if rules or name in BUILT_IN:
            raise Refused(f"not empty: {line}")
        del chains[name]
    else:
        raise AssertionError(line)


def _check(chains: Chains) -> None:
    for name, rules in chains.items():
        for rule in rules:
            if (to := jump(rule)) and to not in chains:
                raise Refused(f"{name} jumps to {to}, which is not there")


def jump(rule: str) -> str:
    words = shlex.split(rule)
    to = words[words.index("-j") + 1] if "-j" in words else ""
    return "" if to in VERDICTS else to


def _expanded(chains: Chains, name: str) -> list[Any]:
    return [(rule, _expanded(chains, to)) if (to := jump(rule)) else rule for rule in chains[name]]
