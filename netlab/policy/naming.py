"""What the chains and sets of policies are called, and what their comments say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256

import msgspec

from netlab.model.kubernetes import LabelSelector
from netlab.model.policies import Direction, Peer
from netlab.proxy.nftables_words import comment

TABLE = "netlab-policy"
EGRESS, INGRESS, ITSELF = "egress", "ingress", "itself"

_HASH = 8  # characters
_UNFIT = re.compile(r'["\\\x00-\x1f\x7f-\U0010ffff]')
_LONGEST = 200  # characters of a policy's name in a chain's, which may have 255 bytes


def hashed(*parts: object) -> str:
    """Return a short name for *parts*: the same for equal ones."""
    return sha256(msgspec.json.encode(parts)).hexdigest()[:_HASH]


def policy_chain(direction: Direction, name: str) -> str:
    """Return `ingress-1f0e2c3a-default/web`, the chain of what policy *name* allows."""
    return f"{direction.lower()}-{hashed(name)}-{name[:_LONGEST]}"


def isolation_chain(direction: Direction, names: Iterable[str]) -> str:
    """Return `ingress-isolated-1f0e2c3a`, the chain of the pods that policies *names* isolate."""
    return f"{direction.lower()}-isolated-{hashed(*names)}"


def pods_map(direction: Direction) -> str:
    """Return the map from a pod's address to the chain of its isolation."""
    return f"{direction.lower()}-pods"


def allowed_by(name: str) -> str:
    """Return the comment of a rule by which policy *name* allows."""
    return comment(f"NetworkPolicy {name}")


def isolated_by(names: Iterable[str]) -> str:
    """Return the comment of the rule that ends what no policy of *names* allows."""
    return comment(f"not allowed by NetworkPolicy {', '.join(names)}")


def peers_comment(namespace: str, peers: Iterable[Peer]) -> str:
    """Return what a set of peers' addresses is of: `pods app=web of shop`."""
    return said("; ".join(peer_words(namespace, peer) for peer in peers))


def said(text: str) -> str:
    """Return a comment of *text*, which may hold what is none: nft knows no quote inside quotes."""
    return comment(_UNFIT.sub("?", text))


def peer_words(namespace: str, peer: Peer) -> str:
    """Return which pods *peer* means in a policy of *namespace*, in kubectl's form of selectors."""
    pods = selector_words(peer.podSelector or LabelSelector())
    of = namespace
    if peer.namespaceSelector is not None:
        of = f"namespaces {selector_words(peer.namespaceSelector) or 'all'}"
    return f"pods {pods} of {of}" if pods else f"all pods of {of}"


def selector_words(selector: LabelSelector) -> str:
    """Return `app=web,tier in (a,b),!old`, "" for a selector that means all.

    Source: k8s.io/apimachinery pkg/labels/selector.go, Requirement.String (v0.34).
    """
    words = [f"{key}={value}" for key, value in sorted(selector.matchLabels.items())]
    for one in selector.matchExpressions:
        key, operator = str(one.get("key")), one.get("operator")
        values = ",".join(sorted(map(str, one.get("values") or ())))
        match operator:
            case "In":
                words.append(f"{key} in ({values})")
            case "NotIn":
                words.append(f"{key} notin ({values})")
            case "Exists":
                words.append(key)
            case _:
                words.append(f"!{key}")
    return ",".join(words)
