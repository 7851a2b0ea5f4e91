"""Labs for a test run: made from files or YAML, each under a name of its own."""

from __future__ import annotations

import io
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec

from netlab import topology
from netlab.errors import CapabilityError, NetlabError, UsageError
from netlab.model.lab import Lab as Declared
from netlab.model.modes import PROXY_MODES
from netlab.testing.calls import Keeper
from netlab.testing.lab import Lab

NAME_KEPT = 16  # characters of the name in the file; the rest tells labs apart
Missing = Callable[[CapabilityError], NoReturn]


class LabFactory:
    """Call it with topologies to have a lab of them; all are taken down when it is closed.

    *missing*: called, not to return, when this machine cannot have labs.
    """

    def __init__(self, missing: Missing) -> None:
        self._missing = missing
        self._labs: list[Lab] = []

    def __call__(self, *sources: str | Path, proxy_mode: str = "") -> Lab:
        """Return a lab of *sources*, up and converged: files, directories, or YAML itself.

        A relative path is below the folder of the file that calls. The Lab document's name is
        replaced, so labs never meet. Raises InputError with every mistake; NetlabError.
        """
        folder = Path(sys._getframe(1).f_code.co_filename).parent
        return self.up(declaration(sources, folder), proxy_mode=proxy_mode)

    def up(self, declared: topology.Declaration, *, proxy_mode: str = "") -> Lab:
        """Return a lab of *declared*, up and converged."""
        lab = renamed(declared.require_lab())
        if proxy_mode:
            lab = msgspec.structs.replace(lab, proxyMode=known_mode(proxy_mode))
        made = Lab(lab.name, lab.proxyMode, Keeper())
        self._labs.append(made)
        lacking: CapabilityError | None = None
        try:
            made.keeper.do("up", lab=lab, documents=declared.documents)
        except NetlabError as error:
            made.down()
            if not isinstance(error, CapabilityError):
                raise
            lacking = error
        if lacking:
            self._missing(lacking)  # not in there: pytest would show two errors
        made.begin()
        return made

    def labs(self) -> Iterator[Lab]:
        """Yield the labs that are up."""
        return (lab for lab in self._labs if lab.is_up)

    def close(self) -> None:
        """Take down every lab. Raises NetlabError naming those that could not be."""
        problems = []
        for lab in self._labs:
            try:
                lab.down()
            except NetlabError as error:
                problems.append(f"lab {lab.name}: {error}")
        self._labs.clear()
        if problems:
            raise NetlabError("; ".join(problems), hint="`netlab down --all` removes what is left")


@contextmanager
def factory(missing: Missing) -> Iterator[LabFactory]:
    """Yield a factory; close it in the end."""
    made = LabFactory(missing)
    try:
        yield made
    finally:
        made.close()


def declaration(sources: Sequence[str | Path], folder: Path) -> topology.Declaration:
    """Return what *sources* declare, a Lab among it; paths are below *folder*.

    Raises InputError with every mistake, UsageError for two texts.
    """
    texts = [source for source in sources if isinstance(source, str) and "\n" in source]
    if len(texts) > 1:
        raise UsageError("two texts of YAML", hint="join them with a line of ---")
    named = ["-" if source in texts else shown(folder / source) for source in sources]
    declared = topology.load(named, stdin=io.StringIO("".join(texts)))
    topology.require_lab(declared, named)
    return declared


def shown(path: Path) -> str:
    """Return *path* as mistakes in it are to name it: from where we are, if it is below."""
    below = os.path.relpath(path)
    return str(path) if below.startswith("..") else below


def renamed(lab: Declared) -> Declared:
    """Return *lab* under a name that no other has, `shop-3f9a01`."""
    name = f"{lab.name[:NAME_KEPT].rstrip('-')}-{secrets.token_hex(3)}"
    return msgspec.structs.replace(lab, metadata=msgspec.structs.replace(lab.metadata, name=name))


def known_mode(mode: object) -> str:
    """Return the proxy mode *mode*. Raises UsageError."""
    if mode in PROXY_MODES:
        return str(mode)
    raise UsageError(f"proxy_mode {mode!r}: not known", hint=" or ".join(PROXY_MODES))
