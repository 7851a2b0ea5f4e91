"""link, node, fault: what is done to a running lab on purpose, each undone by one command."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from netlab.cli import names, options, tables
from netlab.errors import CapabilityError, NotFoundError, UsageError

if TYPE_CHECKING:
    from netlab.lab.live import Live
    from netlab.model.faults import Fault, Sort
    from netlab.model.lab import Lab

LINK = ("down", "up", "loss", "delay", "clear", "show")
NODE = ("add", "remove", "stop", "start")
FAULT = ("etcd-stop", "etcd-partition", "clear", "list")
_TIME = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s)?")
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, None: 1.0}


@options.command(
    "link",
    example="""
    netlab link down node2
    netlab link loss default/pair 10%
    netlab link delay node1 50ms 5ms
    netlab link show
    netlab link up node2
    netlab link clear
    """,
)
@click.argument("action", metavar="|".join(LINK), type=click.Choice(LINK))
@click.argument("words", metavar="[NAME...] [AMOUNT]", nargs=-1, shell_complete=names.cables)
@click.pass_context
def link(ctx: click.Context, action: str, words: tuple[str, ...]) -> int:
    """Pull, plug in or spoil the cable of a node, of another machine, or of a pod ([NS/]POD).

    down: the machine loses its carrier, as when a cable is pulled; up: it has it again.
    loss NAME 10%: so much of all frames is lost, each way; 0 undoes it.
    delay NAME 50ms [JITTER]: what goes to the machine takes longer (needs netem); 0 undoes it.
    clear: all of that, of the named cables or of every one. show: what each cable does.
    """
    live = options.live_lab(ctx, whole=True)
    if action == "show":
        print("\n".join(shown(live, words)))
        return 0
    if action == "clear":
        return cleared(live, _link_sorts(), [cable(live, word) for word in words])
    if action in ("down", "up"):
        return pulled(live, down=action == "down", words=words)
    return spoilt(live, action, words)


def pulled(live: Live, *, down: bool, words: Sequence[str]) -> int:
    """Pull or plug in the cables that *words* name."""
    from netlab.model.faults import Fault, Sort

    if not words:
        raise UsageError("whose link?", hint="netlab link down node1")
    targets = [cable(live, word) for word in words]
    if not down:
        return cleared(live, [Sort.LINK_DOWN], targets, named=True)
    return made(live, [Fault(Sort.LINK_DOWN, target) for target in targets])


def spoilt(live: Live, action: str, words: Sequence[str]) -> int:
    """Have a cable lose frames, or delay them."""
    from netlab import world
    from netlab.model.faults import Fault, Sort

    if len(words) < 2 or len(words) > 3 - (action == "loss"):
        hint = "netlab link loss node1 10%" if action == "loss" else "netlab link delay node1 50ms"
        raise UsageError(f"link {action} takes a name and an amount", hint=hint)
    target = cable(live, words[0])
    if target in (world.INTERNET, world.CLIENT):
        raise UsageError(
            f"the cable of {target} is plugged into the gateway, not into a bridge",
            hint=f"it can be pulled: netlab link down {target}; or take the gateway's own",
        )
    if action == "loss":
        loss = percent(words[1])
        if not loss:
            return cleared(live, [Sort.LINK_LOSS], [target], named=True)
        netem = not lacking("netem")
        code = made(live, [Fault(Sort.LINK_LOSS, target, loss=loss, netem=netem)])
        how = "by netem, the kernel's queue, at either end of the cable"
        rule = "by a rule that drops by chance (nft numgen): this kernel lacks netem"
        print(f"note: {how if netem else rule}", file=sys.stderr)
        return code
    delay, jitter = milliseconds(words[1]), milliseconds((*words, "0")[2])
    if not delay:
        return cleared(live, [Sort.LINK_DELAY], [target], named=True)
    if remedy := lacking("netem"):
        raise CapabilityError("delay on cables: this kernel lacks netem", hint=remedy)
    return made(live, [Fault(Sort.LINK_DELAY, target, delay=delay, jitter=jitter)])


def percent(word: str) -> float:
    """Return the share that `10%`, `0.5%` or `10` is, in percent. Raises UsageError."""
    try:
        value = float(word.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise UsageError(f"{word!r} is no share of 0% to 100%", hint="10%, 0.5%; 0 undoes it")
    return value


def milliseconds(word: str) -> float:
    """Return the time that `50ms`, `1s`, `200us` or `50` is, in ms. Raises UsageError."""
    match = _TIME.fullmatch(word)
    if match is None:
        raise UsageError(f"{word!r} is no time", hint="50ms, 1s, 200us; 0 undoes it")
    return round(float(match[1]) * _MILLISECONDS[match[2]], 3)


def lacking(capability: str) -> str:
    """Return what would give this machine *capability*, "" when it has it."""
    from netlab import capabilities

    (found,) = capabilities.tried(capability)
    return "" if found.ok else found.remedy or "netlab doctor"


def cable(live: Live, word: str) -> str:
    """Return what a cable is called: the machine's name, or `NAMESPACE/POD`.

    A pod with a fault is known even when it is gone, or etcd is. Raises NotFoundError, UsageError.
    """
    from netlab import world

    nodes = [node.name for node in live.lab.nodes]
    machines = [*nodes, *dict(world.machines(live.lab)), world.INTERNET, world.CLIENT]
    name = word.removeprefix("node/")
    if name in machines:
        return name
    title = word if "/" in word else f"default/{word}"
    if any(fault.target == title for fault in live.lab.faults):
        return title
    try:
        pod = live.cluster().pod(title)
    except LookupError:
        raise NotFoundError(
            f"no node, machine or pod {word}", hint=", ".join(dict.fromkeys(machines))
        ) from None
    if pod.host_network:
        raise UsageError(f"pod {title} has no cable: it is in its node's network (hostNetwork)")
    return title


def made(live: Live, faults: Sequence[Fault]) -> int:
    """Make *faults*, and say so."""
    from netlab.controllers.change import now

    stamped = [msgspec.structs.replace(fault, since=now()) for fault in faults]
    live.fault(stamped)
    for fault in stamped:
        print(f"{fault.words}; undo: {fault.undo}")
    return 0


def _link_sorts() -> tuple[Sort, ...]:
    from netlab.model.faults import LINKS

    return LINKS


def cleared(
    live: Live, sorts: Iterable[Sort], targets: Sequence[str] = (), *, named: bool = False
) -> int:
    """Undo the faults of *sorts* at *targets* (all, without any), and wait for the lab to agree.

    *named*: a target without such a fault is said.
    """
    from netlab.cli.change import settled

    wanted = [(sort, target) for sort in sorts for target in targets or (None,)]
    gone = live.fault(remove=wanted)
    for fault in gone:
        print(f"no longer so: {fault.words}")
    if not gone:
        print("nothing to undo" if not named else f"{', '.join(targets)}: nothing to undo")
        return 0
    return settled(live)


def shown(live: Live, words: Sequence[str]) -> list[str]:
    """Return the table of cables: their state, and what they have lost since."""
    from netlab import world
    from netlab.kernel import faultcounts
    from netlab.model.faults import LINKS, Sort

    lab = live.lab
    machines = [*dict(world.machines(lab)), world.INTERNET, world.CLIENT]
    wanted = [cable(live, word) for word in words]
    pods = [one.target for one in lab.faults if one.sort in LINKS and "/" in one.target]
    rows = []
    lost = faultcounts.lost([lab.netns(world.UNDERLAY), *_hosts(live, pods)])
    for name in wanted or dict.fromkeys([*machines, *pods]):
        found = {one.sort: one for one in lab.faults if one.target == name and one.sort in LINKS}
        loss, delay = found.get(Sort.LINK_LOSS), found.get(Sort.LINK_DELAY)
        rows.append(
            [
                name,
                "down" if Sort.LINK_DOWN in found else "up",
                f"{loss.loss:g}% ({'netem' if loss.netem else 'rule'})" if loss else "-",
                str(_lost(live, loss, lost)) if loss else "-",
                f"{delay.delay:g}ms" if delay else "-",
                "; ".join(one.undo for one in found.values()) or "-",
            ]
        )
    return tables.aligned(["LINK", "STATE", "LOSS", "LOST", "DELAY", "UNDO"], rows)


def _lost(live: Live, loss: Fault, by_rules: Mapping[str, int]) -> int:
    """Return how many frames a cable's loss has taken, both ways."""
    from netlab import world
    from netlab.kernel import faultcounts

    if not loss.netem:
        return by_rules.get(loss.command, 0)
    namespace, slash, pod = loss.target.partition("/")
    port = world.veth_name(namespace, pod) if slash else world.port_name(loss.target)
    homes = _hosts(live, [loss.target]) if slash else {live.lab.netns(world.UNDERLAY)}
    own = {f"{home}.{namespace}.{pod}" for home in homes} if slash else {loss.target}
    return faultcounts.dropped(
        [*((home, port) for home in homes), *((one, world.UPLINK) for one in own)]
    )


