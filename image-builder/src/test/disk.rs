//! The part of the qemu tier that is about disks: QEMU's NVMe device under a client that verifies itself (`testbed/domains/block-check`).
//!
//! The client says in the console's log which pass over its region is safe (`flushed`), verified, or found at a start. What is judged here is what it says, across
//! crashes of the driver and across QEMU's death in the midst of writing.

use super::{Outcome, Tally};
use crate::build::build;
use crate::machine::{self, Machine};
use crate::manifest::check;
use crate::workspace::Workspace;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MANIFEST: &str = "testbed/disk/nvme-shadow.toml";
/// The same client on the second namespace.
const SECOND: &str = "testbed/disk/nvme-second.toml";
/// Two threads' regions of 2,048 blocks, and room.
const DISK_BYTES: u64 = 64 << 20;
const SECOND_BYTES: u64 = 16 << 20;
/// The kinds of crashes that the driver goes through under load, each so many times.
const KINDS: [&str; 6] = ["panic", "page-fault", "stack-overflow", "cpu-exception", "quota", "watchdog"];
const ROUNDS: usize = 3;
const POWER_LOSSES: usize = 5;
const FOLLOW: &str = "log --follow\n";

pub fn run(workspace: &Workspace, tally: &mut Tally) {
    let built = |manifest| {
        let checked = check(workspace, &workspace.root().join(manifest)).map_err(|error| error.to_string())?;
        build(workspace, &checked.name, &checked.appliance, &checked.inquiry).map_err(|error| error.to_string())
    };
    let ready = built(MANIFEST).and_then(|artifacts| {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        Ok((artifacts, built(SECOND)?.bundle, folder))
    });
    let (artifacts, second, folder) = match ready {
        Ok(ready) => ready,
        Err(error) => return tally.record("the image with a disk is built", Outcome::Failed(error), false),
    };
    for block_size in [512, 4096] {
        let parts = Parts {
            kernel: artifacts.kernel_elf.clone(),
            bundle: artifacts.bundle.clone(),
            disk: folder.path().join(format!("disk-{block_size}")),
            second: folder.path().join(format!("second-{block_size}")),
            block_size,
        };
        let made = File::create(&parts.disk)
            .and_then(|disk| disk.set_len(DISK_BYTES))
            .and_then(|()| File::create(&parts.second)?.set_len(SECOND_BYTES));
        if let Err(error) = made {
            return tally.record("a disk", Outcome::Failed(error.to_string()), false);
        }
        tally.check(&format!("what else a disk can do, on two namespaces, blocks of {block_size}"), || {
            Outcome::from(faculties(&parts, &second))
        });
        tally.check(&format!("the NVMe driver crashes under load, blocks of {block_size}"), || {
            Outcome::from(crashes(&parts))
        });
        tally.check(&format!("power is lost in the midst of writing, blocks of {block_size}"), || {
            Outcome::from(power_losses(&parts))
        });
    }
}

/// What a machine is made of.
struct Parts {
    kernel: PathBuf,
    bundle: PathBuf,
    disk: PathBuf,
    /// The medium of its second namespace, whose blocks have the other size.
    second: PathBuf,
    block_size: u32,
}

fn boot(parts: &Parts, bundle: &Path) -> Result<Machine, String> {
    let other = if parts.block_size == 512 { 4096 } else { 512 };
    let mut devices = vec!["-device".to_owned(), "nvme,id=nvme,serial=RL0001".to_owned()];
    for (number, file, size) in [(1, &parts.disk, parts.block_size), (2, &parts.second, other)] {
        let medium = format!("file={},format=raw,if=none,discard=unmap,id=disk{number}", file.display());
        let namespace = format!("nvme-ns,bus=nvme,nsid={number},drive=disk{number}");
        let sizes = format!("logical_block_size={size},physical_block_size={size}");
        devices.extend(["-drive".to_owned(), medium, "-device".to_owned(), format!("{namespace},{sizes}")]);
    }
    Machine::boot(&machine::Parts { kernel: &parts.kernel, bundle, memory: 128 << 20, devices: &devices }, FOLLOW)
}

/// Waits for so many more verified passes, of both threads.
fn wait_for_passes(machine: &mut Machine, more: u64) -> Result<(), String> {
    let last = |said: &str, thread| passes(said, "verified", thread).max().unwrap_or(0);
    let said = machine.said();
    let wanted = [0, 1].map(|thread| last(&said, thread).max(found(&said, thread).map_or(0, |(_, most)| most)) + more);
    machine.wait_until("verified passes", |said| (0..2).all(|thread| last(said, thread) >= wanted[thread]))
}

