"""What a machine gives back when it is a node no more, and what etcd forgets of it.

What netlab made in the machine's own namespace bears its marks, or upstream's names for the rules
of flannel and a proxy; that goes, and nothing else. The agent has ended before.
"""

from __future__ import annotations

from pathlib import Path

from netlab import beyond, world
from netlab.agent import before, leftovers, policies
from netlab.agent.place import Place
from netlab.agent.reports import ALIVE, REPORTS
from netlab.encapsulation import control as encapsulation
from netlab.flannel import lease, rules
from netlab.flannel.config import SUBNETS
from netlab.kernel import Kernel, netns, nftables
from netlab.model.lab import Lab
from netlab.objects import IptablesChain, IptablesJump, Netns
from netlab.plan import Op, Verb, difference
from netlab.proxy.ruleset import Step
from netlab.store.etcd import Etcd


def cleared(run: Path, lab: Lab, place: Place, kernel: Kernel) -> list[Op]:
    """Take from this machine all that netlab made for its node; return the operations.

    Raises KernelError.
    """
    if not place.node:
        return []
    name = lab.netns(place.node)
    netns.attach(name)  # the name may have gone, and what it was for may not
    pods = [Op(Verb.DELETE, Netns(one)) for one in kernel.namespaces(name)]
    flannel = rules.objects(name, network=lab.network.Network, subnet=lab.network.Network)
    own = next((one for one in lab.nodes if one.name == place.node), None)
    found = difference([], kernel.observe(name, flannel))
    if own is not None and own.foreign_flannel:
        found = [op for op in found if not isinstance(op.object, IptablesChain | IptablesJump)]
    home = beyond.outside_home(lab)
    if home is None or home.name == place.node:
        around = [lab.netns(one) for one in world.OUTSIDE]
        found += [Op(Verb.DELETE, Netns(one)) for one in around if netns.exists(one)]
    kernel.apply([*pods, *found])
    with netns.entered(name):
        if own is None or not own.foreign_proxy:
            leftovers.cleanup()
        nftables.write([Step(None, block) for block in policies.observed().values()])
        encapsulation.end()
        before.restore(run)
    return [*pods, *found]


def forgotten(etcd: Etcd, place: Place) -> list[str]:
    """Delete from etcd that a node has a subnet, is alive, and what it said; return the keys.

    Its Node object stays, as it is declared; the control plane sees that it is not there. Raises
    StoreError.
    """
    leases, _ = lease.peers(etcd.range(SUBNETS).items)
    keys = [ALIVE + place.node, REPORTS + place.node]
    keys += [one.key for one in leases if one.public_ip == place.address]
    return [key for key in keys if etcd.delete(key)]
