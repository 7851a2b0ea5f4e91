"""exec and logs: looking into pods, nodes and the world around them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from netlab.cli import names, options
from netlab.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from netlab.cluster import Cluster, PodState
    from netlab.pods.execution import Target

MEMBERS = ("master", "gateway", "balancer", "client", "internet", "underlay")


class Exec(options.Command):
    """A command whose second word begins somebody else's command line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        valued = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag and not option.count
            for name in option.opts
        }
        return super().parse_args(ctx, parted(args, valued))


def parted(args: list[str], valued: set[str]) -> list[str]:
    """Return *args* with `--` before the command, so that its options are not taken for ours.

    *valued*: our options that are followed by a value.
    """
    index = words = 0
    while index < len(args) and args[index] != "--":
        if not args[index].startswith("-"):
            words += 1
        if words == 2:
            return [*args[:index], "--", *args[index:]]
        index += 2 if args[index] in valued else 1
    return args


@options.command(
    "exec",
    cls=Exec,
    example="""
    netlab exec pair -- ip addr
    netlab exec pair -c sidecar -- sh
    netlab exec node/node1 -- iptables-save -t nat
    netlab exec client -- ip route get 192.168.50.11
    """,
)
@click.argument("target", shell_complete=names.targets)
@click.option("-c", "--container", metavar="NAME", default="", shell_complete=names.containers)
@click.option("-n", "--namespace", metavar="NS", default="default", shell_complete=names.namespaces)
@click.option("-i", "--stdin", is_flag=True, hidden=True, expose_value=False)  # kubectl's
@click.option("-t", "--tty", is_flag=True, hidden=True, expose_value=False)
@click.argument("words", nargs=-1, metavar="-- CMD [ARG]...", type=click.UNPROCESSED)
@click.pass_context
def exec_(
    ctx: click.Context, target: str, container: str, namespace: str, words: tuple[str, ...]
) -> int:
    """Run a command inside a pod, a node or the world around; exits with the command's code.

    TARGET: [NS/]POD, node/NAME, master, gateway, balancer, client, internet, underlay. The
    containers of a pod share all its namespaces: -c chooses whose environment and working directory
    to take.
    """
    if not words:
        raise UsageError("no command to run", hint=f"netlab exec {target} -- sh")
    live = options.live_lab(ctx, looking=True)
    cluster = live.cluster()
    from netlab.faults import require_power
    from netlab.pods import execution

    if target in MEMBERS or target.startswith("node/"):
        require_power(live.lab, target.removeprefix("node/"))
        live.require_here(target.removeprefix("node/"))
        return execution.run_in(machine_target(live.run, cluster, target), words)
    pod = pod_named(cluster, target, namespace, container=container)
    require_power(live.lab, pod.node)
    live.require_here(pod.node)
    chosen = [each for each in pod.containers if each.name == container] or pod.containers[:1]
    return execution.run_in(
        pod_target(live.run, cluster, pod),
        words,
        env={pair.name: pair.value for each in chosen for pair in each.env},
        cwd=next((each.workingDir for each in chosen if each.workingDir), None),
    )


