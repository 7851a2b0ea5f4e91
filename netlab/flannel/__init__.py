"""flannel's decisions, as flannel v0.28 takes them and better where that is weak: all pure.

`config` reads and writes the net-conf, `lease` the leases, `choice` says which subnet a node
takes, `subnets` keeps it, `peers` which of the others lead to other nodes; `backends` says what
the kernel of a node must hold for them, by `vxlan`, `hostgw` or `udp`, `rules` the rules beside.
A real flanneld can share the overlay: keys and values in etcd are equal byte for byte.
"""
