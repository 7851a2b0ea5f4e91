"""The table of packets, by live packets through the rules that `netlab proxy` writes.

The same rows that the decision is held to without a kernel (tests/unit/test_frontends_flows.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from flow_cases import cases
from flows import table

from netlab.proxy import Mode

pytestmark = pytest.mark.kernel

Words = dict[str, Any]
CASES = [(case, mode) for case in cases() for mode in table.modes(case)]


@pytest.mark.parametrize(
    ("case", "mode"), CASES, ids=[f"{case['id']}-{mode}" for case, mode in CASES]
)
def test_every_row_holds(case: Words, mode: Mode, tmp_path: Path) -> None:
    found = table.failures(case, mode, f"nltest{os.getpid()}", tmp_path)
    assert not found, "\n".join(found)
