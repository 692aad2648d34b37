# The judge: runs DPDK's testpmd on the card in one forwarding mode after the other. What comes back
# is judged at the cable's far end.

# DPDK loads no plugin from below a folder that everybody may write to.
chmod 755 / /lib
mkdir -p /dev/hugepages /var/run
mount -t hugetlbfs huge /dev/hugepages
echo 80 >/proc/sys/vm/nr_hugepages

CARD=0000:01:00.0
echo uio_pci_generic >/sys/bus/pci/devices/$CARD/driver_override
echo $CARD >/sys/bus/pci/drivers_probe
[ -e /dev/uio0 ] && echo "check device bound" || echo "check device missing"

# testpmd for $1 seconds with these options; it ends when its input does.
forward() {
	seconds=$1
	shift
	sleep $seconds | dpdk-testpmd -d /lib/librte_mempool_ring.so -l 0,1 --in-memory --no-telemetry --iova-mode=pa \
		-a $CARD -- --total-num-mbufs=4096 --rxd=256 --txd=256 --nb-cores=1 --auto-start "$@" 2>&1 | grep -v '^$'
}

forward 12 --forward-mode=io
forward 12 --forward-mode=mac
forward 12 --forward-mode=macswap --rxq=2 --txq=2 --rss-udp
forward 12 --forward-mode=icmpecho
# Sums by the card: IPv4, UDP and TCP on transmission, checked on reception.
forward 12 --forward-mode=csum --tx-offloads=0xe --enable-rx-cksum
poweroff -f
