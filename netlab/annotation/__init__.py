"""What is to be said of a captured packet: who its ends are, which sighting it is, what changed.

headers     a frame taken apart, as far as that is asked for, in microseconds
names       addresses and ports in the lab's words
sightings   one packet on its way over many devices: hop number, rewrites
blocks      all of that, and the rules it met, as comments in the blocks of a capture
"""
