"""How long is waited for what others have to do: on a slow computer, longer.

NETLAB_PATIENCE is a factor, from 1 on: `scripts/vm` sets it where the processor is emulated. Only
limits after which something counts as failed are multiplied: no period, and nothing that is told
as a measured fact. What is done side by side there is less, as each takes the others' time.
"""

from __future__ import annotations

import os


def factor() -> float:
    """Return the factor that the environment asks for; 1 for whatever is no number from 1 on."""
    try:
        return max(1.0, float(os.environ.get("NETLAB_PATIENCE", "1")))
    except ValueError:
        return 1.0


def side_by_side(usual: int) -> int:
    """Return how many things to do at once where a usual computer does *usual*: at least two."""
    return max(2, int(usual / factor()))


def seconds(usual: float) -> float:
    """Return how long to wait for what takes at most *usual* seconds on a usual computer."""
    return usual * factor()
