//! `redleaf run`: from a manifest or an image to a run in the lab. What the lab is made of comes from the manifest; how it is loaded from
//! `NAME.lab.toml` beside it.

use crate::build::{BuildError, Flavour, build_as};
use crate::image::{self, ImageError};
use crate::manifest::appliance::{self, Appliance, Domain};
use crate::manifest::diagnostic::Diagnostics;
use crate::manifest::{CheckError, Checked, check, source};
use crate::workspace::Workspace;
use bundle::manifest::{DeviceMatch, Iommu};
use lab::{
    Backend, Boot, BoxAddress6, BoxSettings, Command, Crash, Disk, Fault, Firmware, LabFile, Outage, Pause, Protocol,
    Rubbish, RunOptions, SegmentNet, Service, ServiceKind, Told, Tools, Vip,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the command line asked for.
pub struct Request {
    /// A manifest, or an image.
    pub target: PathBuf,
    pub duration: Option<Duration>,
    pub crashes: Vec<Crash>,
    pub commands: Vec<Command>,
    pub pauses: Vec<Pause>,
    pub outages: Vec<Outage>,
    /// When the box's power is cut.
    pub power_losses: Vec<Duration>,
    pub faults: Vec<Fault>,
    pub rubbish: Option<Rubbish>,
    /// Lines for the shell, run where the client is.
    pub programs: Vec<String>,
    pub flavour: Flavour,
    pub report: Option<PathBuf>,
    pub format: lab::Format,
    pub firmware: Firmware,
    /// Where the drives' files stay.
    pub keep_disks: Option<PathBuf>,
}

impl Request {
    /// A run in which nothing is done to the box.
    pub(crate) fn quiet(target: PathBuf) -> Request {
        Request {
            target,
            duration: None,
            crashes: Vec::new(),
            commands: Vec::new(),
            pauses: Vec::new(),
            outages: Vec::new(),
            power_losses: Vec::new(),
            faults: Vec::new(),
            rubbish: None,
            programs: Vec::new(),
            flavour: Flavour::Plain,
            report: None,
            format: lab::Format::Json,
            firmware: Firmware::Uefi,
            keep_disks: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Prefix(#[from] prefix::Error),
    #[error("{path}: {reason}")]
    LabFile { path: PathBuf, reason: String },
    #[error("{0}")]
    Unsuitable(String),
    #[error(transparent)]
    Counter(#[from] counter::Error),
    #[error(transparent)]
    Lab(#[from] lab::Error),
}

/// What the lab is built from: the part of a balancer's config table that others than the balancer need to know.
#[derive(Deserialize)]
struct BalancerConfig {
    address: String,
    vips: Vec<VipConfig>,
    backends: Vec<BackendConfig>,
}

#[derive(Deserialize)]
struct VipConfig {
    address: Ipv4Addr,
    port: Option<u16>,
    protocol: Protocol,
    backends: Vec<ShareConfig>,
}

#[derive(Deserialize)]
struct ShareConfig {
    name: String,
    #[serde(default = "one")]
    weight: u32,
}

#[derive(Deserialize)]
struct BackendConfig {
    name: String,
    address: Ipv4Addr,
}

fn one() -> u32 {
    1
}

/// The images whose config the lab understands.
const BALANCER: &str = "maglev";
const STACK: &str = "netstack";
const DISK_DRIVER: &str = "nvme";
/// What drives a network card.
const CARD: &str = "ixgbe";
/// Services whose clients the lab can play, and where they are if their config doesn't say.
const SERVICES: [(&str, ServiceKind, u16); 3] =
    [("echo", ServiceKind::Echo, 7), ("kv", ServiceKind::Memcached, 11_211), ("httpd", ServiceKind::Http, 80)];
/// The port that the lab uses of a VIP that serves every port.
const ANY_PORT: u16 = 8000;
/// Of a card whose driver's config doesn't say: Ethernet's.
const USUAL_MTU: u16 = 1500;
/// QEMU's NVMe controller on the bus.
const DISK_ID: (u16, u16) = (0x1b36, 0x0010);
/// Where the manifest doesn't name the card by its address; locally administered.
const DEFAULT_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x72, 0x6c, 0x01];

/// Makes the run; its report has been written where the request says.
pub fn run(workspace: &Workspace, request: Request) -> Result<lab::Report, RunError> {
    Ok(lab::run(options(workspace, request)?)?)
}

/// Builds what is to be booted, and says so in the lab's own terms.
pub(crate) fn options(workspace: &Workspace, request: Request) -> Result<RunOptions, RunError> {
    let from_image = request.target.extension().is_some_and(|extension| extension == "img");
    let (name, appliance, table, lab, boot) = match from_image {
        true => of_image(workspace, &request)?,
        false => of_manifest(workspace, &request.target, request.flavour)?,
    };
    let balancer = balancer(&appliance, &table)?;
    let stacks = stacks(&appliance, &table, &lab.segment)?;
    let box_settings = box_settings(&appliance, &table, balancer.as_ref(), &stacks)?;
    Ok(RunOptions {
        name,
        boot,
        vips: balancer.iter().flat_map(|balancer| balancer.vips.iter().map(vip)).collect(),
        backends: balancer
            .iter()
            .flat_map(|balancer| balancer.backends.iter().map(|backend| backend_of(backend, &balancer.vips)))
            .collect(),
        services: services(&appliance, &table, &stacks)?,
        disks: disks(&appliance, &lab)?,
        keep_disks: request
            .keep_disks
            .map(std::path::absolute)
            .transpose()
            .map_err(|error| RunError::Unsuitable(error.to_string()))?,
        lab,
        duration: request.duration,
        crashes: request.crashes,
        commands: request.commands,
        pauses: request.pauses,
        outages: request.outages,
        power_losses: request.power_losses,
        faults: request.faults,
        rubbish: request.rubbish,
        live: request.duration.is_none() && request.programs.is_empty(),
        programs: request.programs,
        counter: Vec::new(),
        report: request.report,
        format: request.format,
        tools: Tools::ensure(box_settings.told)?,
        box_settings,
    })
}

type Parts = (String, Appliance, toml::Table, LabFile, Boot);

fn of_manifest(workspace: &Workspace, path: &Path, flavour: Flavour) -> Result<Parts, RunError> {
    let mut checked = check(workspace, path)?;
    let lab = lab_file(&checked.files)?;
    if let Some(fault_injection) = lab.console.fault_injection {
        checked.appliance.console.fault_injection = fault_injection;
    }
    let artifacts = build_as(workspace, &checked.name, &checked.appliance, &checked.inquiry, flavour)?;
    let boot = Boot::Kernel { kernel: artifacts.kernel_elf, bundle: artifacts.bundle };
    Ok((checked.name, checked.appliance, checked.table, lab, boot))
}

/// The image as it is: nothing of the lab's goes into it, so that this is what runs where it is flashed.
fn of_image(workspace: &Workspace, request: &Request) -> Result<Parts, RunError> {
    let label = image::label(&request.target)?;
    let mut diagnostics = Diagnostics::default();
    let appliance = Appliance::read(&source::from_toml(&label.manifest), &mut diagnostics);
    let appliance = appliance.filter(|_| diagnostics.is_empty());
    let appliance =
        appliance.ok_or(RunError::Unsuitable("the image's manifest isn't one that this version reads".into()))?;
    let lab = lab_file(&[workspace.root().join("configs").join(format!("{}.toml", label.name))])?;
    let image = request.target.canonicalize().unwrap_or(request.target.clone());
    Ok((label.name, appliance, label.manifest, lab, Boot::Image { image, firmware: request.firmware }))
}

/// The lab's file beside the manifest, or beside the next one that it inherits from; the default lab if there is none.
fn lab_file(manifests: &[PathBuf]) -> Result<LabFile, RunError> {
    for manifest in manifests {
        let path = manifest.with_extension("lab.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                return toml::from_str(&text).map_err(|error| RunError::LabFile { path, reason: error.to_string() });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(RunError::LabFile { path, reason: error.to_string() }),
        }
    }
    Ok(LabFile::default())
}

fn balancer(appliance: &Appliance, table: &toml::Table) -> Result<Option<BalancerConfig>, RunError> {
    let Some(domain) = appliance.domains.iter().find(|domain| domain.image.value == BALANCER) else { return Ok(None) };
    let config = config_of(table, &domain.name.value)
        .ok_or(RunError::Unsuitable(format!("domain {} has no config", domain.name.value)))?;
    config.try_into().map(Some).map_err(|error: toml::de::Error| RunError::Unsuitable(error.to_string()))
}

fn config_of(table: &toml::Table, domain: &str) -> Option<toml::Value> {
    table.get("domains")?.get(domain)?.get("config").cloned()
}

/// The config of a network stack in this domain, if there is one: the domain's own, or, in a service that has the stack in its domain, the table `stack` in it.
fn stack_config(domain: &Domain, table: &toml::Table) -> Option<toml::Value> {
    let config = config_of(table, &domain.name.value);
    match domain.image.value == STACK {
        true => Some(config.unwrap_or(toml::Value::Table(toml::Table::new()))),
        false => SERVICES.iter().find(|(image, ..)| *image == domain.image.value).and(config?.get("stack").cloned()),
    }
}

/// A network stack's own addresses.
struct Stack {
    ip: Ipv4Addr,
    /// Length of its prefix.
    prefix: u8,
    ip6: Option<BoxAddress6>,
    /// Which of them the manifest leaves to the network.
    told: Told,
}

impl Stack {
    fn addresses(&self) -> Vec<IpAddr> {
        [self.ip.into()].into_iter().chain(self.ip6.map(|own| own.ip.into())).collect()
    }
}

/// The box's own addresses, by the name of the domain with the network stack that has them. What the manifest leaves to the network is as the lab will tell it.
fn stacks(
    appliance: &Appliance,
    table: &toml::Table,
    segment: &SegmentNet,
) -> Result<BTreeMap<String, Stack>, RunError> {
    let mut stacks = BTreeMap::new();
    for domain in &appliance.domains {
        let Some(config) = stack_config(domain, table) else { continue };
        let name = &domain.name.value;
        let text = |key: &str| config.get(key)?.as_str();
        let address =
            text("address").ok_or(RunError::Unsuitable(format!("the lab speaks IPv4, and {name} has no `address`")))?;
        let (ip, prefix) = match address {
            "dhcp" => (segment.leased, segment.prefix),
            _ => parsed(address)?,
        };
        let told = Told { ip: address == "dhcp", ip6: text("address6") == Some("auto") };
        let ip6 = match text("address6") {
            None => None,
            Some("auto") => {
                Some(BoxAddress6 { ip: own_choice(segment.advertised, mac(appliance)), prefix: 64, gateway: None })
            }
            Some(address) => {
                let (ip, prefix) = parsed(address)?;
                let gateway = text("gateway6").map(|gateway| gateway.parse().map_err(|_| no_address(gateway)));
                Some(BoxAddress6 { ip, prefix, gateway: gateway.transpose()? })
            }
        };
        stacks.insert(name.clone(), Stack { ip, prefix, ip6, told });
    }
    Ok(stacks)
}

/// The address that a host makes itself under a prefix of 64 bits: its card's, as a modified EUI-64 (RFC 4291, appendix A).
fn own_choice(prefix: Ipv6Addr, mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let [high @ .., _, _, _, _, _, _, _, _] = prefix.octets();
    let low = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from(u128::from(u64::from_be_bytes(high)) << 64 | u128::from(u64::from_be_bytes(low)))
}

/// An address with the length of its prefix.
fn parsed<A: std::str::FromStr>(address: &str) -> Result<(A, u8), RunError> {
    let parsed = address.split_once('/').and_then(|(ip, prefix)| Some((ip.parse().ok()?, prefix.parse().ok()?)));
    parsed.ok_or_else(|| no_address(address))
}

fn no_address(text: &str) -> RunError {
    RunError::Unsuitable(format!("\"{text}\" is no address of the kind that belongs there"))
}

/// What the box serves at its own addresses.
fn services(
    appliance: &Appliance,
    table: &toml::Table,
    stacks: &BTreeMap<String, Stack>,
) -> Result<Vec<Service>, RunError> {
    let mut services = Vec::new();
    for domain in &appliance.domains {
        let Some((_, kind, port)) = SERVICES.iter().find(|(image, ..)| *image == domain.image.value) else { continue };
        let name = &domain.name.value;
        let below = table.get("domains").and_then(|domains| domains.get(name)?.get("imports")?.get("stack")?.as_str());
        // In another domain, or in its own.
        let below = below.and_then(|import| import.split_once('.')).map_or(name.as_str(), |(stack, _)| stack);
        let Some((stack, own)) = stacks.get_key_value(below) else { continue };
        let port = match config_of(table, name).and_then(|config| config.get("port")?.as_integer()) {
            Some(port) => u16::try_from(port).map_err(|error| RunError::Unsuitable(format!("{name}: {error}")))?,
            None => *port,
        };
        let udp_port = match (kind, config_of(table, name).and_then(|config| config.get("udp-port")?.as_integer())) {
            (ServiceKind::Echo, _) => Some(port),
            (_, port) => port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
        };
        services.push(Service {
            domain: name.clone(),
            stack: stack.clone(),
            kind: *kind,
            addresses: own.addresses(),
            port,
            udp_port,
            durable: config_of(table, name).and_then(|config| config.get("durable")?.as_bool()) == Some(true),
        });
    }
    Ok(services)
}

fn vip(vip: &VipConfig) -> Vip {
    Vip {
        address: vip.address,
        port: vip.port.unwrap_or(ANY_PORT),
        protocol: vip.protocol,
        backends: vip.backends.iter().map(|share| share.name.clone()).collect(),
        weights: vip.backends.iter().map(|share| (share.name.clone(), share.weight)).collect(),
    }
}

/// A backend's weight is that in the first VIP that names it.
fn backend_of(backend: &BackendConfig, vips: &[VipConfig]) -> Backend {
    let share = vips.iter().flat_map(|vip| &vip.backends).find(|share| share.name == backend.name);
    Backend { name: backend.name.clone(), ip: backend.address, weight: share.map_or(1, |share| share.weight) }
}

fn mac(appliance: &Appliance) -> [u8; 6] {
    let named = appliance.domains.iter().find_map(|domain| match domain.device.as_ref()?.value {
        DeviceMatch::Mac(mac) => Some(mac),
        _ => None,
    });
    named.unwrap_or(DEFAULT_MAC)
}

/// What the lab has to know of the config of the card's driver.
#[derive(Default, Deserialize)]
struct CardConfig {
    mtu: Option<u16>,
    /// That it puts the box in.
    vlan: Option<u16>,
}

fn card_config(appliance: &Appliance, table: &toml::Table) -> Result<CardConfig, RunError> {
    let cards = appliance.domains.iter().filter(|domain| domain.image.value == CARD);
    let config = cards.filter_map(|domain| config_of(table, &domain.name.value)).next();
    let card = config.map_or(Ok(CardConfig::default()), |config| config.try_into());
    card.map_err(|error: toml::de::Error| RunError::Unsuitable(error.to_string()))
}

/// The box's side of the segment: the balancer's address, or a network stack's if there is none.
fn box_settings(
    appliance: &Appliance,
    table: &toml::Table,
    balancer: Option<&BalancerConfig>,
    stacks: &BTreeMap<String, Stack>,
) -> Result<BoxSettings, RunError> {
    let stack = stacks.values().next();
    let (ip, prefix) = match (balancer, stack) {
        (Some(balancer), _) => parsed(&balancer.address)?,
        (None, Some(stack)) => (stack.ip, stack.prefix),
        (None, None) => {
            return Err(RunError::Unsuitable(format!(
                "the lab needs something to load, and no domain has the image `{BALANCER}` or `{STACK}`, or a network stack in it (`config.stack`)"
            )));
        }
    };
    // The one that DHCP tells is told of by the box's address.
    if stacks.values().any(|stack| stack.told.ip) && (balancer.is_some() || stacks.len() > 1) {
        return Err(RunError::Unsuitable(
            "the lab tells a box one address by DHCP: not beside a balancer or another network stack".into(),
        ));
    }
    let card = card_config(appliance, table)?;
    Ok(BoxSettings {
        ip,
        prefix,
        ip6: stacks.values().find_map(|stack| stack.ip6),
        told: stack.map(|stack| stack.told).unwrap_or_default(),
        mac: mac(appliance),
        mtu: card.mtu.unwrap_or(USUAL_MTU),
        vlan: card.vlan,
        cpus: appliance.machine.cpus.value,
        memory: appliance.machine.memory.value.0,
        iommu: matches!(appliance.machine.iommu, Iommu::Require | Iommu::Strict),
        drivers: appliance.domains.iter().filter(|domain| domain.image.value == CARD).map(name).collect(),
        watchdogs: appliance.domains.iter().map(watchdog).collect(),
    })
}

/// The drives that the manifest's domains look for: as the lab's file says, or as big as by default.
fn disks(appliance: &Appliance, lab: &LabFile) -> Result<Vec<Disk>, RunError> {
    let drivers = appliance.domains.iter().filter(|domain| domain.image.value == DISK_DRIVER);
    if let Some(name) = lab.disks.keys().find(|name| !drivers.clone().any(|domain| domain.name.value == **name)) {
        let known: Vec<&str> = drivers.map(|domain| domain.name.value.as_str()).collect();
        return Err(RunError::Unsuitable(format!(
            "the lab's file has `[disks.{name}]`, and no domain of that name drives an NVMe device; there is: {}",
            if known.is_empty() { "none".into() } else { known.join(", ") }
        )));
    }
    let disk = |(index, domain): (usize, &appliance::Domain)| {
        let name = domain.name.value.clone();
        let settings = lab.disks.get(&name).cloned().unwrap_or_default();
        if ![512, 4096].contains(&settings.block_size) || settings.size == 0 || settings.size % settings.block_size != 0
        {
            return Err(RunError::Unsuitable(format!(
                "`[disks.{name}]` in the lab's file: blocks have 512B or 4KiB, and a drive a whole number of them"
            )));
        }
        let serial = match domain.device.as_ref().map(|device| &device.value) {
            Some(DeviceMatch::Serial(serial)) => serial.clone(),
            Some(&DeviceMatch::Id { vendor, device }) if (vendor, device) == DISK_ID => format!("RL{index:04}"),
            other => {
                return Err(RunError::Unsuitable(format!(
                    "the lab's drives are QEMU's: {name} finds one by `id = \"{:04x}:{:04x}\"` or by any `serial`{}",
                    DISK_ID.0,
                    DISK_ID.1,
                    other.map_or(String::new(), |other| format!(", not by {other}"))
                )));
            }
        };
        Ok(Disk { domain: name, serial, size: settings.size, block_size: settings.block_size as u32 })
    };
    drivers.enumerate().map(disk).collect()
}

/// What `check` can say of the lab round a manifest, without building anything: whether its file reads, and whether the lab has the drives.
pub fn check_lab(checked: &Checked) -> Result<(), RunError> {
    disks(&checked.appliance, &lab_file(&checked.files)?).map(drop)
}

fn name(domain: &appliance::Domain) -> String {
    domain.name.value.clone()
}

fn watchdog(domain: &appliance::Domain) -> (String, Duration) {
    (domain.name.value.clone(), Duration::from_nanos(domain.watchdog.0))
}

/// `ixgbe0:stack-overflow@8s`
pub fn parse_crash(text: &str) -> Result<Crash, String> {
    let (what, at) = text.rsplit_once('@').ok_or("expected DOMAIN[:KIND]@TIME, such as ixgbe0:stack-overflow@8s")?;
    let (domain, kind) = what.split_once(':').map_or((what, None), |(domain, kind)| (domain, Some(kind.to_owned())));
    if let Some(kind) = &kind {
        let kinds: Vec<&str> = interfaces::abi::Reason::ALL.iter().map(|reason| reason.name()).collect();
        if !kinds.contains(&kind.as_str()) {
            return Err(format!("there is no crash of kind {kind}; there is: {}", kinds.join(", ")));
        }
    }
    Ok(Crash { domain: domain.to_owned(), kind, at: parse_time(at)? })
}

/// `stop lb@5s`
pub fn parse_command(text: &str) -> Result<Command, String> {
    let (line, at) = text.rsplit_once('@').ok_or("expected LINE@TIME, such as 'stop lb@5s'")?;
    Ok(Command { line: line.trim().to_owned(), at: parse_time(at)? })
}

/// `3s@10s`: for three seconds, at ten.
pub fn parse_pause(text: &str) -> Result<Pause, String> {
    let (length, at) = text.split_once('@').ok_or("expected LENGTH@TIME, such as 3s@10s")?;
    Ok(Pause { at: parse_time(at)?, length: parse_time(length)? })
}

/// `b2:6s@5s`: that backend, for six seconds, at five.
pub fn parse_outage(text: &str) -> Result<Outage, String> {
    let expected = "expected BACKEND:LENGTH@TIME, such as b2:6s@5s";
    let (what, at) = text.rsplit_once('@').ok_or(expected)?;
    let (backend, length) = what.rsplit_once(':').ok_or(expected)?;
    Ok(Outage { backend: backend.to_owned(), at: parse_time(at)?, length: parse_time(length)? })
}

/// `nic:tx-hang@5s`: what goes wrong with the card, and when.
pub fn parse_fault(text: &str) -> Result<Fault, String> {
    let expected = "expected nic:FAULT@TIME, such as nic:tx-hang@5s";
    let (what, at) = text.rsplit_once('@').ok_or(expected)?;
    let mishap = what.strip_prefix("nic:").ok_or(expected)?;
    if lab::Mishap::find(mishap).is_none() {
        let all: Vec<String> =
            lab::MISHAPS.iter().map(|mishap| format!("  {:20} {}", mishap.name, mishap.what)).collect();
        return Err(format!("no fault of a card is named {mishap}; there is:\n{}", all.join("\n")));
    }
    Ok(Fault { mishap: mishap.to_owned(), at: parse_time(at)? })
}

/// `2000:7`: so many frames a second, from that seed; the seed is 1 if it isn't said. `1000:1:syn`: of that sort alone.
pub fn parse_rubbish(text: &str) -> Result<Rubbish, String> {
    let (rate, rest) = text.split_once(':').unwrap_or((text, "1"));
    let (seed, only) = rest.split_once(':').map_or((rest, None), |(seed, only)| (seed, Some(only.to_owned())));
    let expected = |_| "expected RATE[:SEED[:SORT]], such as 2000:7 or 1000:1:syn".to_owned();
    match (rate.parse().map_err(expected)?, seed.parse().map_err(expected)?) {
        (0, _) => Err("a rate is at least 1 frame a second".into()),
        (rate, seed) => Ok(Rubbish { rate, seed, only }),
    }
}

/// `20s`; a bare number is seconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    lab::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forms in which faults and console lines are asked for, with their times.
    #[test]
    fn requests() {
        let crash = parse_crash("ixgbe0:stack-overflow@8s").unwrap();
        assert_eq!(
            (crash.domain.as_str(), crash.kind.as_deref(), crash.at),
            ("ixgbe0", Some("stack-overflow"), Duration::from_secs(8))
        );
        assert_eq!(parse_crash("lb@250ms").unwrap().kind, None);
        assert!(parse_crash("lb").is_err());
        assert!(parse_crash("lb:meltdown@1s").unwrap_err().contains("page-fault"));
        assert!(parse_crash("lb@soon").is_err());
        assert_eq!(parse_command("backend b1 drain@5").unwrap().line, "backend b1 drain");
        let outage = parse_outage("b2:6s@5s").unwrap();
        assert_eq!((outage.backend.as_str(), outage.length.as_secs(), outage.at.as_secs()), ("b2", 6, 5));
        assert!(parse_outage("b2@5s").is_err());
        let fault = parse_fault("nic:tx-hang@5s").unwrap();
        assert_eq!((fault.mishap.as_str(), fault.at.as_secs()), ("tx-hang", 5));
        assert!(parse_fault("nic:meltdown@5s").unwrap_err().contains("rx-skip"));
        assert!(parse_fault("tx-hang@5s").is_err() && parse_fault("nic:tx-hang").is_err());
        assert_eq!(parse_rubbish("2000:7").unwrap(), Rubbish { rate: 2000, seed: 7, only: None });
        assert_eq!(parse_rubbish("1000:1:syn").unwrap().only.as_deref(), Some("syn"));
        assert_eq!(parse_rubbish("50").unwrap().seed, 1);
        assert!(parse_rubbish("0").is_err() && parse_rubbish("many").is_err());
        assert_eq!(parse_pause("3s@10s").unwrap().length, Duration::from_secs(3));
    }

    /// The shipped manifest is one that the lab understands, and the lab's file is found through `inherit`.
    #[test]
    fn shipped_manifest() {
        let workspace = Workspace::find();
        let configs = workspace.root().join("configs");
        let mut sources = source::Sources::default();
        let mut diagnostics = Diagnostics::default();
        let tree = source::load(&configs.join("maglev-two-filters.toml"), &mut sources, &mut diagnostics).unwrap();
        let appliance = Appliance::read(&tree, &mut diagnostics).unwrap();
        let balancer = balancer(&appliance, &source::to_toml(&tree)).unwrap().unwrap();
        assert!(balancer.vips.iter().any(|vip| vip.protocol == Protocol::Udp), "the probe needs a UDP VIP");
        assert_eq!(
            box_settings(&appliance, &source::to_toml(&tree), Some(&balancer), &BTreeMap::new()).unwrap().prefix,
            24
        );
        let files: Vec<PathBuf> = sources.files.iter().map(|file| file.path.clone()).collect();
        assert_eq!(lab_file(&files).unwrap().console.fault_injection, Some(true));
    }

    /// Addresses that the manifest leaves to the network are those that the lab's file says, and the box's own choice under its prefix.
    #[test]
    fn told_addresses() {
        let text = "[box]\nmemory = \"64MiB\"\ncpus = 1\n[domains.stack]\nimage = \"netstack\"\n[domains.stack.config]\naddress = \"dhcp\"\naddress6 = \"auto\"\n";
        let table: toml::Table = text.parse().unwrap();
        let appliance = Appliance::read(&source::from_toml(&table), &mut Diagnostics::default()).unwrap();
        let lab: LabFile = toml::from_str("[segment]\nleased = \"10.9.0.7\"\nprefix = 16\n").unwrap();
        let stacks = stacks(&appliance, &table, &lab.segment).unwrap();
        let own = box_settings(&appliance, &table, None, &stacks).unwrap();
        assert_eq!((own.ip.to_string().as_str(), own.prefix), ("10.9.0.7", 16));
        assert_eq!(own.ip6.unwrap().ip.to_string(), "2001:db8:1:0:5054:ff:fe72:6c01");
        assert_eq!(own.told, Told { ip: true, ip6: true });
    }

    /// The lab's links are as the config of the card's driver has them, or Ethernet's.
    #[test]
    fn what_the_lab_follows() {
        let card = |config: &str| {
            let text = format!(
                "[box]\nmemory = \"64MiB\"\ncpus = 1\n[domains.nic]\nimage = \"ixgbe\"\n{config}[domains.lb]\nimage = \"maglev\"\n"
            );
            let table: toml::Table = text.parse().unwrap();
            let appliance = Appliance::read(&source::from_toml(&table), &mut Diagnostics::default()).unwrap();
            let balancer = BalancerConfig { address: "10.0.0.2/24".into(), vips: Vec::new(), backends: Vec::new() };
            let own = box_settings(&appliance, &table, Some(&balancer), &BTreeMap::new()).unwrap();
            (own.mtu, own.vlan)
        };
        assert_eq!(card(""), (1500, None));
        assert_eq!(card("[domains.nic.config]\nmtu = 9000\nvlan = 10\n"), (9000, Some(10)));
    }

    /// A service is reached at the addresses of the stack that it uses, in whichever domain that is, its own included; a crash of that domain is then the service's.
    #[test]
    fn a_stack_in_its_services_domain() {
        let text = "[box]\nmemory = \"64MiB\"\ncpus = 1\n[domains.stack]\nimage = \"netstack\"\n[domains.stack.config]\naddress = \"10.0.1.3/24\"\n\
                    [domains.kv]\nimage = \"kv\"\nimports = { stack = \"stack.stack\" }\n\
                    [domains.web]\nimage = \"httpd\"\nimports = { net = \"ixgbe1.net\" }\n[domains.web.config.stack]\naddress = \"10.0.1.4/24\"\n";
        let table: toml::Table = text.parse().unwrap();
        let appliance = Appliance::read(&source::from_toml(&table), &mut Diagnostics::default()).unwrap();
        let stacks = stacks(&appliance, &table, &SegmentNet::default()).unwrap();
        let services = services(&appliance, &table, &stacks).unwrap();
        let seen: Vec<(&str, &str, String)> = services
            .iter()
            .map(|service| (service.domain.as_str(), service.stack.as_str(), service.addresses[0].to_string()))
            .collect();
        assert_eq!(seen, [("kv", "stack", "10.0.1.3".into()), ("web", "web", "10.0.1.4".into())]);
    }

    /// A drive for each domain that drives one, as it names it; what the lab's file says of others is refused, and so is a drive that the lab hasn't.
    #[test]
    fn drives() {
        let read = |device: &str| {
            let text = format!(
                "[box]\nmemory = \"64MiB\"\ncpus = 1\n[domains.nvme0]\nimage = \"nvme\"\n[domains.nvme0.device]\n{device}\n[domains.lb]\nimage = \"maglev\"\n"
            );
            let mut diagnostics = Diagnostics::default();
            let appliance = Appliance::read(&source::from_toml(&text.parse().unwrap()), &mut diagnostics).unwrap();
            assert!(diagnostics.is_empty());
            appliance
        };
        let lab = |text: &str| toml::from_str::<LabFile>(text).unwrap();
        let found = disks(&read("serial = \"S1\""), &lab("")).unwrap();
        assert_eq!((found[0].domain.as_str(), found[0].serial.as_str(), found[0].block_size), ("nvme0", "S1", 4096));
        let by_id = read("id = \"1b36:0010\"");
        let small = lab("[disks.nvme0]\nsize = \"8MiB\"\nblock-size = \"512B\"\n");
        let found = disks(&by_id, &small).unwrap();
        assert_eq!((found[0].size, found[0].block_size), (8 << 20, 512));
        let refused = |appliance, text: &str| disks(appliance, &lab(text)).unwrap_err().to_string();
        assert!(refused(&by_id, "[disks.nvme1]\n").contains("there is: nvme0"));
        assert!(refused(&by_id, "[disks.nvme0]\nblock-size = \"1KiB\"\n").contains("512B or 4KiB"));
        assert!(refused(&read("id = \"144d:a808\""), "").contains("not by id 144d:a808"));
    }

    /// An image carries its manifest as plain TOML: read back it is the same box.
    #[test]
    fn manifest_through_an_image() {
        let path = Workspace::find().root().join("configs/maglev.toml");
        let mut diagnostics = Diagnostics::default();
        let tree = source::load(&path, &mut source::Sources::default(), &mut diagnostics).unwrap();
        let there: toml::Table = source::to_toml(&tree).to_string().parse().unwrap();
        let back = Appliance::read(&source::from_toml(&there), &mut diagnostics).unwrap();
        assert!(diagnostics.is_empty());
        assert_eq!(back.machine.memory.value, Appliance::read(&tree, &mut diagnostics).unwrap().machine.memory.value);
    }
}
