"""What runs in pods.

`server`      one process per lab: answers on every containerPort of every pod
              (`listening` its sockets, `conversation` its clients)
`control`     the agent's side of it: what is wanted, what is bound
`sandbox`     a pod's UTS, IPC, PID and mount namespaces: made, found, removed
              (`pause` their first process, `etc` the files they show)
`execution`   a command in a pod or node, with the terminal, signals and exit code; questions
`containers`  containers with a `command:`: started, watched, restarted
              (`runs` one run of a program, `program` what becomes it, `variables` its `$(NAME)`s)
`probing`     what a kubelet asks of containers, from the node or in the pod
`logs`        what those programs print: collected, bounded, read back
`namespaces`, `apart`, `watching`, `waiting`   system calls and threads they share
"""
