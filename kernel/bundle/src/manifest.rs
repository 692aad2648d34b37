//! The compiled manifest: what the builder made of the operator's TOML, and what the kernel starts from.
//!
//! Units are in the types. Domains stand in the order in which they start; since an import may only name an earlier domain,
//! the graph has no cycles. The kernel runs [`Manifest::check`] itself: it doesn't trust the builder to have done so.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;
use core::time::Duration;
use serde::{Deserialize, Serialize};

use crate::trust::Hash;

/// A span of time in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Nanos(pub u64);

impl From<Nanos> for Duration {
    fn from(nanos: Nanos) -> Duration {
        Duration::from_nanos(nanos.0)
    }
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bytes(pub u64);

/// Threads of a box, and those among them that are the kernel's own: some of its services, and one for each CPU.
pub const THREADS: u32 = 512;
pub const KERNEL_THREADS: u32 = 96;

/// How large a packet buffer may be, in a unit that devices know (`interfaces::packet`: `buffer_for`).
pub const PACKET_BYTES: RangeInclusive<u16> = 2 << 10..=16 << 10;
pub const PACKET_UNIT: u16 = 1 << 10;

/// Which incarnation of the manifest's types this is; the kernel refuses others.
pub const SCHEMA: u32 = 5;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: u32,
    /// The manifest's file name without `.toml`: what reports call this box.
    pub name: String,
    pub machine: Machine,
    pub console: Console,
    /// The images, in the order of the bundle's table: entry `i` of this list is entry `i + 1` there.
    pub images: Vec<ImageRef>,
    /// In the order in which they start.
    pub domains: Vec<Domain>,
}

/// What the manifest's `[box]` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The memory that the box must have at least; less stops the boot.
    pub memory: Bytes,
    /// The CPUs that the box must have at least.
    pub cpus: u32,
    /// Packet buffers in the kernel's pool.
    pub packet_buffers: u32,
    /// Bytes that each of them has for a frame.
    pub packet_bytes: u16,
    pub on_panic: PanicAction,
    pub iommu: Iommu,
}

/// Whether devices are confined to their own memory by the machine's IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Iommu {
    /// A box without one doesn't start.
    Require,
    /// If there is one.
    Use,
    Off,
    /// As `Require`; and a card reaches a packet buffer only while it is in one of the card's rings.
    Strict,
}

/// What the kernel does after it has printed its own panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PanicAction {
    Reset,
    Halt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// Whether the console has `crash`. A flashed image doesn't.
    pub fault_injection: bool,
    /// Whether the console also prints one machine-readable line a second for whoever watches the box.
    pub feed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    pub name: String,
    /// Of the image's bytes: binds this very image to this manifest.
    pub digest: Hash,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    pub name: String,
    /// Index into [`Manifest::images`].
    pub image: u32,
    pub device: Option<DeviceMatch>,
    /// Quota of the private heap, stacks and image.
    pub memory: Bytes,
    /// Quota on the exchange heap.
    pub exchange: Bytes,
    /// Threads, the one that starts it among them.
    pub threads: u32,
    /// Handles that it may hold.
    pub handles: u32,
    /// Packet buffers that it may keep while others go short.
    pub packet_buffers: u32,
    /// CPUs that the domain's threads may be pinned to, ascending.
    pub cpus: Vec<u32>,
    /// The longest visit; see the watchdog's rules for what counts.
    pub watchdog: Nanos,
    /// What a start may take, waiting included; 0: as long as it likes.
    pub start_timeout: Nanos,
    /// Stack that a caller must have left for a visit.
    pub min_stack: Bytes,
    pub restart: Restart,
    pub imports: Vec<Import>,
    pub exports: Vec<Export>,
    /// The domain's own `Config`, as postcard bytes made by its own type; opaque to the kernel.
    pub config: Vec<u8>,
}

/// How a device is named. Absent or ambiguous stops the boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceMatch {
    Id { vendor: u16, device: u16 },
    Mac([u8; 6]),
    Serial(String),
    Address(PciAddress),
}

/// `0000:03:00.0`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PciAddress {
    pub segment: u16,
    pub bus: u8,
    pub device: u8,
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment, self.bus, self.device, self.function)
    }
}

