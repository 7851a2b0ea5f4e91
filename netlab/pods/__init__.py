"""What runs in pods.

`namespaces`  the system calls for namespaces and mounts that Python 3.11 lacks
`server`      one process per lab: answers on every containerPort of every pod
`control`     the agent's side of it: what is wanted, what is bound
`pause`       the first process of a pod's PID namespace, and its view of the file system
`sandbox`     a pod's UTS, IPC, PID and mount namespaces: made, found, removed
`execution`   a command in a pod or node, with the terminal, signals and exit code (`netlab exec`)
`program`     becomes a container's program, inside the sandbox
`containers`  containers with a `command:`: started, watched, restarted
`logs`        what those programs print: collected, bounded, read back
"""
