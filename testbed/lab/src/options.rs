//! What a run is asked to do, as plain data: it is written by the command and read by the lab's inner process.

use crate::labfile::LabFile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// One run of one box in one lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunOptions {
    /// The appliance's name, for headings and the report.
    pub name: String,
    pub boot: Boot,
    pub vips: Vec<Vip>,
    pub backends: Vec<Backend>,
    /// What the box serves at its own address.
    #[serde(default)]
    pub services: Vec<Service>,
    pub box_settings: BoxSettings,
    /// Its NVMe drives.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Where the drives' files are kept when the run is over; `None`: they go with it.
    #[serde(default)]
    pub keep_disks: Option<PathBuf>,
    /// `NAME.lab.toml`, or [`LabFile::default`].
    pub lab: LabFile,
    /// How long the load runs, from the moment the box is up. `None`: until Ctrl-C.
    pub duration: Option<Duration>,
    pub crashes: Vec<Crash>,
    pub commands: Vec<Command>,
    pub pauses: Vec<Pause>,
    pub outages: Vec<Outage>,
    /// When the box's power is cut.
    #[serde(default)]
    pub power_losses: Vec<Duration>,
    #[serde(default)]
    pub faults: Vec<Fault>,
    pub rubbish: Option<Rubbish>,
    /// Lines for the shell, run where the client is once the box is up.
    #[serde(default)]
    pub programs: Vec<String>,
    /// What QEMU is told so that it counts the guest's instructions (`counter`); nothing if nobody asks for them.
    #[serde(default)]
    pub counter: Vec<String>,
    /// Where the JSON report goes.
    pub report: Option<PathBuf>,
    pub format: Format,
    /// Whether a live status may be drawn (it is only ever drawn on a terminal).
    pub live: bool,
    pub tools: Tools,
}

impl RunOptions {
    /// Of the hosts' links: as the lab's file says, or else the box's.
    pub fn mtu(&self) -> u32 {
        self.lab.segment.mtu.unwrap_or(self.box_settings.mtu.into())
    }
}

/// How the box comes to life.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Boot {
    /// QEMU's `-kernel` with the bundle as `-initrd`: the kernel's PVH entry.
    Kernel { kernel: PathBuf, bundle: PathBuf },
    /// A disk image under firmware, as on a real machine.
    Image { image: PathBuf, firmware: Firmware },
    /// A Linux host in the box's place, on the same card: what ours is measured beside. It says on the feed that it is up.
    Linux { kernel: PathBuf, initramfs: PathBuf, parameters: String },
    /// Any program that plays the box: how the lab tests itself without one.
    Program(Program),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Firmware {
    Bios,
    Uefi,
}

/// A program in the place of QEMU. It finds the NIC's interface in `LAB_NIC`, connects to the sockets `LAB_CONSOLE` and `LAB_FEED`, reads
/// the options' JSON from the file `LAB_OPTIONS`, and speaks as a box does. Since no model counts its frames, it says them on the feed:
/// `{"event":"nic","rx":…,"missed":…,"tx":…}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A virtual address that the box balances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    pub address: Ipv4Addr,
    pub port: u16,
    pub protocol: Protocol,
    /// Names from [`RunOptions::backends`].
    pub backends: Vec<String>,
    /// What their shares of this VIP are to be in proportion to; 1 where nothing is said.
    #[serde(default)]
    pub weights: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub name: String,
    pub ip: Ipv4Addr,
    pub weight: u32,
}

/// A service of the box's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The domain that serves, and the one with the network stack below it: the same, if that is linked into the service.
    pub domain: String,
    pub stack: String,
    pub kind: ServiceKind,
    /// One at least.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    /// Where it is asked by UDP, if it is.
    pub udp_port: Option<u16>,
    /// Whether what it was told outlives its crash.
    pub durable: bool,
}

/// What a service's clients say to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// Bytes, which come back.
    Echo,
    /// memcached's protocol: values are stored, and read again.
    Memcached,
    /// HTTP/1.1: the start page.
    Http,
}

/// The box's own side of the wire, from the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxSettings {
    pub ip: Ipv4Addr,
    /// Length of the segment's prefix, such as 24.
    pub prefix: u8,
    /// The same of IPv6, if the box speaks it.
    #[serde(default)]
    pub ip6: Option<BoxAddress6>,
    /// Which of them the box is told by the network.
    #[serde(default)]
    pub told: Told,
    pub mac: [u8; 6],
    /// The longest packet that its card's driver takes and sends.
    pub mtu: u16,
    /// The VLAN that the box is in, if it is in one; its hosts are in it, too.
    #[serde(default)]
    pub vlan: Option<u16>,
    pub cpus: u32,
    /// Guest memory in bytes.
    pub memory: u64,
    /// The machine has an IOMMU: the manifest requires one.
    #[serde(default)]
    pub iommu: bool,
    /// The domains that drive a network card.
    #[serde(default)]
    pub drivers: Vec<String>,
    /// How long each domain may hang before the manifest wants it found.
    #[serde(default)]
    pub watchdogs: BTreeMap<String, Duration>,
}

/// Addresses that the manifest leaves to the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// By DHCP.
    pub ip: bool,
    /// By the router's advertisements.
    pub ip6: bool,
}

impl Told {
    pub fn any(self) -> bool {
        self.ip || self.ip6
    }
}

/// An NVMe drive of the box: QEMU's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The domain that drives it; its file is called after it.
    pub domain: String,
    pub serial: String,
    pub size: u64,
    pub block_size: u32,
}