impl fmt::Display for DeviceMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceMatch::Id { vendor, device } => write!(f, "id {vendor:04x}:{device:04x}"),
            DeviceMatch::Mac([a, b, c, d, e, g]) => {
                write!(f, "mac {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
            DeviceMatch::Serial(serial) => write!(f, "serial {serial}"),
            DeviceMatch::Address(address) => write!(f, "address {address}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    pub policy: RestartPolicy,
    /// Before a restart; doubles while generations live for less than 16 times the delay before them, and begins anew after one that lived longer.
    pub delay: Nanos,
    pub max_delay: Nanos,
    /// So many restarts inside `limit_interval`, then the domain is given up.
    pub limit_burst: u32,
    pub limit_interval: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    Never,
    OnFailure,
    Always,
}

/// Interfaces by which the kernel's trusted device layer serves a driver. An import of such a type is wired to the domain's own
/// [`Domain::device`], never to a domain.
pub const DEVICE_INTERFACES: [&str; 2] = ["IxgbeDevice", "NvmeDevice"];

/// An import port and the edge that wires it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    pub port: String,
    pub from: Source,
    pub interface: String,
}

/// What an import is wired to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The importer's own device, served by the kernel; the interface is one of [`DEVICE_INTERFACES`].
    Device,
    /// An export of another domain: its index in [`Manifest::domains`], always lower than the importer's own, and its port.
    Domain { index: u32, port: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    pub port: String,
    pub interface: String,
}

/// What is wrong with a compiled manifest. None of these comes out of a builder that works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// The bytes don't decode.
    Malformed,
    /// Written for another kernel.
    Schema { found: u32 },
    /// Two domains have one name.
    DuplicateDomain { domain: String },
    /// The domain's image isn't in the bundle.
    NoSuchImage { domain: String, image: u32 },
    /// Two ports of the domain have one name.
    DuplicatePort { domain: String, port: String },
    /// An import is wired to nothing, to a domain that starts later, or to a device that the domain doesn't have.
    Dangling { domain: String, port: String },
    /// The two ends of an edge have different interfaces.
    Mistyped { domain: String, port: String, wants: String, gets: String },
    /// Two domains name the same device.
    DeviceTwice { domain: String, device: String },
    /// The quotas add up to more than the box has.
    QuotasBeyondMemory { quotas: u64, memory: u64 },
    /// The domains' threads add up to more than the box has.
    ThreadsBeyondBox { threads: u32 },
    /// No device could be told of packet buffers of that size.
    PacketBytes { bytes: u16 },
    /// A domain without a thread can't even be started.
    NoThread { domain: String },
    /// A domain may run nowhere, or on a CPU that the manifest doesn't count on.
    NoCpu { domain: String },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the compiled manifest doesn't decode: build the image again"),
            Self::Schema { found } => {
                write!(f, "the compiled manifest has schema {found}, this kernel reads {SCHEMA}: build both together")
            }
            Self::DuplicateDomain { domain } => write!(f, "two domains are called {domain}"),
            Self::NoSuchImage { domain, image } => {
                write!(f, "domain {domain}: image {image} isn't in the bundle")
            }
            Self::DuplicatePort { domain, port } => {
                write!(f, "domain {domain}: two ports are called {port}")
            }
            Self::Dangling { domain, port } => {
                write!(
                    f,
                    "domain {domain}: import {port} is wired to no export of an earlier domain, nor to a device of its own"
                )
            }
            Self::Mistyped { domain, port, wants, gets } => {
                write!(f, "domain {domain}: import {port} wants a {wants} and is wired to a {gets}")
            }
            Self::DeviceTwice { domain, device } => {
                write!(f, "domain {domain}: device {device} belongs to another domain")
            }
            Self::QuotasBeyondMemory { quotas, memory } => {
                write!(f, "the domains' quotas need {quotas} bytes, the box has {memory}")
            }
            Self::ThreadsBeyondBox { threads } => {
                let (all, kernel) = (THREADS, KERNEL_THREADS);
                write!(f, "the domains may have {threads} threads, the box has {all}, {kernel} of them the kernel's")
            }
            Self::PacketBytes { bytes } => {
                let (least, most) = (PACKET_BYTES.start(), PACKET_BYTES.end());
                write!(f, "packet buffers of {bytes} bytes: from {least} to {most}, in multiples of {PACKET_UNIT}")
            }
            Self::NoThread { domain } => write!(f, "domain {domain}: not even the thread that starts it is admitted"),
            Self::NoCpu { domain } => write!(f, "domain {domain}: no CPU, or one that the box needn't have"),
        }
    }
}

