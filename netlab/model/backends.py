"""flannel's back ends by the names people call them, and what each is in a net-conf."""

from __future__ import annotations

from msgspec.structs import replace

from netlab.model.lab import Backend, Lab

VXLAN, DIRECT, HOST_GW, UDP = "vxlan", "vxlan+DirectRouting", "host-gw", "udp"
BACKENDS = (VXLAN, DIRECT, HOST_GW, UDP)


def title(backend: Backend) -> str:
    """Return what a back end is called: `vxlan+DirectRouting`."""
    return DIRECT if backend.Type == VXLAN and backend.DirectRouting else backend.Type


def named(name: str, own: Backend) -> Backend:
    """Return the back end called *name*, with what of *own* its kind knows, too."""
    if name == title(own):
        return own
    if name in (HOST_GW, UDP):
        return Backend(Type=name)
    kept = own if own.Type == VXLAN else Backend()
    return replace(kept, DirectRouting=name == DIRECT)


def unfit(lab: Lab, name: str) -> str:
    """Return why *lab* cannot have the back end called *name*, "" when it can."""
    segments = {lab.segment_of(node.address).name for node in lab.nodes}
    if name == HOST_GW and len(segments) > 1:
        return f"host-gw joins the nodes of one segment, and these are on {len(segments)}"
    if name == UDP and lab.dual:
        return "flannel's udp carries IPv4 only, and this lab has two stacks"
    return ""
