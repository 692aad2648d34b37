//! From a checked manifest to the compiled one that the kernel reads.

use super::appliance::Appliance;
use super::check::start_order;
use bundle::manifest::{
    Bytes, Console, Domain, Export, Import, Machine, Manifest, Nanos, Restart, SCHEMA, Source, is_device_interface,
};
use inquiry::Ports;
use interfaces::{
    config::{Duration, Size},
    packet::buffer_for,
};
use std::collections::BTreeMap;

/// What else goes into a compiled manifest.
pub struct Parts<'a> {
    pub name: &'a str,
    /// By image.
    pub ports: &'a BTreeMap<String, Ports>,
    /// By domain.
    pub configs: &'a BTreeMap<String, Vec<u8>>,
    /// The longest that a packet buffer is to hold.
    pub longest_frame: u16,
    /// In the order of the bundle.
    pub images: Vec<bundle::manifest::ImageRef>,
}

/// Compiles what [`super::check`] found nothing wrong with.
///
/// # Panics
/// If it was not checked.
pub fn compile(appliance: &Appliance, parts: Parts<'_>) -> Manifest {
    let order = start_order(appliance).expect("checked: no cycles");
    let place = |name: &str| {
        order.iter().position(|&at| appliance.domains[at].name.value == name).expect("checked: no dangling import")
    };
    let domains = order.iter().map(|&at| {
        let domain = &appliance.domains[at];
        let ports = &parts.ports[&domain.image.value];
        let image =
            parts.images.iter().position(|image| image.name == domain.image.value).expect("every image was built");
        // In the crate's own order: that is the order in which its entry takes them.
        let imports = ports.imports.iter().filter_map(|port| {
            let from = match is_device_interface(&port.interface) {
                true => Source::Device,
                false => {
                    // Checked: what isn't wired is optional.
                    let wired = domain.imports.iter().find(|import| import.port.value == port.name)?;
                    Source::Domain { index: place(&wired.domain) as u32, port: wired.from_port.clone() }
                }
            };
            Some(Import { port: port.name.clone(), interface: port.interface.clone(), from })
        });
        let exports =
            ports.exports.iter().map(|port| Export { port: port.name.clone(), interface: port.interface.clone() });
        Domain {
            name: domain.name.value.clone(),
            image: image as u32,
            device: domain.device.as_ref().map(|device| device.value.clone()),
            memory: bytes(domain.memory.value),
            exchange: bytes(domain.exchange.value),
            threads: domain.threads.value,
            handles: domain.handles,
            packet_buffers: domain.packet_buffers.value,
            cpus: domain.cpus.value.clone(),
            watchdog: nanos(domain.watchdog),
            start_timeout: nanos(domain.start_timeout),
            min_stack: bytes(domain.min_stack),
            restart: Restart {
                policy: domain.restart.policy,
                delay: nanos(domain.restart.delay),
                max_delay: nanos(domain.restart.max_delay),
                limit_burst: domain.restart.limit_burst,
                limit_interval: nanos(domain.restart.limit_interval),
            },
            imports: imports.collect(),
            exports: exports.collect(),
            config: parts.configs[&domain.name.value].clone(),
        }
    });
    Manifest {
        schema: SCHEMA,
        name: parts.name.to_owned(),
        machine: Machine {
            memory: bytes(appliance.machine.memory.value),
            cpus: appliance.machine.cpus.value,
            packet_buffers: appliance.machine.packet_buffers,
            packet_bytes: buffer_for(parts.longest_frame),
            on_panic: appliance.machine.on_panic,
            iommu: appliance.machine.iommu,
        },
        console: Console { fault_injection: appliance.console.fault_injection, feed: appliance.console.feed },
        domains: domains.collect(),
        images: parts.images,
    }
}

fn bytes(size: Size) -> Bytes {
    Bytes(size.0)
}

fn nanos(duration: Duration) -> Nanos {
    Nanos(duration.nanos())
}
