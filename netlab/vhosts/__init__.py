"""From Ingress and Gateway objects to virtual hosts, and from these to nginx's configuration.

    documents     Ingress, IngressClass, Gateway, HTTPRoute as far as they are read
    model         virtual hosts, their routes, and what is to be said about objects
    gathering     routes put together by host; who of two wins
    ingresses     Ingresses into routes
    gateways      Gateways and HTTPRoutes into routes, with their conditions; `listeners`: those
                  of a Gateway
    switches      which of ingress-nginx's annotations have an effect here
    choice        which route a request takes: what nginx must do, said without nginx
    backends      Services and EndpointSlices into the endpoints of a backend
    certificates  Secrets into PEM
    nginx         virtual hosts as text of nginx
    status        what is written back: addresses, conditions

Nothing here does anything: `netlab.ingress`, the program in a controller's pod, does.
"""

from __future__ import annotations

from netlab.model.inventory import Inventory
from netlab.vhosts import gateways, ingresses
from netlab.vhosts.gathering import Gathering
from netlab.vhosts.model import Routing, Settings

__all__ = ["READ", "Routing", "Settings", "routing"]

# The kinds that decide about hosts and routes; EndpointSlices only about endpoints.
READ = (
    *("Ingress", "IngressClass", "Service", "Namespace"),
    *("GatewayClass", "Gateway", "HTTPRoute", "ReferenceGrant"),
)


def routing(objects: Inventory, settings: Settings) -> Routing:
    """Return the virtual hosts that *objects* ask this controller for, and what to say of them."""
    gathering = Gathering(objects)
    taken = ingresses.gather(objects, settings, gathering)
    attached = gateways.gather(objects, settings, gathering)
    if settings.default_backend:
        namespace, _, name = settings.default_backend.partition("/")
        gathering.last_resort(namespace, name)
    return gathering.routing(taken, attached)
