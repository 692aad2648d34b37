//! What a run is asked to do, as plain data: it is written by the command and read by the lab's inner process.

use crate::labfile::LabFile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
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
    pub box_settings: BoxSettings,
    /// `NAME.lab.toml`, or [`LabFile::default`].
    pub lab: LabFile,
    /// How long the load runs, from the moment the box is up. `None`: until Ctrl-C.
    pub duration: Option<Duration>,
    pub crashes: Vec<Crash>,
    pub commands: Vec<Command>,
    pub pauses: Vec<Pause>,
    /// Where the JSON report goes.
    pub report: Option<PathBuf>,
    pub format: Format,
    /// Whether a live status may be drawn (it is only ever drawn on a terminal).
    pub live: bool,
    pub tools: Tools,
}

/// How the box comes to life.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Boot {
    /// QEMU's `-kernel` with the bundle as `-initrd`: the kernel's PVH entry.
    Kernel { kernel: PathBuf, bundle: PathBuf },
    /// A disk image under firmware, as on a real machine.
    Image { image: PathBuf, firmware: Firmware },
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
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub name: String,
    pub ip: Ipv4Addr,
    pub weight: u32,
}

/// The box's own side of the wire, from the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxSettings {
    pub ip: Ipv4Addr,
    /// Length of the segment's prefix, such as 24.
    pub prefix: u8,
    pub mac: [u8; 6],
    pub cpus: u32,
    /// Guest memory in bytes.
    pub memory: u64,
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
    /// A program with nothing before its arguments.
    pub fn plain(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            ..Self::default()
        }
    }

    /// The process to be, ready for further arguments.
    pub fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }
}

/// What the lab doesn't bring itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    pub nginx: Tool,
    pub qemu: Tool,
    /// Folders with QEMU's firmware (`-L`).
    pub qemu_data: Vec<PathBuf>,
    /// OVMF's code and variables, for [`Firmware::Uefi`].
    pub ovmf: Option<(PathBuf, PathBuf)>,
}
