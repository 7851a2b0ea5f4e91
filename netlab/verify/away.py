"""What is done on another machine for a while, for a check that runs elsewhere.

    python -m netlab.verify.away LAB DEED WORDS     DEED: guest, cut; WORDS: JSON, with `seconds`

It says `begun`, and ends when it is told to or after those seconds; what it made goes with it. The
kernel takes the rules of `cut` away however it ends, and the next `guest` what one before it left.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import msgspec

from netlab import patience
from netlab.errors import NetlabError
from netlab.flannel.lease import Lease
from netlab.kernel import netns, owned
from netlab.lab.live import connect
from netlab.model.lab import Lab, LabNode
from netlab.proxy.addresses import Family
from netlab.proxy.addresses import family as family_of
from netlab.verify import joining
from netlab.verify.context import Context, Live

CUT = "netlab-cut"  # the table
ANSWERED = patience.seconds(0.5)  # seconds for the answer that it has begun to leave the machine


def guest(live: Live, words: dict[str, Any]) -> AbstractContextManager[None]:
    """Have a stranger on this machine: see `joining`."""
    for left in netns.names(live.lab.name):
        if left.startswith(live.lab.netns(joining.NAME)):
            netns.delete(left)  # a guest before this one was killed
    node, own = msgspec.convert(words["node"], LabNode), msgspec.convert(words["lease"], Lease)
    context = Context(live, live.cluster(), None, None)  # type: ignore[arg-type]  # neither is used
    return joining.plugged_in(context, joining.state_of(live.lab, node, own), own)


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


DEEDS: dict[str, Callable[[Live, dict[str, Any]], AbstractContextManager[None]]] = {
    "guest": guest,
    "cut": cut,
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
