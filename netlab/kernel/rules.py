"""Rule sets of the namespace the calling thread is in, through the tools' own words.

1. One iptables-nft-restore and one nft per namespace and apply, whatever there is to do.
2. Nothing parses a rule. What a chain looks like when listed is remembered right after it was
   made; as long as it lists the same, it is the one that was made. A chain seen for the first time
   (the agent was started again) is the wanted one when it lists exactly as wanted, so rules should
   be written in the form iptables-save prints, tables in the form `nft list table` does.
3. nftables counts the commits of a namespace (its generation). While all since the remembered one
   were netlab's own, nothing is listed at all.
4. Where a proxy has made thousands of chains, only flannel's and the built-in ones are listed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from netlab.errors import KernelError
from netlab.kernel import listing
from netlab.kernel.chains import iptables_chains, own_tables
from netlab.kernel.generation import generation, here
from netlab.kernel.refusals import noun, refusal
from netlab.objects import IptablesChain, IptablesJump, NftTable, Object
from netlab.plan import Op, Verb
from netlab.processes.commands import run

RULES = (IptablesChain, IptablesJump, NftTable)
FAMILIES = ("ip", "ip6")
FEW = 100  # chains that are listed all at once in 5 ms; one alone takes 1 to 2 ms

Key = tuple[Any, ...]


class Known(msgspec.Struct):
    """What was last seen of a namespace's rules: as it was declared, and as it lists."""

    cookie: int
    generation: int
    objects: dict[Key, Object]
    listed: dict[Key, Object]


class Rules:
    """The rule sets of all namespaces. Threads may use it at once, each for other namespaces."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}

    def forget(self, netns: str) -> None:
        self._known.pop(netns, None)

    def observe(self, netns: str, cookie: int, desired: Collection[Object]) -> list[Object]:
        """Return netlab's rule objects here, those that are as wanted in the words wanted."""
        wanted = [thing for thing in desired if isinstance(thing, RULES)]
        known = self._known.get(netns)
        if known is not None and known.cookie != cookie:
            known = None
        if known is None:
            wanted += _left_behind(netns)
        if not wanted and (known is None or not known.objects):
            if known is None and cookie:
                self._known[netns] = Known(cookie, 0, {}, {})  # not to look again
            return []
        remembered = known is not None and all(it.key in known.objects for it in wanted)
        if known is not None and remembered and here().unchanged(known.generation):
            return list(known.objects.values())
        current = generation()
        listed = _listed(netns, [*wanted, *(known.objects.values() if known else ())])
        objects = {key: _as_declared(thing, known) for key, thing in listed.items()}
        for thing in wanted:
            if isinstance(thing, NftTable) and thing.key in objects:
                objects[thing.key] = _in_words_of(thing, objects[thing.key])
        if here().unchanged(current):
            self._known[netns] = Known(cookie, current, objects, listed)
        return list(objects.values())

    def apply(self, netns: str, cookie: int, ops: Sequence[Op]) -> None:
        """Do *ops*, all of this namespace, and remember what came of it. Raises KernelError."""
        for script, argv in (
            *(
                (
                    listing.restore_script(ops, ip),
                    (f"{ip}tables-nft-restore", "--noflush", "--wait"),
                )
                for ip in FAMILIES
            ),
            (listing.nft_script(ops), ("nft", "-f", "-")),
        ):
            if script.lines:
                with here().ours(expected=script.commits):
                    done = run(argv, input=script.text, netns=netns, check=False)
                    if done.returncode:
                        raise _refused(script, done.stderr)
        known = self._known.get(netns)
        objects = dict(known.objects) if known is not None and known.cookie == cookie else {}
        for op in ops:
            if op.verb is Verb.DELETE:
                objects.pop(op.object.key, None)
            else:
                objects[op.object.key] = op.object
        current = generation()
        listed = _listed(netns, list(objects.values()))
        for key, thing in objects.items():
            if key not in listed:
                raise KernelError(
                    f"{netns}: {noun(thing)} is not listed after it was added",
                    hint="write it in the form that iptables-save prints",
                )
        if here().unchanged(current):
            self._known[netns] = Known(cookie, current, objects, listed)


# Tables that only netlab makes, from before this process.
def _left_behind(netns: str) -> list[NftTable]:
    return [NftTable(netns, *name, "") for name in own_tables()]


# A thing that lists as it did when it was made is the one that was made.
def _as_declared(thing: Object, known: Known | None) -> Object:
    if known is not None and known.listed.get(thing.key) == thing:
        return known.objects.get(thing.key, thing)
    return thing


def _in_words_of(wanted: NftTable, found: Object) -> Object:
    if isinstance(found, NftTable) and listing.same_text(wanted.body, found.body):
        return wanted
    return found


# The chains, jumps and tables of `asked`, and whatever else is called as netlab's chains are.
def _listed(netns: str, asked: Collection[Object]) -> dict[Key, Object]:
    found: dict[Key, Object] = {}
    asked_of = {one.family for one in asked if isinstance(one, IptablesChain | IptablesJump)}
    for family in sorted(asked_of):
        keys = {thing.key for thing in asked}
        for thing in _listed_iptables(netns, family, keys):
            found[thing.key] = thing
    for thing in asked:
        if isinstance(thing, NftTable):
            named = ("table", thing.family, thing.name)
            done = run(("nft", "-s", "list", *named), netns=netns, check=False)
            if done.returncode == 0:
                body = listing.table_body(done.stdout)
                found[thing.key] = NftTable(netns, thing.family, thing.name, body)
    return found


def _listed_iptables(netns: str, family: str, keys: Collection[Key]) -> list[Object]:
    found: list[Object] = []
    for (table, name), rules in _chains(netns, family, keys).items():
        chain = IptablesChain(netns, table, name, rules, family)
        if chain.key in keys or listing.is_ours(name):
            found.append(chain)
            continue
        for rule in rules:
            jump = IptablesJump(netns, table, name, rule, family)
            if jump.key in keys or listing.is_ours(listing.target(rule)):
                found.append(jump)
    return found


# All chains, or where there are many, those that may hold what is asked for.
def _chains(netns: str, family: str, keys: Collection[Key]) -> listing.Chains:
    there, tool = iptables_chains(family), f"{family}tables"
    if len(there) <= FEW:
        done = run((f"{tool}-nft-save",), netns=netns, check=False)
        if done.returncode:
            raise KernelError(f"{netns}: cannot list the {tool} rules: {done.stderr.strip()}")
        return listing.chains(done.stdout)
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for table, name, built_in in there:
        asked = IptablesChain(netns, table, name, (), family).key in keys
        if built_in or asked or listing.is_ours(name):
            done = run((f"{tool}-nft", "-t", table, "-S", name), netns=netns, check=False)
            if done.returncode == 0:  # else it has gone meanwhile, or is none of iptables
                found[table, name] = listing.rules(done.stdout)
    return found


def _refused(script: listing.Script, words: str) -> KernelError:
    line = re.search(r"line:? (\d+)|/dev/stdin:(\d+)", words)
    op = script.op_at(int(line[1] or line[2]) if line else 0)
    said = " ".join(words.split())
    return refusal(op, said)
