//! `redleaf test [TIER]`: everything that anyone runs to believe in this system, as code, the same here and in continuous integration.
//!
//! A tier is a list of checks. Each passes, fails with a reason, or is skipped with a reason; under `CI=true` a skip is a failure. The last
//! line is `N passed, N failed, N skipped`. With a pattern only checks with it in their names are made; none is a failure.

mod counting;
mod disk;
mod fresh;
mod host;
mod image;
mod isolation;
mod lab;
mod qemu;
mod sabotage;

use crate::workspace::Workspace;
use clap::ValueEnum;
use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tier {
    /// Every crate's own tests, on the host
    Host,
    /// The README's two commands on minimal Debian roots, as root and as a user (an hour)
    Fresh,
    /// Every patch in testbed/sabotage must make the suite fail
    Sabotage,
    /// The kernel's self-test on QEMU's machines, what a kernel panic looks like, the exam of isolation, disks, and that a guest's instructions are counted right
    Qemu,
    /// The command run as an operator runs it: crashes, console, image, judged from outside the box
    Lab,
    /// Drivers and tools that we did not write: Linux's and DPDK's on our model, in a guest
    Interop,
    /// A disk image: judged by sgdisk and fsck, booted under BIOS and UEFI, flashed
    Image,
}

impl Tier {
    /// What runs when no tier is named; of interop its first test.
    const SUITE: [Tier; 5] = [Tier::Host, Tier::Qemu, Tier::Lab, Tier::Image, Tier::Interop];

    fn name(self) -> &'static str {
        match self {
            Tier::Host => "host",
            Tier::Fresh => "fresh",
            Tier::Sabotage => "sabotage",
            Tier::Qemu => "qemu",
            Tier::Lab => "lab",
            Tier::Interop => "interop",
            Tier::Image => "image",
        }
    }
}

/// Cargo for a tier: it ends with all that it has started when its time is up (in seconds; 0: never), and with whatever ends this process. By itself
/// it would leave compilers and tests behind, and lock the next run out of its folder.
fn cargo(seconds: u32) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "timeout", &format!("--kill-after={KILL_AFTER}"), &seconds.to_string()]);
    command.arg(std::env::var_os("CARGO").unwrap_or("cargo".into())).stdin(Stdio::null());
    command
}

/// Seconds that what is told to end may take for it.
const KILL_AFTER: u32 = 120;

/// How a check came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

impl From<Result<(), String>> for Outcome {
    fn from(result: Result<(), String>) -> Outcome {
        result.map_or_else(Outcome::Failed, |()| Outcome::Passed)
    }
}

/// Where checks report to.
pub struct Tally {
    skips_fail: bool,
    /// Part of the names of what is to be checked.
    pattern: Option<String>,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    pub fn new(skips_fail: bool, pattern: Option<&str>) -> Tally {
        Tally { skips_fail, pattern: pattern.map(str::to_owned), passed: 0, failed: 0, skipped: 0 }
    }

    pub fn pattern(&self) -> Option<&str> {
        self.pattern.as_deref()
    }

    /// Whether a check of this name was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| name.contains(pattern))
    }

    /// Counts a check that has been made, and says so unless `quiet` and passed.
    pub fn record(&mut self, name: &str, outcome: Outcome, quiet: bool) {
        let outcome = match outcome {
            Outcome::Skipped(reason) if self.skips_fail => {
                Outcome::Failed(format!("skipped, which CI=true doesn't allow: {reason}"))
            }
            outcome => outcome,
        };
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                if !quiet {
                    println!("passed   {name}");
                }
            }
            Outcome::Failed(reason) => {
                self.failed += 1;
                println!("FAILED   {name}: {reason}");
            }
            Outcome::Skipped(reason) => {
                self.skipped += 1;
                println!("skipped  {name}: {reason}");
            }
        }
    }

    /// Makes a check and counts it, if it was asked for.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Outcome) {
        if !self.wants(name) {
            return;
        }
        if std::io::stdout().is_terminal() {
            // Replaced by the outcome's line.
            print!("running  {name}\r");
            // Nothing depends on what is only shown.
            let _ = std::io::stdout().flush();
        }
        let outcome = check();
        self.record(name, outcome, false);
    }

    pub fn is_well(&self) -> bool {
        self.failed == 0
    }

    pub fn summary(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Runs one tier, or what of it has `pattern` in its name, or the suite. True if all is well; the summary has been printed.
pub fn run(workspace: &Workspace, tier: Option<Tier>, pattern: Option<&str>) -> bool {
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1");
    let mut tally = Tally::new(ci, pattern);
    let tiers = tier.map_or(Tier::SUITE.to_vec(), |tier| vec![tier]);
    for each in tiers {
        println!("tier {}", each.name());
        let start = Instant::now();
        match each {
            Tier::Host => host::run(workspace, &mut tally),
            Tier::Fresh => fresh::run(workspace, &mut tally),
            Tier::Sabotage => sabotage::run(workspace, &mut tally),
            Tier::Qemu => {
                qemu::run(workspace, &mut tally);
                isolation::run(workspace, &mut tally);
                disk::run(workspace, &mut tally);
                counting::run(&mut tally);
            }
            Tier::Lab => lab::run(workspace, &mut tally),
            Tier::Interop if tier.is_none() => host::interop_sample(workspace, &mut tally),
            Tier::Interop => host::interop(workspace, &mut tally),
            Tier::Image => image::run(workspace, &mut tally),
        }
        println!("tier {} took {} s", each.name(), start.elapsed().as_secs());
    }
    if tally.passed + tally.failed + tally.skipped == 0 {
        tally.record("the tests", Outcome::Failed("no check has such a name".into()), false);
    }
    println!("{}", tally.summary());
    tally.is_well()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The promise about CI: what is skipped elsewhere fails there, and the sum says so.
    #[test]
    fn skips() {
        for (ci, summary, well) in
            [(false, "1 passed, 0 failed, 1 skipped", true), (true, "1 passed, 1 failed, 0 skipped", false)]
        {
            let mut tally = Tally::new(ci, None);
            tally.record("a", Outcome::Passed, true);
            tally.record("b", Outcome::Skipped("no network".into()), true);
            assert_eq!((tally.summary().as_str(), tally.is_well()), (summary, well));
        }
    }

    /// What wasn't asked for is neither made nor counted.
    #[test]
    fn patterns() {
        let mut tally = Tally::new(true, Some("boots"));
        tally.check("the image boots", || Outcome::Passed);
        tally.check("the image is flashed", || unreachable!("nobody asked for it"));
        assert_eq!(tally.summary(), "1 passed, 0 failed, 0 skipped");
    }
}
