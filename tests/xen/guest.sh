#!/bin/busybox sh
# shellcheck shell=dash
# The whole user space of the domain: the teller, at 10.9.0.2.
/bin/busybox mkdir -p /bin /proc /sys /dev /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
exec </dev/hvc0 >/dev/hvc0 2>&1

while read -r module; do
    insmod "/lib/modules/$module" || echo "GUEST-FAULT module $module"
done </etc/modules
ip link set lo up
tries=0
until [ -e /sys/class/net/eth0 ] || [ $tries = 250 ]; do
    tries=$((tries + 1))
    usleep 20000
done
ip address add 10.9.0.2/24 broadcast + dev eth0 && ip link set eth0 up || echo "GUEST-FAULT no eth0"
echo GUEST-READY
# shellcheck disable=SC2046 # the words are meant to be split
teller $(sed 's/.*tg\.teller=\([^ ]*\).*/\1/; s/,/ /g' /proc/cmdline)
echo "GUEST-FAULT the teller ended with $?"
sleep 1000000
