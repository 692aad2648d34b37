//! The report of a run: what the JSON file holds. Keys are snake_case with their units; additions don't change `schema_version`, other changes do.

use crate::feed::CpuFacts;
use crate::rubbish::RubbishReport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub const SCHEMA_VERSION: u32 = 1;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema_version: u32,
    pub name: String,
    /// Whether all went well; if not, `reasons` says what didn't.
    pub ok: bool,
    pub reasons: Vec<String>,
    /// How long the load ran.
    pub duration_ms: f64,
    /// Kernel entry to all domains started, by the box's own clock.
    pub boot_ms: Option<f64>,
    /// QEMU's start to the first probe at a backend.
    pub first_packet_ms: Option<f64>,
    pub requests: Requests,
    pub connections: Connections,
    pub backends: BTreeMap<String, BackendReport>,
    /// By address, port and protocol, such as `10.0.1.100:80/tcp`.
    pub vips: BTreeMap<String, VipReport>,
    pub domains: BTreeMap<String, DomainReport>,
    pub cpus: Vec<CpuFacts>,
    pub crashes: Vec<CrashReport>,
    pub pauses: Vec<PauseReport>,
    pub outages: Vec<OutageReport>,
    #[serde(default)]
    pub power_losses: Vec<PowerLossReport>,
    /// What went wrong with the card on command.
    #[serde(default)]
    pub faults: Vec<FaultReport>,
    /// What was put on the box's cable beside the load, if that was asked for.
    pub rubbish: Option<RubbishReport>,
    pub probe: ProbeReport,
    /// The NIC model's counts.
    pub nic: NicReport,
    /// What the run checked about itself.
    pub checks: Vec<Check>,
    pub console: Vec<Exchange>,
    /// Programs that were run where the client is.
    #[serde(default)]
    pub programs: Vec<ProgramReport>,
}

/// A fault of the card, by its name: one of `model::MISHAPS`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FaultReport {
    pub at_ms: f64,
    pub fault: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Requests {
    /// Status, length and SHA-256 right, within 15 s, no retry.
    pub completed: u64,
    /// Everything else, refused connects included.
    pub failed: u64,
    pub by_kind: BTreeMap<String, KindReport>,
    /// Why requests failed, and how many did so.
    pub failures: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KindReport {
    pub completed: u64,
    pub failed: u64,
    pub median_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Connections {
    pub opened: u64,
    /// By a reset, an early end, or 30 s without progress.
    pub broken: u64,
    /// Seen at another backend than the one that got the SYN, while that one lived.
    pub moved: u64,
    /// Those of `moved` that moved after somebody at the console had changed the set of backends in this run.
    pub moved_after_backend_change: u64,
    /// Those of `moved` whose backend had been cut off.
    pub moved_from_the_dead: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendReport {
    pub weight: u32,
    /// Connections whose SYN was captured there.
    pub connections: u64,
    /// Its part of all connections.
    pub share: f64,
    /// Requests that it answered rightly.
    pub requests: u64,
    /// VIP frames from the box.
    pub frames: u64,
    pub probes: u64,
    /// Since the box was up: when its last new connection and the last VIP frame came.
    pub last_connection_ms: Option<f64>,
    pub last_frame_ms: Option<f64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VipReport {
    /// Distinct connections, or for UDP distinct pairs of source and port.
    pub flows: u64,
    /// How many of them each of its backends got.
    pub backends: BTreeMap<String, u64>,
    /// The worst backend's share of the flows, by how much it is off what its weight asks for: 0.1 is a tenth too many or too few.
    pub worst_share: Option<f64>,
    /// Of a UDP VIP: numbered datagrams to it under load, and distinct ones that arrived.
    pub probes_sent: u64,
    pub probes_received: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainReport {
    pub state: String,
    pub generation: u64,
    pub restarts: u64,
    /// The worst of its crashes.
    pub blocked_ms: Option<f64>,
    pub pages: u64,
    pub counters: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CrashReport {
    /// Since the box was up.
    pub at_ms: f64,
    pub domain: String,
    pub reason: String,
    /// The one that crashed.
    pub generation: u64,
    /// The longest gap between the probe's arrivals around the crash, less the median gap.
    pub blocked_ms: Option<f64>,
    pub pages_before: Option<u64>,
    pub pages_after: Option<u64>,
    /// What the domain had when its first generation had started.
    pub pages_at_first: Option<u64>,
    /// From the crash to the domain's next start, by the box's own clock; none if it did not come back.
    pub restart_ms: Option<f64>,
    pub cpu: Option<u32>,
    pub chain: Vec<String>,
    pub last_words: String,
    /// Whether the run asked for it.
    pub asked_for: bool,
}

/// The box stopped from outside, to gauge the lab.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PauseReport {
    pub at_ms: f64,
    pub length_ms: f64,
    pub blocked_ms: Option<f64>,
}

/// The box's power cut from outside, and given back at once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PowerLossReport {
    /// Since the box was first up.
    pub at_ms: f64,
    /// Until it was booted again and every service had answered; none if it did not come to that.
    pub back_after_ms: Option<f64>,
}

/// A backend cut off from outside, as asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OutageReport {
    pub backend: String,
    pub at_ms: f64,
    pub length_ms: f64,
    /// How long the box went on sending to it.
    pub given_up_after_ms: Option<f64>,
    /// How long after its return the box sent to it again.
    pub found_again_after_ms: Option<f64>,
    /// Connections of its own that it cost, and requests on them. They are no fault of the box's.
    pub broken: u64,
    pub failed: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    pub sent: u64,
    /// Distinct ones that arrived.
    pub received: u64,
    /// The noise floor: the longest gap before the first crash.
    pub max_gap_before_ms: f64,
    pub median_gap_ms: f64,
    /// Arrivals of a probe that had arrived before.
    pub repeated: u64,
    /// Arrivals after one with a higher number.
    pub reordered: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicReport {
    pub rx: u64,
    pub missed: u64,
    pub tx: u64,
    /// Pause frames, which the card keeps for itself.
    #[serde(default)]
    pub rx_control: u64,
    /// `rx` by queue, up to the last that got anything.
    #[serde(default)]
    pub rx_queues: Vec<u64>,
    /// Bytes of the longest frame of `rx` and of `tx`, as they were on the cable, without check sequence.
    #[serde(default)]
    pub rx_longest: u64,
    #[serde(default)]
    pub tx_longest: u64,
    /// Accesses of the card to memory that were refused: of what the box had not let it to.
    #[serde(default)]
    pub dma_refused: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    /// `None`: could not be checked, `detail` says why.
    pub holds: Option<bool>,
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    pub at_ms: f64,
    pub line: String,
    /// `None`: no prompt came back.
    pub reply: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgramReport {
    pub line: String,
    /// `None`: it could not be started, or a signal ended it.
    pub status: Option<i32>,
    pub took_ms: f64,
    /// The end of what it said.
    pub words: String,
}

impl Report {
    pub fn ok(&self) -> bool {
        self.ok
    }
}
