"""What is done on another machine for a while, for a check that runs elsewhere.

    python -m netlab.verify.away LAB DEED WORDS     DEED: see DEEDS; WORDS: JSON, with `seconds`

It says `begun`, and ends when it is told to or after those seconds; what it made goes with it. The
kernel takes the rules of `cut` away however it ends, and the next of the others what one before it
left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import msgspec

from netlab import patience, world
from netlab.agent import control
from netlab.agent.place import Place
from netlab.errors import NetlabError
from netlab.flannel.config import SUBNETS
from netlab.flannel.lease import Lease, peers
from netlab.kernel import netns, owned
from netlab.lab.live import connect
from netlab.model.lab import Lab, LabNode
from netlab.processes import MARK, START, run
from netlab.processes.commands import program_errors
from netlab.proxy.addresses import Family
from netlab.proxy.addresses import family as family_of
from netlab.verify import balancing, joining
from netlab.verify.context import Context, Live

CUT = "netlab-cut"  # the table
ASKED = patience.seconds(20.0)  # seconds the agent may be silent
UNSHARED = (
    *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--uts", "--ipc"),
    *("--fork", "--kill-child", "--mount-proc", "--propagation", "private"),
)
BOOT = 'mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && exec "$@"'
LOOK = 0.02  # seconds between two looks for a lease
ANSWERED = patience.seconds(0.5)  # seconds for the answer that it has begun to leave the machine


def guest(live: Live, words: dict[str, Any]) -> AbstractContextManager[None]:
    """Have a stranger on this machine: see `joining`."""
    _tidy(live.lab)
    node, own = msgspec.convert(words["node"], LabNode), msgspec.convert(words["lease"], Lease)
    context = Context(live, live.cluster(), None, None)  # type: ignore[arg-type]  # neither is used
    return joining.plugged_in(context, joining.state_of(live.lab, node, own), own)


def _tidy(lab: Lab) -> None:
    """Remove what a guest before this one left, when it was killed."""
    for left in netns.names(lab.name):
        if left.startswith(lab.netns(joining.NAME)):
            netns.delete(left)


@contextmanager
def declared(live: Live, words: dict[str, Any]) -> Iterator[None]:
    """Have one node more in the lab, whose machine is behind another one: for the master."""
    node = msgspec.convert(words["node"], LabNode)
    _ask(live, node, there=True)
    try:
        yield
    finally:
        _ask(live, node, there=False)


def _ask(live: Live, node: LabNode, *, there: bool) -> None:
    request = {"do": "guest", "node": msgspec.to_builtins(node), "there": there}
    for _ in control.ask(live.run / "agent.sock", request, timeout=ASKED):
        pass


@contextmanager
def machine(live: Live, words: dict[str, Any]) -> Iterator[None]:
    """Have a machine behind this one, with an agent that makes it a node: namespaces play it.

    It is on the segment as any other: this machine answers there for it, and here for the others.
    """
    assert live.place is not None
    lab, node = live.lab, msgspec.convert(words["node"], LabNode)
    _tidy(lab)
    inside = lab.netns(f"{joining.NAME}-{node.name}")
    length = lab.segment_of(node.address).cidr.partition("/")[2]
    with joining.cabled(lab, node, inside), _led_to(live, node):
        # Without a mark of the lab's, or the agent there would take it for its own.
        address = f"{node.address}/{length}"
        run(["ip", "-n", inside, "address", "add", address, "dev", world.UPLINK])
        command, environment = _agent(live, live.place, node)
        argv = [*UNSHARED, "sh", "-c", BOOT, "sh", *command]
        with netns.entered(inside), program_errors(argv[0]):
            first = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL)
        try:
            yield
        finally:
            first.kill()
            first.wait()


@contextmanager
def _led_to(live: Live, node: LabNode) -> Iterator[None]:
    """Have this machine send on what is for the pods of *node*, once that has its lease."""
    ended = threading.Event()

    seen = live.cluster()

    def look() -> None:
        etcd = live.connection()
        while not ended.wait(LOOK):
            leases, _ = peers(etcd.range(SUBNETS).items)
            if held := [one.subnet for one in leases if one.public_ip == node.address]:
                with joining.led_to(seen, node, held[0]):
                    ended.wait()
        etcd.close()

    looking = threading.Thread(target=look, daemon=True)
    if joining.is_direct(live.lab):
        looking.start()
    try:
        yield
    finally:
        ended.set()
        if looking.is_alive():
            looking.join(owned.WRITTEN)


def _agent(live: Live, place: Place, node: LabNode) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of an agent of *node* that reaches etcd as this
    machine's does; without the marks of what runs on this one."""
    way = place.access.environment(live.lab.master.address)
    words = [sys.executable, "-m", "netlab", "agent", "--node", node.name]
    kept = {key: value for key, value in os.environ.items() if key not in (MARK, START)}
    return [*words, "--etcd", way["NETLAB_ETCD"], "--uplink", world.UPLINK], {**kept, **way}


@contextmanager
def cut(live: Live, _: dict[str, Any]) -> Iterator[None]:
    """Have this machine cut off from the others of the lab."""
    assert live.place is not None
    time.sleep(ANSWERED)
    lab, here = live.lab, live.lab.node(live.place.node)
    with ExitStack() as stack:
        for family in Family if lab.dual else (Family.IPV4,):
            chains = cutting(lab, here, family)
            stack.enter_context(owned.table(lab.netns(here.name), CUT, chains, family=family))
        yield


def cutting(lab: Lab, node: LabNode, family: Family) -> list[str]:
    """Return the chains that drop what *node* gets from the other machines of *lab* and sends to
    them, in whatever envelope or none: their addresses of *family*, and pods'."""
    every = {*lab.master.addresses, *(each for one in lab.nodes for each in one.addresses)}
    others = [one for one in sorted(every - {*node.addresses}) if family_of(one) is family]
    pods = lab.network.IPv6Network if family is Family.IPV6 else lab.network.Network
    ip = "ip6" if family is Family.IPV6 else "ip"
    there = f"{{ {', '.join([*others, pods])} }}"
    begin, card = "type filter hook", node.uplink
    return [
        f"incoming {{ {begin} prerouting priority -400; iifname {card} {ip} saddr {there} drop; }}",
        f"outgoing {{ {begin} postrouting priority 400; oifname {card} {ip} daddr {there} drop; }}",
    ]


def silence(live: Live, words: dict[str, Any]) -> AbstractContextManager[None]:
    """Have the balancer's probes of this machine be lost: see `balancing`."""
    assert live.place is not None
    return balancing.silence(live.lab, live.lab.netns(live.place.node), words["ports"])


DEEDS: dict[str, Callable[[Live, dict[str, Any]], AbstractContextManager[None]]] = {
    "guest": guest,
    "cut": cut,
    "declared": declared,
    "machine": machine,
    "silence": silence,
}


def main() -> int:
    name, deed, text = sys.argv[1:]
    words = msgspec.json.decode(text)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        live = connect(name)
        if deed == "cut":
            print("begun", flush=True)  # as long as anybody can be told
        with DEEDS[deed](live, words):
            if deed != "cut":
                print("begun", flush=True)
            time.sleep(float(words["seconds"]))
    except NetlabError as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
