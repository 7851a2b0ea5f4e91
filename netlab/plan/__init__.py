"""The plan: from what is to what should be, as operations in order, and in words.

order      Op, Verb; difference(desired, observed): the operations, ready to be applied in order
commands   words(op): the same as lines of ip(8), bridge(8), sysctl(8), iptables(8), nft(8)
"""

from netlab.plan.commands import words
from netlab.plan.order import Op, Verb, difference

__all__ = ["Op", "Verb", "difference", "words"]
