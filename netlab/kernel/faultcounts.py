"""What bad cables have lost, as their rules count it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from netlab.kernel.chains import OWN
from netlab.kernel.netns import exists
from netlab.processes.commands import run

_RULE = re.compile(r'counter packets (\d+) bytes \d+ drop comment "([^"]+)"')


def lost(names: Iterable[str]) -> Mapping[str, int]:
    """Return how many frames the faults in the namespaces *names* have dropped, by the command
    that made each."""
    found: Counter[str] = Counter()
    for name in filter(exists, names):
        for family, table in OWN:
            done = run(("nft", "list", "table", family, table), netns=name, check=False)
            for packets, command in _RULE.findall(done.stdout):
                found[command] += int(packets)
    return found
