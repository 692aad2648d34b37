#!/bin/busybox sh
# Every guest begins so: the usual places are mounted, and the modules are there.
/bin/busybox --install -s /bin
export PATH=/bin LD_LIBRARY_PATH=/lib
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
for module in /modules/*.ko.xz; do
	unxz "$module"
	insmod "${module%.xz}" || echo "insmod $module failed"
done

