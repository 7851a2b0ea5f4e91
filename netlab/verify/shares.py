"""Whether endpoints answered in fair shares: Pearson's χ² test, not the eye."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import erfc, exp, lgamma, log, sqrt

import msgspec

P = 0.001  # below this, chance is no explanation
LEAST = 100  # flows
PER_ENDPOINT = 20  # flows; so that none stays without an answer by chance: (1 - 1/n) ** 20n < e-20


def flows_for(endpoints: int) -> int:
    """Return how many flows tell fair shares from others."""
    return max(LEAST, PER_ENDPOINT * endpoints)


class Shares(msgspec.Struct, frozen=True):
    """How often each of the endpoints that should answer did; `others` did too and should not."""

    counts: dict[str, int]
    others: dict[str, int]

    @property
    def flows(self) -> int:
        return sum(self.counts.values())

    @property
    def silent(self) -> list[str]:
        """The endpoints that never answered."""
        return [name for name, count in self.counts.items() if not count]

    @property
    def statistic(self) -> float:
        """χ² against equal shares."""
        if not self.flows:
            return 0.0
        fair = self.flows / len(self.counts)
        return sum((count - fair) ** 2 for count in self.counts.values()) / fair

    @property
    def p(self) -> float:
        """How likely equal chances are to give shares at least as unequal."""
        return tail(self.statistic, len(self.counts) - 1)

    @property
    def fair(self) -> bool:
        """Whether each answered, nobody else did, and chance explains the differences."""
        return bool(self.flows) and not self.silent and not self.others and self.p > P

    def __str__(self) -> str:
        """`6 endpoints answered 14 to 21 of 100 flows, χ² 2.36, p 0.80`."""
        if len(self.counts) == 1 and not self.silent and not self.others:
            return f"its one endpoint answered all {self.flows} flows"
        words = f"{len(self.counts)} endpoints answered"
        low, high = min(self.counts.values(), default=0), max(self.counts.values(), default=0)
        span = f"{low}" if low == high else f"{low} to {high}"
        said = f"{words} {span} of {self.flows} flows, χ² {self.statistic:.2f}, p {self.p:.2g}"
        if self.silent:
            said += f"; never: {', '.join(self.silent)}"
        if self.others:
            said += f"; and others: {', '.join(self.others)}"
        return said


def shares(answered: Mapping[str, int], endpoints: Collection[str]) -> Shares:
    """Return the shares of *endpoints* in what was *answered*, by the same names."""
    counts = {name: answered.get(name, 0) for name in sorted(endpoints)}
    others = {name: count for name, count in answered.items() if name not in counts}
    return Shares(counts, others)


def tail(statistic: float, freedom: int) -> float:
    """Return the probability that χ² with *freedom* degrees of freedom exceeds *statistic*.

    Exact: the regularised incomplete gamma function Q(k/2, x/2) by its recurrence from Q(1/2, x)
    or Q(1, x). Source: Abramowitz and Stegun, 26.4.4 and 26.4.5.
    """
    if freedom <= 0 or statistic <= 0:
        return 1.0
    x = statistic / 2
    shape, q = (1.0, exp(-x)) if freedom % 2 == 0 else (0.5, erfc(sqrt(x)))
    while shape < freedom / 2:
        q += exp(shape * log(x) - x - lgamma(shape + 1))
        shape += 1
    return min(q, 1.0)
