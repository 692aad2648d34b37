//! What the parts of a manifest must be to each other: wiring, types of ports, devices, quotas. Everything that is wrong is said.

use super::appliance::{Appliance, DEFAULT_THREADS, Domain, Import};
use super::diagnostic::{Diagnostic, Diagnostics};
use super::source::{locate, locate_key};
use bundle::manifest::{Iommu, KERNEL_THREADS, THREADS, is_device_interface};
use inquiry::{Concern, ConfigFault, Ports};
use interfaces::{
    config::Size,
    packet::{buffer_for, buffer_stride},
};
use std::collections::BTreeMap;

/// Memory that isn't the domains': the kernel itself, its tables and stacks.
const KERNEL_RESERVE: u64 = 16 << 20;

/// Interfaces whose queues are one client's each, and what several clients share instead.
const FOR_ONE: [(&str, &str); 2] = [
    ("Net", "for several there is a `classifier` between, or one `netstack` that serves them"),
    ("Block", "each client needs a disk of its own"),
];

/// What can be said without knowing the crates, but for the longest frame that any of them brings.
pub fn structure(appliance: &Appliance, longest_frame: u16, diagnostics: &mut Diagnostics) {
    devices(appliance, diagnostics);
    quotas(appliance, buffer_for(longest_frame), diagnostics);
    threads(appliance, diagnostics);
    packet_buffers(appliance, diagnostics);
    for domain in &appliance.domains {
        for import in &domain.imports {
            if !appliance.domains.iter().any(|other| other.name.value == import.domain) {
                let known = appliance.domains.iter().map(|domain| domain.name.value.as_str());
                diagnostics.push(
                    Diagnostic::new(format!("there is no domain `{}`", import.domain))
                        .at(import.at.clone(), format!("import `{}` dangles", import.port.value))
                        .meant(&import.domain, known),
                );
            }
        }
    }
    if let Err(cycle) = start_order(appliance) {
        let names: Vec<&str> = cycle.iter().map(|import| import.domain.as_str()).collect();
        let mut diagnostic =
            Diagnostic::new("domains import from each other in a circle, so that none can start first")
                .at(cycle[0].at.clone(), format!("{} → {}", names.join(" → "), names[0]));
        for import in &cycle[1..] {
            diagnostic = diagnostic.and(import.at.clone(), "and on from here");
        }
        diagnostics.push(diagnostic);
    }
}

/// Images that don't exist.
pub fn images(appliance: &Appliance, known: &[String], diagnostics: &mut Diagnostics) {
    for domain in appliance.domains.iter().filter(|domain| !known.contains(&domain.image.value)) {
        diagnostics.push(
            Diagnostic::new(format!("there is no image `{}`", domain.image.value))
                .at(domain.image.at.clone(), "no crate of that name under drivers/ or services/")
                .meant(&domain.image.value, known.iter().map(String::as_str)),
        );
    }
}

/// Ports against what the crates declare.
pub fn ports(appliance: &Appliance, ports: &BTreeMap<String, Ports>, diagnostics: &mut Diagnostics) {
    let of = |domain: &Domain| ports.get(&domain.image.value);
    for domain in &appliance.domains {
        let Some(own) = of(domain) else { continue };
        device_ports(domain, own, diagnostics);
        let wireable = own.imports.iter().filter(|port| !is_device_interface(&port.interface));
        for port in wireable.clone() {
            if !port.optional && !domain.imports.iter().any(|import| import.port.value == port.name) {
                diagnostics.push(
                    Diagnostic::new(format!(
                        "import `{}` of domain {} is wired to nothing",
                        port.name, domain.name.value
                    ))
                    .at(domain.name.at.clone(), format!("expected `imports = {{ {} = \"DOMAIN.PORT\" }}`", port.name))
                    .help(offers(appliance, ports, domain, &port.interface)),
                );
            }
        }
        for import in &domain.imports {
            match wireable.clone().find(|port| port.name == import.port.value) {
                Some(port) => edge(appliance, ports, domain, import, &port.interface, diagnostics),
                None => diagnostics.push(
                    Diagnostic::new(format!("image `{}` has no import `{}`", domain.image.value, import.port.value))
                        .at(import.port.at.clone(), "unknown port")
                        .meant(&import.port.value, wireable.clone().map(|port| port.name.as_str())),
                ),
            }
        }
    }
    for (interface, instead) in FOR_ONE {
        shared(appliance, ports, interface, instead, diagnostics);
    }
}

