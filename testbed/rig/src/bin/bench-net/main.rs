//! What a packet costs in the 82599's driver, natively, and what a crash of that driver costs; against the model on shared memory.
//!
//! `bench-net [--report FILE] [--crashes N]` prints a table, and writes a JSON list of `{"row", "metric", "median", "unit"}`.
//!
//! - [`datapath`]: cycles a packet, of 64-byte frames, one queue. The model fills the ring and stands still; then the driver's work is timed. So the model isn't
//!   what is measured, and its frames lie in this CPU's caches, as a card's would in the shared one.
//! - [`recovery`]: numbered frames at 90 % of the loss-free rate, and a driver that is killed again and again.

mod datapath;
mod recovery;

use std::{fs, process::ExitCode};

use bundle::manifest::{Bytes, DeviceMatch, Import, Source};
use model::NicConfig;
use rig::{Card, DomainSpec, Rig, Settings, Start, Tester};

const IXGBE: Start = Start { name: "ixgbe", package: "ixgbe", path: "ixgbe::start" };
const SHADOW: Start = Start { name: "net-shadow", package: "net-shadow", path: "net_shadow::start" };
const NULL: Start = Start { name: "null-net", package: "null-net", path: "null_net::start" };

/// Descriptors of each ring.
const RING: u16 = 1024;
const CRASHES: usize = 100;

pub struct Row {
    name: String,
    metric: &'static str,
    value: f64,
    unit: &'static str,
}

impl Row {
    pub fn new(name: impl Into<String>, metric: &'static str, value: f64, unit: &'static str) -> Row {
        Row { name: name.into(), metric, value, unit }
    }
}

pub fn median(samples: Vec<f64>) -> f64 {
    percentile(samples, 50)
}

pub fn percentile(mut samples: Vec<f64>, percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get((samples.len() * percent / 100).min(samples.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// A box with one CPU: card, driver, shadow; and a card without a card, with a shadow of its own.
fn start() -> (Rig, &'static Card<Tester>) {
    let card = Card::new(0, NicConfig::default(), Tester::new(64));
    card.serve(true);
    let config = ixgbe::Config { rx_ring: RING, tx_ring: RING, ..ixgbe::Config::default() };
    let config = postcard::to_allocvec(&config).expect("plain data");
    let driver = DomainSpec::new("ixgbe0", IXGBE).export("net", "Net").export("control", "Control").with(|spec| {
        let from = Source::Device;
        spec.device = Some(DeviceMatch::Id { vendor: 0x8086, device: NicConfig::default().device });
        spec.imports.push(Import { port: "device".into(), from, interface: "IxgbeDevice".into() });
        spec.config = config;
    });
    let shadow = |name, below| {
        DomainSpec::new(name, SHADOW)
            .export("net", "Net")
            .export("control", "Control")
            .import("net", "Net", below, "net")
    };
    let null = DomainSpec::new("null", NULL).export("net", "Net");
    let mut domains = vec![driver, shadow("shadow", 0), null, shadow("null-shadow", 2)];
    for domain in &mut domains {
        domain.spec.cpus = vec![0];
        domain.spec.exchange = Bytes(8 << 20);
    }
    let settings = Settings {
        cpus: 1,
        domains,
        functions: vec![card],
        devices: devices::CLASSES,
        packet_buffers: 8192,
        ..Settings::default()
    };
    let rig = Rig::start(settings);
    rig.until("the driver serves", || rig.status("ixgbe0").state == "live");
    (rig, card)
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut report, mut crashes) = (None, CRASHES);
    while let Some(flag) = arguments.next() {
        match (flag.as_str(), arguments.next()) {
            ("--report", Some(file)) => report = Some(file),
            ("--crashes", Some(count)) if count.parse::<usize>().is_ok_and(|count| count > 0) => {
                crashes = count.parse().unwrap_or(CRASHES);
            }
            _ => {
                eprintln!("bench-net [--report FILE] [--crashes N]");
                return ExitCode::from(2);
            }
        }
    }
    let (rig, card) = start();
    let mut rows = datapath::measure(&rig, card);
    rows.extend(recovery::measure(&rig, card, crashes));
    rows.extend(datapath::measure_same_domain(&rig, card));
    for row in &rows {
        println!("{:<32} {:<18} {:>14.1} {}", row.name, row.metric, row.value, row.unit);
    }
    if let Some(file) = report {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| serde_json::json!({ "row": row.name, "metric": row.metric, "median": row.value, "unit": row.unit }))
            .collect();
        if let Err(error) = fs::write(&file, serde_json::to_string_pretty(&rows).expect("plain data")) {
            eprintln!("{file}: {error}");
            return ExitCode::FAILURE;
        }
    }
    // The box's threads have no end of their own.
    std::process::exit(0)
}
