"""What runs in each machine of tests/vm/test_machines.py: whatever the test says, by the shell.

    inside.py DIRECTORY

A command is a file NAME.sh in DIRECTORY/vmN; taken, it is called NAME.taken, and NAME.out,
NAME.err and then NAME.code (its exit code) tell what came of it. What NAME.watch prints goes to our
own output. Several run at once. A machine that is reset takes what is said from then on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def main(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    running: dict[Path, subprocess.Popen[bytes]] = {}
    (directory / "boots").open("a").write("boot\n")
    while True:
        for name in sorted(os.listdir(directory)):
            if name.endswith((".sh", ".watch")):
                said = directory / name
                taken = said.rename(said.with_suffix(".taken"))
                running[taken] = started(taken, watched=name.endswith(".watch"))
        for taken, process in list(running.items()):
            if process.poll() is not None:
                del running[taken]
                unfinished = taken.with_suffix(".unfinished")
                unfinished.write_text(str(process.returncode))
                unfinished.rename(taken.with_suffix(".code"))
        time.sleep(0.2)


def started(taken: Path, *, watched: bool) -> subprocess.Popen[bytes]:
    if watched:
        return subprocess.Popen(["sh", str(taken)])
    with taken.with_suffix(".out").open("wb") as out, taken.with_suffix(".err").open("wb") as err:
        return subprocess.Popen(["sh", str(taken)], stdout=out, stderr=err)


if __name__ == "__main__":
    main(Path(sys.argv[1], f"vm{os.environ['NODE']}"))
