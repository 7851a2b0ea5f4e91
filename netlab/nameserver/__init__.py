"""Servers of names, over UDP and TCP: what `dns/` answers, on the wire.

    serving     queries that come, over UDP and TCP; the cluster's DNS and the pod server's use it
    forwarding  questions for others: asked, waited for, passed on
    following   the cluster's objects, as etcd tells of them
    stub        the other side: names asked as a program in a pod asks
    health      /ready and /health over HTTP
    __main__    the program of the image netlab/dns: a cluster's DNS

One thread serves and never waits for anything but all of it; another follows etcd, which may be
slow or away: then what was known goes on being answered.
"""
