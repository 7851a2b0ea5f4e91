"""Checks made under a variant of the lab: another back end, another proxy mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from netlab import patience
from netlab.verify.context import Checked, Context, Failure, Refuted, Skip


def held(
    context: Context, variant: str, checks: Mapping[str, Callable[[Context], Checked]]
) -> list[str]:
    """Return the first evidence of each of *checks*, made side by side, behind *variant*'s name.

    Raises Failure naming the variant and path; Skip when the lab has nothing to ask for.
    """
    if not checks:
        return []
    lines, skipped = [], []
    with ThreadPoolExecutor(patience.side_by_side(len(checks))) as pool:
        running = {name: pool.submit(check, context) for name, check in checks.items()}
        for name, future in running.items():
            try:
                lines.append(f"{variant}: {name}: {future.result().evidence[0]}")
            except Skip as skip:
                skipped.append(str(skip))
            except Refuted as refuted:
                flow = refuted.verdict
                raise Failure(
                    f"{variant}: {name}: {flow.flow}",
                    *flow.evidence,
                    last_seen=flow.last_seen,
                    expected_next=flow.expected_next,
                ) from refuted
            except Failure as failure:
                first, *others = failure.evidence or ("",)
                raise Failure(
                    f"{variant}: {name}: {first}",
                    *others,
                    last_seen=failure.last_seen,
                    expected_next=failure.expected_next,
                ) from failure
    if not lines:
        raise Skip(skipped[0])
    return lines
