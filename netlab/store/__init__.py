"""etcd, the only declared state: `etcd` asks, `watch` waits, `server` says how to start it,
`registry` keeps Kubernetes objects in it, `http` carries the bytes."""
