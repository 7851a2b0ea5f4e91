"""exec and logs: looking into pods, nodes and the world around them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from netlab.cli import names, options
from netlab.errors import NetlabError, NotFoundError, UsageError

if TYPE_CHECKING:
    from netlab.cluster import Cluster, PodState
    from netlab.lab.live import Live
    from netlab.pods.execution import Target

MEMBERS = ("master", "gateway", "balancer", "client", "internet", "underlay")
PROCESSES = ("agent", "etcd", "pods", "flannel", "portals")  # netlab's own that write a log


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
@click.option(
    "-i",
    "--stdin",
    is_flag=True,
    help="Pass our input on to another machine too; on this one it always has it.",
)
@click.option("-t", "--tty", is_flag=True, hidden=True)  # kubectl's
@click.argument("words", nargs=-1, metavar="-- CMD [ARG]...", type=click.UNPROCESSED)
@click.pass_context
def exec_(
    ctx: click.Context,
    target: str,
    container: str,
    namespace: str,
    stdin: bool,
    tty: bool,
    words: tuple[str, ...],
) -> int:
    """Run a command inside a pod, a node or the world around; exits with the command's code.

    TARGET: [NS/]POD, node/NAME, master, gateway, balancer, client, internet, underlay. The
    containers of a pod share all its namespaces: -c chooses whose environment and working directory
    to take. In a lab of several machines it may be on another one, without a terminal then.
    """
    if not words:
        raise UsageError("no command to run", hint=f"netlab exec {target} -- sh")
    live = options.live_lab(ctx, looking=True)
    cluster = live.cluster()
    from netlab.faults import require_power
    from netlab.pods import execution

    if target in MEMBERS or target.startswith("node/"):
        member = machine(cluster, target)[1]
        require_power(live.lab, member)
        if there := live.machine_of(member):
            require_no_terminal(live, there, tty)
            return passed_on(live, there, ("exec", target, "--", *words), fed=stdin)
        return execution.run_in(machine_target(live.run, cluster, target), words)
    pod = pod_named(cluster, target, namespace, container=container)
    require_power(live.lab, pod.node)
    if there := live.machine_of(pod.node):
        require_no_terminal(live, there, tty)
        chosen_ = ("-c", container) if container else ()
        return passed_on(live, there, ("exec", pod.title, *chosen_, "--", *words), fed=stdin)
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
    netlab logs node/node2 --tail 20
    netlab logs master -c etcd
    """,
)
@click.argument("target", shell_complete=names.logged)
@click.option("-c", "--container", metavar="NAME", default="", shell_complete=names.containers)
@click.option("-n", "--namespace", metavar="NS", default="default", shell_complete=names.namespaces)
@click.option("-f", "--follow", is_flag=True, help="Go on as more is written, until ^C.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.pass_context
def logs(
    ctx: click.Context,
    target: str,
    container: str,
    namespace: str,
    follow: bool,
    tail: int | None,
) -> int:
    """Print what a container's command wrote to stdout and stderr, or netlab on a node.

    TARGET: [NS/]POD, node/NAME, master. Containers without a command are netlab's own servers,
    which write nothing. Of a node it is what the agent says that keeps it: on one machine all nodes
    have the same. -c chooses another of netlab's processes there: etcd, pods, flannel, portals.
    """
    live = options.live_lab(ctx, looking=True)
    cluster = live.cluster()
    asked = [*(["-f"] if follow else []), *(["--tail", str(tail)] if tail is not None else [])]
    from netlab.pods import logs as kept

    if target == "master" or target.startswith("node/"):
        member = machine(cluster, target)[1]
        process = own_process(container or "agent")
        if there := live.machine_of(member):
            return passed_on(live, there, ("logs", target, "-c", process, *asked))
        texts = own_log(live.run / f"{process}.log", member, follow=follow, tail=tail)
    else:
        state = pod_named(cluster, target, namespace, container=container)
        chosen = container or only_container(state)
        if there := live.machine_of(state.node):
            return passed_on(live, there, ("logs", state.title, "-c", chosen, *asked))
        texts = kept.logs(live.run, state.namespace, state.name, chosen, follow=follow, tail=tail)
    for text in texts:
        sys.stdout.write(text)
        sys.stdout.flush()
    return 0


def own_process(name: str) -> str:
    """Return *name* if it is one of netlab's processes that write a log. Raises NotFoundError."""
    if name not in PROCESSES:
        raise NotFoundError(
            f"no process {name} writes a log on a machine", hint=f"-c {', '.join(PROCESSES)}"
        )
    return name


def own_log(path: Path, member: str, *, follow: bool, tail: int | None) -> Iterator[str]:
    """Yield what one of netlab's own processes wrote into *path*. Raises NotFoundError."""
    from netlab.pods import logs as kept

    try:
        yield from kept.written(path, follow=follow, tail=tail)
    except FileNotFoundError:
        raise NotFoundError(f"{member}: {path} is not there: nothing has written it yet") from None


def require_no_terminal(live: Live, there: str, tty: bool) -> None:
    """Raise NetlabError if a terminal is asked for, which is not passed on to another machine."""
    if tty:
        raise NetlabError(
            f"{there} is another machine, and a terminal is not passed on to it",
            hint="the same there, or without -t",
        )


def passed_on(
    live: Live,
    there: str,
    words: Sequence[str],
    *,
    fed: bool = False,
    out: BinaryIO | None = None,
) -> int:
    """Run `netlab WORDS` on another machine, with our output, and input if it is *fed*; return its
    exit code. What ends us ends it. *out*: instead of our stdout."""
    import signal
    from contextlib import closing

    from netlab.lab.elsewhere import There

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    code = 1
    with closing(There(live, there, words, source=0 if fed else None)) as running:
        for piece in running.pieces():
            both = (out or sys.stdout.buffer, piece.out), (sys.stderr.buffer, piece.err)
            for stream, data in both:
                stream.write(data)
                stream.flush()
            code = piece.code if piece.code is not None else code
    return code


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
