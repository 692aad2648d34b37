//! The exam (`testbed/domains/examiner`) in the rig: the very same that the qemu tier has run on the metal. Here everything is counted that there is.

use std::{sync::LazyLock, time::Duration};

use interfaces::abi::Reason;
use kernel_core::supervisor::Command;
use rig::{Counts, DomainSpec, Rig, Settings, Start};

const EXAMINER: Start = Start { name: "examiner", package: "examiner", path: "examiner::start" };
/// Counts are taken after the first round and after so many more.
const ROUNDS: usize = 2;

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let mut settings = Settings::chain(|_| {});
    let examiner = DomainSpec::new("examiner", EXAMINER)
        .import("a", "Probe", 2, "probe")
        .import("b", "Probe", 1, "probe")
        .import("c", "Probe", 0, "probe");
    settings.domains.push(examiner);
    Rig::start(settings)
});

/// Carries out what the exam asks for.
fn oblige(order: &str) {
    match order.split_whitespace().collect::<Vec<_>>()[..] {
        ["kill", name] => RIG.order(Command::Kill, name),
        ["restart", name] => RIG.order(Command::Restart, name),
        ["crash", name, kind] => {
            let reason = Reason::from_name(kind).expect("a kind of crash");
            RIG.order(|domain| Command::Inject(domain, reason), name);
        }
        _ => panic!("the exam asks for `{order}`"),
    }
}

/// Invariants 1 to 4 and 8: each case of each round comes out as it must, and rounds leave nothing behind.
#[test]
fn every_round_passes_and_leaves_nothing_behind() {
    let (examiner, mut next, mut before) = (RIG.index("examiner"), 0, None::<Counts>);
    for round in 1..=1 + ROUNDS {
        let mut passed = false;
        RIG.until(&format!("round {round} has passed"), || {
            let (lines, end) = kernel_core::log::read(next, Some(examiner));
            next = end;
            for text in lines.iter().map(|line| line.text()) {
                assert!(!text.contains("exam: FAILED"), "{text}; the log:\n{}", RIG.log());
                if let Some((_, order)) = text.split_once("exam: please ") {
                    oblige(order);
                }
                passed |= text.contains(&format!("exam: round {round} passed"));
            }
            passed
        });
        // The examiner rests until c is restarted.
        match &before {
            None => {
                let mut last = RIG.counts();
                RIG.until("nothing changes any more", || {
                    std::thread::sleep(Duration::from_millis(100));
                    let now = RIG.counts();
                    now == std::mem::replace(&mut last, now.clone())
                });
                before = Some(last);
            }
            Some(before) => RIG.until_as_before(before),
        }
        RIG.order(Command::Restart, "c");
    }
}
