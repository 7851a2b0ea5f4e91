"""agent and join: this machine as one of several of a lab; and what `up --master` says of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec.structs import replace

from netlab.cli import options
from netlab.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from netlab.store.access import Access
    from netlab.topology import Declaration

F = TypeVar("F", bound=Callable[..., Any])
UPLINK = click.option(
    "--uplink", metavar="IFACE", default="", help="The card that leads to the other machines."
)


def tls_options(function: F) -> F:
    """Add flanneld's options about TLS to etcd."""
    return _etcd_options(
        function,
        "FILE",
        keyfile="The key of --etcd-certfile.",
        certfile="The certificate that etcd is shown.",
        cafile="The certificates that vouch for etcd.",
    )


def access_options(function: F) -> F:
    """Add the options that say how etcd is reached, flanneld's but for --etcd itself."""
    login = _etcd_options(
        function, "TEXT", password="The user's password.", username="As whom to ask."
    )
    return tls_options(login)


def _etcd_options(function: F, metavar: str, **helps: str) -> F:
    """Add `--etcd-NAME` for each of *helps*, which may stand in the environment; the last first."""
    for name, words in helps.items():
        variable = f"NETLAB_ETCD_{name.upper()}"
        option = click.option(
            f"--etcd-{name}",
            envvar=variable,
            metavar=metavar,
            default="",
            help=f"{words} [env: {variable}]",
        )
        function = option(function)
    return function


def access(urls: str, said: dict[str, str]) -> Access:
    """Return the access that the options *said*; *urls*: with commas between. Raises UsageError."""
    from netlab.store.access import Access, endpoint

    found = tuple(url.strip().rstrip("/") for url in urls.split(",") if url.strip())
    for url in found:
        endpoint(url)
    words = {name.removeprefix("etcd_"): value for name, value in said.items()}
    for name in ("cafile", "certfile", "keyfile"):
        if words.get(name):
            words[name] = os.path.abspath(words[name])
            if not os.path.isfile(words[name]):
                raise UsageError(f"--etcd-{name} {words[name]}: no such file")
    if bool(words.get("certfile")) != bool(words.get("keyfile")):
        raise UsageError("--etcd-certfile and --etcd-keyfile belong together", hint="give both")
    made = Access(urls=found, **words)
    if found and made.cafile and not made.secured:
        raise UsageError("--etcd-cafile, but no https:// in --etcd", hint="https://HOST:2379")
    if made.warning:
        print(f"warning: {made.warning}", file=sys.stderr)
    return made


def require_root() -> None:
    """Raise CapabilityError unless we are root: a machine's own namespace is the host's."""
    from netlab.errors import CapabilityError

    if os.geteuid():
        raise CapabilityError(
            "a machine's own network can be changed by root only", hint="the same with sudo"
        )


@options.command(
    "agent",
    example="""
    netlab agent --node node2 --etcd http://192.168.56.11:2379
    netlab agent --node node2 --etcd http://192.168.56.11:2379 --uplink eth1
    netlab agent --node node2 --etcd http://192.168.56.11:2379 --install
    netlab agent --master --install
    netlab agent --leave
    """,
)
@click.option("--node", metavar="NAME", default="", help="Which node of the lab this machine is.")
@click.option("--etcd", metavar="URL[,URL]", default="", help="Where the lab's etcd is.")
@UPLINK
@access_options
@click.option("--master", is_flag=True, help="Go on as what `up --master` made this machine.")
@click.option("--install", is_flag=True, help="Have systemd run it, now and after each boot.")
@click.option("--leave", is_flag=True, help="Be no node any more: give back all that one had.")
@click.pass_context
def agent(
    ctx: click.Context,
    /,
    node: str,
    etcd: str,
    uplink: str,
    master: bool,
    install: bool,
    leave: bool,
    **said: str,
) -> int:
    """Be one node of a lab whose declaration is in etcd, until ended.

    This machine's own network becomes the node's: a bridge, a tunnel, pods, rules. What is on it
    besides is left alone, and what was made stays when this ends, until --leave.
    """
    require_root()
    if leave:
        if node or etcd or uplink or master or install:
            raise UsageError("--leave needs no other option", hint="netlab agent --leave")
        return left(ctx)
    if master:
        if node or etcd or uplink:
            raise UsageError("--master goes with --install alone", hint="netlab agent --master")
        return be_master(ctx, install=install)
    if not node or not etcd:
        raise UsageError(
            "--node and --etcd say whose node this machine is",
            hint="`netlab join HOST` finds both out, HOST being the machine of etcd",
        )
    return be_node(node, access(etcd, said), uplink=uplink, install=install)


def be_node(node: str, way: Access, *, uplink: str, install: bool) -> int:
    """Go on as the agent of *node*, in this process, whose exit code is that one's; *install*:
    have systemd do that."""
    from netlab.lab import machines, unit

    if install:
        unit.require()
        lab = machines.declared(way)
        place, why = machines.node_place(lab, node, way, uplink=uplink)
        print(f"lab {lab.name}: this machine is {node}; uplink {place.uplink}: {why}")
        words = ["agent", "--node", node, "--etcd", ",".join(way.urls), "--uplink", place.uplink]
        for option in ("cafile", "certfile", "keyfile", "username"):
            if value := getattr(way, option):
                words += [f"--etcd-{option}", value]
        run = machines.take(lab.name, place)
        return installed(run, unit.text(words, f"{node} of lab {lab.name}"), password=way.password)
    name = machines.known(node, way)
    if name is None:
        lab = machines.wait_for_lab(way, lambda words: print(f"waiting: {words}", file=sys.stderr))
        place, why = machines.node_place(lab, node, way, uplink=uplink)
        print(f"lab {lab.name}: this machine is {node}; uplink {place.uplink}: {why}")
        return machines.become_agent(machines.take(lab.name, place))
    return machines.become_agent(
        machines.resumed(name, uplink=uplink), f"lab {name}: this machine goes on as {node}"
    )


