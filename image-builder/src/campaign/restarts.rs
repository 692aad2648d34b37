//! `redleaf campaign restarts-in-qemu`: what `campaign restarts` does in the rig, on the metal. A box with a domain of each kind boots in QEMU, with our model of the 82599 and an NVMe
//! drive; frames come in that keep the network's part of it busy. From the console each domain is ended, in an order and in ways by lot, all of them at a time; when all are back and
//! the cable rests, every count must be what it was.

mod traffic;

use super::CampaignError;
use crate::{
    build::{Artifacts, build},
    counts::Counts,
    machine::{Machine, Parts},
    manifest::check,
    run::RunError,
    workspace::Workspace,
};
use comfy_table::{Table, presets};
use interfaces::abi::Reason;
use model::{
    NicConfig, SharedCounters, control, frame_socket,
    vfio_user::{self, Server},
};
use prefix::{Prefix, Tool};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::Write,
    fs::File,
    path::Path,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use traffic::Traffic;

/// A domain of each kind.
pub const MANIFEST: &str = "testbed/isolation/restarts.toml";
/// Holds the store's log.
const DISK_BYTES: u64 = 96 << 20;
/// For a round's domains to be back and the counts to be as before: a host may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Looks at the table between which a domain that waits for its fault is visited.
const LOOK: Duration = Duration::from_millis(5);
/// The rounds in which heaps and pools come to what they need.
const WARM: u32 = 3;

/// Equal tables in a row that are a box at rest.
const STEADY: u32 = 50;

/// Lines of the box's log that are kept of a failure.
const LOGGED: usize = 40;

/// How a domain is ended; a crash is committed at its next visit. (Hangs are left to `campaign crashes`: each takes the watchdog's time.)
const WAYS: [&str; 7] = ["restart", "kill", "panic", "stack-overflow", "page-fault", "cpu-exception", "quota"];
/// Those of them that are commands of their own.
const ENDINGS: [&str; 2] = ["restart", "kill"];

/// What is asked: the same question continues the same record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// None: all that the box has.
    pub domains: Vec<String>,
    /// Restarts in one life of a box.
    pub leg: u32,
    pub seed: u64,
}

pub type Record = super::Record<Question, Leg>;

/// One life of one box.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    pub seed: u64,
    pub asked: u32,
    /// Those that were: fewer if something went wrong.
    pub restarts: u32,
    /// Of which domain.
    pub domains: BTreeMap<String, u32>,
    /// In which way.
    pub ways: BTreeMap<String, u32>,
    /// Times that every count was compared, all being the same.
    pub compared: u32,
    pub reasons: Vec<String>,
}

impl super::Leg for Leg {
    fn events(&self) -> u32 {
        self.asked
    }

    fn is_well(&self) -> bool {
        self.reasons.is_empty()
    }
}

impl super::Question for Question {
    type Leg = Leg;

    const EVENTS: &str = "restarts";

    fn fault(&self) -> Option<&'static str> {
        (self.leg == 0).then_some("a campaign needs a leg of one restart")
    }

    fn leg_size(&self) -> u32 {
        self.leg
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn answer(&self, workspace: &Workspace, manifest: &Path, seed: u64, count: u32) -> Result<Leg, CampaignError> {
        let checked = check(workspace, manifest).map_err(RunError::from)?;
        let artifacts = build(workspace, &checked.name, &checked.appliance, &checked.inquiry);
        let artifacts = artifacts.map_err(RunError::from)?;
        Prefix::ensure(&[Tool::Qemu]).map_err(RunError::from)?;
        let mut leg = Leg { seed, asked: count, ..Leg::default() };
        let memory = checked.appliance.machine.memory.value.0;
        let ended = Specimen::boot(&artifacts, memory).and_then(|mut specimen| {
            let led = self.lead(&mut specimen, &mut leg, count);
            led.map_err(|error| format!("{error}\nIts log ends with\n{}", specimen.log()))
        });
        leg.reasons.extend(ended.err());
        Ok(leg)
    }

    fn render(record: &Record) -> String {
        render(record)
    }
}

