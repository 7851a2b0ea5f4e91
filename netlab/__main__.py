"""The door of `netlab`: what needs no lab is answered before anything heavy is imported."""

from __future__ import annotations

import sys

from netlab.cli import menu


def main() -> None:
    """Run the command line of this process and exit with its code."""
    menu.open_streams()
    text = menu.answer(sys.argv[1:])
    if text is not None:
        sys.exit(menu.print_out(text))
    try:
        from netlab.cli.program import run
    except KeyboardInterrupt:  # ^C so early that `run` is not there yet to say so
        sys.exit(menu.interrupted())
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