/// The box's own place in IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxAddress6 {
    pub ip: Ipv6Addr,
    pub prefix: u8,
    /// Where the manifest says that the router is.
    pub gateway: Option<Ipv6Addr>,
}

/// A fault to be injected: `--crash ixgbe0:stack-overflow@8s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    pub domain: String,
    /// `None`: what the console takes when no kind is named (`panic`).
    pub kind: Option<String>,
    /// Counted from the moment the box is up.
    pub at: Duration,
}

/// A line to be typed at the console: `--console 'stop lb@5s'`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub line: String,
    pub at: Duration,
}

/// The whole box stopped from outside (SIGSTOP to QEMU) for a known time: a gauge for the lab's own measurements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub at: Duration,
    pub length: Duration,
}

/// A backend cut off from the segment for a known time: `--outage b2:6s@5s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    pub backend: String,
    pub at: Duration,
    pub length: Duration,
}

/// The card misbehaves: `--fault nic:tx-hang@5s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// One of [`model::MISHAPS`].
    pub mishap: String,
    pub at: Duration,
}

/// Frames on the box's cable that are right in no more than some of their parts, beside the load and as long as it: `--rubbish 2000:7`, `--rubbish 1000:1:syn`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rubbish {
    /// Frames a second.
    pub rate: u32,
    /// The same seed gives the same frames in the same order.
    pub seed: u64,
    /// Of this sort alone.
    #[serde(default)]
    pub only: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Format {
    #[default]
    Human,
    Json,
}

/// A program and what must stand before its arguments (a private prefix runs its programs through its own dynamic loader).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
}

impl Tool {
    /// What a prepared command would start.
    pub fn of(command: &std::process::Command) -> Self {
        let env = command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
        Self {
            program: command.get_program().into(),
            args: command.get_args().map(OsString::from).collect(),
            env: env.collect(),
        }
    }

    /// A program with nothing before its arguments.
    pub fn plain(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), ..Self::default() }
    }

    /// The process to be, ready for further arguments.
    pub fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// What the lab doesn't bring itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    pub nginx: Tool,
    /// Only where the network tells the box its addresses.
    pub dnsmasq: Option<Tool>,
    pub qemu: Tool,
    /// OVMF's code and variables, for [`Firmware::Uefi`].
    pub ovmf: Option<(PathBuf, PathBuf)>,
}

impl Tools {
    /// Unpacks what a run needs into the user's cache, unless it is there.
    pub fn ensure(told: Told) -> Result<Self, prefix::Error> {
        let always = [prefix::Tool::Qemu, prefix::Tool::Nginx];
        let dnsmasq = told.any().then_some(prefix::Tool::Dnsmasq);
        let prefix = prefix::Prefix::ensure(&always.into_iter().chain(dnsmasq).collect::<Vec<_>>())?;
        let firmware = |name: &str| prefix.file(prefix::Tool::Qemu, &format!("usr/share/OVMF/{name}"));
        Ok(Self {
            nginx: Tool::of(&prefix.command("nginx")?),
            dnsmasq: dnsmasq.map(|_| prefix.command("dnsmasq")).transpose()?.as_ref().map(Tool::of),
            qemu: Tool::of(&prefix.command("qemu-system-x86_64")?),
            ovmf: firmware("OVMF_CODE_4M.fd").ok().zip(firmware("OVMF_VARS_4M.fd").ok()),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small appliance: two backends, a TCP and a UDP VIP.
    pub fn options() -> RunOptions {
        let backends = vec!["b1".to_owned(), "b2".to_owned()];
        let vip = |port, protocol| Vip {
            address: Ipv4Addr::new(203, 0, 113, 10),
            port,
            protocol,
            backends: backends.clone(),
            weights: BTreeMap::new(),
        };
        let backend = |name: &str, host| Backend { name: name.into(), ip: Ipv4Addr::new(10, 0, 0, host), weight: 1 };
        RunOptions {
            name: "maglev".into(),
            boot: Boot::Kernel { kernel: "kernel".into(), bundle: "bundle".into() },
            vips: vec![vip(80, Protocol::Tcp), vip(53, Protocol::Udp)],
            backends: vec![backend("b1", 11), backend("b2", 12)],
            services: Vec::new(),
            box_settings: BoxSettings {
                ip: Ipv4Addr::new(10, 0, 0, 2),
                prefix: 24,
                ip6: None,
                told: Told::default(),
                mac: [2, 0, 0, 0, 0, 1],
                mtu: 1500,
                vlan: None,
                cpus: 2,
                memory: 256 << 20,
                iommu: false,
                drivers: vec!["ixgbe0".into()],
                watchdogs: BTreeMap::new(),
            },
            disks: vec![Disk { domain: "nvme0".into(), serial: "RL0001".into(), size: 64 << 20, block_size: 4096 }],
            keep_disks: None,
            lab: LabFile::default(),
            duration: Some(Duration::from_secs(20)),
            crashes: Vec::new(),
            commands: Vec::new(),
            pauses: Vec::new(),
            outages: Vec::new(),
            power_losses: Vec::new(),
            faults: Vec::new(),
            rubbish: None,
            programs: Vec::new(),
            counter: Vec::new(),
            report: None,
            format: Format::Human,
            live: false,
            tools: Tools::default(),
        }
    }

    #[test]
    fn options_survive_the_trip_to_the_inner_process() {
        let mut options = options();
        options.tools.nginx =
            Tool { program: "/x/ld.so".into(), args: vec!["--argv0".into()], env: vec![("A".into(), "b".into())] };
        let text = serde_json::to_string(&options).unwrap();
        let back: RunOptions = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert_eq!(back.tools, options.tools);
    }
}
