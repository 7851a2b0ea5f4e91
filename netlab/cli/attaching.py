"""attach, detach: foreign network namespaces in the lab's underlay."""

from __future__ import annotations

import click

from netlab.cli import names, options


@options.command(
    "attach",
    example="""
    netlab attach box --address 192.168.50.60
    netlab attach /proc/4242/ns/net --address 192.168.50.61 --device lab0 --no-default-route
    netlab attach box6 --address 192.168.50.62 --address6 fd00:192:168:50::62
    netlab detach box
    """,
)
@click.argument("netns", metavar="NETNS", shell_complete=names.foreign)
@click.option("--address", metavar="A", required=True, help="Its own, of one of the segments.")
@click.option("--address6", metavar="A", default="", help="The same of IPv6, in a dual-stack lab.")
@click.option("--device", metavar="NAME", default="eth0", show_default=True, help="Its card there.")
@click.option("--default-route/--no-default-route", default=True, help="By the lab's gateway.")
@click.pass_context
def attach(
    ctx: click.Context,
    netns: str,
    address: str,
    address6: str,
    device: str,
    default_route: bool,
) -> int:
    """Plug a network namespace that netlab did not make into the running lab's underlay.

    NETNS is a name under /run/netns, or the path of a namespace's file, as /proc/PID/ns/net is. It
    gets a card with the address and a node's routes; nothing else of it is changed. That is part of
    the running lab: kept, repaired, listed by `status`, and gone with `detach` or `down`.
    """
    live = options.live_lab(ctx)
    from netlab.lab import attaching

    made = attaching.attach(
        live, netns, (address, address6), device=device, default_route=default_route
    )
    print(f"{made.words}; undo: {made.undo}")
    return 0


@options.command("detach", example="netlab detach box")
@click.argument("netns", metavar="NETNS...", nargs=-1, required=True, shell_complete=names.attached)
@click.pass_context
def detach(ctx: click.Context, netns: tuple[str, ...]) -> int:
    """Take foreign namespaces out of the underlay again; otherwise they stay as they are."""
    live = options.live_lab(ctx)
    from netlab.lab import attaching

    for word in netns:
        gone = attaching.detach(live, word)
        print(f"no longer so: {gone.words}")
    return 0
