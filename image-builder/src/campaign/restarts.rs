//! `redleaf campaign restarts-in-qemu`: what `campaign restarts` does in the rig, on the metal. A box with a domain of each kind boots in QEMU, with our model of the 82599 and an NVMe
//! drive; frames come in that keep the network's part of it busy. From the console each domain is ended, in an order and in ways by lot, all of them at a time; when all are back and
//! the cable rests, every count must be what it was.

use super::CampaignError;
use crate::{
    build::{Artifacts, build},
    machine::{Machine, Parts},
    manifest::check,
    run::RunError,
    workspace::Workspace,
};
use comfy_table::{Table, presets};
use interfaces::abi::Reason;
use model::{
    NicConfig, SharedCounters, Wire, control,
    frame_socket::{self, FrameSocket},
    frames,
    vfio_user::Server,
};
use prefix::{Prefix, Tool};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A domain of each kind.
pub const MANIFEST: &str = "testbed/isolation/restarts.toml";
/// Holds the store's log.
const DISK_BYTES: u64 = 96 << 20;
/// Between two frames.
const FRAME_GAP: Duration = Duration::from_millis(2);
/// The network stack's address in the manifest, a virtual one of the balancer's, and a station beside them.
const STACK: [u8; 4] = [10, 0, 1, 3];
const VIP: [u8; 4] = [10, 0, 1, 101];
const VIP_PORT: u16 = 9000;
const ASKER: [u8; 4] = [10, 0, 1, 77];
/// For a round's domains to be back and the counts to be as before: a host may be busy.
const PATIENCE: Duration = Duration::from_secs(120);
/// Looks at the table between which a domain that waits for its fault is visited.
const LOOK: Duration = Duration::from_millis(5);
/// The rounds in which heaps and pools come to what they need.
const WARM: u32 = 3;

/// Equal tables in a row that are a box at rest.
const STEADY: u32 = 50;

