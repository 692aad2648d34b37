//! Crashes at single instructions: domains of graphs under load on two CPUs are crashed at an instruction that is drawn by lot, again and again, so that in the end nearly every
//! instruction that runs has been crashed at.
//!
//! Which instructions run is found out first: in a *traced* generation of each domain every instruction stops whoever comes to it once. A crash is then brought about in one of three
//! ways: by a fault that is planted at an instruction not yet crashed at, in the image of the living generation or in the next one's, for what runs only at the start; or by stopping a thread
//! wherever it happens to be in the domain, letting it go on by single steps, and planting the fault where it has come to, so that what runs often is crashed at often, and in all its
//! circumstances. What crashes is a real thread of the load, by a real exception or kill.
//!
//! After each crash the same proxy must answer, the death must be told as what it was, nobody else may have died, and what all domains have must be what it was.

mod load;
mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use elf::{ElfBytes, endian::LittleEndian};
use iced_x86::{Decoder, DecoderOptions};
use interfaces::{
    RRef,
    abi::Reason,
    control::{Control, Counters},
    probe::Probe,
};
use kernel_core::{
    capability,
    domain::Status,
    incarnation::{Cause, Death},
    machine,
    supervisor::Command,
    thread::{self, ThreadBlock},
};
use model::NicConfig;

pub use self::record::{Points, Record};
use self::{load::Load, record::rounded};
use super::Random;
use crate::{
    Card, Counts, Rig, Settings, Tester, graphs,
    stops::{self, Fault},
};

/// Recovered: the same proxy answers within this time.
const IN_TIME: u64 = 100_000_000;
/// How long a planted fault may wait until somebody comes to it, at first, and after a neighbour's death, since some of what runs then runs at no other time.
const COMES_BY: Duration = Duration::from_millis(10);
const COMES_BY_LATE: Duration = Duration::from_millis(40);
/// One trial in so many is of a stepped thread: few while there are instructions at which no fault has been planted yet, many afterwards.
const STEPPED: u64 = 8;
const STEPPED_LATE: u64 = 2;
/// Crashes after which the load rests, and everything is compared to the last object.
const REST: u64 = 100;
/// Rounds of traced generations, and how long each runs.
const ROUNDS: usize = 2;
const ROUND: Duration = Duration::from_millis(1_500);
/// What hasn't come by then doesn't come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Neighbours: who crashes may make the others run what they run seldom.
const GRAPHS: [&[&str]; 3] = [&["c", "b", "a"], &["segment", "shadow", "outer", "inner", "lb"], &["ixgbe0", "shadow0"]];

/// Where the instructions of an image begin, by offset, as the compiler laid them out.
fn instructions(elf: &[u8]) -> Vec<u32> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(elf).expect("an image is an ELF");
    let text = file.section_header_by_name(".text").ok().flatten().expect("an image has code");
    let (code, _) = file.section_data(&text).expect("the section is in the file");
    let mut decoder = Decoder::with_ip(64, code, text.sh_addr, DecoderOptions::NONE);
    let starts = std::iter::from_fn(|| decoder.can_decode().then(|| decoder.decode()));
    starts.filter(|instruction| !instruction.is_invalid()).map(|instruction| instruction.ip() as u32).collect()
}

