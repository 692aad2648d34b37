# A Linux host in the box's place: brings Linux's own driver up on the box's card, with the box's addresses, serves as /etc/serve says, and tells the lab.

# ADDRESS (with its prefix), ROUTER, CPUS
. /etc/place
# Nobody of the segment speaks IPv6, and Linux would ask.
for place in all default; do
	[ ! -d /proc/sys/net/ipv6 ] || echo 1 >/proc/sys/net/ipv6/conf/$place/disable_ipv6
done
ip link set lo up
# A queue for each CPU, as the box has.
ethtool -L eth0 combined "$CPUS"
ip address add "$ADDRESS" dev eth0
ip link set eth0 up
n=0
while [ "$(cat /sys/class/net/eth0/carrier)" != 1 ] && [ $n -lt 200 ]; do
	usleep 100000
	n=$((n + 1))
done
ip route add default via "$ROUTER"
. /etc/serve
read -r up idle </proc/uptime
echo "{\"event\":\"booted\",\"boot_ms\":${up%.*}000}" >/dev/ttyS1
while :; do
	sleep 86400
done