impl Question {
    /// Round after round, until so many restarts have been.
    fn lead(&self, specimen: &mut Specimen, leg: &mut Leg, count: u32) -> Result<(), String> {
        let mut random = fastrand::Rng::with_seed(leg.seed);
        let first = specimen.counts()?;
        if let Some(unknown) = self.domains.iter().find(|name| first.row(name).is_none()) {
            return Err(format!("the box has no domain {unknown}: it has {}", first.names().join(", ")));
        }
        let names: Vec<String> = match &self.domains[..] {
            [] => first.names().into_iter().map(str::to_owned).collect(),
            some => some.to_vec(),
        };
        for _ in 0..WARM {
            specimen.round(names.iter().map(|name| (name.as_str(), WAYS[0])), None)?;
        }
        let before = specimen.rested()?;
        while leg.restarts < count {
            let mut order: Vec<&str> = names.iter().map(String::as_str).collect();
            random.shuffle(&mut order);
            order.truncate((count - leg.restarts) as usize);
            let plan: Vec<_> = order.into_iter().map(|name| (name, WAYS[random.usize(..WAYS.len())])).collect();
            specimen.round(plan.iter().copied(), Some(&before))?;
            for (name, way) in plan {
                leg.restarts += 1;
                *leg.domains.entry(name.to_owned()).or_default() += 1;
                *leg.ways.entry(way.to_owned()).or_default() += 1;
            }
            leg.compared += 1;
        }
        specimen.traffic.verdict()
    }
}

/// A running box, and what its cable ends in.
struct Specimen {
    machine: Machine,
    traffic: Traffic,
    /// With the disk and the model's socket.
    _folder: TempDir,
}

impl Specimen {
    fn boot(artifacts: &Artifacts, memory: u64) -> Result<Specimen, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let folder = tempfile::tempdir().map_err(|error| text(&error))?;
        let (socket, disk) = (folder.path().join("nic.sock"), folder.path().join("disk"));
        File::create(&disk).and_then(|file| file.set_len(DISK_BYTES)).map_err(|error| text(&error))?;
        let (near, far) = frame_socket::pair().map_err(|error| text(&error))?;
        let (remote, inbox) = control::channel().map_err(|error| text(&error))?;
        let server = Server::bind(&socket).map_err(|error| text(&error))?;
        // It ends with QEMU.
        thread::spawn(move || {
            let _commands = remote;
            server.serve(NicConfig::default(), near, inbox, SharedCounters::new())
        });
        let drive = format!("file={},format=raw,if=none,id=disk", disk.display());
        let disk = ["-drive", &drive, "-device", "nvme,serial=RL0001,drive=disk"].map(str::to_owned);
        let devices = [&vfio_user::card_arguments(&socket)[..], &disk].concat();
        let parts = Parts { kernel: &artifacts.kernel_elf, bundle: &artifacts.bundle, memory, devices: &devices };
        let machine = Machine::boot(&parts, "")?;
        let mut specimen = Specimen { machine, traffic: Traffic::start(far), _folder: folder };
        let starting = |counts: &Counts| counts.rows.iter().any(|row| row.state != "live");
        specimen.until("start of all domains", |counts| starting(counts).then(Vec::new))?;
        Ok(specimen)
    }

    /// The last of what the box has logged, for whoever has to find out what went wrong.
    fn log(&mut self) -> String {
        let said = self.machine.ask("log").unwrap_or_else(|error| error);
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(LOGGED)..].join("\n")
    }

    fn counts(&mut self) -> Result<Counts, String> {
        let said = self.machine.ask("domains")?;
        Counts::read(&said).ok_or_else(|| format!("`domains` says what nobody understands:\n{said}"))
    }

    /// Looks at the table until nothing is missing. Between two looks the domains that are what is missing are visited from the console: one that was told to crash may wait for that.
    fn until<'a>(
        &mut self,
        what: &str,
        mut missing: impl FnMut(&Counts) -> Option<Vec<&'a str>>,
    ) -> Result<Counts, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counts = self.counts()?;
            let Some(domains) = missing(&counts) else { return Ok(counts) };
            if Instant::now() > deadline {
                return Err(format!("no {what} within {} s; the box has\n{counts}", PATIENCE.as_secs()));
            }
            for name in domains {
                self.machine.ask(&format!("stats {name}"))?;
            }
            thread::sleep(LOOK);
        }
    }

    /// Ends these domains, each in its way, while frames come in; then all must be back, each having ended as it was told to, and every count as it was before.
    fn round<'a>(
        &mut self,
        plan: impl Iterator<Item = (&'a str, &'a str)> + Clone,
        before: Option<&Counts>,
    ) -> Result<(), String> {
        let old = self.counts()?;
        self.traffic.flow(true);
        for (name, way) in plan.clone() {
            let line = if ENDINGS.contains(&way) { format!("{way} {name}") } else { format!("crash {name} {way}") };
            let answer = self.machine.ask(&line)?;
            if !answer.is_empty() {
                return Err(format!("`{line}`: {answer}"));
            }
        }
        let is_back = |counts: &Counts, name: &str| {
            let lives = old.row(name).zip(counts.row(name));
            lives.is_some_and(|(old, now)| now.state == "live" && now.generation == old.generation + 1)
        };
        let ended: Vec<String> = plan.clone().map(|(name, way)| format!("{name} ({way})")).collect();
        let ended = ended.join(", ");
        let counts = self.until(&format!("next life of all of {ended}"), |counts| {
            let away: Vec<&str> = plan.clone().map(|(name, _)| name).filter(|name| !is_back(counts, name)).collect();
            (!away.is_empty()).then_some(away)
        })?;
        for (name, way) in plan {
            let told = counts.row(name).map_or("", |row| &row.death);
            if !told.starts_with(death(way)) {
                return Err(format!("{name} was ended by {way}, and is said to have ended as \"{told}\""));
            }
        }
        self.traffic.flow(false);
        if let Some(before) = before {
            let what = format!("return to the counts of before, after {ended}, which were\n{before}");
            self.until(&what, |counts| (!counts.is_as(before)).then(Vec::new))?;
        }
        Ok(())
    }

    /// The counts, when they don't change any more.
    fn rested(&mut self) -> Result<Counts, String> {
        let (mut last, mut same) = (self.counts()?, 0);
        self.until("rest", |counts| {
            same = if counts.is_as(&last) && last.is_as(counts) { same + 1 } else { 0 };
            last = counts.clone();
            (same < STEADY).then(Vec::new)
        })
    }
}

