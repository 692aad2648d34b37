# Linux on the same disk: has fio load it as the console asks, `load read 32 20000`, and says how many blocks of 4 KiB were read or written.

n=0
while [ ! -b /dev/nvme0n1 ] && [ $n -lt 200 ]; do
	usleep 100000
	n=$((n + 1))
done

# As lean as fio can be had: whatever there is to submit and to complete goes in one call, buffers and file are known to the kernel beforehand, and no clock is read.
load() {
	kilobytes=$(fio --name=load --filename=/dev/nvme0n1 --thread --cpus_allowed=0 --ioengine=io_uring --direct=1 --fixedbufs --registerfiles \
		--rw="rand$1" --bs=4k --number_ios="$3" --norandommap --iodepth="$2" --iodepth_batch_submit="$2" --iodepth_batch_complete_min=1 \
		--iodepth_batch_complete_max="$2" --gtod_reduce=1 --zero_buffers --disk_util=0 --output-format=terse </dev/null |
		awk -F ';' '{ print $6 + $47 }')
	echo "load: $((kilobytes / 4)) done"
}

while :; do
	printf 'redleaf> '
	read -r line || poweroff -f
	case $line in load\ *) $line ;; esac
done
