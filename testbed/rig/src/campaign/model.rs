//! Random graphs of domains against a model of who owns what: domains are told to keep, give, lend, post and crash, and after each step every count of every domain
//! is what the model says.

use std::time::{Duration, Instant};

use interfaces::{
    CallError, Port, RRef,
    probe::{Deed, Probe, Relayed, Word},
};
use kernel_core::supervisor::Command;
use serde::{Deserialize, Serialize};

use super::Random;
use crate::{DomainSpec, PROBE, RELAY, Rig, Settings};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub schema_version: u32,
    pub seed: u64,
    pub graphs: u64,
    pub steps: u64,
    pub deaths: u64,
    pub faults: Vec<String>,
}

impl Record {
    pub fn ok(&self) -> bool {
        self.faults.is_empty()
    }

    pub fn render(&self) -> String {
        format!(
            "graphs, seed {}: {} graphs, {} steps, {} deaths, {}\n{}",
            self.seed,
            self.graphs,
            self.steps,
            self.deaths,
            if self.ok() { "each domain owned what the model says after each" } else { "NOT as the model says" },
            self.faults.iter().map(|fault| format!("  FAULT: {fault}\n")).collect::<String>()
        )
    }
}

/// A graph drawn by lot: up to six domains, each but the leaves with an edge to an earlier one.
pub struct Graph {
    names: Vec<String>,
    next: Vec<Option<usize>>,
}

impl Graph {
    pub fn draw(random: &mut Random) -> Graph {
        let count = 2 + random.below(5) as usize;
        // The first has nobody before it to call.
        let next =
            (0..count).map(|place| (place > 0 && random.below(5) > 0).then(|| random.below(place as u64) as usize));
        Graph { next: next.collect(), names: (0..count).map(|place| format!("d{place}")).collect() }
    }

    pub fn settings(&self) -> Settings {
        let domains = self.names.iter().zip(&self.next).map(|(name, next)| match next {
            Some(next) => {
                DomainSpec::new(name, RELAY).export("probe", "Probe").import("next", "Probe", *next as u32, "probe")
            }
            None => DomainSpec::new(name, PROBE).export("probe", "Probe"),
        });
        Settings { domains: domains.collect(), packet_buffers: 4096, ..Settings::default() }
    }
}

/// What a domain owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Owned {
    objects: usize,
    buffers: usize,
    handles: usize,
    /// Threads of its own that sleep.
    threads: usize,
}

/// A parcel as a probe makes it: six objects, two packets.
const PARCEL: Owned = Owned { objects: 6, buffers: 2, handles: 0, threads: 0 };

impl Owned {
    fn add(&mut self, more: Owned) {
        self.objects += more.objects;
        self.buffers += more.buffers;
        self.handles += more.handles;
        self.threads += more.threads;
    }
}

/// `steps` steps on the rig of `graph`, drawn by `random`; what was done, and whatever differs.
pub fn walk(rig: &Rig, graph: &Graph, random: &mut Random, steps: u64) -> (u64, Vec<String>) {
    let probes: Vec<Port<dyn Probe>> = graph.names.iter().map(|name| rig.port(name, "probe")).collect();
    rig.baseline();
    let mut model = vec![Owned::default(); graph.names.len()];
    let (mut deaths, mut faults) = (0, Vec::new());
    for step in 0..steps {
        let place = random.below(graph.names.len() as u64) as usize;
        let (name, probe, next) = (&graph.names[place], probes[place], graph.next[place]);
        let generation = rig.status(name).generation;
        let mut dead = false;
        let mut expect = |what: &str, heard: Result<(), CallError>, expected: Result<(), CallError>| {
            if heard != expected {
                faults.push(format!("step {step}, {name}: {what} gave {heard:?}, not {expected:?}"));
            }
        };
        let act = |deed: Deed| rig.run((step % 2) as usize, move || probe.act(deed));
        let to_next = next.map_or(Err(CallError::Gone), |_| Ok(()));
        match random.below(15) {
            0 => {
                let count = random.below(5) as usize;
                expect("keep", act(Deed::Keep(count as u32)), Ok(()));
                model[place].objects += count;
            }
            1 => {
                let count = 1 + random.below(8) as usize;
                expect("keep packets", act(Deed::KeepPackets(count as u32)), Ok(()));
                model[place].add(Owned { objects: 1, buffers: count, ..Owned::default() });
            }
            2 => {
                expect("keep a parcel", act(Deed::KeepParcels(1)), Ok(()));
                model[place].add(PARCEL);
            }
            3 => {
                expect("keep a handle", act(Deed::KeepHandle), to_next);
                // After its maker's death it errs for ever, and is still its holder's.
                model[place].handles += usize::from(next.is_some());
            }
            4 => {
                let given = rig.run(0, move || probe.keep(RRef::new(Word(1)).expect("the kernel has no quota")));
                expect("give", given, Ok(()));
                model[place].objects += 1;
            }
            5 => expect("lend", act(Deed::Lend(0)), to_next),
            6 => expect("lend what is nested", act(Deed::LendNested(0)), to_next),
            7 => {
                let passed =
                    rig.run(1, move || probe.pass(RRef::new(Word(1)).expect("the kernel has no quota")).map(drop));
                expect("pass", passed, Ok(()));
            }
            8 => {
                expect("a sleeper", act(Deed::SpawnSleeper), Ok(()));
                model[place].threads += 1;
            }
            9 => {
                let relayed = rig.run(0, move || probe.relay(1, Deed::Keep(1)));
                let expected = if next.is_some() { Relayed::Done } else { Relayed::Failed(CallError::Gone) };
                expect("relay", relayed.map(|heard| assert_eq!(heard, expected)), Ok(()));
                if let Some(next) = next {
                    model[next].objects += 1;
                }
            }
            10 | 11 => {
                let deed = random.pick(&[Deed::Panic, Deed::StackOverflow, Deed::PutAndPanic, Deed::DivideByZero]);
                expect("crash", act(deed), Err(CallError::Crashed));
                dead = true;
            }
            12 if next.is_some() => {
                let deed = random.pick(&[Deed::TakeAndPanic, Deed::PostAndPanic]);
                expect("send and crash", act(deed), Err(CallError::Crashed));
                let sent = if deed == Deed::PostAndPanic { PARCEL } else { Owned { objects: 1, ..Owned::default() } };
                model[next.expect("it has one")].add(sent);
                dead = true;
            }
            _ => {
                rig.order(if random.below(2) == 0 { Command::Kill } else { Command::Restart }, name);
                dead = true;
            }
        }
        if dead {
            deaths += 1;
            rig.until_restarted(name, generation);
            model[place] = Owned::default();
        }
        faults.extend(compare(rig, graph, &model).map(|differs| format!("step {step}, {name}: {differs}")));
        if faults.len() > 5 {
            break;
        }
    }
    (deaths, faults)
}

/// What differs from the model, when nothing moves any more.
fn compare(rig: &Rig, graph: &Graph, model: &[Owned]) -> Option<String> {
    let differs = || {
        let counts = rig.counts();
        graph.names.iter().zip(model).enumerate().find_map(|(place, (name, owned))| {
            let now = &counts.domains[place];
            let now = Owned { objects: now.objects, buffers: now.buffers, handles: now.handles, threads: now.threads };
            (now != *owned).then(|| format!("{name} owns {now:?}, the model says {owned:?}"))
        })
    };
    let begun = Instant::now();
    loop {
        let found = differs()?;
        if begun.elapsed() > Duration::from_secs(5) {
            return Some(found);
        }
        std::thread::sleep(Duration::from_micros(300));
    }
}
