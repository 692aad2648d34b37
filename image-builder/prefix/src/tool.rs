//! The tools that can be asked for, and the packages that they come from.

use std::fmt;

/// Something from Debian's archive. Each has a tree of its own, with all that it needs to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    /// QEMU of 10.1 or later (for vfio-user), with SeaBIOS and OVMF.
    Qemu,
    /// GRUB for BIOS and UEFI, with `grub-mkimage`.
    Grub,
    Nginx,
    /// Tells boxes their addresses: DHCP, router advertisements.
    Dnsmasq,
    /// The server that `services/kv` is compared with.
    Memcached,
    /// Clients of web servers and of memcached, in C, Python and Perl, that judge `services/httpd` and `services/kv`.
    Clients,
    /// Chromium without a window, another judge of `services/httpd`.
    Browser,
    /// `ip`, `tc`, `ss`, `ethtool`.
    Network,
    /// `sgdisk`, `fsck.vfat`: judges of our disk images.
    Disk,
    /// A Linux kernel with its modules and a static busybox: the guest that judges our device model.
    Linux,
    /// Loads disks: what `drivers/nvme` is compared with is Linux's driver under it.
    Fio,
    /// Sets up the balancer in Linux's kernel, which `services/maglev` is compared with.
    Ipvs,
    /// DPDK with testpmd.
    Dpdk,
    /// `debootstrap` and Debian's keys: makes the roots of fresh machines.
    Debootstrap,
}

impl Tool {
    pub const ALL: [Tool; 14] = [
        Tool::Qemu,
        Tool::Grub,
        Tool::Nginx,
        Tool::Dnsmasq,
        Tool::Memcached,
        Tool::Clients,
        Tool::Browser,
        Tool::Network,
        Tool::Disk,
        Tool::Linux,
        Tool::Fio,
        Tool::Ipvs,
        Tool::Dpdk,
        Tool::Debootstrap,
    ];

    /// Changes whenever the list of packages does in a way that old trees don't satisfy.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Tool::Qemu => "qemu-1",
            Tool::Grub => "grub-1",
            Tool::Nginx => "nginx-1",
            Tool::Dnsmasq => "dnsmasq-1",
            Tool::Memcached => "memcached-1",
            Tool::Clients => "clients-1",
            Tool::Browser => "browser-1",
            Tool::Network => "network-1",
            Tool::Disk => "disk-1",
            Tool::Linux => "linux-1",
            Tool::Fio => "fio-1",
            Tool::Ipvs => "ipvs-1",
            Tool::Dpdk => "dpdk-1",
            Tool::Debootstrap => "debootstrap-1",
        }
    }

    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Tool::Qemu => &["qemu-system-x86", "seabios", "ovmf"],
            Tool::Grub => &["grub-pc-bin", "grub-efi-amd64-bin", "grub-common"],
            Tool::Nginx => &["nginx"],
            Tool::Dnsmasq => &["dnsmasq-base"],
            Tool::Memcached => &["memcached"],
            Tool::Clients => &[
                "curl",
                "wrk",
                "apache2-utils",
                "libmemcached-tools",
                "python3-pymemcache",
                "python3-memcache",
                "python3-pylibmc",
                "libcache-memcached-perl",
                "libcache-memcached-fast-perl",
            ],
            Tool::Browser => &["chromium-headless-shell"],
            Tool::Network => &["iproute2", "ethtool"],
            Tool::Disk => &["gdisk", "dosfstools"],
            Tool::Linux => &["linux-image-amd64", "busybox-static"],
            Tool::Fio => &["fio"],
            Tool::Ipvs => &["ipvsadm"],
            Tool::Dpdk => &["dpdk", "dpdk-dev"],
            Tool::Debootstrap => &["debootstrap", "debian-archive-keyring"],
        }
    }

    /// The suite that its packages are taken from; dependencies come from wherever they are.
    pub(crate) fn suite(self) -> &'static str {
        match self {
            // Debian 13 itself has QEMU 10.0; vfio-user came with 10.1.
            Tool::Qemu => "trixie-backports",
            _ => "trixie",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tool::Qemu => "QEMU with its firmware",
            Tool::Grub => "GRUB",
            Tool::Nginx => "nginx",
            Tool::Dnsmasq => "dnsmasq",
            Tool::Memcached => "memcached",
            Tool::Clients => "clients of web servers and key-value stores",
            Tool::Browser => "a browser",
            Tool::Network => "iproute2 and ethtool",
            Tool::Disk => "gdisk and dosfstools",
            Tool::Linux => "a Linux kernel",
            Tool::Fio => "fio",
            Tool::Ipvs => "ipvsadm",
            Tool::Dpdk => "DPDK",
            Tool::Debootstrap => "debootstrap",
        })
    }
}