def _hosts(live: Live, pods: Sequence[str]) -> set[str]:
    """Return the namespaces of the nodes that *pods* are on; none while etcd is away."""
    from netlab.errors import NetlabError

    if not pods:
        return set()
    try:
        return {live.lab.netns(pod.node) for pod in live.cluster().pods if pod.title in pods}
    except NetlabError:
        return set()


@options.command(
    "node",
    example="""
    netlab node add node4
    netlab node add node5 --address 192.168.50.30 --label disk=ssd
    netlab node stop node2
    netlab node start node2
    netlab node remove node4
    """,
)
@click.argument("action", metavar="|".join(NODE), type=click.Choice(NODE))
@click.argument("name", metavar="NAME...", nargs=-1, required=True, shell_complete=names.nodes)
@click.option("--address", metavar="A", default="", help="Of add; else the first free one.")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="Of add; may be repeated.")
@click.pass_context
def node(
    ctx: click.Context, action: str, name: tuple[str, ...], address: str, labels: tuple[str, ...]
) -> int:
    """Add a node to the running lab, remove one, cut its power, or switch it on again.

    stop ends everything on the node at once and takes its namespaces away; its Node object stays,
    and is NotReady once its heartbeat is overdue. start is a reboot: same address, lease and MACs.
    add and remove change the running lab, not its files: `up` with them has their nodes again.
    """
    if action != "add" and (address or labels):
        raise UsageError(f"node {action} takes no --address or --label")
    if address and len(name) > 1:
        raise UsageError("one address, and several nodes")
    live = options.live_lab(ctx, whole=True)
    called = [one.removeprefix("node/") for one in name]
    if action == "add":
        return added(live, called, address=address, labels=labels)
    known = [one.name for one in live.lab.nodes]
    for one in called:
        if one not in known:
            raise NotFoundError(f"no node {one}", hint=f"there are: {', '.join(known)}")
    if action == "remove":
        return removed(live, called)
    return switched(live, called, on=action == "start")


