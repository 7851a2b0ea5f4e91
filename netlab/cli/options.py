"""What the commands share: the chosen lab, verbosity, examples in the help, the way to a lab."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from netlab.errors import UsageError

if TYPE_CHECKING:
    from netlab.lab.live import Live

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Settings:
    """What the group's options say; each command may say them again, later ones win."""

    lab: str | None = None
    explicit: bool = False  # -L said so, not the environment
    verbose: int = 0


class Command(click.Command):
    """A command whose help ends with examples, and which takes -L and -v after its name too."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        shared = click.Command(None)
        lab_option(shared)
        verbose_option(shared)
        self.params += shared.params

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = self.example.strip().splitlines()
        with formatter.section("Example" if len(lines) == 1 else "Examples"):
            for line in lines:
                formatter.write(f"  {line.strip()}\n")


def command(
    name: str, *, example: str, cls: type[Command] = Command, **kwargs: Any
) -> Callable[[Callable[..., Any]], Command]:
    """Return the decorator that makes a `Command` of a function."""
    return click.command(
        name,
        cls=cls,
        example=example,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **kwargs,
    )


def settings(ctx: click.Context) -> Settings:
    """Return the settings that *ctx* runs under."""
    return ctx.ensure_object(Settings)


def _set_lab(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if not value:
        return
    said, explicit = settings(ctx), ctx.get_parameter_source("lab") == ParameterSource.COMMANDLINE
    if explicit or not said.explicit:
        said.lab, said.explicit = value, explicit


def _set_verbose(ctx: click.Context, param: click.Parameter, value: int) -> None:
    if value:
        settings(ctx).verbose = max(value, settings(ctx).verbose)
        log_to_stderr(settings(ctx).verbose)


def complete_lab(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the labs that begin with *incomplete*, for shell completion."""
    from netlab.cli import names

    return names.labs(ctx, param, incomplete)


def lab_option(function: F) -> F:
    """Add -L/--lab; NETLAB_LAB stands in for it."""
    return click.option(
        "-L",
        "--lab",
        envvar="NETLAB_LAB",
        metavar="LAB",
        expose_value=False,
        callback=_set_lab,
        shell_complete=complete_lab,
        help="The lab to work on [env: NETLAB_LAB].",
    )(function)


def verbose_option(function: F) -> F:
    """Add -v and -vv."""
    return click.option(
        "-v",
        "--verbose",
        count=True,
        expose_value=False,
        callback=_set_verbose,
        help="-v: plan lines, times; -vv: every command.",
    )(function)


def output_option(*forms: str, default: str = "") -> Callable[[F], F]:
    """Return the decorator that adds -o/--output with *forms*."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(forms),
        default=default or None,
        help="Form of the result.",
    )


def log_to_stderr(verbose: int) -> None:
    """Send netlab's log to stderr: with -v what happens, with -vv each command as a shell line."""
    import logging

    class Lines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            if record.name == "netlab.commands":
                return f"+ {record.getMessage()}"
            return f"{record.levelname.lower()}: {record.getMessage()}"

    logger = logging.getLogger("netlab")
    if not logger.handlers:
        lines = logging.StreamHandler()
        lines.setFormatter(Lines())
        logger.addHandler(lines)
    logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)


def be_root(*, create: bool = False) -> None:
    """Make this process able to work on namespaces: as root as it is, otherwise in the user's own
    user + mount + network namespace, which is made when *create* says so.

    Raises CapabilityError when neither is possible.
    """
    if os.geteuid() == 0:
        return
    from netlab import rootless
    from netlab.errors import NotFoundError

    try:
        rootless.enter(create=create)
    except NotFoundError as error:
        from netlab.lab import directory

        if others := directory.names():  # still outside: these are root's
            hint = f"root's: {', '.join(others)}; the same command with sudo works on them"
            raise NotFoundError("no lab of yours is running", hint=hint) from error
        raise


def chosen_lab(ctx: click.Context, named: str | None = None) -> str:
    """Return the lab to work on: *named* on the command line, -L, NETLAB_LAB, or the only one.

    Raises NotFoundError, or UsageError naming the choices.
    """
    be_root()
    from netlab.lab import directory

    said = settings(ctx)
    if named and said.explicit and named != said.lab:
        raise UsageError(f"two labs named: {named} and -L {said.lab}", hint="name one of them")
    return directory.chosen(named or said.lab)


def live_lab(
    ctx: click.Context, named: str | None = None, *, looking: bool = False, whole: bool = False
) -> Live:
    """Return the chosen lab, connected.

    *looking*: for a command that looks at what goes on, also without etcd; it says so then.
    *whole*: for one that needs all of the lab on this machine. Raises UsageError where it is not.
    """
    name = chosen_lab(ctx, named)
    from netlab.lab.live import connect

    def note(words: str) -> None:
        click.echo(f"note: {words}", err=True)

    live = connect(name, note=note if looking else None)
    if whole:
        live.require_whole()
    return live
