"""The paths, proven by packets.

catalogue     every path: its id, what it is, what a pass proves
verification  runs the checks, in the order and at the time that suits
judgement     a check made: what it found, as a verdict
spread        a lab of several machines; part: what one of them proves; across: the sensors of all;
              manifold: in each mode, by each back end; away: done for another machine's check
context       what the checks share
matrix        the same in several proxy modes, or by several back ends, one after the other
variants      checks made under one of these
turns         one verification of a lab at a time
sharing, pods, flat, leases, joining, outside, replicas, services, nodeports, following,
selectors, proxymodes, backends, names, policies, balancing, ingress, daemons, losing     the checks
serving       what these know of Services; `serviceprobe`, `shares`; `asker`: questions asked as a
              pod's program asks, `webrequests`: over HTTP; `explaining`: why one failed
modes         where two proxy modes differ; trial: what is tried, stage: the namespaces for it,
              waysin: what is tried from where, foreseen: what is expected
forms         verdicts as JSON and JUnit
"""

from typing import TYPE_CHECKING

from netlab.verify.catalogue import PATHS, Path
from netlab.verify.forms import as_json, as_junit, columns_as_json, columns_as_junit

if TYPE_CHECKING:
    from netlab.verify.verification import verify

__all__ = [
    "PATHS",
    "Path",
    "as_json",
    "as_junit",
    "columns_as_json",
    "columns_as_junit",
    "verify",
]


def __getattr__(name: str) -> object:
    """Give `verify` on demand: names of paths are completed without importing the sensors."""
    if name == "verify":
        from netlab.verify.verification import verify

        return verify
    raise AttributeError(name)
