//! Restarts by the thousand: after them everything is as it was, to the page, the object, the packet, the handle, the thread and the kernel's own records.

use interfaces::{
    CallError,
    probe::{Deed, Probe},
};
use kernel_core::{record::records_made, supervisor::Command, thread::blocks_made};
use serde::{Deserialize, Serialize};

use super::Random;
use crate::Rig;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub schema_version: u32,
    pub seed: u64,
    pub restarts: u64,
    /// How each came about.
    pub crashes: u64,
    pub kills: u64,
    pub orders: u64,
    pub faults: Vec<String>,
}

impl Record {
    pub fn ok(&self) -> bool {
        self.faults.is_empty()
    }

    pub fn render(&self) -> String {
        format!(
            "restarts, seed {}: {} ({} crashes, {} kills, {} orders), counts {}\n{}",
            self.seed,
            self.restarts,
            self.crashes,
            self.kills,
            self.orders,
            if self.ok() { "flat" } else { "NOT flat" },
            self.faults.iter().map(|fault| format!("  FAULT: {fault}\n")).collect::<String>()
        )
    }
}

/// `count` more restarts of the domains of a chain of three, each with its hands full.
pub fn leg(rig: &Rig, mut record: Record, count: u64) -> Record {
    record.schema_version = 1;
    let mut random = Random(record.seed.wrapping_add(record.restarts));
    let before = rig.baseline();
    let made = || (records_made(), blocks_made());
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
        match random.below(4) {
            0 => {
                rig.order(Command::Kill, name);
                record.kills += 1;
            }
            1 => {
                rig.order(Command::Restart, name);
                record.orders += 1;
            }
            _ => {
                let deed = random.pick(&[Deed::Panic, Deed::StackOverflow, Deed::DivideByZero, Deed::Hoard]);
                let answer = rig.run(1, move || probe.act(deed));
                if answer != Err(CallError::Crashed) {
                    record.faults.push(format!("{name}: {deed:?} gave {answer:?}"));
                }
                record.crashes += 1;
            }
        }
        rig.until_restarted(name, generation);
        record.restarts += 1;
        if number == 100 {
            warm = Some(made());
        }
    }
    rig.until_as_before(&before);
    if let Some((records, blocks)) = warm
        && (made().0 > records + 32 || made().1 > blocks + 16)
    {
        record.faults.push(format!(
            "records and thread blocks: {:?} after 100 restarts, {:?} after {count}",
            (records, blocks),
            made()
        ));
    }
    record
}
