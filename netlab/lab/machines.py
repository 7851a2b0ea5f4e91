"""This machine as one of several of a lab: joining it, and leaving it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import NoReturn

import msgspec
from msgspec.structs import replace

import netlab
from netlab import processes, uplinks
from netlab.agent import control, leaving
from netlab.agent import place as places
from netlab.agent.following import lab_of
from netlab.agent.place import Place
from netlab.agent.reports import LAB
from netlab.errors import InputError, NetlabError, NotFoundError, StoreError, UsageError
from netlab.kernel import arp
from netlab.kernel.cards import cards
from netlab.lab.directory import lock, names, run_directory
from netlab.model.lab import Lab
from netlab.store.access import Access
from netlab.topology import Declaration
from netlab.topology.mistakes import Mistakes
from netlab.topology.tree import Path as Field

DATA = Path("/var/lib/netlab")  # what outlasts a reboot: the master's
ANSWER = 3.0  # seconds etcd may take to answer
AGAIN = 1.0  # seconds until an etcd that is away is asked again


def declared(access: Access) -> Lab:
    """Return the Lab document that the etcd of *access* holds.

    Raises StoreError: it does not answer; NotFoundError: it holds none.
    """
    etcd = access.etcd("", timeout=ANSWER)
    try:
        held = etcd.get(LAB)
    finally:
        etcd.close()
    if held is None:
        raise NotFoundError(
            f"{etcd!r} holds no lab of several machines",
            hint="`netlab up --master FILES` on the machine of etcd declares one",
        )
    return lab_of(held.value)


def spread(lab: Lab) -> Lab:
    """Return *lab* as one whose nodes are machines.

    Raises UsageError: an address that tells nobody apart.
    """
    for what, address in (
        ("master", lab.master.address),
        *((f"node {node.name}", node.address) for node in lab.nodes),
    ):
        if address == uplinks.NAT_ADDRESS:
            raise UsageError(
                f"{what} is declared with {address}, which NAT gives every virtual machine alike",
                hint="declare the addresses of a private network",
            )
    return replace(lab, spread=True)


def require_free(declared: Declaration, lab: Lab, uplink: str) -> None:
    """Ask the wire of this machine's card *uplink* whether the addresses of the balancer of *lab*
    are anybody's. Raises InputError, with who has them."""
    given, here = lab.balancer, cards()
    if given is None:
        return
    net = IPv4Network(lab.segment_of(given.address).cidr)
    own = {one.partition("/")[0]: card.name for card in here for one in card.addresses}
    near = [one for card in here if card.name == uplink for one in card.addresses]
    if not any(IPv4Interface(one).ip in net for one in near):
        return  # it is another wire: nobody there could hear us
    wanted: dict[str, Field] = {given.address: ("balancer", "address")}
    for index, numbers in enumerate(given.ranges):
        wanted |= {str(IPv4Address(one)): ("balancer", "pool", index) for one in numbers}
    held = {one: f"by {mac}" for one, mac in arp.holders(uplink, wanted).items()}
    held |= {one: f"by {card} of this machine" for one, card in own.items() if one in wanted}
    mistakes = Mistakes()
    for one, by in held.items():
        words = f"{one} is in use on the wire of {uplink}, {by} (an address that is nobody's)"
        if declared.lab_origin is not None:
            mistakes.at(declared.lab_origin, wanted[one], words)
        else:
            mistakes.add(lab.name, 0, wanted[one], words)
    if mistakes:
        raise InputError(mistakes.lines())


def node_place(lab: Lab, node: str, access: Access, *, uplink: str = "") -> tuple[Place, str]:
    """Return the place of this machine as *node*, and why its card is that one.

    Raises UsageError.
    """
    known = [one.name for one in lab.nodes]
    if node not in known:
        raise UsageError(
            f"--node {node}: lab {lab.name} has no such node", hint=f"it has: {', '.join(known)}"
        )
    return _place(lab, node, access, uplink=uplink)


def master_place(lab: Lab, access: Access, *, uplink: str = "") -> tuple[Place, str]:
    """Return the place of this machine as the master, and as the node of the same address if there
    is one; and why its card is that one. Raises UsageError."""
    address = lab.master.address
    node = next((one.name for one in lab.nodes if one.address == address), "")
    if node:
        place, why = _place(lab, node, access, uplink=uplink)
    else:
        choice = uplinks.chosen(lab, address, cards(), named=uplink)
        place, why = Place("", choice.card, address, access=access), choice.why
    return replace(place, master=True, data=str(DATA / lab.name)), why


