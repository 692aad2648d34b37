//! The feed: what happens, as JSON lines on the second serial port, for the lab.

use alloc::{collections::BTreeMap, format, string::String};
use core::{
    fmt::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use interfaces::abi::Reason;

use crate::{
    control,
    domain::{self, Domain},
    incarnation::{Death, Incarnation},
    interrupt::Vector,
    lock::Lock,
    machine,
    platform::NEVER,
    supervisor, wait, watchdog,
};

/// A text as a JSON string.
struct Json<'a>(&'a str);

impl core::fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                control if (control as u32) < 0x20 => write!(f, "\\u{:04x}", control as u32)?,
                other => f.write_char(other)?,
            }
        }
        f.write_char('"')
    }
}

/// Whether anybody listens: the manifest's word.
static ON: AtomicBool = AtomicBool::new(false);
/// Between two reports of all counters.
const PACE: u64 = 1_000_000_000;

/// Begins to report, once a second, besides the events.
pub(crate) fn spawn() {
    ON.store(true, Ordering::Relaxed);
    for (name, work) in [("feed", report as fn()), ("feed writer", write_lines as fn())] {
        assert!(supervisor::kernel_thread(name, 0, work), "no memory for the kernel's own threads");
    }
}

fn report() {
    watchdog::serve_all();
    loop {
        wait::sleep(machine().now() + PACE);
        stats();
    }
}

fn write_lines() {
    loop {
        let lines = core::mem::take(&mut *LINES.lock());
        if lines.is_empty() {
            PENDING.wait(NEVER);
        } else {
            machine().feed_write(lines.as_bytes());
        }
    }
}

/// Fires when there are lines to write.
static PENDING: Vector = Vector::new();

/// Lines wait here for the wire, which is slower than what happens: the supervisor isn't held up by it.
static LINES: Lock<String> = Lock::new(String::new());
/// More than this is dropped: nobody reads.
const BACKLOG: usize = 256 * 1024;

fn emit(line: String) {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    {
        let mut lines = LINES.lock();
        if lines.len() < BACKLOG {
            lines.push_str(&line);
            lines.push('\n');
        }
    }
    PENDING.fire();
}

/// Packets and new connections by CPU, as the domains that count them so (`cpu.N.received`, `cpu.N.opened`) say.
fn by_cpu(counter: &str) -> Option<(usize, usize)> {
    let (cpu, what) = counter.strip_prefix("cpu.")?.split_once('.')?;
    let place = ["received", "opened"].iter().position(|name| *name == what)?;
    cpu.parse().ok().filter(|cpu| *cpu < machine().cpus()).map(|cpu| (cpu, place))
}

/// Counters of all domains, and what they add up to by CPU.
fn stats() {
    let mut line = format!(r#"{{"event":"stats","at_ns":{},"domains":["#, machine().now());
    let mut cpus = BTreeMap::<usize, [u64; 2]>::new();
    for (at, domain) in domain::all().into_iter().enumerate() {
        let counters = control::counters(domain);
        let status = domain.status();
        let _ = write!(
            line,
            r#"{}{{"name":{},"state":"{}","generation":{},"restarts":{},"pages":{},"counters":{{"#,
            if at == 0 { "" } else { "," },
            Json(&domain.name),
            status.state,
            status.generation,
            status.restarts,
            status.pages
        );
        for (at, (name, value)) in counters.iter().enumerate() {
            let _ = write!(line, "{}{}:{value}", if at == 0 { "" } else { "," }, Json(name));
            if let Some((cpu, place)) = by_cpu(name) {
                cpus.entry(cpu).or_default()[place] += value;
            }
        }
        line.push_str("}}");
    }
    line.push_str(r#"],"cpus":["#);
    for cpu in 0..machine().cpus() {
        let [packets, flows] = cpus.get(&cpu).copied().unwrap_or_default();
        let _ = write!(line, r#"{}{{"packets":{packets},"flows":{flows}}}"#, if cpu == 0 { "" } else { "," });
    }
    line.push_str("]}");
    emit(line);
}

/// All domains have been started.
pub(crate) fn booted() {
    let now = machine().now();
    emit(format!(r#"{{"event":"booted","at_ns":{now},"boot_ms":{}}}"#, now / 1_000_000));
}

/// A domain has changed its state.
pub(crate) fn domain(domain: &Domain) {
    let status = domain.status();
    emit(format!(
        r#"{{"event":"domain","at_ns":{},"name":{},"state":"{}","generation":{},"restarts":{},"pages":{}}}"#,
        machine().now(),
        Json(&domain.name),
        status.state,
        status.generation,
        status.restarts,
        status.pages
    ));
}

pub(crate) fn crash(domain: &Domain, incarnation: &Incarnation, death: &Death, reason: Reason) {
    let mut chain = String::new();
    for (at, name) in supervisor::chain(death).iter().enumerate() {
        let _ = write!(chain, "{}{}", if at == 0 { "" } else { "," }, Json(name));
    }
    emit(format!(
        r#"{{"event":"crash","domain":{},"reason":"{}","generation":{},"at_ns":{},"cpu":{},"chain":[{chain}],"last_words":{},"pages_before":{}}}"#,
        Json(&domain.name),
        reason.name(),
        incarnation.generation(),
        death.at,
        death.cpu,
        Json(&String::from_utf8_lossy(&death.words[..death.words_len])),
        incarnation.pages()
    ));
}

/// The first generation after a crash is live.
pub(crate) fn recovered(domain: &Domain) {
    let status = domain.status();
    emit(format!(
        r#"{{"event":"recovered","domain":{},"generation":{},"at_ns":{},"pages_after":{}}}"#,
        Json(&domain.name),
        status.generation,
        machine().now(),
        status.pages
    ));
}