/// One box with all graphs, the load on it, and what the trials need to know.
pub struct Campaign {
    rig: &'static Rig,
    load: Load,
    before: Counts,
    /// By domain: the instructions that only the start comes to.
    at_start: BTreeMap<String, BTreeSet<u32>>,
    /// Where nobody has been crashed yet, and no fault was planted.
    open: Vec<(&'static str, u32)>,
    /// Where one was, in vain: they are tried again when all others have been.
    late: Vec<(&'static str, u32)>,
    /// All instructions that run.
    all: Vec<(&'static str, u32)>,
    rest_due: u64,
}

fn names() -> impl Iterator<Item = &'static str> {
    GRAPHS.iter().flat_map(|graph| graph.iter().copied())
}

impl Campaign {
    /// Boots the box and begins the load. Once per process.
    pub fn start() -> Campaign {
        let card = Card::new(0, NicConfig::default(), Tester::new(64));
        card.serve(true);
        let mut settings = Settings::chain(|domain| domain.exchange.0 = 8 << 20);
        settings.domains.extend(graphs::balancer(settings.domains.len() as u32));
        settings.domains.extend(graphs::driver(settings.domains.len() as u32));
        settings.functions = vec![card];
        settings.devices = devices::CLASSES;
        settings.packet_buffers = 8192;
        let rig: &'static Rig = Box::leak(Box::new(Rig::start(settings)));
        stops::prepare().expect("this process's memory can be written to");
        let load = Load::begin(rig, card);
        let mut campaign = Campaign {
            rig,
            load,
            before: rig.counts(),
            at_start: BTreeMap::new(),
            open: Vec::new(),
            late: Vec::new(),
            all: Vec::new(),
            rest_due: 0,
        };
        campaign.settle();
        campaign
    }

    /// Names the images that offsets are of.
    pub fn images(&self) -> String {
        let all: Vec<u8> = names().flat_map(|name| self.rig.image(name).iter().copied()).collect();
        bundle::Hash::of(&all).0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Takes what there is for what there is to be, once every heap has grown to what it needs.
    fn settle(&mut self) {
        for name in names() {
            let generation = self.rig.status(name).generation;
            self.rig.order(Command::Restart, name);
            self.rig.until_restarted(name, generation);
        }
        std::thread::sleep(Duration::from_millis(500));
        self.load.rest(self.rig);
        let mut same = 0;
        let mut before = self.rig.counts();
        self.rig.until("the counts of a box at rest are steady", || {
            let now = self.rig.counts();
            same = if now == before { same + 1 } else { 0 };
            before = now;
            same > 200
        });
        self.before = before;
        self.load.resume(self.rig);
    }

    /// Finds out which instructions run: in the start, under load, and when neighbours die.
    pub fn trace(&mut self, record: &mut Record) {
        let starts: BTreeMap<_, _> = names().map(|name| (name, instructions(self.rig.image(name)))).collect();
        for round in 0..ROUNDS {
            for name in names() {
                let generation = self.rig.status(name).generation;
                stops::set_phase(name, 1);
                stops::trace_next(name, &starts[name]);
                self.rig.order(Command::Restart, name);
                self.rig.until_restarted(name, generation);
                stops::set_phase(name, 2);
            }
            std::thread::sleep(ROUND);
            // One of each graph dies in turn; the others are still traced.
            for graph in GRAPHS {
                let name = graph[round % graph.len()];
                let generation = self.rig.status(name).generation;
                self.rig.order(Command::Kill, name);
                self.rig.until_restarted(name, generation);
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        for name in names() {
            let reached = stops::reached(name, &starts[name]);
            let points = record.domains.entry(name.into()).or_default();
            points.run.extend(reached.iter().map(|(offset, _)| *offset));
            let at_start = reached.into_iter().filter(|(_, phase)| *phase == 1).map(|(offset, _)| offset);
            self.at_start.entry(name.into()).or_default().extend(at_start);
            self.all.extend(points.run.iter().map(|offset| (name, *offset)));
            // The next generation has no stops.
            let generation = self.rig.status(name).generation;
            self.rig.order(Command::Restart, name);
            self.rig.until_restarted(name, generation);
        }
        self.open = self.all.clone();
    }

    /// Crashes until so many more have come about, or something is wrong.
    pub fn leg(&mut self, mut record: Record, crashes: u64) -> Record {
        record.schema_version = 1;
        record.images = self.images();
        if self.all.is_empty() {
            self.trace(&mut record);
        }
        let until = record.activated + crashes;
        self.rest_due = record.activated + REST;
        let mut random = Random(record.seed.wrapping_add(record.requested));
        while record.activated < until && record.faults.is_empty() {
            self.trial(&mut random, &mut record);
            if record.activated >= self.rest_due {
                self.compare_at_rest(&mut record);
            }
        }
        self.compare_at_rest(&mut record);
        record.faults.extend(self.load.faults());
        record
    }

    /// One fault at one instruction, and what came of it.
    fn trial(&mut self, random: &mut Random, record: &mut Record) {
        self.rig.until("all are live", || names().all(|name| self.rig.status(name).state == "live"));
        let generations: BTreeMap<_, _> = names().map(|name| (name, self.rig.status(name).generation)).collect();
        let fault = random.pick(&Fault::OF_ONE_BYTE);
        record.requested += 1;
        let stepped = if self.open.is_empty() { STEPPED_LATE } else { STEPPED };
        let victim = if random.below(stepped) == 0 {
            let victim = self.step(random, fault);
            record.injected += u64::from(victim.is_some());
            victim
        } else {
            let (name, offset, again) = self.draw(random, record);
            let at_start = self.at_start.get(name).is_some_and(|at_start| at_start.contains(&offset));
            record.injected += 1;
            let victim = if at_start {
                self.plant_at_start(name, offset, fault)
            } else {
                self.plant(random, name, offset, fault, again)
            };
            if victim.is_none() {
                self.late.push((name, offset));
            }
            victim
        };
        let Some(victim) = victim else {
            return;
        };
        record.activated += 1;
        *record.ways.entry(victim.way.into()).or_default() += 1;
        *record.kinds.entry(format!("{fault:?}")).or_default() += 1;
        let (generation, death) = self.rig.status(victim.name).last_death.expect("it has died");
        let points = record.domains.get_mut(victim.name).expect("every domain is in the record");
        points.crashes += 1;
        points.crashed_at.insert(victim.offset);
        match self.until_answered(victim.name, &death) {
            Some(time) => {
                *record.answered_us.entry(rounded(time / 1000)).or_default() += 1;
                record.recovered += u64::from(time <= IN_TIME);
            }
            None => record.fault(format!("{} answers no more after {}", victim.name, victim.describe(fault))),
        }
        let expected = generations[victim.name] + u32::from(victim.way == Way::AtStart.name());
        let told = tell(&victim, fault, expected, generation, &death);
        let others = names().filter(|name| *name != victim.name && Some(*name) != victim.provoked).find_map(|name| {
            let now = self.rig.status(name).generation;
            (now != generations[name]).then(|| format!("{name} died too: {:?}", last_words(&self.rig.status(name))))
        });
        match told.or(others).or_else(|| self.differs()) {
            None => record.contained += 1,
            Some(wrong) => record.fault(format!("{}: {wrong}", victim.describe(fault))),
        }
    }

    /// An instruction that hasn't been crashed at yet, and whether that was tried in vain: those that were never tried come first. Once each has been, every other one is any that
    /// runs, so that what nobody comes to again doesn't hold up the rest.
    fn draw(&mut self, random: &mut Random, record: &Record) -> (&'static str, u32, bool) {
        loop {
            let again = self.open.is_empty();
            let from = if again { &mut self.late } else { &mut self.open };
            if from.is_empty() || again && random.below(2) == 0 {
                let (name, offset) = random.pick(&self.all);
                return (name, offset, false);
            }
            let (name, offset) = from.swap_remove(random.below(from.len() as u64) as usize);
            if !record.domains[name].crashed_at.contains(&offset) {
                return (name, offset, again);
            }
        }
    }

    /// A fault in the image of the generation that lives, for whoever comes by; where that was tried before, a neighbour's death may bring somebody.
    fn plant(
        &mut self,
        random: &mut Random,
        name: &'static str,
        offset: u32,
        fault: Fault,
        again: bool,
    ) -> Option<Victim> {
        let generation = self.rig.status(name).generation;
        let stop = stops::set(name, offset, fault)?;
        let victim = Victim { name, offset, way: Way::Planted.name(), provoked: None };
        let mut came = self.has_died(name, generation, COMES_BY);
        let mut provoked = None;
        if !came && again {
            let graph = GRAPHS.iter().find(|graph| graph.contains(&name))?;
            let others: Vec<_> = graph.iter().copied().filter(|other| *other != name).collect();
            let neighbour = random.pick(&others);
            let generation_there = self.rig.status(neighbour).generation;
            self.rig.order(Command::Kill, neighbour);
            came = self.has_died(name, generation, COMES_BY_LATE);
            self.rig.until_restarted(neighbour, generation_there);
            provoked = Some(neighbour);
        }
        if !came {
            // Somebody may just have come by.
            came = stop.take_away() || self.has_died(name, generation, Duration::ZERO);
        }
        if came {
            self.rig.until("its death is told", || self.has_died(name, generation, COMES_BY));
        }
        came.then_some(Victim { provoked, ..victim })
    }

    /// A fault in the image of the next generation, which dies of it in its start.
    fn plant_at_start(&mut self, name: &'static str, offset: u32, fault: Fault) -> Option<Victim> {
        let generation = self.rig.status(name).generation;
        stops::set_in_next(name, offset, fault);
        self.rig.order(Command::Restart, name);
        self.rig.until("the next generation has come", || self.rig.status(name).generation > generation);
        if self.has_died(name, generation + 1, COMES_BY_LATE) {
            return Some(Victim { name, offset, way: Way::AtStart.name(), provoked: None });
        }
        // It lives, with the fault somewhere in it.
        self.rig.order(Command::Restart, name);
        self.rig.until_restarted(name, generation + 1);
        None
    }

    /// A fault where a thread of the load has come to by single steps, from wherever it happened to be.
    fn step(&self, random: &mut Random, fault: Fault) -> Option<Victim> {
        let all: Vec<(usize, &'static str)> = names().map(|name| (self.rig.index(name), name)).collect();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let running = |(_, index, blocked): &(&ThreadBlock, usize, bool)| *index != 0 && !blocked;
            let threads = thread::all().map(|thread| (thread, thread.innermost_domain(), thread.is_blocked()));
            let inside: Vec<_> = threads.filter(running).collect();
            if inside.is_empty() {
                std::thread::sleep(Duration::from_micros(20));
                continue;
            }
            let (block, index, _) = random.pick(&inside);
            let &(_, name) = all.iter().find(|(known, _)| *known == index)?;
            let (generation, base) = (self.rig.status(name).generation, stops::image_of(name)?);
            stops::step(block, index, 1 + random.below(60) as u32, fault);
            let ends = Instant::now() + COMES_BY;
            while stops::is_stepping(block) && Instant::now() < ends {
                std::thread::sleep(Duration::from_micros(20));
            }
            if let Some(at) = stops::step_no_more(block) {
                self.rig.until("who was stepped has met with the fault", || self.has_died(name, generation, COMES_BY));
                return Some(Victim { name, offset: (at - base) as u32, way: Way::Stepped.name(), provoked: None });
            }
        }
        None
    }

    fn has_died(&self, name: &str, generation: u32, within: Duration) -> bool {
        let begun = Instant::now();
        loop {
            let last = self.rig.status(name).last_death.map_or(0, |(died, _)| died);
            if last >= generation {
                return true;
            }
            if begun.elapsed() >= within {
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Nanoseconds from the death until the same proxy has answered.
    fn until_answered(&self, name: &str, death: &Death) -> Option<u64> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let answers = if GRAPHS[0].contains(&name) {
                self.rig.port::<dyn Probe>(name, "probe").next(7) == Ok(8)
            } else {
                let page = RRef::new(Counters::default()).expect("the kernel has no quota");
                self.rig.port::<dyn Control>(name, "control").counters(0, page).is_ok()
            };
            if answers {
                return Some(machine().now() - death.at);
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        None
    }

    /// What a domain has now that it didn't have before, of what doesn't depend on what is just being done.
    fn differs(&self) -> Option<String> {
        let lasting = |name: &str, index: usize| {
            let status = self.rig.status(name);
            (status.state, status.pages, status.threads, capability::counts(index).0)
        };
        let begun = Instant::now();
        loop {
            let differs = self.before.domains.iter().zip(1..).find_map(|(had, index)| {
                let (before, now) = ((had.state, had.pages, had.threads, had.handles), lasting(&had.name, index));
                (before != now).then_some((&had.name, before, now))
            });
            let (name, before, now) = differs?;
            if begun.elapsed() > PATIENCE {
                return Some(format!("{name} has not what it had: {before:?} before, {now:?} now"));
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Has the load rest, and compares everything.
    fn compare_at_rest(&mut self, record: &mut Record) {
        self.load.rest(self.rig);
        // The balancer's threads look at their queues even at rest: its counts are those of before again and again, not all the time.
        let begun = Instant::now();
        let mut now = self.rig.counts();
        while now != self.before && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_micros(200));
            now = self.rig.counts();
        }
        let before = &self.before;
        if now != *before {
            let changed = before.domains.iter().zip(&now.domains).filter(|(before, now)| before != now);
            let changed: Vec<_> = changed.map(|(before, now)| format!("{before:?} is now {now:?}")).collect();
            record.fault(format!(
                "a box at rest has other counts: pages {} now {}, free buffers {} now {}, handles {} now {}; {}",
                before.pages,
                now.pages,
                before.buffers,
                now.buffers,
                before.handles,
                now.handles,
                changed.join("; ")
            ));
        }
        record.rests += 1;
        self.rest_due = record.activated + REST;
        self.load.resume(self.rig);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Planted,
    AtStart,
    Stepped,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Planted => "planted",
            Way::AtStart => "planted for the start",
            Way::Stepped => "stepped",
        }
    }
}

/// Who died, and where.
struct Victim {
    name: &'static str,
    offset: u32,
    way: &'static str,
    /// Who was killed so that somebody comes by.
    provoked: Option<&'static str>,
}

impl Victim {
    fn describe(&self, fault: Fault) -> String {
        format!("{fault:?} at {}+{:#x}, {}", self.name, self.offset, self.way)
    }
}

fn last_words(status: &Status) -> String {
    status.last_death.map_or_else(String::new, |(_, death)| words_of(&death))
}

fn words_of(death: &Death) -> String {
    format!("{:?} {}", death.cause, String::from_utf8_lossy(&death.words[..death.words_len]))
}

/// What is wrong with how the death was told.
fn tell(victim: &Victim, fault: Fault, expected: u32, generation: u32, death: &Death) -> Option<String> {
    if generation != expected {
        return Some(format!("generation {generation} died, not {expected}: {}", words_of(death)));
    }
    if fault == Fault::Kill {
        return (death.cause != Cause::Crash(Reason::Killed)).then(|| words_of(death));
    }
    // A breakpoint is reported behind the instruction.
    let at = victim.offset + u32::from(fault == Fault::Breakpoint);
    let words = words_of(death);
    let right = death.cause == Cause::Crash(Reason::CpuException) && words.ends_with(&format!("at image+{at:#x}"));
    (!right).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel_core::incarnation::{CHAIN, WORDS};

    fn death(cause: Cause, words: &str) -> Death {
        let mut bytes = [0; WORDS];
        bytes[..words.len()].copy_from_slice(words.as_bytes());
        Death { cause, cpu: 0, at: 0, chain: [0; CHAIN], chain_len: 0, words: bytes, words_len: words.len() }
    }

    /// The campaign's own judgement: another generation, cause or instruction than the one that was meant isn't passed over.
    #[test]
    fn a_death_told_wrong_is_a_fault() {
        let victim = Victim { name: "c", offset: 0x120, way: Way::Planted.name(), provoked: None };
        let exception = Cause::Crash(Reason::CpuException);
        let told =
            |fault, generation, cause, words| tell(&victim, fault, 7, generation, &death(cause, words)).is_none();
        assert!(told(Fault::GeneralProtection, 7, exception, "general protection at image+0x120"));
        assert!(told(Fault::Breakpoint, 7, exception, "breakpoint at image+0x121"));
        assert!(told(Fault::Kill, 7, Cause::Crash(Reason::Killed), ""));
        assert!(!told(Fault::GeneralProtection, 8, exception, "general protection at image+0x120"));
        assert!(!told(Fault::GeneralProtection, 7, exception, "general protection at image+0x12"));
        assert!(!told(Fault::InvalidOpcode, 7, Cause::Crash(Reason::Panic), "invalid opcode at image+0x120"));
        assert!(!told(Fault::Kill, 7, exception, ""));
    }
}
