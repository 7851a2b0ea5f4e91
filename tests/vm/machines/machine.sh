#!/bin/sh
# One of two machines of a lab, in `scripts/vm --count 2`: NODE is its number, $1 a directory that
# both can write to, $2 `first` or `again`, for the second time they are switched on.
#
# Leaves there: nodeN.json (`netlab status`), leases, macN (of flannel.1), answersN (of the other
# node's pod, of a Service, of a port of the other node), verified (`netlab verify`, on node 1),
# beforeN and afterN (the machine's own links, addresses and routes, before it joined and after it
# left), disk1.tar: what outlasts the first time.
set -eu
out=$1
boot=$2
here=$(dirname -- "$0")
lab=spread

waited() { # until the condition $1 holds; looking every $2 seconds
    tries=0
    until sh -c "$1"; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || { echo "never: $1" >&2; exit 1; }
        sleep "${2:-0.2}"
    done
}

own() { ip -o -4 addr; ip -4 route; ip -o link | cut -d: -f2; cat /proc/sys/net/ipv4/ip_forward; }

other=$((3 - NODE))
# A card as VirtualBox's NAT gives it: the same address on both.
ip link add nat0 type dummy
ip addr add 10.0.2.15/24 dev nat0
ip link set nat0 up
ip route add default via 10.0.2.2 dev nat0
own >"$out/before$NODE"

if [ "$NODE" = 1 ]; then
    mkdir -p /var/lib/netlab
    [ "$boot" = first ] || tar -C /var/lib/netlab -xf "$out/disk1.tar"
    netlab up --master "$here/lab.yaml"
    touch "$out/up"
else
    waited "test -e '$out/up'"
    netlab join 192.168.50.11 --run &
    agent=$!
fi
waited "netlab status >/dev/null 2>&1" 2 # each look takes an emulated processor seconds
touch "$out/ready$NODE" # each speaks for itself: nobody waits for a machine that has not joined
waited "test -e '$out/ready$other'"
waited "netlab status >/dev/null 2>&1" 2
netlab status -o json >"$out/node$NODE.json"
netlab get leases >"$out/leases"
cat /sys/class/net/flannel.1/address >"$out/mac$NODE"

netlab get pods -o wide --no-headers >"/tmp/pods"
pod=$(awk -v n="node$NODE" '$7 == n {print $1}' /tmp/pods)
theirs=$(awk -v n="node$other" '$7 == n {print $6}' /tmp/pods)
ask() { # $1 address, $2 port, from the pod here
    ip netns exec "$lab.node$NODE.default.$pod" python3 -S -c '
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30) as s:
    s.sendall(b"hello\n")
    print(s.makefile().readline().strip())' "$1" "$2"
}
{
    ask "$theirs" 80
    ask 10.96.7.7 80
    ask "192.168.50.1$other" 30080
} >"$out/answers$NODE"

touch "$out/asked$NODE"
waited "test -e '$out/asked$other'"
if [ "$boot" = first ]; then # all paths there are, from each machine, seen by both
    if [ "$NODE" = 1 ]; then
        for _ in 1 2 3; do # on a busy computer an emulated one stands still now and then
            ! netlab verify -o json >"$out/verified" || break
        done
        touch "$out/proven"
    fi
    waited "test -e '$out/proven'" 1
fi
if [ "$boot" = first ]; then # the power goes
    if [ "$NODE" = 1 ]; then
        kill -STOP "$(pidof etcd)" # what it has on its disk is what there is
        sync
        tar -C /var/lib/netlab -Scf "$out/disk1.tar" .
        touch "$out/saved"
    fi
    waited "test -e '$out/saved'"
    exit 0
fi
if [ "$NODE" = 1 ]; then
    waited "test -e '$out/left'"
    netlab down
else
    netlab agent --leave
    wait "$agent"
    touch "$out/left"
fi
own >"$out/after$NODE"
