# The judge: exercises Linux's ixgbe and says how it went, one line "check NAME ANSWER" each.

PEER=10.9.0.1

if [ ! -d /sys/class/net/eth0 ]; then
	echo "check loaded no"
	dmesg | tail -20
	poweroff -f
fi
echo "check loaded yes"
[ -e /sys/class/net/eth0/device/iommu_group ] && echo "check iommu on" || echo "check iommu off"

up() {
	ethtool -L eth0 combined 2
	ip address add 10.9.0.2/24 dev eth0
	ip link set eth0 up
	n=0
	while [ "$(cat /sys/class/net/eth0/carrier)" != 1 ] && [ $n -lt 100 ]; do
		usleep 100000
		n=$((n + 1))
	done
}

# How many of five pings were answered.
answered() {
	ping -c 5 -i 0.2 -W 2 $* $PEER | sed -n 's/.* \([0-9]*\) packets received.*/\1/p'
}

# $1 connections at once, each echoing $2 bytes; how many came back as they went.
echoed() {
	dd if=/dev/urandom of=/tmp/sent bs=$2 count=1 2>/dev/null
	for i in $(seq $1); do
		( timeout 20 nc $PEER 7 </tmp/sent >/tmp/back.$i
		cmp -s /tmp/sent /tmp/back.$i && echo same >/tmp/same.$i ) &
	done
	wait
	cat /tmp/same.* | wc -l
	rm -f /tmp/back.* /tmp/same.*
}

up
echo "check carrier $(cat /sys/class/net/eth0/carrier)"
echo "check speed $(cat /sys/class/net/eth0/speed)"
echo "check vectors $(grep -c eth0 /proc/interrupts)"
echo "check ping $(answered)"

# UDP both ways, several hundred datagrams: a file to the peer and back.
dd if=/dev/urandom of=/tmp/file bs=100000 count=1 2>/dev/null
tftp -p -l /tmp/file -r file $PEER && tftp -g -l /tmp/file.back -r file $PEER
cmp -s /tmp/file /tmp/file.back && echo "check udp same" || echo "check udp differs"

echo "check tcp $(echoed 8 300000)"

# What the card has counted (which the driver reads every two seconds) is what the driver has seen.
sleep 5
counter() {
	ethtool -S eth0 | sed -n "s/^ *$1: //p"
}
[ "$(counter rx_pkts_nic) $(counter tx_pkts_nic)" = "$(counter rx_packets) $(counter tx_packets)" ] &&
	echo "check statistics agree" || echo "check statistics differ"

# Resets under traffic, one for each new ring size: connections outlive them.
( sleep 1; ethtool -G eth0 rx 256 tx 256; sleep 3; ethtool -G eth0 rx 512 tx 512 ) &
echo "check tcp-resets $(echoed 4 2000000)"
wait
# The same without the card's help: checksums and segmentation by the guest's CPU.
ethtool -K eth0 rx off tx off tso off gso off gro off
echo "check tcp-plain $(echoed 4 300000)"

# Jumbo frames, several descriptors each.
ip link set eth0 mtu 9000
n=0
while [ "$(cat /sys/class/net/eth0/carrier)" != 1 ] && [ $n -lt 100 ]; do
	usleep 100000
	n=$((n + 1))
done
echo "check jumbo $(answered -s 8000)"

errors=$(cat /sys/class/net/eth0/statistics/rx_errors /sys/class/net/eth0/statistics/tx_errors | awk '{ n += $1 } END { print n }')
csum=$(ethtool -S eth0 | sed -n 's/.*rx_csum_offload_errors: //p')
echo "check errors $((errors + csum))"
ethtool -S eth0 | grep -v ' 0$' | head -60

# The driver's own offline tests: registers, EEPROM, interrupts, loopback, link.
ethtool -t eth0 offline >/tmp/selftest 2>&1
cat /tmp/selftest
echo "check selftest $(sed -n 's/The test result is //p' /tmp/selftest)"

rmmod ixgbe
insmod /modules/*-ixgbe.ko
up
echo "check reload $(answered)"
dmesg | grep -i -e ixgbe -e warn -e 'BUG' | tail -20
sync
poweroff -f
