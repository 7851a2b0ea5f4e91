"""What bad cables have lost, as their rules and queues count it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from netlab.kernel import netem
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


def dropped(ends: Iterable[tuple[str, str]]) -> int:
    """Return how many frames netem's queues have lost, at links as (namespace, device)."""
    total = 0
    for netns, device in ends:
        if exists(netns):
            words = ("tc", "-s", "-j", "qdisc", "show", "dev", device, "root")
            done = run(words, netns=netns, check=False)
            total += sum(int(queue.get("drops", 0)) for queue in netem.listed(done.stdout))
    return total