impl core::error::Error for ManifestError {}

impl Manifest {
    /// Decodes and checks.
    pub fn from_bytes(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        // The schema comes first in the bytes, so that a manifest of another shape still gets the error that explains it.
        let (schema, _) = postcard::take_from_bytes::<u32>(bytes).map_err(|_| ManifestError::Malformed)?;
        if schema != SCHEMA {
            return Err(ManifestError::Schema { found: schema });
        }
        match postcard::take_from_bytes::<Manifest>(bytes) {
            Ok((manifest, [])) => manifest.check().map(|()| manifest),
            _ => Err(ManifestError::Malformed),
        }
    }

    /// What must hold of every manifest, whoever wrote it.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.schema != SCHEMA {
            return Err(ManifestError::Schema { found: self.schema });
        }
        let (mut quotas, mut threads) = (0u64, 0u32);
        for (index, domain) in self.domains.iter().enumerate() {
            let earlier = self.domains.get(..index).unwrap_or_default();
            let name = || domain.name.clone();
            if earlier.iter().any(|other| other.name == domain.name) {
                return Err(ManifestError::DuplicateDomain { domain: name() });
            }
            if self.images.get(domain.image as usize).is_none() {
                return Err(ManifestError::NoSuchImage { domain: name(), image: domain.image });
            }
            if domain.cpus.is_empty() || domain.cpus.iter().any(|&cpu| cpu >= self.machine.cpus) {
                return Err(ManifestError::NoCpu { domain: name() });
            }
            if let Some(device) = &domain.device
                && earlier.iter().any(|other| other.device.as_ref() == Some(device))
            {
                return Err(ManifestError::DeviceTwice { domain: name(), device: device.to_string() });
            }
            if domain.threads == 0 {
                return Err(ManifestError::NoThread { domain: name() });
            }
            quotas = quotas.saturating_add(domain.memory.0).saturating_add(domain.exchange.0);
            threads = threads.saturating_add(domain.threads);
            domain.check_ports(earlier)?;
        }
        let bytes = self.machine.packet_bytes;
        if !PACKET_BYTES.contains(&bytes) || !bytes.is_multiple_of(PACKET_UNIT) {
            return Err(ManifestError::PacketBytes { bytes });
        }
        if threads > THREADS - KERNEL_THREADS {
            return Err(ManifestError::ThreadsBeyondBox { threads });
        }
        match quotas <= self.machine.memory.0 {
            true => Ok(()),
            false => Err(ManifestError::QuotasBeyondMemory { quotas, memory: self.machine.memory.0 }),
        }
    }
}

impl Domain {
    fn check_ports(&self, earlier: &[Domain]) -> Result<(), ManifestError> {
        let name = || self.name.clone();
        if let Some(port) = first_repeated(self.exports.iter().map(|export| &export.port))
            .or_else(|| first_repeated(self.imports.iter().map(|import| &import.port)))
        {
            return Err(ManifestError::DuplicatePort { domain: name(), port });
        }
        for import in &self.imports {
            let dangling = || ManifestError::Dangling { domain: name(), port: import.port.clone() };
            let (index, port) = match &import.from {
                Source::Domain { index, port } => (*index as usize, port),
                Source::Device if self.device.is_some() && is_device_interface(&import.interface) => {
                    continue;
                }
                Source::Device => return Err(dangling()),
            };
            let exporter = earlier.get(index).ok_or_else(dangling)?;
            let export = exporter.exports.iter().find(|export| export.port == *port).ok_or_else(dangling)?;
            if export.interface != import.interface {
                return Err(ManifestError::Mistyped {
                    domain: name(),
                    port: import.port.clone(),
                    wants: import.interface.clone(),
                    gets: export.interface.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Whether imports of this type are wired to the importer's own device.
pub fn is_device_interface(interface: &str) -> bool {
    DEVICE_INTERFACES.contains(&interface)
}

fn first_repeated<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Option<String> {
    names
        .clone()
        .enumerate()
        .find(|(i, name)| names.clone().take(*i).any(|other| other == *name))
        .map(|(_, name)| name.clone())
}