/// Exports of this interface that more than one domain imports: all but the first would find every queue taken.
fn shared(
    appliance: &Appliance,
    ports: &BTreeMap<String, Ports>,
    interface: &str,
    instead: &str,
    diagnostics: &mut Diagnostics,
) {
    let mut first: BTreeMap<(&str, &str), (&Domain, &Import)> = BTreeMap::new();
    for domain in &appliance.domains {
        let Some(own) = ports.get(&domain.image.value) else { continue };
        let is_one = |import: &&Import| {
            own.imports.iter().any(|port| port.name == import.port.value && port.interface == interface)
        };
        for import in domain.imports.iter().filter(is_one) {
            let (other, earlier) = *first.entry((&import.domain, &import.from_port)).or_insert((domain, import));
            if other.name.value == domain.name.value {
                continue;
            }
            diagnostics.push(
                Diagnostic::new(format!("`{}.{}` is wired to two clients", import.domain, import.from_port))
                    .at(import.at.clone(), format!("to {}", domain.name.value))
                    .and(earlier.at.clone(), format!("and to {}", other.name.value))
                    .help(format!("the queues of a `{interface}` are one client's each: {instead}")),
            );
        }
    }
}

/// Config tables, and what is wired beside them, as the domains' own types see them.
pub fn configs(appliance: &Appliance, faults: &BTreeMap<String, Vec<ConfigFault>>, diagnostics: &mut Diagnostics) {
    for domain in &appliance.domains {
        for fault in faults.get(&domain.name.value).into_iter().flatten() {
            let what = match fault.path.as_str() {
                "" => format!("the config of domain {}", domain.name.value),
                path => format!("`{path}` in the config of domain {}", domain.name.value),
            };
            let at = locate(&domain.config, &fault.path);
            let refused = |at| Diagnostic::new(format!("{what} is refused")).at(at, fault.message.clone());
            diagnostics.push(match &fault.concern {
                Concern::Value => refused(at),
                Concern::Unknown(unknown) => {
                    refused(locate_key(&domain.config, &fault.path, &unknown.name).unwrap_or(at))
                        .meant(&unknown.name, unknown.known.iter().map(String::as_str))
                }
                Concern::Wiring => {
                    let at = domain.imports.first().map_or(&domain.name.at, |import| &import.port.at);
                    Diagnostic::new(format!("domain {} can't work as it is wired", domain.name.value))
                        .at(at.clone(), fault.message.clone())
                }
            });
        }
    }
}

/// Indexes of the domains, each after those that it imports from; or the imports that make a circle.
pub fn start_order(appliance: &Appliance) -> Result<Vec<usize>, Vec<&Import>> {
    let index = |name: &str| appliance.domains.iter().position(|domain| domain.name.value == name);
    let mut order = Vec::new();
    let mut path: Vec<(usize, Option<&Import>)> = Vec::new();

    fn visit<'a>(
        appliance: &'a Appliance,
        at: usize,
        index: &dyn Fn(&str) -> Option<usize>,
        order: &mut Vec<usize>,
        path: &mut Vec<(usize, Option<&'a Import>)>,
    ) -> Result<(), Vec<&'a Import>> {
        if order.contains(&at) {
            return Ok(());
        }
        for import in &appliance.domains[at].imports {
            let Some(next) = index(&import.domain) else {
                continue;
            };
            if let Some(first) = path.iter().position(|(on_path, _)| *on_path == next) {
                let mut cycle: Vec<&Import> = path[first..].iter().skip(1).filter_map(|(_, import)| *import).collect();
                cycle.push(import);
                return Err(cycle);
            }
            path.push((next, Some(import)));
            visit(appliance, next, index, order, path)?;
            path.pop();
        }
        order.push(at);
        Ok(())
    }

    for at in 0..appliance.domains.len() {
        path.clear();
        path.push((at, None));
        visit(appliance, at, &index, &mut order, &mut path)?;
    }
    Ok(order)
}

fn devices(appliance: &Appliance, diagnostics: &mut Diagnostics) {
    for (index, domain) in appliance.domains.iter().enumerate() {
        let Some(device) = &domain.device else {
            continue;
        };
        let earlier = appliance.domains[..index].iter();
        let claimed = earlier
            .filter_map(|other| Some((other, other.device.as_ref()?)))
            .find(|(_, other)| other.value == device.value);
        if let Some((other, other_device)) = claimed {
            diagnostics.push(
                Diagnostic::new(format!("device {} is claimed twice", device.value))
                    .at(device.at.clone(), format!("by {}", domain.name.value))
                    .and(other_device.at.clone(), format!("and by {}", other.name.value))
                    .help("two cards of one kind are told apart by `mac`, `serial` or `address`"),
            );
        }
    }
}

fn quotas(appliance: &Appliance, buffer: u16, diagnostics: &mut Diagnostics) {
    let machine = &appliance.machine;
    let domains = appliance.domains.iter().map(|domain| domain.memory.value.0.saturating_add(domain.exchange.value.0));
    let domains = domains.fold(0u64, u64::saturating_add);
    let buffer = if machine.iommu == Iommu::Strict { buffer_stride(buffer, true) as u64 } else { buffer.into() };
    let packets = u64::from(machine.packet_buffers) * buffer;
    let needed = domains.saturating_add(packets).saturating_add(KERNEL_RESERVE);
    if needed > machine.memory.value.0 {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let (buffers, size) = (machine.packet_buffers, Size(buffer));
        diagnostics.push(
            Diagnostic::new("the quotas are beyond the box's memory").at(machine.memory.at.clone(), format!("{} MiB", mib(machine.memory.value.0))).help(
                format!(
                    "needed are {} MiB: {} for the domains (memory and exchange), {} for packet buffers ({buffers} of {size}), {} for the kernel",
                    mib(needed),
                    mib(domains),
                    mib(packets),
                    mib(KERNEL_RESERVE)
                ),
            ),
        );
    }
}

