"""One packet's whole way through a live lab: sent, seen on every device, told rule by rule.

asking    what is sent, from where, to whom
wires     what is watched for it: devices, rules, connection tracking
shot      a conversation sent, followed to its end, and put together
relayed   the flow that a process made for it, in userspace mode
nexthops  the route, neighbour and forwarding entry that sent it on
attached  the same for traffic of others; `followed`: which conversations these are
wide      the wires of several machines, `lent` by the agents of the others

why       what stops a flow; `stops`: where that was
stages    what may have, as one machine finds; `part`: as all machines of a lab do
ruled     causes by rules, `told` by what somebody said, `drift` by what is not as it should be,
          `state` by the kernel's look-ups, `astray` by what others did to the packet,
          `denied` by NetworkPolicies, `balanced` at the load balancer, `named` by DNS, `faulted`
          by what was broken on purpose, `foreign` by a flanneld or kube-proxy not netlab's
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netlab.tracing.shot import trace

__all__ = ["trace"]


def __getattr__(name: str) -> object:
    """Give `trace` on demand: the command line's help needs no sensors."""
    if name == "trace":
        from netlab.tracing.shot import trace

        return trace
    raise AttributeError(name)
