"""Names of a cluster, as Kubernetes' DNS specification has them (dns-version 1.1.0).

    wire      DNS messages (RFC 1035, 6891): a query read, records written, an answer read
    zone      what is known of a name, from Services, EndpointSlices and Namespaces
    cluster   what is said to a question about the cluster, and what is somebody else's to answer
    answers   from the bytes of a query to those of its answer; what is asked again costs a look-up
    fixed     the same for a few names that do not change: a resolver of the world outside
    files     /etc/resolv.conf and /etc/hosts as the kubelet writes them; `views`: those of a lab

Nothing here opens a socket: `nameserver/` does. Written by hand, as netlink's messages are: the
usual library takes 50 ms and 8 MB to load, in every pod that answers, and a lab has two of them
before anything is asked; the tests hold what is written here to that library's reading.
"""
