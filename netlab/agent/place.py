"""Where an agent lives: in a lab of one machine, or on one of several machines of a lab.

Of the first kind is an agent whose run directory has no `machine.json`: all the lab's nodes are
namespaces that it makes, and etcd is beside it. Of the second kind each machine has an agent, which
keeps what is the machine's own: its node, or the control plane with etcd, or both.

1. The machine's own network namespace has the names `LAB.NODE` and `LAB.master`, so that whatever
   works in a namespace by its name works there unchanged.
2. What is netlab's there is what bears its marks. The card, the addresses on it, and every other
   link, route, rule and setting are the machine's: nobody wants them here, so nothing touches them.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec.structs import replace

from netlab import __version__
from netlab.model.kubernetes import Document
from netlab.model.lab import ARCHITECTURE, Lab
from netlab.model.loose import mapping
from netlab.store.access import Access
from netlab.world import MASTER, UPLINK

FILE = "machine.json"


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine is in a lab of several."""

    node: str = ""  # the node it is, "" for none
    uplink: str = ""  # that node's card on the underlay
    address: str = ""  # that node's there
    master: bool = False  # whether the control plane and etcd are here
    access: Access = Access()
    data: str = ""  # the directory for what outlasts a reboot: etcd's

    @property
    def names(self) -> list[str]:
        """The members of the lab that this machine is."""
        return [*([self.node] if self.node else []), *([MASTER] if self.master else [])]

    @property
    def home(self) -> str:
        """The member through whose name commands find this machine's namespace."""
        return self.names[0]

    def declared_in(self, lab: Lab) -> bool:
        """Return whether *lab* has the node that this machine is, if it is one."""
        return not self.node or any(one.name == self.node for one in lab.nodes)

    def fitted(self, lab: Lab) -> Lab:
        """Return *lab* as it is here: with the name of this machine's card."""
        return self._with_uplink(lab, self.uplink)

    def common(self, lab: Lab) -> Lab:
        """Return *lab* as it is on every machine."""
        return self._with_uplink(lab, UPLINK)

    def _with_uplink(self, lab: Lab, device: str) -> Lab:
        return replace(
            lab,
            nodes=[
                replace(one, uplink=device) if one.name == self.node else one for one in lab.nodes
            ],
        )


def read(run: Path) -> Place | None:
    """Return the place of the agent of a run directory; None: in a lab of one machine."""
    try:
        return msgspec.json.decode((run / FILE).read_bytes(), type=Place)
    except FileNotFoundError:
        return None


def write(run: Path, place: Place) -> None:
    """Make *place* that of the agent of a run directory. It may hold a password."""
    path = run / FILE
    beginning = path.with_suffix(".new")
    beginning.touch(mode=0o600)
    beginning.write_bytes(msgspec.json.encode(place))
    beginning.rename(path)


def mailbox_of_master(lab: Lab) -> str:
    """Return the name by which the agent of the control plane is asked: its `Place.home`."""
    address = lab.master.address
    return next((one.name for one in lab.nodes if one.address == address), MASTER)


def home(lab: Lab, place: Place | None) -> str:
    """Return the namespace in which commands reach etcd as the lab's own machines do."""
    return lab.netns(place.home if place is not None else MASTER)


def introduced(node: Document) -> Document:
    """Return the Node object *node* as a kubelet of this machine writes it: with `nodeInfo`.

    Source: core/v1 NodeSystemInfo.
    """
    system = os.uname()
    info = {
        "kubeletVersion": f"netlab/{__version__}",
        "kernelVersion": system.release,
        "architecture": ARCHITECTURE,
        "operatingSystem": system.sysname.lower(),
    }
    return {**node, "status": {**mapping(node, "status"), "nodeInfo": info}}
