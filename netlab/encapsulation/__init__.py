"""flannel's udp back end: a process per node that carries what its tun device is given.

datagrams   IPv4 packets on their way through it: TTL, checksum, and the errors it answers with
device      the tun device, opened
server      the process
control     the agent's side: started when it is missing, told whom it reaches, ended
"""