fn threads(appliance: &Appliance, diagnostics: &mut Diagnostics) {
    for domain in appliance.domains.iter().filter(|domain| domain.threads.value == 0) {
        diagnostics.push(
            Diagnostic::new(format!("domain {} can't start without a thread", domain.name.value))
                .at(domain.threads.at.clone(), "expected 1 at least: the thread that starts it counts"),
        );
    }
    let needed = appliance.domains.iter().fold(0u32, |sum, domain| sum.saturating_add(domain.threads.value));
    let most = appliance.domains.iter().max_by_key(|domain| domain.threads.value);
    if let Some(most) = most.filter(|_| needed > THREADS - KERNEL_THREADS) {
        diagnostics.push(
            Diagnostic::new("the domains may have more threads than a box has")
                .at(most.threads.at.clone(), format!("{} of them for domain {}", most.threads.value, most.name.value))
                .help(format!(
                    "a box has {} for its domains, these may have {needed}: one that doesn't say `threads` may have {DEFAULT_THREADS}, and one for each of its CPUs",
                    THREADS - KERNEL_THREADS
                )),
        );
    }
}

fn packet_buffers(appliance: &Appliance, diagnostics: &mut Diagnostics) {
    let there = appliance.machine.packet_buffers;
    for domain in appliance.domains.iter().filter(|domain| domain.packet_buffers.value > there) {
        diagnostics.push(
            Diagnostic::new(format!("domain {} may keep more packet buffers than there are", domain.name.value))
                .at(domain.packet_buffers.at.clone(), format!("the box has {there}"))
                .help("`packet-buffers` under `[box]` says how many there are, under a domain how many it may keep while others go short"),
        );
    }
}

fn device_ports(domain: &Domain, own: &Ports, diagnostics: &mut Diagnostics) {
    let wants = own.imports.iter().find(|port| is_device_interface(&port.interface));
    match (wants, &domain.device) {
        (Some(_), None) if !domain.names_device => diagnostics.push(
            Diagnostic::new(format!("domain {} drives a device, and has none", domain.name.value))
                .at(domain.image.at.clone(), "this image needs `device = { … }`")
                .help("for example `device = { id = \"8086:10fb\" }`, or by `mac`, `serial` or `address`"),
        ),
        (None, Some(device)) => diagnostics.push(
            Diagnostic::new(format!("domain {} has a device, and drives none", domain.name.value))
                .at(device.at.clone(), format!("image `{}` imports no device", domain.image.value)),
        ),
        _ => {}
    }
}

fn edge(
    appliance: &Appliance,
    ports: &BTreeMap<String, Ports>,
    domain: &Domain,
    import: &Import,
    wants: &str,
    diagnostics: &mut Diagnostics,
) {
    // A domain or image that doesn't exist has been said already.
    let Some(exporter) = appliance.domains.iter().find(|other| other.name.value == import.domain) else {
        return;
    };
    let Some(exports) = ports.get(&exporter.image.value).map(|ports| &ports.exports) else {
        return;
    };
    match exports.iter().find(|port| port.name == import.from_port) {
        None => diagnostics.push(
            Diagnostic::new(format!("domain {} has no export `{}`", import.domain, import.from_port))
                .at(import.at.clone(), "unknown port")
                .meant(&import.from_port, exports.iter().map(|port| port.name.as_str())),
        ),
        Some(port) if port.interface != wants => diagnostics.push(
            Diagnostic::new(format!("import `{}` of domain {} is mistyped", import.port.value, domain.name.value))
                .at(
                    import.at.clone(),
                    format!("this is a `{}`; `{}` wants a `{wants}`", port.interface, import.port.value),
                )
                .help(offers(appliance, ports, domain, wants)),
        ),
        Some(_) => {}
    }
}

/// Which ports could be wired where a `wants` is needed.
fn offers(appliance: &Appliance, ports: &BTreeMap<String, Ports>, importer: &Domain, wants: &str) -> String {
    let others = appliance.domains.iter().filter(|other| other.name.value != importer.name.value);
    let fitting: Vec<String> = others
        .filter_map(|other| Some((other, ports.get(&other.image.value)?)))
        .flat_map(|(other, ports)| {
            let exports = ports.exports.iter().filter(|port| port.interface == wants);
            exports.map(move |port| format!("\"{}.{}\"", other.name.value, port.name))
        })
        .collect();
    match fitting.is_empty() {
        true => format!("no other domain exports a `{wants}`"),
        false => format!("a `{wants}` is exported as {}", fitting.join(", ")),
    }
}
