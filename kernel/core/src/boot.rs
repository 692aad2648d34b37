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
    machine, packets,
    platform::PciIdentity,
    random, supervisor,
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
    let mut devices = Assignment::new(machine().pci());
    for (place, spec) in manifest.domains.iter().enumerate() {
        // A domain whose image is unusable doesn't start; the rest of the box goes on.
        let image = bundle.image(spec.image).map(|image| image.elf).map_err(|error| error.to_string());
        let lease = match &spec.device {
            None => None,
            Some(wanted) => {
                let lease_of = |identity: &PciIdentity| lease_of(boot.devices, identity, &spec.cpus);
                Some(devices.device(wanted, &spec.name, lease_of)?)
            }
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
    random::seed();
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
    let iommu = manifest.machine.iommu;
    let said = confine(iommu, || machine().confine_devices()).map_err(BootError::Machine)?;
    log::kernel(Level::Info, format_args!("{said}"));
    let (buffers, bytes) = (manifest.machine.packet_buffers, manifest.machine.packet_bytes);
    if !packets::make(buffers as usize, bytes, iommu == Iommu::Strict) {
        return Err(BootError::Machine(format!("no memory for {buffers} packet buffers of {bytes} bytes")));
    }
    log::kernel(Level::Info, format_args!("{}: {} domains, {there} CPUs", manifest.name, manifest.domains.len()));
    Ok(())
}

/// Confines devices as the manifest wants, where `confine_devices` can; what the log is to say of it, or why the box doesn't start.
fn confine(wanted: Iommu, confine_devices: impl FnOnce() -> bool) -> Result<&'static str, String> {
    let word = match wanted {
        Iommu::Off => return Ok("devices reach all memory: the manifest says iommu = \"off\""),
        Iommu::Use => "use",
        Iommu::Require => "require",
        Iommu::Strict => "strict",
    };
    match (confine_devices(), wanted) {
        (true, Iommu::Strict) => {
            Ok("the IOMMU confines each device to its lease and its pool, and of packet buffers to those in its rings")
        }
        (true, _) => Ok("the IOMMU confines each device to its lease and its pool"),
        (false, Iommu::Use) => Ok("no IOMMU: devices reach all memory"),
        (false, _) => Err(format!(
            "the manifest says iommu = \"{word}\", and this box has none that can be used: switch VT-d on in its firmware, or say \"use\""
        )),
    }
}

/// What is known of the devices while the manifest's domains get theirs.
struct Assignment {
    there: Vec<PciIdentity>,
    /// What has been given away, and to which domain: a device has one lease.
    given: Vec<(PciIdentity, String)>,
}

impl Assignment {
    fn new(there: Vec<PciIdentity>) -> Assignment {
        Assignment { there, given: Vec::new() }
    }

    /// The lease of the one device that the manifest means; absent, ambiguous or given away stops the boot with a list of what is there. `lease_of` makes
    /// the lease of a function that some trusted device crate drives.
    fn device(
        &mut self,
        wanted: &DeviceMatch,
        domain: &str,
        mut lease_of: impl FnMut(&PciIdentity) -> Result<Option<Arc<dyn Lease>>, String>,
    ) -> Result<Arc<dyn Lease>, BootError> {
        let mut found = Vec::new();
        let mut before = None;
        for identity in &self.there {
            let named = match wanted {
                DeviceMatch::Id { vendor, device } => (identity.vendor_id, identity.device_id) == (*vendor, *device),
                DeviceMatch::Address(address) => {
                    (identity.segment, identity.bus, identity.device, identity.function)
                        == (address.segment, address.bus, address.device, address.function)
                }
                // By what only the device's own crate can read.
                DeviceMatch::Mac(_) | DeviceMatch::Serial(_) => true,
            };
            if !named {
                continue;
            }
            if let Some((_, owner)) = self.given.iter().find(|(given, _)| given == identity) {
                before = Some(owner.clone());
                // Which of several is meant by an id doesn't depend on the order of the domains.
                if matches!(wanted, DeviceMatch::Id { .. }) {
                    found.push((*identity, None));
                }
                continue;
            }
            let Some(lease) = lease_of(identity).map_err(BootError::Machine)? else { continue };
            let meant = match wanted {
                DeviceMatch::Mac(mac) => lease.mac() == Some(*mac),
                DeviceMatch::Serial(serial) => lease.serial().as_deref() == Some(serial),
                _ => true,
            };
            if meant {
                found.push((*identity, Some(lease)));
            }
        }
        let problem = match (found.len(), found.pop()) {
            (1, Some((identity, Some(lease)))) => {
                self.given.push((identity, domain.into()));
                return Ok(lease);
            }
            (0 | 1, _) => match before {
                Some(owner) => format!("is not there, or is {owner}'s already"),
                None => "is not there".into(),
            },
            _ => "is there more than once: name one by its address or mac".into(),
        };
        Err(BootError::Machine(format!("{domain}: the device {wanted} {problem}; the box has: {}", self.list())))
    }

