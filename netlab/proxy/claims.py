"""Who has which address and port, when several Services (or pods, with hostPorts) claim it.

The first kind of frontend wins, then the first owner: nobody takes a cluster IP by claiming it as
an external IP. One Service may have an address in two ways; that is no dispute.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from netlab.proxy.frontend import Frontend, HealthCheck, Kind
from netlab.proxy.service import NOTHING, Served

RANK = {kind: rank for rank, kind in enumerate(Kind)}

C = TypeVar("C", Frontend, HealthCheck)


class Owner(NamedTuple):
    """Whose frontends: of a Service, or (after all Services) of a pod that has hostPorts."""

    is_pod: bool
    namespace: str
    name: str


class _Claim(NamedTuple):
    rank: int
    owner: Owner
    place: int  # among what the owner claims


class _Table(Generic[C]):
    """The claims of one sort, by what can be had only once."""

    def __init__(self) -> None:
        self._claims: dict[Hashable, list[_Claim]] = {}

    def put(self, owner: Owner, old: Iterable[C], new: Iterable[C]) -> set[Owner]:
        """Let *owner* claim *new*, no longer *old*; return who else is concerned."""
        concerned: set[Owner] = set()
        for key in {_key(one) for one in old}:
            left = [claim for claim in self._claims.pop(key) if claim.owner != owner]
            concerned.update(claim.owner for claim in left)
            if left:
                self._claims[key] = left
        for place, one in enumerate(new):
            claims = self._claims.setdefault(_key(one), [])
            concerned.update(claim.owner for claim in claims)
            claims.append(_Claim(_rank(one), owner, place))
        return concerned - {owner}

    def won(self, owner: Owner, claimed: Iterable[C]) -> Iterator[tuple[C, Owner | None]]:
        """Yield what *owner* claims, each with who has it instead; None: it has it itself.

        What it claims in two ways it has in the better one; the other is left out.
        """
        for place, one in enumerate(claimed):
            claims = self._claims[_key(one)]
            winner = claims[0] if len(claims) == 1 else min(claims)
            if winner.owner != owner:
                yield one, winner.owner
            elif winner.place == place:
                yield one, None


def _key(one: Frontend | HealthCheck) -> Hashable:
    return one.key if isinstance(one, Frontend) else (one.family, one.port)


def _rank(one: Frontend | HealthCheck) -> int:
    return RANK[one.kind] if isinstance(one, Frontend) else 0


class Claims:
    """What each owner has on a node, kept as they change."""

    def __init__(self) -> None:
        self._served: dict[Owner, Served] = {}
        self._frontends: _Table[Frontend] = _Table()
        self._checks: _Table[HealthCheck] = _Table()
        self._unsure: set[Owner] = set()  # whose disputes may have changed
        self._disputes: dict[Owner, tuple[str, ...]] = {}  # of the others, where there are any

    def put(self, owner: Owner, served: Served) -> set[Owner]:
        """Take what *owner* claims now; return whose share may differ, itself among them."""
        old = self._served.pop(owner, NOTHING)
        concerned = self._frontends.put(owner, old.frontends, served.frontends)
        concerned |= self._checks.put(owner, old.health_checks, served.health_checks)
        if served.frontends or served.health_checks:
            self._served[owner] = served
        concerned.add(owner)
        self._unsure |= concerned
        return concerned

    def share(self, owner: Owner) -> Served:
        """Return what *owner* has of what it claims."""
        claimed = self._served.get(owner, NOTHING)
        return Served(
            [one for one, other in self._frontends.won(owner, claimed.frontends) if other is None],
            [one for one, other in self._checks.won(owner, claimed.health_checks) if other is None],
        )

    def owners(self) -> list[Owner]:
        """Return everybody who claims something: Services by name, then pods by name."""
        return sorted(self._served)

    def all_disputes(self) -> Iterator[str]:
        """Yield the disputes of all owners, in their order. It costs what changed since."""
        for owner in self._unsure:
            if lines := tuple(self.disputes(owner)):
                self._disputes[owner] = lines
            else:
                self._disputes.pop(owner, None)
        self._unsure.clear()
        for owner in sorted(self._disputes):
            yield from self._disputes[owner]

    def disputes(self, owner: Owner) -> Iterator[str]:
        """Yield, in words, what *owner* claims and somebody else has."""
        claimed = self._served.get(owner, NOTHING)
        for one, other in self._frontends.won(owner, claimed.frontends):
            if other is not None:
                at = f"{one.kind} {one.address} port {one.port}/{one.service.protocol}"
                yield f"{one.service.text}: {at} is {other.namespace}/{other.name}'s"
        for check, other in self._checks.won(owner, claimed.health_checks):
            if other is not None:
                names = f"{check.namespace}/{check.name}: health check port {check.port}"
                yield f"Service {names} is {other.namespace}/{other.name}'s"
