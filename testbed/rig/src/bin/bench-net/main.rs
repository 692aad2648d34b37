//! What a packet costs in the 82599's driver, natively, and what a crash of that driver costs; against the model on shared memory.
//!
//! `redleaf bench net` runs this and shows what comes out. By hand:
//!
//! - `bench-net net [--crashes N] [--report FILE]`: our driver's rows: cycles a packet ([`datapath`]), and numbered frames amid crashes ([`recovery`]).
//! - `bench-net dpdk --library FILE --place FOLDER [--scalar] [--report FILE]`: the same cycles for DPDK's driver ([`dpdk`]); by root, with DPDK's own loader and libraries.
//! - `bench-net maglev [--report FILE]` and `bench-net dpdk-maglev …`: forwarding by Maglev, ours and a C program's ([`maglev`]).
//!
//! Rows are printed, and written as a JSON list of `{"row", "metric", "median", "unit"}`.

mod datapath;
mod dpdk;
mod maglev;
mod method;
mod recovery;
mod wire;

use std::{path::PathBuf, process::ExitCode};

use bundle::manifest::{Bytes, DeviceMatch, Import, Source};
use model::NicConfig;
use rig::{
    Card, DomainSpec, Rig, Settings, Start, Tester,
    bench::{self, Row},
};

use crate::{dpdk::Width, method::RING};

const IXGBE: Start = Start { name: "ixgbe", package: "ixgbe", path: "ixgbe::start" };
const SHADOW: Start = Start { name: "net-shadow", package: "net-shadow", path: "net_shadow::start" };
const NULL: Start = Start { name: "null-net", package: "null-net", path: "null_net::start" };

const CRASHES: usize = 100;
const USAGE: &str = "bench-net net [--crashes N] [--report FILE]
bench-net maglev [--report FILE]
bench-net dpdk|dpdk-maglev --library FILE --place FOLDER [--scalar] [--report FILE]";

/// Says what is being measured.
pub fn progress(what: &str) {
    eprintln!("{what}");
}

/// A box with two CPUs: card, driver, shadow; and a card without a card, with a shadow of its own.
fn start() -> (&'static Rig, &'static Card<Tester>) {
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
        domain.spec.exchange = Bytes(8 << 20);
    }
    let settings = Settings {
        domains,
        functions: vec![card],
        devices: devices::CLASSES,
        packet_buffers: 16384,
        ..Settings::default()
    };
    // For good: its threads have no end of their own.
    let rig: &Rig = Box::leak(Box::new(Rig::start(settings)));
    explain_panics(rig);
    rig.until("the driver serves", || rig.status("ixgbe0").state == "live");
    (rig, card)
}

/// Has a panic say what the box has logged: it is mostly a domain's crash that makes this program panic.
fn explain_panics(rig: &'static Rig) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        eprintln!("the box's log:\n{}", rig.log());
    }));
}

/// What the command line asks for.
#[derive(Default)]
struct Question {
    report: Option<PathBuf>,
    crashes: Option<usize>,
    library: Option<PathBuf>,
    place: Option<PathBuf>,
    scalar: bool,
}

impl Question {
    fn read(mut arguments: impl Iterator<Item = String>) -> Option<Question> {
        let mut question = Question::default();
        while let Some(flag) = arguments.next() {
            if flag == "--scalar" {
                question.scalar = true;
                continue;
            }
            let value = arguments.next()?;
            match flag.as_str() {
                "--report" => question.report = Some(value.into()),
                "--library" => question.library = Some(value.into()),
                "--place" => question.place = Some(value.into()),
                "--crashes" => question.crashes = Some(value.parse().ok().filter(|count| *count > 0)?),
                _ => return None,
            }
        }
        Some(question)
    }
}

/// Our driver's rows; and what contradicts the claim about crashes.
fn ours(question: &Question) -> (Vec<Row>, Vec<String>) {
    progress("building and starting the domains");
    let (rig, card) = start();
    let mut rows = datapath::measure(rig, card);
    let (recovery, faults) = recovery::measure(rig, card, question.crashes.unwrap_or(CRASHES));
    rows.extend(recovery);
    rows.extend(datapath::measure_same_domain(rig, card));
    (rows, faults)
}

/// Rows of what is on DPDK.
fn peer(question: &Question, measure: fn(&dpdk::Port, Width) -> Result<Vec<Row>, String>) -> Result<Vec<Row>, String> {
    let (Some(library), Some(place)) = (&question.library, &question.place) else { return Err(USAGE.into()) };
    dpdk::enter(place)?;
    let width = if question.scalar { Width::Scalar } else { Width::Vector };
    measure(&dpdk::Port::start(library, place, width)?, width)
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let Some(question) = Question::read(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let failed = |error| (vec![], vec![error]);
    let (rows, faults) = match what.as_str() {
        "net" => ours(&question),
        "maglev" => {
            let (rig, card) = start();
            (maglev::measure_ours(rig, card), vec![])
        }
        "dpdk" => peer(&question, dpdk::measure).map_or_else(failed, |rows| (rows, vec![])),
        "dpdk-maglev" => peer(&question, maglev::measure_peer).map_or_else(failed, |rows| (rows, vec![])),
        _ => failed(USAGE.into()),
    };
    faults.iter().for_each(|fault| eprintln!("bench-net: {fault}"));
    let well = bench::report(&rows, question.report.as_deref()) && faults.is_empty();
    // The box's threads, and DPDK's, have no end of their own.
    std::process::exit(i32::from(!well))
}
