#!/bin/sh
# The whole user space of an emulated Dom0. Words on the kernel's command line:
#   lab.link=ADDRESS   its address on the link between the hosts (eth0)
# Then it takes commands from the second serial line: "ID COMMAND" is answered by "TG-DONE ID STATUS".
/bin/busybox mkdir -p /bin /sbin /proc /sys /dev /tmp /run /var/run /var/log/xen/console /var/lib/xen/dump /var/lib/xenstored
/bin/busybox --install -s /bin 2>/dev/null || true
export PATH=/usr/sbin:/usr/bin:/usr/lib/xen-4.17/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t tmpfs run /var/run
mkdir -p /run/tidegate /var/run/xen /var/run/xenstored
chmod 700 /run/tidegate
exec </dev/console >/dev/console 2>&1
echo "DOM0 init at $(cut -d' ' -f1 /proc/uptime)"

while read -r module; do
    insmod "/lib/modules/$module" || echo "DOM0-FAULT module $module"
done </etc/modules
mount -t xenfs xenfs /proc/xen
hostname dom0
# DPDK loads nothing from below a directory that everybody may write to.
chmod 755 /
ip link set lo up
link=$(sed -n 's/.*lab\.link=\([0-9.]*\).*/\1/p' /proc/cmdline)
ip address add "$link/24" dev eth0
ip link set eth0 up
# The wire is the plane's: the kernel has nothing to say there.
echo 1 >/proc/sys/net/ipv6/conf/eth1/disable_ipv6
ip link set eth1 up

xenstored --pid-file /var/run/xenstored.pid || echo "DOM0-FAULT xenstored"
xen-init-dom0 || echo "DOM0-FAULT xen-init-dom0"
xenconsoled --log=guest --log-dir=/var/log/xen/console --pid-file=/var/run/xenconsoled.pid || echo "DOM0-FAULT xenconsoled"
xl list || echo "DOM0-FAULT xl"
wait_for() { # CONDITION, FILE.. to show when it does not come true
    condition=$1 tries=0
    shift
    until eval "$condition"; do
        tries=$((tries + 1))
        if [ $tries -gt 150 ]; then
            tail -n 20 "$@"
            return 1
        fi
        sleep 0.2
    done
}
stty -F /dev/ttyS1 -echo raw opost onlcr
exec </dev/ttyS1 >/dev/ttyS1 2>&1
echo "DOM0-READY $(cut -d' ' -f1 /proc/uptime)"
while :; do
    read -r id command || { sleep 1; continue; }
    eval "$command"
    echo "TG-DONE $id $?"
done
