"""A journey put together from what was seen, and told.

naming      who is meant by an address or a namespace
meaning     what a rule is for, in Kubernetes' words
selecting   which sightings and rule traces are of one conversation
assembly    these as tracks: packet by packet, step by step
text        a journey as lines for people
forms       a journey as JSON, and as packets with comments
"""