/// What may be in hands more than before: bytes on the exchange heap, packet buffers, handles, pages. An object, a buffer, a handle or a page that leaks in each restart, of one kind of
/// domain alone, exceeds it within some hundred rounds; a record of 64 bytes within a leg.
const IN_HANDS: [u64; 4] = [64 << 10, 96, 24, 128];
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
        let ended = Boxed::boot(&artifacts, memory).and_then(|mut boxed| {
            let led = self.lead(&mut boxed, &mut leg, count);
            led.map_err(|error| format!("{error}\nIts log ends with\n{}", boxed.log()))
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
    fn lead(&self, boxed: &mut Boxed, leg: &mut Leg, count: u32) -> Result<(), String> {
        let mut random = fastrand::Rng::with_seed(leg.seed);
        let first = boxed.counts()?;
        if let Some(unknown) = self.domains.iter().find(|name| first.row(name).is_none()) {
            return Err(format!("the box has no domain {unknown}: it has {}", first.names().join(", ")));
        }
        let names: Vec<String> = match &self.domains[..] {
            [] => first.names().into_iter().map(str::to_owned).collect(),
            some => some.to_vec(),
        };
        for _ in 0..WARM {
            boxed.round(names.iter().map(|name| (name.as_str(), WAYS[0])), None)?;
        }
        let before = boxed.rested()?;
        while leg.restarts < count {
            let mut order: Vec<&str> = names.iter().map(String::as_str).collect();
            random.shuffle(&mut order);
            order.truncate((count - leg.restarts) as usize);
            let plan: Vec<_> = order.into_iter().map(|name| (name, WAYS[random.usize(..WAYS.len())])).collect();
            boxed.round(plan.iter().copied(), Some(&before))?;
            for (name, way) in plan {
                leg.restarts += 1;
                *leg.domains.entry(name.to_owned()).or_default() += 1;
                *leg.ways.entry(way.to_owned()).or_default() += 1;
            }
            leg.compared += 1;
        }
        boxed.traffic.verdict()
    }
}

/// A running box, and what its cable ends in.
struct Boxed {
    machine: Machine,
    traffic: Traffic,
    /// With the disk and the model's socket.
    _folder: TempDir,
}

impl Boxed {
    fn boot(artifacts: &Artifacts, memory: u64) -> Result<Boxed, String> {
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
        let nic = serde_json::json!({
            "driver": "vfio-user-pci", "bus": "rp0", "socket": { "type": "unix", "path": socket },
        });
        let devices = [
            "-device".to_owned(),
            "pcie-root-port,id=rp0,chassis=1,slot=1".to_owned(),
            "-device".to_owned(),
            nic.to_string(),
            "-drive".to_owned(),
            format!("file={},format=raw,if=none,id=disk", disk.display()),
            "-device".to_owned(),
            "nvme,serial=RL0001,drive=disk".to_owned(),
        ];
        let parts = Parts { kernel: &artifacts.kernel_elf, bundle: &artifacts.bundle, memory, devices: &devices };
        let machine = Machine::boot(&parts, "")?;
        let mut boxed = Boxed { machine, traffic: Traffic::start(far), _folder: folder };
        let starting = |counts: &Counts| counts.rows.iter().any(|row| row.state != "live");
        boxed.until("start of all domains", |counts| starting(counts).then(Vec::new))?;
        Ok(boxed)
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

/// What `domains` says: all that is counted in a box.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counts {
    rows: Vec<Row>,
    /// Pages used, those of them that the exchange heap has, and free ones; packet buffers, free ones, and those in rings; handles.
    sums: [u64; 7],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: String,
    state: String,
    generation: u64,
    pages: u64,
    threads: u64,
    /// Bytes on the exchange heap.
    exchange: u64,
    death: String,
}

impl Counts {
    fn read(said: &str) -> Option<Counts> {
        let mut lines = said.lines().map(str::trim_end).filter(|line| !line.is_empty());
        lines.find(|line| line.ends_with("last death"))?;
        let mut rows = Vec::new();
        loop {
            let line = lines.next()?;
            if line.starts_with("pages: ") {
                let numbers = line.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
                return Some(Counts { rows, sums: numbers.collect::<Vec<_>>().try_into().ok()? });
            }
            let mut words = line.split_whitespace();
            let (name, state) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut number = || words.next()?.parse::<u64>().ok();
            let (generation, _restarts) = (number()?, number()?);
            let (pages, threads, exchange) = (number()?, number()?, number()?);
            rows.push(Row {
                name,
                state,
                generation,
                pages,
                threads,
                exchange,
                death: words.collect::<Vec<_>>().join(" "),
            });
        }
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    fn names(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row.name.as_str()).collect()
    }

    /// Whether nothing has grown since. What a domain has of its own must be as it was; what passes from hand to hand may differ by what is in hands at a time: a batch that waits for
    /// frames, with what it has brought; a frame that waits for a neighbour; a handle that somebody hasn't let go of yet; records of the kernel's for as many deaths at a time as there
    /// have been. The exchange heap keeps the pages that it has had.
    fn is_as(&self, before: &Counts) -> bool {
        fn own(counts: &Counts) -> Vec<(&str, &str, u64, u64)> {
            counts.rows.iter().map(|row| (&*row.name, &*row.state, row.pages, row.threads)).collect()
        }
        fn passing(counts: &Counts) -> [u64; 4] {
            let exchange = counts.rows.iter().map(|row| row.exchange).sum();
            let [used, heap, _, buffers, free, in_rings, handles] = counts.sums;
            [exchange, buffers.saturating_sub(free + in_rings), handles, used.saturating_sub(heap)]
        }
        let grown = passing(self).into_iter().zip(passing(before)).zip(IN_HANDS);
        own(self) == own(before) && grown.into_iter().all(|((now, then), more)| now <= then + more)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Row { name, state, generation, pages, threads, exchange, death } in &self.rows {
            writeln!(
                f,
                "  {name} {state} in generation {generation}: {pages} pages, {threads} threads, {exchange} bytes; {death}"
            )?;
        }
        let [used, heap, free, buffers, free_buffers, in_rings, handles] = self.sums;
        write!(
            f,
            "  pages: {used} used, {heap} of them by the exchange heap, {free} free; packet buffers: {buffers}, {free_buffers} free, {in_rings} in rings; handles: {handles}"
        )
    }
}

/// The far end of the box's cable: it asks the network stack for echoes and sends datagrams to a virtual address of the balancer's, while it may; it answers for every address that the
/// box asks for, and so gets to see the echoes, and what goes to the backends.
struct Traffic {
    flows: Arc<AtomicBool>,
    came_back: Arc<AtomicU64>,
}

impl Traffic {
    /// It ends when the cable's other end has gone.
    fn start(mut cable: FrameSocket) -> Traffic {
        let (flows, came_back) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let traffic = Traffic { flows: flows.clone(), came_back: came_back.clone() };
        thread::spawn(move || {
            let mut number = 0u16;
            loop {
                while let Some(frame) = cable.receive().map(<[u8]>::to_vec) {
                    match arp_answer(&frame) {
                        Some(answer) => cable.send(&answer),
                        None => drop(came_back.fetch_add(1, Ordering::Relaxed)),
                    }
                }
                if cable.closed() {
                    return;
                }
                if flows.load(Ordering::Relaxed) {
                    number = number.wrapping_add(1);
                    cable.send(&frames::ping(ASKER, STACK, number));
                    cable.send(&frames::udp(ASKER, VIP, 1024 + number % 1000, VIP_PORT, &number.to_be_bytes()));
                }
                thread::sleep(FRAME_GAP);
            }
        });
        traffic
    }

    fn flow(&self, on: bool) {
        self.flows.store(on, Ordering::Relaxed);
    }

    /// A box that never let a frame through was never busy.
    fn verdict(&self) -> Result<(), String> {
        match self.came_back.load(Ordering::Relaxed) {
            0 => Err("no frame has come through the box".to_owned()),
            _ => Ok(()),
        }
    }
}

/// The answer to a request of ARP's for any address (RFC 826), from the station that model frames come from.
fn arp_answer(frame: &[u8]) -> Option<Vec<u8>> {
    const REQUEST: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1];
    let asked = frame.get(12..42).filter(|rest| rest[..10] == REQUEST)?;
    let mut answer = Vec::with_capacity(60);
    answer.extend(
        [&frame[6..12], &frames::FROM, &REQUEST[..9], &[2], &frames::FROM, &asked[26..30], &asked[10..20]].concat(),
    );
    answer.resize(60, 0);
    Some(answer)
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

    const SAID: &str = "domain           state       generation restarts   pages threads  exchange  last death\n\
        ixgbe0           live                 3        2      70       3      4096  panic in generation 2, cpu 0, ixgbe0: a word\n\
        lb               live                 1        0     704       2         0  \n\
        pages: 9000 used, 40 of them by the exchange heap, 50 free; packet buffers: 8192, 7100 free, 1024 in rings; handles: 12\n";

    /// What the console says is read as it is written; whatever must stay is looked at, what must change isn't, and what may be in hands isn't either, but what grows is.
    #[test]
    fn every_count_is_compared() {
        let counts = Counts::read(SAID).unwrap();
        assert_eq!(counts.names(), ["ixgbe0", "lb"]);
        assert!(counts.row("ixgbe0").unwrap().death.starts_with("panic in generation 2"));
        let other = |from: &str, to: &str| {
            assert!(SAID.contains(from), "{from}");
            Counts::read(&SAID.replace(from, to)).unwrap()
        };
        for (from, to) in [
            (" 3        2 ", " 4        3 "),
            ("panic in generation 2", "killed in generation 3"),
            ("9000 used, 40", "9003 used, 43"),
            ("7100 free, 1024", "7099 free, 1023"),
            ("4096", "8192"),
            ("9000", "9032"),
            ("handles: 12", "handles: 14"),
        ] {
            assert!(other(from, to).is_as(&counts), "{from}");
        }
        for (from, to) in [
            ("70 ", "71 "),
            (" 2         0 ", " 3         0 "),
            ("lb               live", "lb               stopped"),
            ("9000", "9201"),
            ("4096", "94096"),
            ("7100", "6900"),
            ("handles: 12", "handles: 112"),
        ] {
            assert!(!other(from, to).is_as(&counts), "{from}");
        }
        assert_eq!(Counts::read("error: no such command"), None);
    }

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

    /// The far end of the cable answers whoever asks, and nobody else.
    #[test]
    fn arp_is_answered() {
        let mut asked = vec![0xff; 6];
        asked.extend([
            2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 1, 3, 0, 0, 0, 0, 0, 0, 10, 0, 1,
            77,
        ]);
        let answer = arp_answer(&asked).unwrap();
        assert_eq!(answer[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        assert_eq!(answer[20..42], [0, 2, 2, 0, 0, 0, 0, 2, 10, 0, 1, 77, 2, 0, 0, 0, 0, 1, 10, 0, 1, 3]);
        assert_eq!(arp_answer(&answer), None);
        assert_eq!(arp_answer(&frames::ping(ASKER, STACK, 1)), None);
    }
}