def added(live: Live, called: Sequence[str], *, address: str, labels: Sequence[str]) -> int:
    """Add nodes to the running lab, and wait until it has converged."""
    from netlab.cli.change import settled
    from netlab.controllers.change import now
    from netlab.model.faults import Fault, Sort, with_faults
    from netlab.topology import growth

    pairs = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals:
            raise UsageError(f"{label!r} is not KEY=VALUE")
        pairs[key] = value
    lab = live.lab
    for one in called:
        lab = growth.with_node(lab, one, address=address, labels=pairs)
        back = lab.faulted(Sort.NODE_REMOVE, one)
        faults = tuple(fault for fault in lab.faults if fault is not back)
        new = [] if back else [Fault(Sort.NODE_ADD, one, since=now())]
        lab = msgspec.structs.replace(lab, faults=with_faults(faults, new))
    live.populate(lab)
    for one in called:
        print(f"node/{one} added, {lab.node(one).address}; undo: netlab node remove {one}")
    return settled(live)


def removed(live: Live, called: Sequence[str]) -> int:
    """Remove nodes from the running lab, and wait until it has converged."""
    from netlab.cli.change import settled

    lab = live.lab
    for one in called:
        lab = without_node(lab, one)
    if not lab.nodes:
        raise UsageError("a lab has one node at least", hint="netlab down ends it all")
    live.populate(lab)
    for one in called:
        print(f"node/{one} removed")
    return settled(live)


