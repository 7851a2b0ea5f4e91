"""The loop of a machine in a lab of several: its names, its processes.

Where all of a lab is on one machine, `world` makes what is around the nodes; here it is there. What
is left: the machine's namespace bears the names of what the machine is, etcd runs if the control
plane is here, the pod servers run if a node is, and what the kernel needs for both is loaded. How
the machine's settings were before is kept, for when it leaves. The machine of the first node has
the gateway, too, what is outside, and the balancer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from netlab import beyond, processes, world
from netlab.agent import before
from netlab.agent.attachments import Attachments
from netlab.agent.etcd import EtcdProcess
from netlab.agent.loop import Loop
from netlab.agent.place import Place
from netlab.agent.state import State
from netlab.agent.world import outside_server
from netlab.firewall import Published
from netlab.kernel import Kernel, netns, settings
from netlab.model.lab import Lab
from netlab.objects import Netns, Object
from netlab.plan import Op, Verb, difference
from netlab.pods.control import Servers
from netlab.store.session import Drain

BRIDGED = "net.bridge.bridge-nf-call-iptables"


class Machine(Loop):
    """Keeps what the machine *place* is. `ready` is called when that has changed."""

    interval = 5.0  # seconds; nothing tells that a name was taken away

    def __init__(
        self,
        state: State,
        place: Place,
        kernel: Kernel,
        servers: Servers,
        *,
        ready: Callable[[], None],
    ) -> None:
        super().__init__("machine")
        self.state = state
        self.place = place
        self.servers = servers
        self.ready = ready
        self.whole: Lab | None = None  # the declaration that was last found true
        self.kernel = kernel
        self._agreed: set[Object] = set()
        self._has_outside = False
        self._opened: tuple[Published, ...] = ()
        self.attachments = Attachments(kernel)  # none are: they need an underlay that is here
        self._etcd = EtcdProcess(state, self.log)

    @property
    def opened(self) -> tuple[Published, ...]:
        """What the world outside may reach of the balancer, as far as that is this machine's."""
        return self._opened if self._has_outside else self.state.published

    def once(self) -> None:
        lab = self.state.lab
        if lab is None:
            return
        for name in self.place.names:
            netns.attach(lab.netns(name))
        if self.place.node:
            if settings.read(BRIDGED) is None and processes.installed("modprobe"):
                processes.run(["modprobe", "br_netfilter"], check=False)  # nothing else loads it
            before.remember(self.state.run)
            self.servers.ensure()
        if self.place.master:
            self._etcd.keep(lab)
        else:
            self.state.etcd_ready.set()  # whoever asks it finds out
        changed = self._outside(lab)
        if self.whole != lab or changed:
            self.ready()
            self.whole = lab

    def _outside(self, lab: Lab) -> bool:
        """Keep the gateway, what is outside and the balancer, where the machine is to have them;
        return whether anything was done."""
        home, published = beyond.outside_home(lab), self.state.published
        self._has_outside = home is not None and home.name == self.place.node
        desired = beyond.outside(lab, published) if self._has_outside else {}
        here = [lab.netns(one) for one in world.OUTSIDE]
        gone = [
            Op(Verb.DELETE, Netns(one)) for one in here if one not in desired and netns.exists(one)
        ]
        self.kernel.apply(gone)
        if not self._has_outside:
            return bool(gone)
        wanted = [thing for name in desired for thing in desired[name]]

        def missing() -> list[Op]:
            here = [one for name in desired for one in self.kernel.observe(name, desired[name])]
            return difference(wanted, here)

        operations = self.agree(self.kernel, missing, agreed=self._agreed)
        self._agreed = set(wanted)
        self._opened = published
        self.servers.update([outside_server(lab)])
        return bool(operations or gone)

    def watched(self) -> Mapping[int, Drain]:
        watched: dict[int, Drain] = {}
        if self.place.node:
            watched[self.servers.fileno()] = lambda: None  # readable when the pod servers die
        if (ended := self._etcd.fileno()) is not None:
            watched[ended] = lambda: None
        return watched