    fn list(&self) -> String {
        let lines: Vec<String> = self
            .there
            .iter()
            .map(|at| {
                format!(
                    "{:04x}:{:02x}:{:02x}.{} {:04x}:{:04x} class {:06x}",
                    at.segment, at.bus, at.device, at.function, at.vendor_id, at.device_id, at.class
                )
            })
            .collect();
        lines.join(", ")
    }
}

/// The lease of a function, if one of the classes drives it.
fn lease_of(
    classes: &[&'static dyn DeviceClass],
    identity: &PciIdentity,
    cpus: &[u32],
) -> Result<Option<Arc<dyn Lease>>, String> {
    let cpus: Vec<usize> = cpus.iter().map(|cpu| *cpu as usize).collect();
    let Some(class) = classes.iter().find(|class| class.matches(identity)) else { return Ok(None) };
    let Some(function) = machine().pci_open(identity) else { return Ok(None) };
    class.lease(function, &cpus).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Recipient;
    use bundle::manifest::PciAddress;
    use interfaces::{InterfaceId, abi::RawObject};

    struct Port([u8; 6]);

    impl Lease for Port {
        fn mac(&self) -> Option<[u8; 6]> {
            Some(self.0)
        }
        fn interface(&self) -> InterfaceId {
            unreachable!("nobody asks here")
        }
        fn open(&self, _driver: &Recipient) -> RawObject {
            unreachable!("nobody drives here")
        }
    }

    const CARD: DeviceMatch = DeviceMatch::Id { vendor: 0x8086, device: 0x10FB };

    fn port(function: u8) -> PciIdentity {
        PciIdentity {
            segment: 0,
            bus: 1,
            device: 0,
            function,
            vendor_id: 0x8086,
            device_id: 0x10FB,
            revision: 1,
            class: 0x02_0000,
        }
    }

    fn at(function: u8) -> DeviceMatch {
        DeviceMatch::Address(PciAddress { segment: 0, bus: 1, device: 0, function })
    }

    /// The MAC that a domain gets, or why it gets none.
    fn ask(box_: &mut Assignment, wanted: &DeviceMatch, domain: &str) -> Result<[u8; 6], String> {
        let lease = box_.device(wanted, domain, |identity| {
            Ok(Some(Arc::new(Port([2, 0, 0, 0, 0, identity.function])) as Arc<dyn Lease>))
        });
        lease.map(|lease| lease.mac().unwrap_or_default()).map_err(|error| error.to_string())
    }

    /// A card with two ports: each is named by its address or mac, and by their common id neither is.
    #[test]
    fn two_ports_are_told_apart() {
        let mut box_ = Assignment::new(alloc::vec![port(0), port(1)]);
        let ambiguous = ask(&mut box_, &CARD, "ixgbe0").unwrap_err();
        assert!(ambiguous.contains("more than once") && ambiguous.contains("0000:01:00.1 8086:10fb"), "{ambiguous}");
        assert_eq!(ask(&mut box_, &DeviceMatch::Mac([2, 0, 0, 0, 0, 1]), "ixgbe0"), Ok([2, 0, 0, 0, 0, 1]));
        let still = ask(&mut box_, &CARD, "ixgbe1").unwrap_err();
        assert!(still.contains("more than once"), "what an id means doesn't depend on who came first: {still}");
        assert_eq!(ask(&mut box_, &at(0), "ixgbe1"), Ok([2, 0, 0, 0, 0, 0]));
    }

    /// A box whose manifest wants devices confined, by the buffer or not, doesn't start where nothing can, and says which word is to blame; where the manifest doesn't insist, it starts.
    #[test]
    fn a_box_without_an_iommu_is_refused_where_one_is_wanted() {
        for (wanted, word) in [(Iommu::Require, "\"require\""), (Iommu::Strict, "\"strict\"")] {
            let refused = confine(wanted, || false).unwrap_err();
            assert!(refused.contains(word) && refused.contains("VT-d"), "{refused}");
            assert!(confine(wanted, || true).is_ok_and(|said| said.contains("confines")));
        }
        assert!(confine(Iommu::Use, || false).is_ok_and(|said| said.contains("reach all memory")));
        assert!(confine(Iommu::Off, || panic!("nobody asked for it")).is_ok());
    }

    /// A device has one lease, however it is named: two leases would be two owners of one DMA engine.
    #[test]
    fn a_device_is_given_once() {
        let mut box_ = Assignment::new(alloc::vec![port(0)]);
        assert!(ask(&mut box_, &CARD, "ixgbe0").is_ok());
        for again in [CARD, at(0), DeviceMatch::Mac([2, 0, 0, 0, 0, 0])] {
            let refused = ask(&mut box_, &again, "ixgbe1").unwrap_err();
            assert!(refused.contains("ixgbe0's already"), "{refused}");
        }
        let absent = ask(&mut Assignment::new(alloc::vec![port(0)]), &at(1), "ixgbe0").unwrap_err();
        assert!(absent.contains("is not there; the box has: 0000:01:00.0"), "{absent}");
    }
}
