"""get rules: what the nodes' proxies have programmed, against what they should have."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from netlab.cli import tables
from netlab.errors import NotFoundError, UsageError
from netlab.model.kubernetes import Document

if TYPE_CHECKING:
    from netlab.agent.rules import Programmed, Rule
    from netlab.cluster import Cluster
    from netlab.lab.live import Live
    from netlab.proxy.claims import Owner

HEADER = ("NODE", "TABLE", "CHAIN", "SERVICE", "RULES", "PACKETS", "STATE")
MARKS = {"ok": " ", "missing": "-", "unwanted": "+"}  # as diff has them: from wanted to there
LEGEND = "- is wanted and not there, + is there and not wanted"
UNCOUNTED = "-"  # packets of rules without a counter


class Which(NamedTuple):
    """The nodes asked for, and whose rules; blank: all."""

    nodes: tuple[str, ...]
    service: str = ""  # [NS/]NAME
    namespace: str = ""
    selector: str = ""


def print_rules(live: Live, which: Which, output: str, *, headers: bool = True) -> int:
    """Print the rules of nodes. Raises NotFoundError, UsageError."""
    from netlab.agent.rules import programmed

    cluster = live.cluster()
    only = owners(which, cluster.documents)
    asked = nodes(which, cluster)
    found = [one for name in asked for one in programmed(cluster, name, only=only)]
    for name in asked:
        if cluster.node(name).declared.foreign_proxy:
            print(f"note: the rules of {name} are a foreign kube-proxy's", file=sys.stderr)
    if output in ("json", "yaml"):
        from netlab.cli.get import text_of

        items = [document(one) for one in found]
        whole = {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}
        print(text_of(whole, output), end="")
    elif not found:
        print("No rules found.", file=sys.stderr)
    elif output == "name":
        print("\n".join(f"rules/{one.node}/{one.block.table}/{one.block.name}" for one in found))
    elif output == "wide":
        print("\n\n".join("\n".join(listed(one)) for one in found))
    else:
        lines = tables.aligned(HEADER, [row(one) for one in found])
        print("\n".join(lines if headers else lines[1:]))
    if wrong := [one for one in found if one.state.value != "ok"]:
        note = f"{len(wrong)} of {len(found)} chains, sets and maps are not as wanted"
        print(f"note: {note}{f': {LEGEND}' if output == 'wide' else ''}", file=sys.stderr)
    return 0


def nodes(which: Which, cluster: Cluster) -> list[str]:
    """Return the names of the nodes asked for. Raises NotFoundError."""
    known = [node.name for node in cluster.nodes]
    for name in which.nodes:
        if name not in known:
            raise NotFoundError(f"nodes {name!r} not found", hint=f"nodes: {', '.join(known)}")
    return list(which.nodes or known)


def owners(which: Which, documents: Iterable[Document]) -> set[Owner] | None:
    """Return the Services whose rules are asked for, None for all there is.

    Raises NotFoundError, UsageError.
    """
    from netlab.cli.selectors import selector
    from netlab.proxy.claims import Owner

    if not (which.service or which.namespace or which.selector):
        return None
    space, slash, name = which.service.rpartition("/")
    if which.service and (not name or (slash and not space)):
        raise UsageError(f"--service {which.service}: no name", hint="--service shop/cart")
    space = space or which.namespace or ("default" if name else "")
    test = selector(which.selector)
    found = {
        Owner(False, one["metadata"]["namespace"], one["metadata"]["name"])
        for one in documents
        if one["kind"] == "Service"
        and space in ("", one["metadata"]["namespace"])
        and name in ("", one["metadata"]["name"])
        and test(one["metadata"].get("labels") or {})
    }
    if name and not found:
        raise NotFoundError(f"services {name!r} not found in namespace {space}")
    return found


def row(one: Programmed) -> list[str]:
    """Return the cells of one chain, set or map."""
    packets = UNCOUNTED if one.packets is None else str(one.packets)
    there = sum(rule.state.value != "missing" for rule in one.rules)
    name = one.block.name
    return [one.node, table(one), name, whose(one), str(there), packets, one.state.value]


def table(one: Programmed) -> str:
    """Return `nat`, or `IPv6 nat`."""
    family = str(one.block.family)
    return one.block.table if family == "IPv4" else f"{family} {one.block.table}"


def whose(one: Programmed) -> str:
    """Return whose a block is: `default/web`, `pod default/ftp`, `-` if all share it."""
    return owner_words(one.owner) if one.owner else UNCOUNTED


def owner_words(owner: Owner) -> str:
    return f"{'pod ' if owner.is_pod else ''}{owner.namespace}/{owner.name}"


def listed(one: Programmed, *, indent: str = "", width: int = 0) -> list[str]:
    """Return a block as a line of its own, then its rules, each behind the packets it fired for.

    *width*: columns for which rules are made shorter, as far as comments do that; 0: they are not.
    """
    words = [] if indent else [one.node]
    words += [table(one), str(one.block.sort), one.block.name]
    words += [owner_words(one.owner)] if one.owner and not indent else []
    words += [one.state.value.upper()] if one.state.value != "ok" else []
    numbers = [UNCOUNTED if rule.packets is None else str(rule.packets) for rule in one.rules]
    wide = max(map(len, [*numbers, "     "]))
    lines = [indent + " ".join(words)]
    for rule, number in zip(one.rules, numbers, strict=True):
        start = f"{indent}{MARKS[rule.state.value]} {number:>{wide}}  "
        text = shortened(rule.text, width - len(start)) if width else rule.text
        lines.append(start + text)
    return lines


_COMMENT = re.compile(r'-m comment --comment ("[^"]*"|\S+) ?|\bcomment "([^"]*)" ?')


def shortened(text: str, width: int) -> str:
    """Return a rule with its comment at the end, as `iptables -L` has it, or without, to fit."""
    found = _COMMENT.search(text)
    if found is None:
        return text
    bare = f"{text[: found.start()]}{text[found.end() :]}".strip()
    whole = f"{bare}  /* {(found[1] or found[2]).strip(chr(34))} */"
    return whole if len(whole) <= width else bare


def document(one: Programmed) -> Document:
    """Return a block as an object: desired in `spec`, observed in `status`."""
    block, missing = one.block, "missing"
    wanted = [rule for rule in one.rules if rule.state.value != "unwanted"]
    there = [rule for rule in one.rules if rule.state.value != missing]
    return {
        "apiVersion": "netlab/v1",
        "kind": "RuleSet",
        "metadata": {"name": block.name},
        "spec": {
            "node": one.node,
            "family": str(block.family),
            "table": block.table,
            "sort": str(block.sort),
            "head": list(block.head),
            "owner": owner_words(one.owner) if one.owner else None,
            "rules": [rule.text for rule in wanted] if one.state.value != "unwanted" else None,
        },
        "status": {
            "state": one.state.value,
            "packets": one.packets,
            "rules": list(rule_documents(there)),
        },
    }


def rule_documents(rules: Sequence[Rule]) -> Iterator[Document]:
    for rule in rules:
        yield {
            "text": rule.text,
            "packets": rule.packets,
            "bytes": rule.bytes,
            "owners": [owner_words(owner) for owner in rule.owners],
            "wanted": rule.state.value != "unwanted",
        }
