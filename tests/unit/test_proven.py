"""Whether a skip for want of something is made up for elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from proven import __file__ as PROGRAM
from proven import unproven

HERE = "tests/lab/test_policies.py::test_packets_of_sctp"
SKIPS = {
    "run elsewhere": (f"{HERE}: this kernel lacks SCTP", [HERE], False),
    "run nowhere": (f"{HERE}: this kernel lacks SCTP", [], True),
    "another was run": (f"{HERE}: netem: not supported", [f"{HERE}[more]"], True),
    "not the kernel's fault": ("tests/unit/test_x.py::test_y: needs tshark", [], False),
    "of a name with a colon": ("a.py::b[x: y]: lacks: ip_vs", ["a.py::b[x: y]"], False),
}


@pytest.mark.parametrize(("line", "passed", "is_unproven"), SKIPS.values(), ids=SKIPS)
def test_a_test_that_the_kernel_skips_must_have_passed_elsewhere(
    line: str, passed: list[str], is_unproven: bool
) -> None:
    assert bool(unproven([line], passed)) is is_unproven


@pytest.mark.parametrize(("passed", "code"), [(HERE, 0), ("", 1)])
def test_the_program_tells_by_its_exit_code(tmp_path: Path, passed: str, code: int) -> None:
    skips = tmp_path / "skips"
    skips.write_text(f"{HERE}: this kernel lacks SCTP\n" * 2)
    if passed:
        (tmp_path / "passed").write_text(f"{passed}\n")
    command = [sys.executable, PROGRAM, str(skips), str(tmp_path / "passed")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.count("unproven: ") == code
