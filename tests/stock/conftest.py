"""Tests that need what every distribution's kernel has: `scripts/test --vm` runs them in a machine
with one. Elsewhere they are skipped, whatever the kernel there can do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("NETLAB_VM"):
        return
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.skip(reason="needs a machine: scripts/test --vm"))
