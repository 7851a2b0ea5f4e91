"""Paths by proxy mode, or by back end: the lab changes, is verified so, and changes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from netlab.errors import NetlabError, UsageError
from netlab.model import backends as titles
from netlab.packets import Outcome, Verdict
from netlab.verify import backends, proxymodes
from netlab.verify.catalogue import Path, chosen
from netlab.verify.context import Failure, Live
from netlab.verify.turns import turn
from netlab.verify.verification import proven

# What a Service is for: the paths on which a mode's rules, or its process, are.
SERVICE_PATHS = (
    *("pod-clusterip", "node-clusterip", "clusterip-outside", "nodeport", "loadbalancer"),
    *("dns-service", "endpoints-follow", "selectors", "namespaces", "affinity", "no-endpoints"),
    *("ingress", "network-policy"),
)
# The paths that change the lab so, too: what, and the option for it.
ITSELF = {"proxy-modes": ("mode", "--proxy-mode"), "backends": ("back end", "--backend")}


class Column(NamedTuple):
    """What was found in one mode or by one back end; *lacking*: why nothing was tried, in words."""

    name: str
    verdicts: Sequence[Verdict] = ()
    lacking: str = ""


def paths(ids: Sequence[str], without: Sequence[str] = SERVICE_PATHS) -> list[Path]:
    """Return the paths to be proven in each: *ids*, or *without* any these. Raises UsageError."""
    for path, (what, option) in ITSELF.items():
        if path in ids:
            raise UsageError(f"{path} changes the {what} itself", hint=f"leave {option} out for it")
    return chosen(ids or without)


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
    with _turn(live, on_wait), _kept(live):
        return _columns(
            *(live, modes, wanted),
            own=live.lab.proxyMode,
            become=lambda mode: _serve(live, mode),
            lacking=lacking or {},
            on_name=on_mode,
            on_result=on_result,
        )


def by_backends(
    live: Live,
    names: Sequence[str],
    ids: Sequence[str] = (),
    *,
    lacking: Mapping[str, str] | None = None,
    on_name: Callable[[str], None],
    on_result: Callable[[Verdict], None],
    on_wait: Callable[[str], None],
) -> list[Column]:
    """Return the same by each of the back ends called *names*; without *ids* the paths that a back
    end bears on."""
    wanted = paths(ids, backends.PATHS)
    with _turn(live, on_wait):
        own = live.lab.network.Backend
        try:
            return _columns(
                *(live, names, wanted),
                own=titles.title(own),
                become=lambda name: backends.changed(live, name, own),
                lacking=lacking or {},
                on_name=on_name,
                on_result=on_result,
            )
        finally:
            if live.lab.network.Backend != own:
                live.carry_by(own)


def _columns(
    live: Live,
    names: Sequence[str],
    wanted: Sequence[Path],
    *,
    own: str,
    become: Callable[[str], None],
    lacking: Mapping[str, str],
    on_name: Callable[[str], None],
    on_result: Callable[[Verdict], None],
) -> list[Column]:
    columns = {name: Column(name, (), why) for name, why in lacking.items()}
    tried = [name for name in names if name not in columns]
    for name in sorted(tried, key=lambda one: one != own):
        on_name(name)
        try:
            become(name)
        except (Failure, NetlabError) as error:
            columns[name] = Column(name, [_never(path, name, error) for path in wanted])
            for verdict in columns[name].verdicts:
                on_result(verdict)
            continue
        found = proven(live, [path.id for path in wanted], on_result=on_result)
        columns[name] = Column(name, found)
    return [columns[name] for name in names if name in columns]


@contextmanager
def _turn(live: Live, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Have the lab's turn from its first change to its last, and know it as it is then."""
    with turn(live.run, on_wait):
        live.reread()
        yield


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


def _never(path: Path, name: str, error: Exception) -> Verdict:
    """Return the verdict on a path where the lab did not become what it should."""
    told = error.evidence if isinstance(error, Failure) else (f"{name}: {error}",)
    return Verdict(path.id, Outcome.FAIL, path.title, tuple(map(str, told)))
