//! The kernel's own visits to domains that export `Control`: their counters, and commands that the console does not know itself.
//!
//! A domain that starts again knows nothing of what the operator told its predecessor, so it is told again: of lines that differ in their last word only
//! (`backend b1 drain`, `backend b1 up`) the last one, in the order in which they were typed.

use alloc::{string::String, vec::Vec};

use interfaces::{
    CallError, Interface, InterfaceId, RRef,
    control::{Control, ControlError, Counters, Text},
};

use crate::{
    domain::{self, Domain},
    interrupt::Vector,
    lock::Lock,
    log::{self, Level},
    platform::NEVER,
    supervisor, watchdog,
};

/// More pages of counters than this, and a domain is talking nonsense.
const MAX_PAGES: u32 = 64;

/// More lines than this of one domain, and the oldest is forgotten.
const MAX_TOLD: usize = 64;

/// A line that a domain has carried out.
struct Told {
    domain: usize,
    line: String,
}

static TOLD: Lock<Vec<Told>> = Lock::new(Vec::new());
/// Fires when a domain has started.
static STARTED: Vector = Vector::new();

/// A domain's generation is live; takes no lock.
pub(crate) fn started() {
    STARTED.fire();
}

pub(crate) fn spawn() {
    assert!(supervisor::kernel_thread("reminder", 0, remind), "no memory for the kernel's own threads");
}

/// Tells each new generation what its domain had been told.
fn remind() {
    let mut seen = Vec::new();
    watchdog::serve_all();
    loop {
        for domain in domain::all() {
            seen.resize(seen.len().max(domain.index + 1), 0);
            let status = domain.status();
            if status.state != "live" || status.generation == seen[domain.index] {
                continue;
            }
            seen[domain.index] = status.generation;
            let lines: Vec<String> =
                TOLD.lock().iter().filter(|told| told.domain == domain.index).map(|told| told.line.clone()).collect();
            for line in lines {
                let told = port(domain).zip(RRef::new(Text::new(&line)).ok());
                let answer = told.map(|(port, text)| port.command(text));
                let outcome = match answer {
                    Some(Ok(_)) => "is told again",
                    // Else it would be told so, and crash, for ever.
                    Some(Err(ControlError::Call(CallError::Crashed))) => {
                        forget(domain, &line);
                        "crashed when it was told again, and won't be any more"
                    }
                    // It is dead already, or busy dying: the generation after it will be told.
                    _ => "could not be told again",
                };
                log::kernel(Level::Info, format_args!("{} {outcome}: {line}", domain.name));
            }
        }
        STARTED.wait(NEVER);
    }
}

fn forget(domain: &Domain, line: &str) {
    TOLD.lock().retain(|told| told.domain != domain.index || told.line != line);
}

fn remember(domain: &Domain, line: &str) {
    let subject = |line: &str| String::from(line.rsplit_once(' ').map_or("", |(subject, _)| subject));
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut told = TOLD.lock();
    told.retain(|told| told.domain != domain.index || subject(&told.line) != subject(&line));
    if told.iter().filter(|told| told.domain == domain.index).count() >= MAX_TOLD
        && let Some(oldest) = told.iter().position(|told| told.domain == domain.index)
    {
        told.remove(oldest);
    }
    told.push(Told { domain: domain.index, line });
}

/// The domain's control port, if it has one.
fn port(domain: &Domain) -> Option<&'static dyn Control> {
    let export = domain.exports.iter().find(|export| export.interface == InterfaceId::of::<dyn Control>())?;
    // SAFETY: a proxy of this interface, which is never freed.
    Some(unsafe { &*<dyn Control as Interface>::from_raw(export.proxy) })
}

/// All counters of a domain; none if it has no control port or doesn't answer.
pub(crate) fn counters(domain: &Domain) -> Vec<(String, u64)> {
    let mut counters = Vec::new();
    let Some(port) = port(domain) else { return counters };
    for _ in 0..MAX_PAGES {
        let Ok(page) = RRef::new(Counters::default()) else { break };
        let Ok(page) = port.counters(counters.len() as u32, page) else { break };
        let entries = page.as_slice();
        counters.extend(entries.iter().map(|counter| (String::from(counter.name.as_str()), counter.value)));
        if !page.more || entries.is_empty() {
            break;
        }
    }
    counters
}

/// Hands a line to the domains that take commands, one after the other, until one knows it; its answer, with the domain's name. If
/// none does, but one didn't answer, that is the answer.
pub(crate) fn command(line: &str) -> Option<(String, Result<String, CallError>)> {
    let mut silent = None;
    for domain in domain::all() {
        let Some(port) = port(domain) else { continue };
        let Ok(text) = RRef::new(Text::new(line)) else { continue };
        match port.command(text) {
            Err(ControlError::UnknownCommand) => {}
            Ok(answer) => {
                if !answer.as_str().starts_with("error:") {
                    remember(domain, line);
                }
                return Some((domain.name.clone(), Ok(answer.as_str().into())));
            }
            // One that doesn't answer now is no reason not to ask the others.
            Err(ControlError::Call(error)) => drop(silent.get_or_insert_with(|| (domain.name.clone(), Err(error)))),
        }
    }
    silent
}