def _place(lab: Lab, name: str, access: Access, *, uplink: str) -> tuple[Place, str]:
    """Return the place of this machine as the node *name*, and why its card is that one."""
    node = lab.node(name)
    choice = uplinks.chosen(lab, node.address, cards(), address6=node.address6, named=uplink)
    return Place(name, choice.card, node.address, access=access), choice.why


def known(node: str, access: Access) -> str | None:
    """Return the lab that this machine is in as *node* by that *access* already; None: in none."""
    for name in names():
        place = places.read(run_directory(name))
        if place is not None and (place.node, place.access) == (node, access):
            return name
    return None


def node_here(lab: Lab) -> str:
    """Return the node that this machine is, by its addresses. Raises UsageError."""
    return uplinks.node_here(lab, cards())


def resumed(name: str, *, uplink: str = "") -> Path:
    """Return the run directory of a lab that this machine is in already, to go on as before, or
    with another card. Raises UsageError."""
    run = run_directory(name)
    place = places.read(run)
    assert place is not None
    if uplink and uplink != place.uplink:
        lab = msgspec.json.decode((run / "lab.json").read_bytes(), type=Lab)
        place, _ = node_place(lab, place.node, place.access, uplink=uplink)
        return take(name, place)
    return run


def take(lab: str, place: Place) -> Path:
    """Make this machine be *place* in the lab called *lab*; return the run directory.

    Raises NetlabError: its agent runs already; UsageError: the machine is something else already.
    """
    for name in names():
        other = places.read(run_directory(name))
        if name != lab and other is not None:
            raise UsageError(
                f"this machine is {' and '.join(other.names)} of lab {name}",
                hint=f"`netlab -L {name} agent --leave` first",
            )
    with lock(lab) as run:
        before = places.read(run)
        if before is None and (run / "lab.json").exists():
            raise UsageError(
                f"lab {lab} is on this machine alone", hint=f"`netlab down {lab}` first"
            )
        if before is not None and before.names != place.names:
            raise UsageError(
                f"this machine is {' and '.join(before.names)} of lab {lab} already",
                hint=f"`netlab -L {lab} agent --leave` first",
            )
        if before != place:
            end_agent(run)  # the next one goes on, with the other card or etcd
        places.write(run, place)
        if place.data:
            Path(place.data).mkdir(parents=True, exist_ok=True)
            places.write(Path(place.data), place)
        return run


def end_agent(run: Path) -> None:
    """End the agent of *run*, if it runs; what it made goes on."""
    if (pid := control.listener_pid(run / "agent.sock")) is not None:
        processes.end(pid, grace=0.0)


def kept_masters() -> list[str]:
    """Return the labs whose control plane is on this machine, also before it runs after a boot."""
    return sorted(path.parent.name for path in DATA.glob(f"*/{places.FILE}"))


def resumed_master(name: str) -> Path:
    """Return the run directory of the control plane of lab *name*, as it was before a reboot."""
    kept = DATA / name
    with lock(name) as run:
        for file in (places.FILE, "lab.json"):
            if not (run / file).exists() and (kept / file).exists():
                shutil.copy2(kept / file, run / file)
        return run


def become_agent(run: Path, said: str = "") -> NoReturn:
    """Go on as the agent of *run*, in this process, having *said* so.

    Raises NetlabError: one runs already.
    """
    pid = control.listener_pid(run / "agent.sock")
    if pid is not None:
        raise NetlabError(
            f"the agent of lab {run.name} runs already, pid {pid}", hint="netlab status"
        )
    if said:
        print(said)
    (run / "agent.sock").unlink(missing_ok=True)
    environment = processes.own_environment(run, "agent")
    root = str(Path(netlab.__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (root, environment.get("PYTHONPATH", "")))
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", "netlab.agent", str(run)], environment)


def wait_for_lab(access: Access, say: Callable[[str], None]) -> Lab:
    """Return the Lab document, once etcd answers; *say* is told why not yet, each time anew."""
    told = ""
    while True:
        try:
            return declared(access)
        except (StoreError, NotFoundError) as error:
            if str(error) != told:
                told = str(error)
                say(told)
        time.sleep(AGAIN)


def deregister(lab: Lab, place: Place) -> list[str]:
    """Have etcd forget this machine as a node; return the keys deleted. Raises StoreError."""
    if not place.node:
        return []
    etcd = place.access.etcd(lab.master.address, timeout=ANSWER)
    try:
        return leaving.forgotten(etcd, place)
    finally:
        etcd.close()
