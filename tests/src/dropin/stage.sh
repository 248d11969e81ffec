# Everything a container engine touches, in namespaces of its own: network, mounts, pids and cgroups.
# Called as: stage.sh NAME DIR COMMAND...; NAME is the cgroup below which everything happens, DIR becomes a tmpfs.
set -eu
name=$1 dir=$2
if [ "${MAGIKRUN_STAGE-outer}" = outer ]; then
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then hierarchies=/sys/fs/cgroup; else hierarchies=$(echo /sys/fs/cgroup/*/); fi
    for h in $hierarchies; do
        mkdir -p "$h/$name"
        # A v1 cpuset takes no process before it has processors and memory.
        for f in cpuset.cpus cpuset.mems; do
            if [ -e "$h/$f" ] && [ ! -e "$h/cgroup.controllers" ]; then cat "$h/$f" >"$h/$name/$f"; fi
        done
        echo $$ >"$h/$name/cgroup.procs"
    done
    export MAGIKRUN_STAGE=inner
    exec unshare --cgroup --net --mount --pid --fork --kill-child --mount-proc --propagation private bash "$0" "$@"
fi
unset MAGIKRUN_STAGE
shift 2
ip link set lo up
controllers=$(sed -n 's/^[0-9]*:\([^:]*\):.*/\1/p' /proc/self/cgroup)
v2=no; if [ -e /sys/fs/cgroup/cgroup.controllers ]; then v2=yes; fi
umount --recursive /sys/fs/cgroup
if [ $v2 = yes ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # No process beside child cgroups ("no internal processes").
    mkdir /sys/fs/cgroup/_stage
    echo $$ >/sys/fs/cgroup/_stage/cgroup.procs
else
    # The hybrid's unified hierarchy stays away: crun refuses hybrids.
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for c in $controllers; do
        mkdir "/sys/fs/cgroup/${c#name=}"
        case $c in
        name=*) mount -t cgroup -o "none,$c" cgroup "/sys/fs/cgroup/${c#name=}" ;;
        *) mount -t cgroup -o "$c" cgroup "/sys/fs/cgroup/$c" ;;
        esac
    done
fi
for d in /run /dev/shm "$dir"; do mount -t tmpfs -o mode=755 tmpfs "$d"; done
chmod 1777 /dev/shm
mkdir /run/netns /run/lock
# As PID 1 of the stage this shell reaps what the engines leave behind; when it ends, the kernel ends all of it.
"$@" &
wait $!
