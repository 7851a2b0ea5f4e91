"""The expected way of a packet, and its comparison with the way it was seen to take.

places      who is meant by a word or an address
rules       what stops a flow, hides its sender, or keeps it off a device
ways        the hops from one place to another
serviceways the hops to a Service's address, whose destination is rewritten on the way
portalways  the hops to one that a process of the node answers for, and from there (userspace mode)
balancerways the same by the load balancer outside
clocks      sightings of several machines, by one clock
comparison  sightings against hops: the first that is missing or looks wrong
"""

from netlab.paths.comparison import compare, leg_of
from netlab.paths.places import Place, facing, named_port, place, source_address
from netlab.paths.ways import expected

__all__ = [
    "Place",
    "compare",
    "expected",
    "facing",
    "leg_of",
    "named_port",
    "place",
    "source_address",
]
