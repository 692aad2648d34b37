//! The way in: what the kernel's binary hands over once the machine stands.

use alloc::{
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};

use bundle::{
    Bundle, BundleError,
    manifest::{DeviceMatch, Iommu, Manifest},
};
use interfaces::abi;

use crate::{
    console, control,
    device::{DeviceClass, Lease},
    domain::{self, Domain},
    feed,
    log::{self, Level},
    machine, packets, supervisor,
    thread::MAX_DOMAINS,
};

/// Everything that the core needs to start the box.
pub struct Boot {
    /// The bundle, as the boot loader or the rig brought it: page-aligned, never unmapped.
    pub bundle: &'static [u8],
    /// Whose signatures count.
    pub trust: bundle::Trust,
    /// Trusted device crates, asked in this order.
    pub devices: &'static [&'static dyn DeviceClass],
}

/// Why the box doesn't start at all.
#[derive(Debug)]
pub enum BootError {
    Bundle(BundleError),
    /// The box is not what the manifest expects: with what is there.
    Machine(String),
}

impl core::fmt::Display for BootError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            BootError::Bundle(error) => write!(f, "{error}"),
            BootError::Machine(words) => f.write_str(words),
        }
    }
}

/// Starts the supervisor, the console and, by the manifest, the domains; returns when they are on their way. The caller (a thread with a block of
/// [`crate::thread::ThreadBlock::resident`]) then idles. Threads of the platform work by now, on all CPUs.
pub fn boot(boot: Boot) -> Result<(), BootError> {
    let bundle = Bundle::parse(boot.bundle, boot.trust).map_err(BootError::Bundle)?;
    let manifest = bundle.manifest();
    prepare(manifest)?;
    for (place, spec) in manifest.domains.iter().enumerate() {
        // A domain whose image is unusable doesn't start; the rest of the box goes on.
        let image = bundle.image(spec.image).map(|image| image.elf).map_err(|error| error.to_string());
        let lease = match &spec.device {
            None => None,
            Some(wanted) => Some(device(wanted, &spec.name, &spec.cpus, boot.devices)?),
        };
        let domain = Domain::new(place + 1, spec.clone(), image, lease).map_err(BootError::Machine)?;
        domain::enlist(domain);
    }
    if manifest.console.feed {
        feed::spawn();
    }
    supervisor::spawn();
    control::spawn();
    console::spawn(manifest.console.fault_injection);
    Ok(())
}

/// What comes before the first domain.
fn prepare(manifest: &Manifest) -> Result<(), BootError> {
    // SAFETY: the table is a static of this image, and its functions do what they say.
    unsafe { abi::connect(&crate::table::INSIDE) };
    domain::make_absent();
    if manifest.domains.len() >= MAX_DOMAINS {
        return Err(BootError::Machine(format!(
            "this kernel runs {} domains, the manifest has {}",
            MAX_DOMAINS - 1,
            manifest.domains.len()
        )));
    }
    let (wanted, there) = (manifest.machine.cpus as usize, machine().cpus());
    if there < wanted {
        return Err(BootError::Machine(format!("the manifest expects {wanted} CPUs, the box has {there}")));
    }
    match manifest.machine.iommu {
        Iommu::Off => {
            log::kernel(Level::Info, format_args!("devices reach all memory: the manifest says iommu = \"off\""))
        }
        _ if machine().confine_devices() => {
            log::kernel(Level::Info, format_args!("the IOMMU confines each device to its lease and its pool"));
        }
        Iommu::Use => log::kernel(Level::Info, format_args!("no IOMMU: devices reach all memory")),
        Iommu::Require => {
            return Err(BootError::Machine(
                "the manifest says iommu = \"require\", and this box has none that can be used: switch VT-d on in its firmware, or say \"use\""
                    .into(),
            ));
        }
    }
    if !packets::make(manifest.machine.packet_buffers as usize) {
        return Err(BootError::Machine(format!("no memory for {} packet buffers", manifest.machine.packet_buffers)));
    }
    log::kernel(Level::Info, format_args!("{}: {} domains, {there} CPUs", manifest.name, manifest.domains.len()));
    Ok(())
}

/// The lease of the one device that the manifest means; absent or ambiguous stops the boot with a list of what is there.
fn device(
    wanted: &DeviceMatch,
    domain: &str,
    cpus: &[u32],
    classes: &[&'static dyn DeviceClass],
) -> Result<Arc<dyn Lease>, BootError> {
    let cpus: Vec<usize> = cpus.iter().map(|cpu| *cpu as usize).collect();
    let there = machine().pci();
    let mut found = Vec::new();
    for identity in &there {
        let named = match wanted {
            DeviceMatch::Id { vendor, device } => (identity.vendor_id, identity.device_id) == (*vendor, *device),
            DeviceMatch::Address(address) => {
                (identity.segment, identity.bus, identity.device, identity.function)
                    == (address.segment, address.bus, address.device, address.function)
            }
            // By what only the device's own crate can read.
            DeviceMatch::Mac(_) | DeviceMatch::Serial(_) => true,
        };
        let Some(class) = classes.iter().find(|class| named && class.matches(identity)) else { continue };
        let Some(function) = machine().pci_open(identity) else { continue };
        let lease = class.lease(function, &cpus).map_err(BootError::Machine)?;
        let meant = match wanted {
            DeviceMatch::Mac(mac) => lease.mac() == Some(*mac),
            DeviceMatch::Serial(serial) => lease.serial().as_deref() == Some(serial),
            _ => true,
        };
        if meant {
            found.push(lease);
        }
    }
    match (found.len(), found.pop()) {
        (1, Some(lease)) => Ok(lease),
        (count, _) => {
            let list: Vec<String> = there
                .iter()
                .map(|at| {
                    format!(
                        "{:04x}:{:02x}:{:02x}.{} {:04x}:{:04x} class {:06x}",
                        at.segment, at.bus, at.device, at.function, at.vendor_id, at.device_id, at.class
                    )
                })
                .collect();
            let problem = if count == 0 { "is not there" } else { "is there more than once" };
            Err(BootError::Machine(format!(
                "{domain}: the device {wanted} {problem}; the box has: {}",
                list.join(", ")
            )))
        }
    }
}
