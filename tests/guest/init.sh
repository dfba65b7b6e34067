#!/bin/busybox sh
# The whole user space of the test guest. What to do comes on the kernel's command line:
#   tg.nicN=ADDRESS[,ADDRESS..]      addresses of ethN
#   tg.vlanN=ID,ADDRESS[,ADDRESS..]  a VLAN on ethN and its addresses
#   tg.serve=ADDRESS                 SIP servers that echo RTP (by UDP and by TCP), and an iperf3 server, there
#   tg.relay=ADDRESS                 a SIP proxy and registrar and its media relay there
#   tg.accounts=ADDRESS              two iperf3 servers there, one a direction
#   tg.router=all|tcp|nothing        bridge eth0 and eth1; what comes in at eth0 goes through sch_plug on ifb0
#   tg.phone=ADDRESS                 a phone there that answers by TLS, with DTLS-SRTP
#   tg.teller=WORD[,WORD..]          start the teller with these words (see src/bin/teller.rs)
#   tg.beacon=WORD[,WORD..]          start the beacon with these words (see src/bin/beacon.rs)
# Then it takes commands from the serial line: "ID COMMAND" is answered by "TG-DONE ID STATUS".
/bin/busybox mkdir -p /bin /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
stty -F /dev/ttyS0 -echo raw opost onlcr

while read -r module; do
    insmod "/lib/modules/$module" || echo "GUEST-FAULT module $module"
done </etc/modules

ip link set lo up
# Nobody may have been told of the VM yet: no router solicitation, no duplicate address detection.
echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad
echo 0 >/proc/sys/net/ipv6/conf/default/router_solicitations

certificate() { # NAME KEY CERTIFICATE
    # An elliptic key: an RSA one takes an emulated CPU seconds.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=$1" \
        -config /dev/null -keyout "$2" -out "$3" >/tmp/openssl.log 2>&1 ||
        echo "GUEST-FAULT no certificate: $(cat /tmp/openssl.log)"
}

# Not busybox's own.
tc() { /usr/sbin/tc "$@"; }

# What of eth0's input waits at the IFB. As Remus's script does it: nothing but IPv4 is ever redirected.
router_takes() { # all | tcp | nothing
    tc qdisc del dev eth0 ingress 2>/dev/null
    tc qdisc add dev eth0 ingress || return 1
    case $1 in
    all) set -- match u32 0 0 ;;
    tcp) set -- match ip protocol 6 0xff ;;
    *) return 0 ;;
    esac
    tc filter add dev eth0 parent ffff: protocol ip u32 "$@" action mirred egress redirect dev ifb0
}

router() { # WHAT
    brctl addbr br0 || return 1
    for device in eth0 eth1; do
        until [ -e "/sys/class/net/$device" ]; do usleep 20000; done
        echo 1 >"/proc/sys/net/ipv6/conf/$device/disable_ipv6"
        brctl addif br0 "$device" && ip link set "$device" up || return 1
    done
    echo 1 >/proc/sys/net/ipv6/conf/br0/disable_ipv6
    ip link set br0 up && ip link set ifb0 up || return 1
    # 10 MB, as Remus's script has it. A new plug holds: it is let go before anything comes.
    tc qdisc add dev ifb0 root plug limit 10000000 && tc qdisc change dev ifb0 root plug release_indefinite || return 1
    router_takes "$1" || return 1
    stty -F /dev/ttyS1 raw -echo
    plugger ifb0 /dev/ttyS1 &
    # What is said before it listens is lost.
    until ls -l "/proc/$!/fd" 2>/dev/null | grep -q ttyS1; do usleep 20000; done
}

addresses() { # DEVICE ADDRESS,ADDRESS
    for address in $(echo "$2" | tr , ' '); do
        case $address in
        *:*) ip -6 address add "$address" dev "$1" ;;
        *.*) ip address add "$address" broadcast + dev "$1" ;;
        *) continue ;;
        esac || echo "GUEST-FAULT address $address of $1"
    done
    ip link set "$1" up || echo "GUEST-FAULT $1 does not come up"
}

for word in $(cat /proc/cmdline); do
    value=${word#*=}
    case $word in
    tg.nic*)
        device=eth${word%%=*}
        device=eth${device#ethtg.nic}
        tries=0
        until [ -e "/sys/class/net/$device" ] || [ $tries = 50 ]; do
            tries=$((tries + 1))
            usleep 20000
        done
        echo 0 >"/proc/sys/net/ipv6/conf/$device/accept_dad"
        echo 0 >"/proc/sys/net/ipv6/conf/$device/router_solicitations"
        addresses "$device" "$value"
        ;;
    tg.vlan*)
        device=${word%%=*}
        device=eth${device#tg.vlan}
        id=${value%%,*}
        ip link add link "$device" name "$device.$id" type vlan id "$id" ||
            echo "GUEST-FAULT vlan $id on $device"
        addresses "$device.$id" "${value#*,}"
        ;;
    tg.serve=*)
        sipp -sn uas -rtp_echo -i "$value" -p 5060 -bg -nostdin >/tmp/sipp.log 2>&1
        sipp -sn uas -rtp_echo -t t1 -i "$value" -p 5060 -mp 7000 -bg -nostdin >/tmp/sipp-tcp.log 2>&1
        iperf3 -s -D >/tmp/iperf3.log 2>&1
        ;;
    tg.relay=*)
        # One thread: several send packets of one stream out of order.
        rtpengine -f -E -L 4 --table=-1 --num-threads=1 -i "$value" -n 127.0.0.1:2223 -m 30000 -M 30200 --pidfile=/run/rtpengine.pid \
            >/tmp/rtpengine.log 2>&1 &
        certificate "$value" /etc/kamailio/key.pem /etc/kamailio/cert.pem
        kamailio -f /etc/kamailio/kamailio.cfg -DD -E -m 32 -M 4 -Y /tmp -P /run/kamailio.pid >/tmp/kamailio.log 2>&1 &
        tries=0
        until netstat -ltn | grep -q ":5061 " && netstat -lun | grep -q ":2223 "; do
            tries=$((tries + 1))
            [ $tries = 300 ] && echo "GUEST-FAULT no relay: $(tail -n 1 /tmp/kamailio.log /tmp/rtpengine.log)" && break
            usleep 100000
        done
        ;;
    tg.accounts=*)
        iperf3 -s -D -B "$value" -p 5201 >/tmp/iperf3.log 2>&1
        iperf3 -s -D -B "$value" -p 5202 >/tmp/iperf3-2.log 2>&1
        ;;
    tg.router=*)
        router "$value" || echo "GUEST-FAULT no router"
        ;;
    tg.phone=*)
        certificate "$value" /etc/phone/key.pem /etc/phone/cert.pem
        cat /etc/phone/key.pem >>/etc/phone/cert.pem
        baresip -f /etc/phone >/tmp/phone.log 2>&1 &
        ;;
    tg.teller=*)
        # shellcheck disable=SC2046 # the words are meant to be split
        teller $(echo "$value" | tr , ' ') &
        ;;
    tg.beacon=*)
        # shellcheck disable=SC2046 # the words are meant to be split
        beacon $(echo "$value" | tr , ' ') &
        ;;
    esac
done
echo GUEST-READY
while read -r id command; do
    eval "$command"
    echo "TG-DONE $id $?"
done </dev/ttyS0
