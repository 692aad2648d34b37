//! The operator's console on the serial line.
//!
//! A line is read with the least of editing (backspace, Ctrl-C, Ctrl-U), then carried out. Nothing typed here reaches a domain but through its `control`
//! port, as a contained visit.
//!
//! Promise: the answer to a line that is not carried out begins with `error:`, whoever gives it.

use alloc::{format, string::String, vec::Vec};
use core::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use interfaces::abi::Reason;

use crate::{
    capability, control,
    domain::{self, Domain},
    exchange,
    incarnation::Cause,
    lock, log, machine, packets,
    platform::NEVER,
    supervisor::{self, Command},
    thread, watchdog,
};

/// Whether `crash` is there: the manifest's word.
static FAULT_INJECTION: AtomicBool = AtomicBool::new(false);

const PROMPT: &str = "redleaf> ";
const MAX_LINE: usize = 240;
/// Between looks at new lines while following the log.
const FOLLOW: u64 = 200_000_000;

const HELP: &str = "\
help                     this
domains                  each domain's state, generation, restarts and memory
threads                  each thread, where it is, its visits, and (debug builds) locks taken
locks                    (debug builds) locks that domains' threads have taken, by the place in the kernel
stats [NAME]             counters of all domains, or of one
log [NAME] [--follow]    the log, of all or of one domain; any key ends --follow
start NAME               start a domain that has stopped, or was given up
stop NAME                stop a domain; its callers are told so
restart NAME             stop and start
kill NAME                end a domain as a crash, with all that follows
";
const HELP_FAULTS: &str = "\
crash NAME [KIND]        commit a real fault at the domain's next visit: panic, stack-overflow, page-fault,
                         cpu-exception, quota, watchdog or killed (default: panic)
";
const HELP_DOMAINS: &str = "\
Any other line is handed to the domains that take commands, such as `backend NAME up|down|drain`.
";

pub(crate) fn spawn(fault_injection: bool) {
    FAULT_INJECTION.store(fault_injection, Ordering::Relaxed);
    assert!(supervisor::kernel_thread("console", 0, converse), "no memory for the kernel's own threads");
}

fn say(text: impl fmt::Display) {
    let text = format!("{text}").replace('\n', "\r\n");
    machine().console_write(text.as_bytes());
}

/// Reads lines for ever.
fn converse() {
    let mut line = String::new();
    watchdog::serve_all();
    say(PROMPT);
    loop {
        // One at a time: what is typed ahead is for who reads next, which may be the log that any key ends.
        let mut typed = [0];
        if machine().console_read(&mut typed) == 0 {
            machine().console_vector().wait(NEVER);
            continue;
        }
        match typed[0] {
            b'\r' | b'\n' => {
                say("\n");
                carry_out(line.trim());
                line.clear();
                say(PROMPT);
            }
            0x08 | 0x7f => {
                let rub_out: &[u8] = if line.pop().is_some() { b"\x08 \x08" } else { b"" };
                machine().console_write(rub_out);
            }
            // Ctrl-C, Ctrl-U: forget the line.
            0x03 | 0x15 => {
                line.clear();
                say("\n");
                say(PROMPT);
            }
            byte @ b' '..=b'~' if line.len() < MAX_LINE => {
                line.push(char::from(byte));
                machine().console_write(&[byte]);
            }
            _ => {}
        }
    }
}

fn carry_out(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [] => {}
        ["help"] => {
            say(HELP);
            if FAULT_INJECTION.load(Ordering::Relaxed) {
                say(HELP_FAULTS);
            }
            say(HELP_DOMAINS);
        }
        ["domains"] => domains(),
        ["threads"] => threads(),
        ["locks"] => locks(),
        ["stats"] => domain::all().into_iter().for_each(stats),
        ["stats", name] => with(name, stats),
        ["log"] => show_log(None, false),
        ["log", "--follow"] => show_log(None, true),
        ["log", name] => with(name, |domain| show_log(Some(domain.index), false)),
        ["log", name, "--follow"] | ["log", "--follow", name] => {
            with(name, |domain| show_log(Some(domain.index), true))
        }
        ["start", name] => with(name, |domain| order(Command::Start(domain), domain, !LIVING.contains(&state(domain)))),
        ["stop", name] => with(name, |domain| order(Command::Stop(domain), domain, state(domain) != "stopped")),
        ["restart", name] => with(name, |domain| order(Command::Restart(domain), domain, true)),
        ["kill", name] => with(name, |domain| order(Command::Kill(domain), domain, LIVING.contains(&state(domain)))),
        ["crash", name] => crash(name, Reason::Panic.name()),
        ["crash", name, kind] => crash(name, kind),
        ["start" | "stop" | "restart" | "kill" | "crash", ..] => refuse("name one domain; `domains` lists them"),
        _ => match control::command(line) {
            Some((_, Ok(answer))) => say(format_args!("{}\n", answer.trim_end())),
            Some((name, Err(error))) => refuse(format_args!("{name} does not answer: {error}")),
            None => refuse("no such command; `help` lists them"),
        },
    }
}

