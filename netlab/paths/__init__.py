"""The expected way of a packet, and its comparison with the way it was seen to take.

`places` knows who is meant by a word or address, `ways` the hops from one place to another,
`comparison` sets sightings against hops and finds the first that is missing or looks wrong.
"""

from netlab.paths.comparison import compare
from netlab.paths.places import Place, place, source_address
from netlab.paths.ways import expected

__all__ = ["Place", "compare", "expected", "place", "source_address"]