@options.command(
    "logs",
    example="""
    netlab logs clock
    netlab logs default/clock -c clock --tail 20
    netlab logs clock -f
    """,
)
@click.argument("pod", metavar="[NS/]POD", shell_complete=names.pods)
@click.option("-c", "--container", metavar="NAME", default="", shell_complete=names.containers)
@click.option("-n", "--namespace", metavar="NS", default="default", shell_complete=names.namespaces)
@click.option("-f", "--follow", is_flag=True, help="Go on as more is written, until ^C.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.pass_context
def logs(
    ctx: click.Context,
    pod: str,
    container: str,
    namespace: str,
    follow: bool,
    tail: int | None,
) -> None:
    """Print what a container's command wrote to stdout and stderr.

    Containers without a command are netlab's own servers, which write nothing.
    """
    live = options.live_lab(ctx, looking=True)
    state = pod_named(live.cluster(), pod, namespace, container=container)
    live.require_here(state.node)
    chosen = container or only_container(state)
    from netlab.pods import logs as written

    for text in written.logs(
        live.run, state.namespace, state.name, chosen, follow=follow, tail=tail
    ):
        sys.stdout.write(text)
        sys.stdout.flush()


def pod_target(run: Path, cluster: Cluster, pod: PodState) -> Target:
    """Return where to execute in *pod*: its sandbox, made if need be."""
    from netlab.dns import views
    from netlab.pods import execution, sandbox

    document = cluster.documents.named("Pod", pod.namespace, pod.name)
    assert document is not None
    view = views.of_pod(cluster.lab, document, cluster.documents)
    first = sandbox.ensure(
        run,
        netns=pod.netns,
        namespace=pod.namespace,
        pod=pod.name,
        hostname=view.hostname,
        files=view.files,
    )
    return execution.Target(pod.netns, view.hostname, first)


def machine_target(run: Path, cluster: Cluster, target: str) -> Target:
    """Return where to execute in a node or a member of the world. Raises NotFoundError."""
    from netlab.dns import views
    from netlab.pods import etc, execution

    netns, name = machine(cluster, target)
    view = views.of_machine(cluster.lab, name)
    files = etc.write(run / "machines" / name, view.files)
    return execution.Target(netns, view.hostname, files=str(files))


def machine(cluster: Cluster, target: str) -> tuple[str, str]:
    """Return (network namespace, host name) of a node or a member of the world.

    Raises NotFoundError.
    """
    if target in MEMBERS:
        if target == "balancer" and cluster.lab.balancer is None:
            raise NotFoundError("the lab has no balancer", hint="`balancer` in the Lab document")
        return cluster.lab.netns(target), target
    name = target.removeprefix("node/")
    try:
        return cluster.node(name).netns, name
    except LookupError:
        known = ", ".join(node.name for node in cluster.nodes)
        raise NotFoundError(f"no node {name}", hint=f"there are: {known}") from None


def pod_named(cluster: Cluster, target: str, namespace: str, *, container: str = "") -> PodState:
    """Return the pod `[NS/]POD`, `pod/POD` as kubectl has it. Raises NotFoundError with a hint."""
    if target.startswith(("pod/", "pods/")):
        target = target.partition("/")[2]
    try:
        pod = cluster.pod(target, namespace)
    except LookupError:
        raise NotFoundError(f"no pod {target}", hint=hint_for(cluster, target)) from None
    known = [each.name for each in pod.containers]
    if container and container not in known:
        raise NotFoundError(
            f"pod {pod.title} has no container {container}", hint=f"it has: {', '.join(known)}"
        )
    return pod


def hint_for(cluster: Cluster, target: str) -> str:
    """Return what may have been meant by *target*: another namespace's pod, a node, a near name."""
    from difflib import get_close_matches

    bare = target.rpartition("/")[2]
    for pod in cluster.pods:
        if pod.name == bare:
            return f"did you mean {pod.title}?"
    if any(node.name == bare for node in cluster.nodes):
        return f"did you mean node/{bare}?"
    titles = {pod.name: pod.title for pod in cluster.pods}
    near = get_close_matches(bare, list(titles), n=1, cutoff=0.5)
    return f"did you mean {titles[near[0]]}?" if near else "netlab get pods -A"


def only_container(pod: PodState) -> str:
    """Return the container whose output is meant when none is named: the only one with a command,
    else the only one. Raises UsageError naming the choices.
    """
    commanded = [container.name for container in pod.containers if container.command]
    every = [container.name for container in pod.containers]
    for choice in (commanded, every):
        if len(choice) == 1:
            return choice[0]
    raise UsageError(
        f"pod {pod.title} has several containers", hint=f"name one with -c: {', '.join(every)}"
    )
