"""Where a long command is: one live line on a terminal, otherwise a plain line now and then.

The line is written by hand ("carriage return, clear to end of line"): a library that draws
progress bars takes longer to import than a small lab takes to come up.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from types import TracebackType

PAUSE = 2.0  # seconds between two plain lines: what is done sooner needs none
CLEAR = "\r\x1b[K"  # ECMA-48: carriage return, erase in line


class Progress:
    """Call it with (step, detail); on a terminal the line is gone when the block ends."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.step = ""
        self._told = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wipe()

    def __call__(self, step: str, detail: str = "") -> None:
        """Show that *step* has been reached; *detail* is for terminals only."""
        if self.live:
            line = f"{self.title}: {step}" + (f": {detail}" if detail else "")
            width = shutil.get_terminal_size().columns - 1
            self._write(CLEAR + line[:width])
        elif step != self.step and time.monotonic() - self._told >= PAUSE:
            self._told = time.monotonic()
            self._write(f"{self.title}: {step}\n")
        self.step = step

    def wipe(self) -> None:
        """Take the live line away, so that something else can be printed."""
        if self.live:
            self._write(CLEAR)

    @staticmethod
    def _write(text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except OSError:
            pass  # nobody reads the progress any more: the work goes on
