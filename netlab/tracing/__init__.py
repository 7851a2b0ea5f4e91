"""One packet's whole way through a live lab: sent, seen on every device, told rule by rule.

asking   what is sent, from where, to whom
wires    what is watched for it: devices, rules, connection tracking
sending  a conversation sent and followed to its end
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
