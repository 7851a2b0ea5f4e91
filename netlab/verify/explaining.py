"""Why a probe did not take its way: found out as `netlab why` does, by sending it once more."""

from __future__ import annotations

from ipaddress import ip_address

from netlab.cluster import Cluster
from netlab.errors import NetlabError
from netlab.packets import Flow, Verdict
from netlab.store.etcd import Listing
from netlab.tracing.why import why
from netlab.verify.context import Context


class _Lab:
    """The lab, read by one thread at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def cluster(self) -> Cluster:
        return self._context.refreshed()

    def leases(self) -> Listing:
        return self._context.leases()


def explained(context: Context, verdict: Verdict) -> list[str]:
    """Return, as evidence, what stopped the flow of a *verdict*, what shows it and what would
    repair it; [] when nothing stops it: then only its way was another; where part of its way is on
    other machines; and for a flow of IPv6, which cannot be looked into."""
    flow = verdict.flow
    if flow is None or not _can_be_sent(flow) or context.here:
        return []
    try:
        found = why(
            _Lab(context),
            flow.source,
            flow.destination,
            protocol=str(flow.protocol),
            port=flow.destination_port,
        )
    except (NetlabError, OSError) as error:
        return [f"cannot be looked into: {error}"]
    if not found.causes:
        return []
    cause = found.causes[0]
    return [
        f"cause: {cause.what} ({cause.kind})",
        *(f"proof: {one}" for one in cause.proof),
        *(f"repair: {one}" for one in cause.repair),
    ]


def _can_be_sent(flow: Flow) -> bool:
    if not (flow.source and flow.destination):
        return False
    source = ip_address(flow.source)
    return source.version == 4 and not source.is_loopback
