"""Which tests a want of this machine has skipped, and no other machine has run instead.

    python tests/proven.py SKIPS PASSED

SKIPS has a line `TEST: REASON` for each test that was skipped, PASSED one for each that passed on
a distribution's kernel. That one has whatever the kernel here lacks: a test that was skipped for
want of something that `netlab doctor` tries must have passed there. Exit code 1, and a line for
each that has not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable
from pathlib import Path


def capabilities_named(reason: str) -> list[str]:
    """Return the optional capabilities that the reason of a skip names."""
    from netlab import capabilities

    optional = [one.name for one in capabilities.TRIES if not one.required]
    return [
        name for name in optional if re.search(rf"(^|[ :]){re.escape(name)}s?($|[ ,:;])", reason)
    ]


def unproven(skips: Iterable[str], passed: Collection[str]) -> list[str]:
    """Return the lines of *skips* that name a capability, and whose test is not among *passed*."""
    told = dict.fromkeys(line.rstrip("\n") for line in skips)
    found = []
    for line in told:
        ran = any(line.startswith(f"{test}: ") for test in passed)
        if not ran and capabilities_named(line.partition(": ")[2]):
            found.append(f"{line} (not run on a stock kernel: mark it `stock`)")
    return found


def main() -> int:
    skips, passed = (Path(one) for one in sys.argv[1:])
    lines = skips.read_text().splitlines() if skips.exists() else []
    ran = set(passed.read_text().splitlines()) if passed.exists() else set()
    found = unproven(lines, ran)
    for line in found:
        print(f"unproven: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
