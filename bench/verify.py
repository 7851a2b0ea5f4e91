"""How long the proof takes: `netlab verify` of the notes against `netlab up` of the same lab.

    sudo .venv/bin/python bench/verify.py [ROUNDS]

Each round (default 5) brings topologies/notes.yaml up from nothing, under a name of its own, has
every path proven, and takes it down again: in a new lab the kernel remembers no flows of a round
before. `python -c pass` runs beside it. All are medians of whole processes, from fork to the end.
Prints the ratios and the paths that took longest, and exits with 1 when a path failed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAB = "bench-verify"
SHOWN = 5  # paths
UP, VERIFY, BARE = "netlab up", "netlab verify", "python -c pass"


def ran(*words: str) -> tuple[float, str]:
    """Return how long `python WORDS` takes, and what it prints. Ends the bench when it fails."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT)
    took = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"python {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return took, done.stdout


def netlab(*words: str) -> tuple[float, str]:
    return ran("-m", "netlab", "-L", LAB, *words)


def measured(file: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds of each command in each round, and those of each path."""
    times: dict[str, list[float]] = {UP: [], VERIFY: [], BARE: []}
    paths: dict[str, list[float]] = {}
    for number in range(rounds):
        try:
            times[UP].append(netlab("up", file)[0])
            took, printed = netlab("verify", "-o", "json")
            times[VERIFY].append(took)
        finally:
            netlab("down")
        times[BARE].append(ran("-c", "pass")[0])
        for path in json.loads(printed)["paths"]:
            if path["outcome"] == "pass":
                paths.setdefault(path["path"], []).append(path["seconds"])
        print(f"round {number + 1}: {took:.2f} s", file=sys.stderr)
    return times, paths


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    os.environ["NETLAB_LAB"] = LAB
    text = (ROOT / "topologies/notes.yaml").read_text()
    named = text.replace("name: notes ", f"name: {LAB} ", 1)
    if named == text:
        sys.exit("topologies/notes.yaml: the lab is not called notes")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "lab.yaml")
        file.write_text(named)
        times, paths = measured(str(file), rounds)
    found = {name: statistics.median(each) for name, each in times.items()}
    longest = sorted(paths, key=lambda path: statistics.median(paths[path]), reverse=True)[:SHOWN]
    low, high = min(times[VERIFY]), max(times[VERIFY])
    print(f"medians of {rounds} rounds, {len(paths)} paths proven")
    print(f"  {VERIFY:15} {found[VERIFY]:6.2f} s  ({low:.2f} to {high:.2f})")
    for name in (UP, BARE):
        print(f"  {name:15} {found[name]:6.2f} s  {found[VERIFY] / found[name]:6.1f}x")
    for path in longest:
        print(f"  {path:20} {statistics.median(paths[path]):.2f} s")


if __name__ == "__main__":
    main()