/// What the console's table says of a death of this way.
fn death(way: &str) -> &str {
    match way {
        "restart" => "stopped by the operator",
        "kill" => Reason::Killed.name(),
        crash => crash,
    }
}

/// The record as a person reads it.
fn render(record: &Record) -> String {
    let mut sums = [BTreeMap::<&str, u32>::new(), BTreeMap::new()];
    for leg in &record.legs {
        for (sum, part) in sums.iter_mut().zip([&leg.domains, &leg.ways]) {
            part.iter().for_each(|(name, count)| *sum.entry(name).or_default() += count);
        }
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    let compared = record.legs.iter().map(|leg| leg.compared).sum();
    let [domains, ways] = sums;
    let totals = [
        ("boxes", record.legs.len() as u32),
        ("restarts", record.legs.iter().map(|leg| leg.restarts).sum()),
        ("every count compared, times", compared),
    ];
    let totals = totals.map(|(name, count)| (name.to_owned(), count)).into_iter();
    let by = |of: &'static str, sum: BTreeMap<&str, u32>| {
        sum.into_iter().map(move |(name, count)| (format!("{of} {name}"), count)).collect::<Vec<_>>()
    };
    for (name, count) in totals.chain(by("of", domains)).chain(by("by", ways)) {
        table.add_row([name, count.to_string()]);
    }
    let mut text = format!("{table}\n\n");
    for (number, leg) in record.legs.iter().enumerate().filter(|(_, leg)| !leg.reasons.is_empty()) {
        let _ = writeln!(text, "box {number} (seed {:#x}): {}", leg.seed, leg.reasons.join("; "));
    }
    text.push_str(if record.is_well() { "counts flat\n" } else { "not well\n" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A campaign that can't fail shows nothing: one box that wasn't as it was makes the record say so.
    #[test]
    fn a_box_that_is_not_as_it_was_is_told_of() {
        let question = Question { domains: Vec::new(), leg: 10, seed: 1 };
        let good = Leg { seed: 7, asked: 10, restarts: 10, compared: 1, ..Leg::default() };
        let bad = Leg { reasons: vec!["no return to the counts".to_owned()], ..good.clone() };
        let record = |legs| Record { schema_version: super::super::SCHEMA_VERSION, question: question.clone(), legs };
        assert!(render(&record(vec![good.clone()])).ends_with("counts flat\n"));
        let text = render(&record(vec![good, bad]));
        assert!(text.ends_with("box 1 (seed 0x7): no return to the counts\nnot well\n"), "{text}");
    }
}