def be_master(ctx: click.Context, *, install: bool) -> int:
    """Go on as the agent of the control plane, likewise."""
    from netlab.lab import machines, unit

    known, said = machines.kept_masters(), options.settings(ctx).lab
    if said and said not in known:
        raise NotFoundError(
            f"this machine is not the master of a lab {said}",
            hint=f"it is of: {', '.join(known) or 'none'}; `netlab up --master FILES` makes it one",
        )
    if not said and len(known) != 1:
        raise UsageError(
            f"this machine is the master of {len(known)} labs",
            hint="name one with -L LAB" if known else "netlab up --master FILES",
        )
    name = said or known[0]
    if install:
        unit.require()
        text = unit.text(["-L", name, "agent", "--master"], f"the master of lab {name}")
        return installed(machines.resumed_master(name), text)
    return machines.become_agent(machines.resumed_master(name))


def installed(run: Path, text: str, *, password: str = "") -> int:
    """Have systemd run the unit *text*, unless it does, instead of the agent of *run*; return the
    exit code."""
    from netlab.lab import machines, unit

    if unit.runs(text, password=password):
        print(f"{unit.UNITS / unit.NAME}: runs already")
        return 0
    machines.end_agent(run)
    unit.install(text, password=password)
    print(f"{unit.UNITS / unit.NAME}: runs now and after each boot; log: journalctl -u {unit.NAME}")
    return 0


def left(ctx: click.Context) -> int:
    """Leave the lab; return the exit code."""
    name = options.chosen_lab(ctx)
    from netlab.agent import place as places
    from netlab.lab.directory import run_directory
    from netlab.lab.down import down

    place = places.read(run_directory(name))
    if place is None:
        raise UsageError(f"lab {name} is on this machine alone", hint=f"netlab down {name}")
    report = down(name)
    for problem in report.problems:
        print(f"problem: {problem}", file=sys.stderr)
    print(f"lab {name}: this machine is {' and '.join(place.names)} no more")
    return int(bool(report.problems))


@options.command(
    "join",
    example="""
    netlab join 192.168.56.11
    sudo netlab join 192.168.56.11 --run
    """,
)
@click.argument("host", metavar="HOST")
@click.option("--node", metavar="NAME", default="", help="Which node; else by its address.")
@UPLINK
@access_options
@click.option("--run", "at_once", is_flag=True, help="Be that node, as `netlab agent`.")
@click.pass_context
def join(
    ctx: click.Context, /, host: str, node: str, uplink: str, at_once: bool, **said: str
) -> None:
    """Print how this machine becomes a node of the lab whose etcd is on HOST; with --run do it."""
    url = host if "://" in host else f"{'https' if said['etcd_cafile'] else 'http'}://{host}"
    if url.count(":") == 1:
        url += ":2379"
    way = access(url, said)
    from netlab.lab import machines

    lab = machines.declared(way)
    node = node or machines.node_here(lab)
    place, why = machines.node_place(lab, node, way, uplink=uplink)
    print(f"# lab {lab.name}: this machine is {node}; uplink {place.uplink}: {why}")
    words = [f"--{name.replace('_', '-')} {value}" for name, value in said.items() if value]
    print(" ".join(["netlab agent", f"--node {node} --etcd {url} --uplink {place.uplink}", *words]))
    if at_once:
        require_root()
        machines.become_agent(machines.take(lab.name, place))


def up_here(
    ctx: click.Context, declared: Declaration, *, uplink: str, verify: bool, said: dict[str, str]
) -> int:
    """Bring up the control plane of a lab of several machines here; return the exit code.

    It is fine when all that is left is for other machines to join.
    """
    import time

    from netlab.agent.state import WAITING
    from netlab.cli.lifecycle import amount, told_report
    from netlab.cli.progress import Progress
    from netlab.controllers.scheduler import hopeless
    from netlab.lab import machines
    from netlab.lab.up import up

    if verify:
        raise UsageError("--verify looks at a lab on one machine", hint="leave it out")
    require_root()
    begun = time.monotonic()
    lab = machines.spread(declared.require_lab())
    scheme = "https" if said["etcd_certfile"] else "http"
    way = access(f"{scheme}://{lab.master.address}:2379", said)
    place, why = machines.master_place(lab, way, uplink=uplink)
    print(
        f"lab {lab.name}: this machine is {' and '.join(place.names)}; uplink {place.uplink}: {why}"
    )
    machines.require_free(declared, lab, place.uplink)
    declared = replace(declared, lab=lab)
    with Progress(f"up {lab.name}") as progress:
        report = up(
            declared, progress=progress, verbose=options.settings(ctx).verbose > 0, place=place
        )
    told_report(ctx, report)
    waiting = [one for one in report.problems if f": {WAITING}" in one]
    if waiting:  # their machines may be the ones that take a pod which none takes yet
        waiting += [one for one in report.problems if hopeless(one)]
    problems = [one for one in report.problems if one not in waiting]
    state = "converged" if report.converged else "up" if not problems else "not converged"
    took = time.monotonic() - begun
    print(f"lab {lab.name}: {amount(report, 'changed')}; {state} in {took:.2f} s")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    for problem in waiting:
        print(problem)
    return int(bool(problems))
