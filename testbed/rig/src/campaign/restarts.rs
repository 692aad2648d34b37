//! Restarts by the thousand: after them everything is as it was, to the page, the object, the packet, the handle, the thread and the kernel's own records.

use std::collections::BTreeMap;

use interfaces::{
    CallError, RRef,
    abi::Reason,
    control::{Control, Counters},
    probe::{Deed, Probe},
};
use kernel_core::{incarnation::Cause, record::records_made, supervisor::Command, thread::blocks_made};
use serde::{Deserialize, Serialize};

use model::NicConfig;

use super::Random;
use crate::{Card, Drive, Rig, Settings, Tester, graphs};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub schema_version: u32,
    pub seed: u64,
    pub restarts: u64,
    /// How each came about.
    pub crashes: u64,
    pub kills: u64,
    pub orders: u64,
    /// Of which domains; none for the chain of probes.
    #[serde(default)]
    pub domains: BTreeMap<String, u64>,
    pub faults: Vec<String>,
}

impl Record {
    pub fn ok(&self) -> bool {
        self.faults.is_empty()
    }

    pub fn render(&self) -> String {
        format!(
            "restarts, seed {}: {} ({} crashes, {} kills, {} orders), counts {}\n{}{}",
            self.seed,
            self.restarts,
            self.crashes,
            self.kills,
            self.orders,
            if self.ok() { "flat" } else { "NOT flat" },
            self.domains.iter().map(|(name, count)| format!("  {name:<10} {count:>8}\n")).collect::<String>(),
            self.faults.iter().map(|fault| format!("  FAULT: {fault}\n")).collect::<String>()
        )
    }

    /// Half of the restarts are ordered, by a kill or in peace; whether this one is.
    fn ordered(&mut self, rig: &Rig, name: &str, random: &mut Random) -> bool {
        match random.below(4) {
            0 => {
                rig.order(Command::Kill, name);
                self.kills += 1;
            }
            1 => {
                rig.order(Command::Restart, name);
                self.orders += 1;
            }
            _ => return false,
        }
        true
    }
}

/// `count` more restarts of the domains of a chain of three, each with its hands full.
pub fn leg(rig: &Rig, mut record: Record, count: u64) -> Record {
    record.schema_version = 1;
    let mut random = Random(record.seed.wrapping_add(record.restarts));
    let before = rig.baseline();
    let mut warm = None;
    for number in 0..count {
        let name = random.pick(&["b", "c"]);
        let probe = rig.port::<dyn Probe>(name, "probe");
        let generation = rig.status(name).generation;
        let deeds = [Deed::Keep(3), Deed::KeepPackets(3), Deed::KeepParcels(2), Deed::SpawnSleeper, Deed::KeepHandle];
        let wanted = random.below(1 << deeds.len());
        let heard: Vec<_> = rig.run(0, move || {
            let chosen = deeds.into_iter().enumerate().filter(|(at, _)| wanted & 1 << at != 0);
            chosen.map(|(_, deed)| (deed, probe.act(deed))).collect()
        });
        for (deed, answer) in heard {
            // The last of a chain has nobody to have a handle of.
            if answer.is_err() && deed != Deed::KeepHandle {
                record.faults.push(format!("{name} before restart {number}: {deed:?}: {answer:?}"));
            }
        }
        if !record.ordered(rig, name, &mut random) {
            let deed = random.pick(&[Deed::Panic, Deed::StackOverflow, Deed::DivideByZero, Deed::Hoard]);
            let answer = rig.run(1, move || probe.act(deed));
            if answer != Err(CallError::Crashed) {
                record.faults.push(format!("{name}: {deed:?} gave {answer:?}"));
            }
            record.crashes += 1;
        }
        rig.until_restarted(name, generation);
        record.restarts += 1;
        if number == 100 {
            warm = Some(made());
        }
    }
    rig.until_as_before(&before);
    record.faults.extend(warm.and_then(grown));
    record
}

/// Records and thread blocks that were ever made.
fn made() -> (usize, usize) {
    (records_made(), blocks_made())
}

/// What is wrong if there are more of them now than a box needs that made so many when it was warm.
fn grown(warm: (usize, usize)) -> Option<String> {
    let now = made();
    (now.0 > warm.0 + 32 || now.1 > warm.1 + 16)
        .then(|| format!("records and thread blocks: {warm:?} when the box was warm, {now:?} now"))
}

/// A box with one domain of each kind: drivers, shadows, services.
pub fn appliance() -> Rig {
    let (card, drive) = (Card::new(0, NicConfig::default(), Tester::new(64)), Drive::new(1));
    card.serve(true);
    drive.serve();
    let settings = Settings {
        pages: 128 << 10,
        domains: graphs::appliance(),
        functions: vec![card, drive],
        devices: devices::CLASSES,
        packet_buffers: 8192,
        ..Settings::default()
    };
    let rig = Rig::start(settings);
    rig.until("all live", || graphs::APPLIANCE.iter().all(|name| rig.status(name).state == "live"));
    rig
}

/// Restarts after which everything is compared.
const COMPARED: u64 = 100;
/// What is committed at a domain's next visit.
const CRASHES: [Reason; 5] =
    [Reason::Panic, Reason::StackOverflow, Reason::PageFault, Reason::CpuException, Reason::Quota];

/// `count` more restarts of these domains of an [`appliance`], in turn; everything is compared again and again.
pub fn leg_of(rig: &Rig, names: &[String], mut record: Record, count: u64) -> Record {
    record.schema_version = 1;
    let mut random = Random(record.seed.wrapping_add(record.restarts));
    // Once each, so that every heap has grown to what it needs; the caller's restarts are counted from here.
    for name in graphs::APPLIANCE {
        let generation = rig.status(name).generation;
        rig.order(Command::Restart, name);
        rig.until_restarted(name, generation);
    }
    let mut same = 0;
    let mut before = rig.counts();
    rig.until("the counts are steady", || {
        let now = rig.counts();
        same = if now == before { same + 1 } else { 0 };
        before = now;
        same > 500
    });
    let mut warm = None;
    for number in 1..=count {
        let name = &names[record.restarts as usize % names.len()];
        let generation = rig.status(name).generation;
        if !record.ordered(rig, name, &mut random) {
            let reason = random.pick(&CRASHES);
            rig.order(|domain| Command::Inject(domain, reason), name);
            let control = rig.port::<dyn Control>(name, "control");
            rig.until("somebody has met with the fault", || {
                // On a busy machine threads that haven't come to their end yet would pile up, and the kernel's records of them.
                rig.baseline_of(&[]);
                // By a thread whose stack is the core's, so that its end is a guard page.
                rig.run(1, move || {
                    let page = RRef::new(Counters::default()).expect("the kernel has no quota");
                    let _ = control.counters(0, page);
                });
                rig.status(name).last_death.is_some_and(|(died, _)| died >= generation)
            });
            let cause = rig.status(name).last_death.map(|(_, death)| death.cause);
            if cause != Some(Cause::Crash(reason)) {
                record.faults.push(format!("{name}: {reason:?} was told as {cause:?}"));
            }
            record.crashes += 1;
        }
        rig.until_restarted(name, generation);
        record.restarts += 1;
        *record.domains.entry(name.clone()).or_default() += 1;
        if number % COMPARED == 0 || number == count {
            rig.until_as_before(&before);
            warm = warm.or_else(|| Some(made()));
        }
    }
    record.faults.extend(warm.and_then(grown));
    record
}
