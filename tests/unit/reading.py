"""Captures as tshark reads them, which nobody here wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


def read(path: Path, *fields: str, only: str = "") -> list[dict[str, Any]]:
    """Return the *fields* of each packet: lists of texts, as a packet may have a field twice.

    A complaint of tshark's about the file fails the test.
    """
    if shutil.which("tshark") is None:
        pytest.skip("needs tshark")
    words = ["tshark", "-n", "-r", str(path), "-d", "udp.port==8472,vxlan", "-T", "json"]
    words += [word for field in fields for word in ("-e", field)]
    done = subprocess.run([*words, *(["-Y", only] if only else [])], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if "This could be dangerous" not in line]
    assert (done.returncode, said) == (0, []), done.stderr
    return [one["_source"].get("layers", {}) for one in json.loads(done.stdout or "[]")]


def times(packets: list[dict[str, Any]]) -> list[int]:
    """Return `frame.time_epoch` of packets in ns."""
    return [int(one["frame.time_epoch"][0].replace(".", "")) for one in packets]
