"""The table of packets, by live packets through the rules that `netlab proxy` writes.

The same rows that the decision is held to without a kernel (tests/unit/test_frontends_flows.py),
and each case that means something in IPv6 said again there. A row sends twenty packets per endpoint
and judges every one: where it arrived first, from which source, whether the answer came back.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from flow_cases import MORE, cases
from flows import capability, table
from flows.twins import twin

from netlab.proxy import Mode

pytestmark = pytest.mark.kernel

Words = dict[str, Any]
IPV4 = [*cases(), *cases(MORE)]
EVERY = [*IPV4, *(two for one in IPV4 if (two := twin(one)))]
# In ipvs mode, which only a stock kernel has (emulated, and slow), a few speak for IPv6.
SIX_OF_IPVS = {
    f"{one}-v6"
    for one in (
        "clusterip-hairpin-two-endpoints",
        "no-endpoints-reject-everywhere",
        "nodeport-via-other-node",
        "lb-etp-local-client-ip",
    )
}
CASES = [
    (case, mode)
    for case in EVERY
    for mode in table.modes(case)
    if mode is not Mode.IPVS or case in IPV4 or case["id"] in SIX_OF_IPVS
]


def params() -> Iterator[ParameterSet]:
    """Yield the cases; those of ipvs mode also for a stock kernel."""
    for case, mode in CASES:
        marks = [pytest.mark.stock] if mode is Mode.IPVS else []
        yield pytest.param(case, mode, id=f"{case['id']}-{mode}", marks=marks)


@pytest.mark.parametrize(("case", "mode"), list(params()))
def test_every_row_holds(case: Words, mode: Mode, tmp_path: Path) -> None:
    if lacking := capability.lacking(case, mode):
        pytest.skip(f"capability missing: {lacking}")
    found = table.failures(case, mode, f"nltest{os.getpid()}", tmp_path)
    assert not found, "\n".join(found)


def test_what_is_masqueraded_passes_a_closed_firewall(tmp_path: Path) -> None:
    (case,) = (one for one in cases() if one["id"] == table.FORWARDED)
    found = table.failures_behind_firewall(case, f"nltest{os.getpid()}", tmp_path)
    assert not found, "\n".join(found)


def test_no_row_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    rows = dict.fromkeys(Mode, 0)
    for case, mode in CASES:
        rows[mode] += table.count(case, mode)
    with capsys.disabled():
        print(
            "\nlive flows:", ", ".join(f"{number} in {mode} mode" for mode, number in rows.items())
        )
    least = {Mode.IPTABLES: 400, Mode.NFTABLES: 400, Mode.IPVS: 60}  # upstream tests it less
    assert all(rows[mode] > number for mode, number in least.items())
