"""How long `netlab --help` takes to start, as a ratio to a bare `python -c pass`, in one run.

    python bench/startup.py [RUNS]

Each command runs RUNS times (default 60), by turns, so that whatever else the machine does hits
all of them alike; the medians are compared. Start, output and exit are all in the time, and the
same interpreter runs everything. Exits with 1 when `netlab --help` takes 3 bare starts or more.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 3.0  # bare starts
BARE = "python -c pass"
HELP = "netlab --help"

# What pip writes as the console script; newer ones leave `re` out, Debian 12's does not.
SCRIPT = "import re, sys; from netlab.__main__ import main; sys.exit(main())"
COMMANDS = {
    BARE: ["-c", "pass"],
    HELP: ["-c", SCRIPT, "--help"],
    "netlab version": ["-c", SCRIPT, "version"],
    "netlab up --help": ["-c", SCRIPT, "up", "--help"],
    "netlab get --help": ["-c", SCRIPT, "get", "--help"],
    "python -c 'import click'": ["-c", "import click"],
}


def seconds(arguments: list[str]) -> float:
    """Return how long one run takes, from fork to the end of the process."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return time.perf_counter() - began


def medians(runs: int) -> dict[str, float]:
    """Return the median seconds of each command over *runs* alternating runs."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs + 1):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    found = medians(runs)
    bare = found[BARE]
    print(f"medians of {runs} alternating runs, Python {sys.version.split()[0]}")
    for name, median in found.items():
        print(f"{median * 1000:8.1f} ms  {median / bare:5.2f}x  {name}")
    ratio = found[HELP] / bare
    print(f"{HELP}: {ratio:.2f} bare starts (limit {LIMIT:g})")
    return 0 if ratio < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
