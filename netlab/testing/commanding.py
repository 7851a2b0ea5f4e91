"""One command of netlab's in this process, with what it prints."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout

import click

from netlab.errors import NetlabError, UsageError


def commanded(lab: str, words: Sequence[str]) -> str:
    """Return what `netlab WORDS` prints on stdout about the lab of that name.

    Raises what the command raises; NetlabError with its stderr when its exit code is not 0.
    """
    from netlab.cli.program import invoked

    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = invoked(["-L", lab, *words])
    except click.ClickException as error:
        raise UsageError(error.format_message()) from error
    if code:
        said = "; ".join((err.getvalue() or out.getvalue()).strip().splitlines())
        raise NetlabError(f"netlab {' '.join(words)}: exit code {code}: {said}")
    return out.getvalue()
