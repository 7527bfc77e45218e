# SPDX-FileCopyrightText: The polder authors
# SPDX-License-Identifier: Apache-2.0
#
# Inside a machine: make an RDMA device of its network device, then run the jobs.
# ROLE is x (a machine alone: ranks meet through the device's loopback), or a and b
# (two machines: a starts jobs, b gives it a shell).  For a job named N leaves in /polder:
#   N.out    what it printed
#   N.facts  exit status, then for each machine packets sent and received by the device
#   N.stuck  of a job that did not end in time: the state of the machine
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
ulimit -l unlimited
cd /run || exit 1

# 4200: the least MTU of Ethernet that gives InfiniBand its largest, 4096.
network() {
    hostname "vm$ROLE"
    ip link set lo up
    if [ "$ROLE" = x ]; then
        printf '127.0.0.1 localhost vmx\n' >/etc/hosts
        ip link add d0 type dummy
        device=d0 address=10.55.0.1
    else
        printf '127.0.0.1 localhost\n10.55.0.1 vma\n10.55.0.2 vmb\n' >/etc/hosts
        device=eth0 address=10.55.0.1
        [ "$ROLE" = b ] && address=10.55.0.2
    fi
    ip addr add $address/24 dev $device
    ip link set $device mtu 4200 up
    rdma link add rxe0 type rxe netdev $device || exit 1
    await_address
}

await_address() {
    for _ in $(seq 100); do
        grep -qs 0a37:000 /sys/class/infiniband/rxe0/ports/1/gids/* && return
        sleep 0.1
    done
    echo "guest: rxe0 has not got its address"
    exit 1
}

counters='cd /sys/class/infiniband/rxe0/ports/1/hw_counters && cat sent_pkts rcvd_pkts'
packets() {
    (eval "$counters")
    [ "$ROLE" = a ] && /polder/rsh vmb "$counters"
}

# The network fails once FILE is there, and is mended.
cut_after() {
    until [ -e "$1" ]; do sleep 0.05; done
    ip link set $device down
    echo "guest: network is down"
}
mend() {
    kill "$cutter" 2>/dev/null
    ip link set $device up
    await_address
}

# A job over its limit: say how things stand, and have its ranks here print where they are.
explain() {
    ip -br link
    grep . /sys/class/infiniband/rxe0/ports/1/hw_counters/*
    # Packets that still come are slowness, not a stall; so is a machine that took long to start.
    sleep 10
    echo "10 s later: $(packets | tr '\n' ' ')"
    cat /proc/uptime /proc/loadavg
    ls /run/checkpoints 2>/dev/null
    for process in /proc/[0-9]*; do
        case $(readlink "$process/exe") in
        */gpt | */verbs_coll)
            echo "$process waits in $(cat "$process/wchan")"
            kill -ABRT "${process#/proc/}"
            ;;
        esac
    done
}

# job NAME SECONDS COMMAND...
job() {
    local name=$1 limit=$2 before after
    shift 2
    before=$(packets)
    (sleep "$limit" && explain >"/polder/$name.stuck" 2>&1) &
    watcher=$!
    timeout -k 5 "$((limit + 30))" "$@" >"/polder/$name.out" 2>&1 </dev/null
    status=$?
    kill $watcher 2>/dev/null
    [ -e "/polder/$name.stuck" ] && status=124
    after=$(packets)
    paste <(echo "$before") <(echo "$after") | awk -v status=$status \
        'BEGIN { printf "%d", status } { printf " %d", $2 - $1 } END { print "" }' >facts
    cp facts "/polder/$name.facts"
    echo "guest: $name: $(cat "/polder/$name.facts") (after $(cut -d' ' -f1 /proc/uptime) s)"
}

network
if [ "$ROLE" = b ]; then
    busybox nc -ll -p 2323 -e /bin/bash >/dev/null 2>&1 &
    touch /polder/ready
    while [ ! -e /polder/done ]; do sleep 0.3; done
    exit 0
fi
trap 'touch /polder/done' EXIT
if [ "$ROLE" = a ]; then
    for _ in $(seq 600); do
        [ -e /polder/ready ] && /polder/rsh vmb true 2>/dev/null && break
        sleep 0.2
    done
fi
. /polder/jobs.sh
