"""Paths by proxy mode: the lab changes its mode, is verified in it, and changes back at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from netlab.errors import NetlabError, UsageError
from netlab.packets import Outcome, Verdict
from netlab.verify import proxymodes
from netlab.verify.catalogue import Path, chosen
from netlab.verify.context import Failure, Live
from netlab.verify.verification import verify

# What a Service is for: the paths on which a mode's rules, or its process, are.
SERVICE_PATHS = (
    *("pod-clusterip", "node-clusterip", "clusterip-outside", "nodeport", "loadbalancer"),
    *("dns-service", "endpoints-follow", "selectors", "namespaces", "affinity", "no-endpoints"),
    *("ingress", "network-policy"),
)
ITSELF = "proxy-modes"  # the path that changes the mode, too


class Column(NamedTuple):
    """What was found in one mode; *lacking*: why nothing was tried, in words."""

    mode: str
    verdicts: Sequence[Verdict] = ()
    lacking: str = ""


def paths(ids: Sequence[str]) -> list[Path]:
    """Return the paths to be proven in each mode: *ids*, or the Services'. Raises UsageError."""
    if ITSELF in ids:
        raise UsageError(f"{ITSELF} changes the mode itself", hint="leave --proxy-mode out for it")
    return chosen(ids or SERVICE_PATHS)


def in_modes(
    live: Live,
    modes: Sequence[str],
    ids: Sequence[str] = (),
    *,
    lacking: Mapping[str, str] | None = None,
    on_mode: Callable[[str], None],
    on_result: Callable[[Verdict], None],
    on_wait: Callable[[str], None],
) -> list[Column]:
    """Return what is found of *ids* (the Services' paths without) in each of *modes*.

    The lab's own mode comes first; the columns are in the order of *modes*. *lacking*: modes that
    are not tried, each with the reason. *on_mode* is called as each begins, the others as by
    `verify`. Raises as `verify` does.
    """
    wanted = paths(ids)
    columns = {mode: Column(mode, (), why) for mode, why in (lacking or {}).items()}
    tried = [mode for mode in modes if mode not in columns]
    own = live.lab.proxyMode
    with _kept(live):
        for mode in sorted(tried, key=lambda one: one != own):
            on_mode(mode)
            try:
                _serve(live, mode)
            except (Failure, NetlabError) as error:
                columns[mode] = Column(mode, [_never(path, mode, error) for path in wanted])
                for verdict in columns[mode].verdicts:
                    on_result(verdict)
                continue
            names = [path.id for path in wanted]
            found = verify(live, names, on_result=on_result, on_wait=on_wait)
            columns[mode] = Column(mode, found)
    return [columns[mode] for mode in modes if mode in columns]


@contextmanager
def _kept(live: Live) -> Iterator[None]:
    """Have the lab in its own mode again afterwards."""
    own = live.lab.proxyMode
    try:
        yield
    finally:
        if live.lab.proxyMode != own:
            live.serve_by(own)


def _serve(live: Live, mode: str) -> None:
    """Have the lab in *mode*. Raises Failure."""
    if live.lab.proxyMode != mode:
        proxymodes.changed(live, mode, proxymodes.balancer(live, mode))


def _never(path: Path, mode: str, error: Exception) -> Verdict:
    """Return the verdict on a path of a mode that the lab did not get into."""
    told = error.evidence if isinstance(error, Failure) else (f"{mode}: {error}",)
    return Verdict(path.id, Outcome.FAIL, path.title, tuple(map(str, told)))