def without_node(lab: Lab, name: str) -> Lab:
    """Return *lab* without a node and its faults; that a node of the files is gone, is one."""
    from netlab.controllers.change import now
    from netlab.model.faults import Fault, Sort

    node = lab.node(name)
    left = tuple(fault for fault in lab.faults if fault.target != name)
    if not lab.faulted(Sort.NODE_ADD, name):
        labels = "".join(f" --label {key}={value}" for key, value in node.labels.items())
        back = f"--address {node.address}{labels}"
        left = (*left, Fault(Sort.NODE_REMOVE, name, since=now(), options=back))
    nodes = [one for one in lab.nodes if one.name != name]
    return msgspec.structs.replace(lab, nodes=nodes, faults=left)


def switched(live: Live, called: Sequence[str], *, on: bool) -> int:
    """Cut the power of nodes, or switch them on and wait until the lab has converged."""
    from netlab.cli.change import settled
    from netlab.controllers.change import now
    from netlab.model.faults import Fault, Sort

    off = [one for one in called if live.lab.faulted(Sort.NODE_STOP, one)]
    todo = [one for one in called if (one in off) == on]
    if on:
        live.fault(remove=[(Sort.NODE_STOP, one) for one in todo])
    else:
        live.fault([Fault(Sort.NODE_STOP, one, since=now()) for one in todo])
    for one in called:
        done = "started" if on else "stopped"
        undo = "" if on else f"; undo: netlab node start {one}"
        print(f"node/{one} {done}{undo}" if one in todo else f"node/{one} already {done}")
    return settled(live) if on and todo else 0


@options.command(
    "fault",
    example="""
    netlab fault etcd-stop
    netlab fault etcd-partition node2
    netlab fault list
    netlab fault clear etcd-stop
    netlab fault clear
    """,
)
@click.argument("action", metavar="|".join(FAULT), type=click.Choice(FAULT))
@click.argument("words", metavar="[FAULT] [NODE...]", nargs=-1, shell_complete=names.faults)
@click.pass_context
def fault(ctx: click.Context, action: str, words: tuple[str, ...]) -> int:
    """Stop etcd, or cut nodes off from it, and see what goes on without; clear undoes it.

    etcd-stop ends etcd's process, and nobody starts it again until it is cleared.
    etcd-partition NODE...: the node itself cannot reach etcd; its pods' traffic goes on.
    clear: every fault there is, those of links and stopped nodes too; or the one named.
    """
    from netlab.model.faults import Fault, Sort, told

    live = options.live_lab(ctx, whole=True)
    if action == "list":
        for one in live.lab.faults:
            print(told(one))
        return 0
    if action == "clear":
        return undone(live, words)
    if action == "etcd-stop":
        if words:
            raise UsageError("etcd-stop takes no name")
        return made(live, [Fault(Sort.ETCD_STOP)])
    known = [one.name for one in live.lab.nodes]
    nodes = [word.removeprefix("node/") for word in words]
    if not nodes or not set(nodes) <= set(known):
        raise UsageError("which node?", hint=f"netlab fault etcd-partition {' | '.join(known)}")
    return made(live, [Fault(Sort.ETCD_PARTITION, one) for one in nodes])


def undone(live: Live, words: Sequence[str]) -> int:
    """Clear all faults, or those named, `etcd-partition node2`."""
    from netlab.model.faults import Sort

    breaking = [sort for sort in Sort if sort not in (Sort.NODE_ADD, Sort.NODE_REMOVE)]
    if not words:
        return cleared(live, breaking)
    sorts = [sort for sort in breaking if words[0] in (sort.value.split()[-1], sort.value)]
    if not sorts:
        raise UsageError(
            f"no fault {words[0]!r}", hint="netlab fault clear [etcd-stop | etcd-partition [NODE]]"
        )
    return cleared(live, sorts, [word.removeprefix("node/") for word in words[1:]], named=True)
