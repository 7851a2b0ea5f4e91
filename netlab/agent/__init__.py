"""The agent: one process per lab that keeps every node as it should be.

    loop           a thread that compares, acts, and sleeps until something wakes it
    world          underlay, gateway, outside, master, balancer; etcd's process, the pod servers
    control_plane  objects in etcd: what is declared, the controllers, the scheduler
    node           one node: its lease, its bridge, its pods, its tunnel
    heartbeat      its sign of life
    kubelet        its pods: addresses, containers; `podstatus`; `health`: what probes say;
                   `endings`: how they end
    liveness       which nodes are heard from
    services       the loop of a node's rules; `reading`: what it knows of etcd
    kubeproxy      what serves Services in one namespace; healthchecks, answers: the HTTP servers
    policies       what keeps NetworkPolicies there
    balancer       the load balancer outside; `probing`: which nodes are well
    machine        instead of world, on a machine of a lab of several: its names, its processes;
                   `place`: what the machine is; `before`: its settings; `leaving`: what it gives
                   back
    answering      what other machines ask this one
    following      instead of control_plane, where that is on another machine
    etcd           etcd's process
    state          what the loops tell each other; `reports`: in which words, and to agents on other
                   machines; `pace`: how long all take to follow a change; `summary`: what
                   `netlab status` shows of it
    readings       what checks read of a node's kernel, here or for another machine
    rules          what a node's proxy has programmed, against what it should have
    requests       what is asked of the agent, each until it is done
    control        the control socket: declare, status, stop
    __main__       the process: `python -m netlab.agent RUN_DIRECTORY`

A loop is level-triggered: a watch only says "look again". Nothing is remembered that cannot be
read back from etcd or the kernel, so any of it may be killed at any moment and started again.
"""
