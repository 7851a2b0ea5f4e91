"""click's group, which loads a command only when it is named, and the one door out.

`run` is the only place where an error becomes text and an exit code:

0 fine; 1 a check failed or a run-time error; 2 wrong usage or bad input; 3 a capability or
privilege is missing; 4 not found; 130 interrupted (^C); 141 the reader of stdout went away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from netlab.cli import menu
from netlab.cli.menu import complain
from netlab.cli.options import Settings, lab_option, verbose_option
from netlab.errors import InputError, NetlabError


class Program(click.Group):
    """The group `netlab`: the commands of the menu, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [entry.name for entry in menu.COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entry in menu.COMMANDS:
            if entry.name == cmd_name:
                module, _, attribute = entry.where.partition(":")
                command = getattr(import_module(f"netlab.cli.{module}"), attribute)
                assert isinstance(command, click.Command)
                return command
        return None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the commands from the menu: click would import every one of them for its help."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [
            CompletionItem(entry.name, help=entry.summary)
            for entry in menu.COMMANDS
            if entry.name.startswith(incomplete)
        ]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            raise unknown_command(args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(menu.help_text())


def unknown_command(word: str, known: list[str]) -> click.UsageError:
    """Return the error for a command that does not exist, with the nearest one that does."""
    from difflib import get_close_matches

    near = get_close_matches(word, known, n=1)
    meant = f"; did you mean `netlab {near[0]}`?" if near else ""
    return click.UsageError(f"no command {word!r}{meant}")


@click.group(
    "netlab",
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@lab_option
@verbose_option
@click.option("--version", is_flag=True)
@click.pass_context
def program(ctx: click.Context, version: bool) -> None:
    if version:
        click.echo(menu.version_text(), nl=False)
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(menu.help_text(), nl=False)
        ctx.exit()


def run(arguments: Sequence[str]) -> int:
    """Run one command line; print what went wrong, if anything; return the exit code."""
    try:
        code = invoked(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        menu.silence_stdout()
        return menu.READER_GONE
    except (KeyboardInterrupt, click.Abort, EOFError):
        return menu.interrupted()
    except Exception as error:
        if os.environ.get("NETLAB_DEBUG") == "1":
            raise
        menu.give_up_unwritable()
        return told(error)


def invoked(arguments: Sequence[str]) -> int:
    """Return what the command returned, taken as an exit code: None is 0."""
    instruction = os.environ.get("_NETLAB_COMPLETE")
    if instruction:
        from click.shell_completion import shell_complete

        return shell_complete(program, {}, "netlab", "_NETLAB_COMPLETE", instruction)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]  # `netlab help get`, as git and kubectl have it
    try:
        with program.make_context("netlab", list(arguments), obj=Settings()) as context:
            result = program.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return result if isinstance(result, int) else 0


def told(error: Exception) -> int:
    """Print *error* on stderr, one clear line and a hint; return its exit code."""
    if isinstance(error, click.ClickException):
        return told_usage(error)
    if isinstance(error, InputError):
        for mistake in error.mistakes:
            complain(mistake)
        count = len(error.mistakes)
        complain(f"error: {count} mistake{'s' if count > 1 else ''} in the input; nothing changed")
        return error.exit_code
    if isinstance(error, NetlabError):
        complain(f"error: {error.message}")
        if error.hint:
            complain(f"hint: {error.hint}")
        return error.exit_code
    if isinstance(error, PermissionError):
        complain(f"error: {os_words(error)}")
        complain("hint: run it as root, or see `netlab doctor` for what is missing without root")
        return 3
    words = os_words(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    complain(f"error: {words}")
    complain("hint: NETLAB_DEBUG=1 shows where; `netlab doctor` shows what this machine can do")
    return 1


def told_usage(error: click.ClickException) -> int:
    """Print a wrong command line, with the help that would have said how; return 2 (or click's)."""
    complain(f"error: {error.format_message()}")
    context = getattr(error, "ctx", None)
    asked = context.command_path if context is not None else "netlab"
    complain(f"hint: {asked} --help")
    return error.exit_code


def os_words(error: OSError) -> str:
    """Return an operating-system error in words: `/run/netns/x: No such file or directory`."""
    words = error.strerror or str(error)
    return f"{error.filename}: {words}" if error.filename else words
