"""etcd, the only declared state: `etcd` asks, `watch` waits, `session` is both, `server` says how
to start it, `registry` keeps Kubernetes objects in it, `shapes` says which can be acted on, `http`
carries the bytes; `access`: how a lab's etcd is reached, `tls`: in what the bytes are wrapped;
`mailbox`: what machines ask each other by way of it, `loans`: what they keep for each other.
"""
