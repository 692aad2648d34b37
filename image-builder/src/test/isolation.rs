//! The part of the qemu tier that is about isolation on the metal: the exam (`testbed/domains/examiner`), the very same that the rig's tests have run
//! (`testbed/rig/tests/exam.rs`). The operator is played from here, and what a round leaves behind is looked for in the console's own table.

use super::{Outcome, Tally};
use crate::build::build;
use crate::counts::Counts;
use crate::machine::{Machine, Parts};
use crate::manifest::check;
use crate::workspace::Workspace;
use std::collections::BTreeSet;

const MANIFEST: &str = "testbed/isolation/exam.toml";
const FOLLOW: &str = "log examiner --follow\n";
/// How often the table is looked at until it is as it was.
const LOOKS: usize = 20;
const PLEASE: &str = "exam: please ";
/// The table is taken after the first round and after so many more.
const ROUNDS: usize = 1;

pub fn run(workspace: &Workspace, tally: &mut Tally) {
    tally.check("domains crash in every way and at every point of a call, and leave nothing behind", || {
        Outcome::from(exam(workspace))
    });
}

fn exam(workspace: &Workspace) -> Result<(), String> {
    let checked = check(workspace, &workspace.root().join(MANIFEST)).map_err(|error| error.to_string())?;
    let artifacts =
        build(workspace, &checked.name, &checked.appliance, &checked.inquiry).map_err(|error| error.to_string())?;
    let (kernel, bundle) = (&artifacts.kernel_elf, &artifacts.bundle);
    let mut machine = Machine::boot(&Parts { kernel, bundle, memory: 128 << 20, devices: &[] }, FOLLOW)?;
    // The log begins anew whenever it is shown, so an order is known by its whole line, time and all.
    let (mut done, mut before) = (BTreeSet::new(), None);
    for round in 1..=1 + ROUNDS {
        let passed = format!("exam: round {round} passed");
        while !machine.said().contains(&passed) {
            machine.wait_until(&format!("an order of the exam, or the end of round {round}"), |said| {
                said.contains(&passed) || orders(said).any(|line| !done.contains(line))
            })?;
            let said = machine.said();
            let fresh: Vec<&str> = orders(&said).filter(|line| !done.contains(*line)).collect();
            done.extend(fresh.iter().map(|line| (*line).to_owned()));
            if let Some((_, order)) = fresh.last().and_then(|line| line.split_once(PLEASE)) {
                machine.say(order.trim())?;
            }
        }
        // The examiner rests until c is restarted; what the last crash left to do may take a moment.
        let mut now = None;
        for _ in 0..LOOKS {
            machine.say("domains")?;
            let last = std::mem::replace(&mut now, kept(&machine.said()));
            if now == before || before.is_none() && now == last {
                break;
            }
        }
        if now.as_ref().is_none_or(|rows| rows.len() < 4) {
            return Err(format!("`domains` shows less than the exam has: {now:?}"));
        }
        if before.is_some() && before != now {
            return Err(format!("round {round} has left something behind; before:\n{before:#?}\nnow:\n{now:#?}"));
        }
        before = now;
        machine.say("restart c")?;
    }
    Ok(())
}

/// The lines by which the exam asks for something: `12.3 info  examiner: exam: please kill b`. The last line may be on its way.
fn orders(said: &str) -> impl Iterator<Item = &str> {
    said.rsplit_once('\n')
        .map_or("", |(whole, _)| whole)
        .lines()
        .map(str::trim_end)
        .filter(|line| line.contains(PLEASE))
}

/// What a round must leave as it was of each domain in the last table of `domains`: name, state, pages, threads, bytes on the exchange heap.
type Kept = Vec<(String, String, u64, u64, u64)>;

fn kept(said: &str) -> Option<Kept> {
    let rows = Counts::read(said)?.rows.into_iter();
    Some(rows.map(|row| (row.name, row.state, row.pages, row.threads, row.exchange)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the exam asks for, and what the console's table says, are read as they are written.
    #[test]
    fn orders_and_tables() {
        let said = "   1.5 info  examiner: exam: please kill b\r\n   1.6 info  examiner: exam: round 1 passed\n";
        let order = "   1.5 info  examiner: exam: please kill b";
        assert_eq!(orders(said).collect::<Vec<_>>(), [order]);
        // The same, whether or not more has been said since.
        assert_eq!(orders(&format!("{order}\r\n")).collect::<Vec<_>>(), [order]);
        assert_eq!(orders("1.5 info  examiner: exam: please ki").count(), 0);
        let said = "domain state generation restarts pages threads exchange  last death\nc live 4 3 16 0 0 panic in generation 3\na live 1 0 17 1 64\n\
            pages: 1 used, 1 of them by the exchange heap, 1 free; packet buffers: 1, 1 free, 1 in rings; handles: 1\n\nredleaf> ";
        let row = |name: &str, pages, threads, exchange| (name.to_owned(), "live".to_owned(), pages, threads, exchange);
        assert_eq!(kept(said), Some(vec![row("c", 16, 0, 0), row("a", 17, 1, 64)]));
    }
}
