"""kube-proxy's `userspace` mode, the process: what a Service's address leads into on a node.

`server`     one process per node, in its namespace: a port for every port of every Service
`rotation`   which endpoint comes next: round robin, and ClientIP affinity
`streams`    TCP: a connection from a client, another one to an endpoint, and what goes between them
`datagrams`  UDP: a socket to an endpoint for each client, for as long as they talk
`control`    the proxy's side of it: what is wanted, which ports there are, who was sent where
"""
