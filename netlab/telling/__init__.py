"""A journey put together from what was seen, and told.

naming      who is meant by an address or a namespace
passing     who was asked further, by a proxy that was reached
meaning     what a rule is for, in Kubernetes' words; policies: those of NetworkPolicies
selecting   which sightings and rule traces are of one conversation
order       what devices and rules saw of one packet, in one order
passes      which passes through rules are of which packet
chains      the rules of a pass, with those that did not fit
assembly    these as tracks: packet by packet, step by step
text        a journey as lines for people
forms       a journey as JSON, and as packets with comments
"""
