"""The table of packets, run by live packets: real kernels' namespaces, raw sockets, `netlab proxy`.

packets     what is sent, and what a captured packet says: SYNs, datagrams, INITs with a token each
topology    what a case's `given` is: nodes, pods on them, the world outside
cabling     the same as namespaces, with cards, addresses and routes
sensors     sockets that see what arrives at a pod, what a node's stack was delivered, what answers
traffic     bursts of packets, and what was seen of each
proxying    a case's objects in a file, and the command that programs a node from it
judging     what a row of the table expects, against what became of its packets
capability  what a case needs of the kernel
twins       IPv4 cases said again in IPv6
connections real sockets at both ends, for what lasts
table       one case in one mode, from its namespaces to its last step
breakage    renderers that make a mistake
"""