/// The line is not carried out.
fn refuse(why: impl fmt::Display) {
    say(format_args!("error: {why}\n"));
}

/// States in which a domain can be killed, and needs no start.
const LIVING: [&str; 2] = ["live", "starting"];

fn state(domain: &Domain) -> &'static str {
    domain.status().state
}

/// Has the supervisor carry out a command, if the domain is in a state for it.
fn order(command: Command, domain: &Domain, possible: bool) {
    match possible {
        true => supervisor::order(command),
        false => refuse(format_args!("{} is {}", domain.name, state(domain))),
    }
}

fn with(name: &str, work: impl FnOnce(&'static Domain)) {
    match domain::by_name(name) {
        Some(domain) => work(domain),
        None => refuse(format_args!("there is no domain {name}; `domains` lists them")),
    }
}

fn crash(name: &str, kind: &str) {
    if !FAULT_INJECTION.load(Ordering::Relaxed) {
        refuse("this box's manifest does not allow fault injection (console.fault-injection)");
        return;
    }
    match Reason::from_name(kind) {
        None => refuse(format_args!("there is no kind of crash {kind}; `help` lists them")),
        Some(reason) => with(name, |domain| {
            let command = match reason {
                Reason::Killed => Command::Kill(domain),
                reason => Command::Inject(domain, reason),
            };
            order(command, domain, LIVING.contains(&state(domain)));
        }),
    }
}

fn domains() {
    say(format_args!(
        "{:<16} {:<11} {:>10} {:>8} {:>7} {:>7} {:>9}  last death\n",
        "domain", "state", "generation", "restarts", "pages", "threads", "exchange"
    ));
    for domain in domain::all() {
        let status = domain.status();
        let death = status.last_death.map_or(String::new(), |(generation, death)| {
            let words = String::from_utf8_lossy(&death.words[..death.words_len]).into_owned();
            match death.cause {
                Cause::Crash(reason) => {
                    let chain = supervisor::chain(&death).join(" > ");
                    let place =
                        if chain.is_empty() { String::new() } else { format!(", cpu {}, {chain}: {words}", death.cpu) };
                    format!("{} in generation {generation}{place}", reason.name())
                }
                Cause::Stopped => String::from("stopped by the operator"),
                Cause::Refused => format!("did not start: {words}"),
            }
        });
        say(format_args!(
            "{:<16} {:<11} {:>10} {:>8} {:>7} {:>7} {:>9}  {}\n",
            domain.name,
            status.state,
            status.generation,
            status.restarts,
            status.pages,
            status.threads,
            exchange::bytes(domain.index),
            death.replace('\n', " ")
        ));
    }
    let (pages, (buffers, free), (_, handles)) = (machine().pages(), packets::counts(), capability::counts(0));
    let in_rings: usize = domain::all().iter().map(|domain| domain.buffers_in_rings()).sum();
    say(format_args!(
        "pages: {} used, {} of them by the exchange heap, {} free; packet buffers: {buffers}, {free} free, {in_rings} in rings; handles: {handles}\n",
        pages.used,
        exchange::slab_pages(),
        pages.free
    ));
}

fn threads() {
    say(format_args!("{:<24} {:>3} {:<16} {:>12} {:>10}  last lock\n", "thread", "cpu", "in", "visits", "locks"));
    for block in thread::all() {
        let inside = domain::name_of(block.innermost_domain());
        let (locks, last) = block.locks();
        let (cpu, visits) = (block.cpu.load(Ordering::Relaxed), block.visits());
        say(format_args!("{:<24} {cpu:>3} {inside:<16} {visits:>12} {locks:>10}", block.name()));
        match last {
            Some(at) => say(format_args!("  {}:{}\n", at.file(), at.line())),
            None => say("\n"),
        }
    }
}

fn locks() {
    if !cfg!(debug_assertions) {
        return refuse("this kernel does not count locks; `redleaf run --debug-kernel` makes one that does");
    }
    for ((file, line), taken) in lock::sites() {
        say(format_args!("{taken:>12}  {file}:{line}\n"));
    }
}

fn stats(domain: &'static Domain) {
    let counters = control::counters(domain);
    if counters.is_empty() {
        say(format_args!("{}: no counters\n", domain.name));
    }
    for (name, value) in counters {
        say(format_args!("{}.{name} {value}\n", domain.name));
    }
}

fn show_log(of: Option<usize>, follow: bool) {
    let mut next = 0;
    loop {
        let (lines, after) = log::read(next, of);
        next = after;
        let nothing = lines.is_empty();
        for line in lines {
            let (seconds, micros) = (line.at / 1_000_000_000, line.at / 1_000 % 1_000_000);
            let text = line.text();
            say(format_args!(
                "{seconds:>6}.{micros:06} {:<5} {}: {}\n",
                line.level.name(),
                domain::name_of(line.domain),
                text.trim_end()
            ));
        }
        if !follow {
            if nothing {
                say("nothing has been logged\n");
            }
            return;
        }
        machine().console_vector().wait(machine().now() + FOLLOW);
        // One key: what was typed ahead with it is the next command.
        if machine().console_read(&mut [0; 1]) > 0 {
            return;
        }
    }
}