/// The passes of a thread that the client has said this of, in order: `check: flushed 0 17`.
fn passes<'a>(said: &'a str, what: &'a str, thread: usize) -> impl Iterator<Item = u64> + 'a {
    said.lines().filter_map(move |line| {
        let (_, rest) = line.split_once(&format!("check: {what} {thread} "))?;
        rest.trim().parse().ok()
    })
}

/// What a thread found in its region at the start: `check: found 0 from 16 to 17`.
fn found(said: &str, thread: usize) -> Option<(u64, u64)> {
    said.lines().find_map(|line| {
        let (_, rest) = line.split_once(&format!("check: found {thread} from "))?;
        let (least, most) = rest.split_once(" to ")?;
        Some((least.trim().parse().ok()?, most.trim().parse().ok()?))
    })
}

/// What a disk can do besides reading, writing and flushing, on either namespace; on the second one with a crash of the driver in it.
fn faculties(parts: &Parts, second: &Path) -> Result<(), String> {
    let all = |said: &str| {
        (0..2).all(|thread| said.contains(&format!("check: faculties {thread} unit-access write-zeroes deallocate")))
    };
    boot(parts, &parts.bundle)?.wait_until("all faculties on the first namespace", all)?;
    let mut machine = boot(parts, second)?;
    machine.wait_until("all faculties on the second namespace", all)?;
    wait_for_passes(&mut machine, 1)?;
    machine.say("crash nvme0")?;
    machine.wait_until("the adoption", |said| adoptions(said) > 0)?;
    wait_for_passes(&mut machine, 1)
}

/// The driver crashes in each way, while both threads work; the client sees nothing of it, and all that it reads is what it wrote.
fn crashes(parts: &Parts) -> Result<(), String> {
    let mut machine = boot(parts, &parts.bundle)?;
    wait_for_passes(&mut machine, 1)?;
    let orders: Vec<String> =
        KINDS.iter().map(|kind| format!("crash nvme0 {kind}")).chain(["kill nvme0".to_owned()]).collect();
    for order in orders.iter().cycle().take(ROUNDS * orders.len()) {
        let before = adoptions(&machine.said());
        machine.say(order)?;
        // The next order before that would find a driver that is on its way, and be refused.
        machine.wait_until(&format!("adoption after `{order}`"), |said| adoptions(said) > before)?;
        wait_for_passes(&mut machine, 1)?;
    }
    machine.say("stats shadow")?;
    machine.wait_until("the shadow's counters", |said| said.contains("shadow.batches.lost 0"))
}

/// How many generations of the driver have adopted its queues. The log is shown again and again: each line counts once.
fn adoptions(said: &str) -> usize {
    said.lines()
        .filter(|line| line.contains("nvme0: adopting") && line.trim_end().ends_with("live queues"))
        .collect::<BTreeSet<_>>()
        .len()
}

/// QEMU is killed in the midst of writing: what had been flushed is there at the next start, and each block is wholly one pass or the next.
fn power_losses(parts: &Parts) -> Result<(), String> {
    let mut flushed = [0; 2];
    for round in 0..=POWER_LOSSES {
        let mut machine = boot(parts, &parts.bundle)?;
        machine.wait_until("what is found", |said| (0..2).all(|thread| found(said, thread).is_some()))?;
        for (thread, flushed) in flushed.iter().enumerate() {
            let (least, _) = found(&machine.said(), thread).ok_or("found before")?;
            if least < *flushed {
                return Err(format!(
                    "round {round}: thread {thread} finds a block of pass {least}, {flushed} was flushed"
                ));
            }
        }
        wait_for_passes(&mut machine, 2)?;
        // Anywhere in a pass.
        std::thread::sleep(Duration::from_millis(7 * round as u64));
        let said = machine.cut()?;
        flushed = [0, 1].map(|thread| passes(&said, "flushed", thread).max().unwrap_or(flushed[thread]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The judge reads what the client says, and nothing else.
    #[test]
    fn lines_of_the_client() {
        let said =
            "  1.5 info  check: found 1 from 0 to 0\n 2.0 info  check: flushed 1 7\n 2.1 info  check: flushed 11 9\n";
        assert_eq!(found(said, 1), Some((0, 0)));
        assert_eq!(found(said, 0), None);
        assert_eq!(passes(said, "flushed", 1).collect::<Vec<_>>(), [7]);
    }
}
