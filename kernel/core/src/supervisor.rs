//! The supervisor: one thread that sees domains die, waits until no thread runs in them, lets go whom they held up, reclaims them to the byte, and
//! starts them again as the manifest says.
//!
//! The order for each death is fixed (SOUNDNESS: stop before resume): barrier on all CPUs; then wait until no thread is innermost in the dead
//! incarnation (kicking those that are) nor moving objects; then let the held threads go; then, when callers have what they want back, free. Nothing here waits for one domain while another needs
//! it: each domain is a state machine that is stepped.

use alloc::{collections::VecDeque, string::String, sync::Arc, vec::Vec};
use core::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicU64, Ordering},
};

use bundle::manifest::RestartPolicy;
use interfaces::{CallError, abi::Reason};

use crate::{
    capability, control, domain,
    domain::{Domain, Life, Phase, Started, Then},
    exchange, feed,
    incarnation::{Cause, Incarnation},
    lock::Lock,
    log::{self, Level},
    machine, packets,
    platform::{NEVER, Priority},
    record::{self, PortRecord},
    start, thread,
    thread::{STACK_PAGES, Spawn, ThreadBlock},
    watchdog,
};

/// A generation that has lived so many times the delay before it was no crash loop.
const LONG_LIFE: u64 = 16;
/// Between looks at threads that are still inside a dead domain.
const LOOK_AGAIN: u64 = 50_000;

static SUPERVISOR: AtomicPtr<ThreadBlock> = AtomicPtr::new(ptr::null_mut());
static REAPER: AtomicPtr<ThreadBlock> = AtomicPtr::new(ptr::null_mut());
static COMMANDS: Lock<VecDeque<Command>> = Lock::new(VecDeque::new());
/// When all domains had been started (or had failed to); 0 before.
static BOOTED: AtomicU64 = AtomicU64::new(0);

/// What the operator asks for.
#[derive(Clone, Copy)]
pub enum Command {
    Start(&'static Domain),
    Stop(&'static Domain),
    Restart(&'static Domain),
    Kill(&'static Domain),
    /// A real fault at the domain's next visit.
    Inject(&'static Domain, Reason),
}

/// Something has happened that the supervisor should look at. From anywhere, traps included.
pub(crate) fn notice() {
    // SAFETY: blocks are never unmapped.
    if let Some(supervisor) = unsafe { SUPERVISOR.load(Ordering::SeqCst).as_ref() } {
        machine().unpark(supervisor);
    }
}

pub fn order(command: Command) {
    COMMANDS.lock().push_back(command);
    notice();
}

/// Whether all domains have been started since boot, and when.
pub fn booted_at() -> Option<u64> {
    Some(BOOTED.load(Ordering::Relaxed)).filter(|at| *at != 0)
}

/// Starts the supervisor and the reaper.
pub(crate) fn spawn() {
    let kernel_thread = |name: &str, work: fn()| {
        let spawn = Spawn {
            name: name.into(),
            cpu: 0,
            priority: Priority::High,
            stack_pages: STACK_PAGES,
            base: None,
            domain: None,
            work: alloc::boxed::Box::new(work),
        };
        assert!(thread::spawn(spawn).is_some(), "no memory for the kernel's own threads");
    };
    kernel_thread("supervisor", supervise);
    kernel_thread("reaper", reap);
}

fn supervise() {
    SUPERVISOR.store(ptr::from_ref(thread::current()).cast_mut(), Ordering::SeqCst);
    watchdog::set_pace(domain::all().iter().flat_map(|domain| [domain.spec.watchdog.0, domain.spec.start_timeout.0]));
    let (mut sample_at, mut audited) = (0, 0);
    loop {
        thread::bury_ended();
        obey();
        let mut next = NEVER;
        let mut all_up = true;
        for domain in domain::all() {
            next = next.min(step(domain));
            let fresh = matches!(domain.life.lock().phase, Phase::Fresh | Phase::Starting);
            if fresh && all_up && matches!(domain.life.lock().phase, Phase::Fresh) {
                // In the manifest's order, one after the other: an importer finds its exporters there.
                begin(domain);
            }
            all_up &= !fresh;
        }
        if all_up && BOOTED.load(Ordering::Relaxed) == 0 {
            BOOTED.store(machine().now(), Ordering::Relaxed);
            feed::booted();
        }
        record::collect();
        // SAFETY: blocks are never unmapped.
        if let Some(reaper) = unsafe { REAPER.load(Ordering::SeqCst).as_ref() } {
            machine().unpark(reaper);
        }
        sample_at = watchdog::sweep(sample_at);
        machine().park(next.min(sample_at).min(packets::audit(&mut audited)));
    }
}

/// Carries out the visits by which capabilities' objects are dropped. A thread of its own, since a domain's drop may take its time.
fn reap() {
    REAPER.store(ptr::from_ref(thread::current()).cast_mut(), Ordering::SeqCst);
    watchdog::serve_all();
    loop {
        for release in capability::releases() {
            if release.record.is_named() {
                // The holder died while its thread was inside the maker, by this very handle.
                capability::postpone(release);
            } else if release.maker.is_live() {
                release.carry_out();
            } else {
                release.give_up();
            }
        }
        machine().park(NEVER);
    }
}

fn obey() {
    let commands = core::mem::take(&mut *COMMANDS.lock());
    for command in commands {
        match command {
            Command::Start(domain) => {
                let idle = {
                    let mut life = domain.life.lock();
                    life.recent.clear();
                    life.delay = None;
                    life.then = Then::Policy;
                    matches!(life.phase, Phase::Stopped | Phase::Crashed | Phase::GivenUp | Phase::Waiting(_))
                };
                if idle {
                    begin(domain);
                }
            }
            Command::Stop(domain) => end(domain, Cause::Stopped, Then::Stay),
            Command::Restart(domain) => end(domain, Cause::Stopped, Then::StartAgain),
            Command::Kill(domain) => end(domain, Cause::Crash(Reason::Killed), Then::Policy),
            Command::Inject(domain, reason) => {
                let incarnation = domain.life.lock().incarnation.clone();
                if !incarnation.is_some_and(|incarnation| incarnation.inject(reason)) {
                    log::kernel(Level::Warn, format_args!("{} is not live: no fault injected", domain.name));
                }
            }
        }
    }
}

/// Ends the generation that lives (or starts), with what shall happen then.
fn end(domain: &'static Domain, cause: Cause, then: Then) {
    let incarnation = {
        let mut life = domain.life.lock();
        match life.phase {
            Phase::Starting | Phase::Live => {
                let incarnation = life.incarnation.clone();
                // One that is dead already is killed no more; what the operator wanted after it still holds.
                if then != Then::Policy || incarnation.as_ref().is_some_and(|incarnation| incarnation.is_live()) {
                    life.then = then;
                }
                incarnation
            }
            Phase::Dying => {
                if then != Then::Policy {
                    life.then = then;
                }
                None
            }
            Phase::Fresh | Phase::Waiting(_) if then == Then::Stay => {
                life.phase = Phase::Stopped;
                None
            }
            // It comes when its turn at boot does.
            Phase::Fresh => None,
            _ if then == Then::StartAgain => {
                life.phase = Phase::Waiting(0);
                None
            }
            _ => None,
        }
    };
    if let Some(incarnation) = incarnation {
        incarnation.die(cause, None, b"");
    } else if then == Then::Stay {
        domain.point_away(CallError::Stopped);
    }
}

/// Begins the next generation.
fn begin(domain: &'static Domain) {
    let incarnation = {
        let mut life = domain.life.lock();
        match Incarnation::new(domain, life.generation + 1) {
            Some(incarnation) => {
                life.generation += 1;
                life.began = machine().now();
                life.phase = Phase::Starting;
                life.incarnation = Some(incarnation.clone());
                incarnation
            }
            None => {
                life.phase = Phase::GivenUp;
                drop(life);
                log::kernel(
                    Level::Error,
                    format_args!(
                        "{} is given up: it has had every generation that there is, until the box starts again",
                        domain.name
                    ),
                );
                domain.point_away(CallError::Gone);
                feed::domain(domain);
                return;
            }
        }
    };
    domain.point_away(CallError::Restarting);
    if !start::begin(domain, &incarnation) {
        *incarnation.started.lock() = Started::Refused(String::from(
            "no thread to start it: there is no memory for one, or its `threads` are all of earlier generations, away in others",
        ));
    }
}

/// Takes a domain as far as it goes; returns when to come again.
fn step(domain: &'static Domain) -> u64 {
    let (phase, incarnation) = {
        let life = domain.life.lock();
        (life.phase.clone(), life.incarnation.clone())
    };
    match (phase, incarnation) {
        (Phase::Waiting(at), _) => {
            if machine().now() >= at {
                begin(domain);
                return NEVER;
            }
            at
        }
        (Phase::Starting, Some(incarnation)) => {
            if incarnation.is_live() {
                starting(domain, &incarnation);
            }
            if incarnation.is_live() { NEVER } else { dying(domain, &incarnation) }
        }
        (Phase::Live | Phase::Dying, Some(incarnation)) if !incarnation.is_live() => dying(domain, &incarnation),
        _ => NEVER,
    }
}

/// Looks whether the start has come to an end, and installs the exports of one that went well.
fn starting(domain: &'static Domain, incarnation: &Arc<Incarnation>) {
    let started = {
        let mut started = incarnation.started.lock();
        match &*started {
            Started::Loading | Started::Visiting | Started::Over => return,
            Started::Refused(_) | Started::Running(_) => core::mem::replace(&mut *started, Started::Over),
        }
    };
    match started {
        Started::Running(exported) => {
            let records: Vec<_> =
                exported.0.iter().map(|object| PortRecord::new(incarnation.clone(), *object)).collect();
            let recovering = {
                let mut life = domain.life.lock();
                life.records = records;
                life.phase = Phase::Live;
                for (export, record) in domain.exports.iter().zip(&life.records) {
                    export.gate.slot.store(ptr::from_ref(*record).cast_mut(), Ordering::SeqCst);
                }
                core::mem::take(&mut life.recovering)
            };
            if !incarnation.is_live() {
                // Its own threads were faster: whoever killed it may have pointed the slots away before we set them.
                domain.point_away(incarnation.answer());
            }
            let generation = incarnation.generation();
            log::kernel(Level::Info, format_args!("{} is live, generation {generation}", domain.name));
            feed::domain(domain);
            control::started();
            if recovering {
                feed::recovered(domain);
            }
        }
        Started::Refused(words) => {
            log::kernel(Level::Error, format_args!("{} did not start: {words}", domain.name));
            incarnation.die(Cause::Refused, None, words.as_bytes());
        }
        _ => {}
    }
}

/// One look at a dead incarnation; returns when to come again.
fn dying(domain: &'static Domain, incarnation: &Arc<Incarnation>) -> u64 {
    if domain.life.lock().phase != Phase::Dying {
        domain.life.lock().phase = Phase::Dying;
        // From here on every thread sees that it is dead, and we see every frame that was published before.
        machine().barrier();
        announce(domain, incarnation);
    }
    if !incarnation.is_quiet() {
        if !is_quiet(incarnation) {
            return machine().now() + LOOK_AGAIN;
        }
        // Before any of them may go on by itself.
        thread::all().for_each(|block| block.given_back.expect_from(block, incarnation));
        incarnation.set_quiet();
        for block in thread::all() {
            if ptr::eq(block.innermost(), &raw const **incarnation) && block.held.swap(0, Ordering::SeqCst) == 1 {
                machine().release(block);
            }
        }
    }
    // The thread that starts it may still be loading; once it visits, it is a thread like others. And whoever wants back what it moved there comes before the reclaim.
    let is_loading = matches!(*incarnation.started.lock(), Started::Loading);
    if is_loading || thread::all().any(|block| block.given_back.is_expected_from(incarnation)) {
        return machine().now() + LOOK_AGAIN;
    }
    reclaim(domain, incarnation);
    plan(domain, incarnation)
}

/// Whether no thread executes code of the dead incarnation, nor will. Pushes those that do.
fn is_quiet(incarnation: &Arc<Incarnation>) -> bool {
    let mut quiet = true;
    for block in thread::all() {
        let inside = ptr::eq(block.innermost(), &raw const **incarnation);
        // Read after the frame: a thread that comes back sets `crossing` before it unpublishes.
        let crossing = block.crossing.load(Ordering::SeqCst) != 0;
        if block.held.load(Ordering::SeqCst) != 0 {
            continue;
        }
        if inside {
            machine().kick(block);
            machine().unpark(block);
        }
        quiet &= !inside && !crossing;
    }
    quiet
}

fn announce(domain: &'static Domain, incarnation: &Incarnation) {
    let death = incarnation.death();
    {
        let mut life = domain.life.lock();
        life.pages_before = incarnation.pages();
        life.last_death = death.map(|death| (incarnation.generation(), death));
    }
    let Some(death) = death else { return };
    match death.cause {
        Cause::Crash(reason) => {
            let words = String::from_utf8_lossy(&death.words[..death.words_len]);
            log::kernel(Level::Error, format_args!("{} crashed ({}): {words}", domain.name, reason.name()));
            domain.life.lock().recovering = true;
            feed::crash(domain, incarnation, &death, reason);
        }
        Cause::Stopped => log::kernel(Level::Info, format_args!("{} is stopped", domain.name)),
        Cause::Refused => {}
    }
    feed::domain(domain);
}

/// Frees everything that the dead incarnation had.
fn reclaim(domain: &'static Domain, incarnation: &Arc<Incarnation>) {
    // A start that won the race against the death has set the slots after it.
    domain.point_away(incarnation.answer());
    let records = core::mem::take(&mut domain.life.lock().records);
    records.into_iter().for_each(PortRecord::retire);
    // SAFETY: quiet, and nobody was crossing when it became so; since then every call to it fails before it moves anything, and what comes
    // back to it is dropped.
    let objects = unsafe { exchange::reclaim(incarnation.owner()) };
    let handles = capability::reclaim(incarnation.owner());
    if let Some(lease) = &domain.lease {
        lease.orphaned();
    }
    // SAFETY: quiet: no thread executes its code or follows its pointers, since all its records are dead.
    unsafe { incarnation.unmap_all() };
    thread::bury_ended();
    log::kernel(Level::Debug, format_args!("{} reclaimed: {objects} objects, {handles} handles", domain.name));
}

/// What comes after a generation, by the operator's wish or the manifest's policy; returns when to come again.
fn plan(domain: &'static Domain, incarnation: &Arc<Incarnation>) -> u64 {
    let now = machine().now();
    let crashed = !matches!(incarnation.death(), Some(death) if death.cause == Cause::Stopped);
    let mut life = domain.life.lock();
    life.incarnation = None;
    let then = core::mem::replace(&mut life.then, Then::Policy);
    life.phase = match then {
        Then::Stay => Phase::Stopped,
        Then::StartAgain => Phase::Waiting(now),
        Then::Policy => by_policy(domain, &mut life, crashed, now),
    };
    if matches!(life.phase, Phase::Waiting(_)) {
        life.restarts += 1;
    }
    let (phase, restarts) = (life.phase.clone(), life.restarts);
    drop(life);
    if phase == Phase::GivenUp {
        log::kernel(
            Level::Error,
            format_args!("{} is given up after {restarts} restarts: `start {}` tries again", domain.name, domain.name),
        );
    }
    domain.point_away(match phase {
        Phase::Waiting(_) => CallError::Restarting,
        Phase::Stopped => CallError::Stopped,
        _ => CallError::Gone,
    });
    feed::domain(domain);
    // Others may have waited for what has just been freed.
    0
}

fn by_policy(domain: &Domain, life: &mut Life, crashed: bool, now: u64) -> Phase {
    let policy = &domain.spec.restart;
    let again = match policy.policy {
        RestartPolicy::Never => false,
        RestartPolicy::OnFailure => crashed,
        RestartPolicy::Always => true,
    };
    if !again {
        return if crashed { Phase::Crashed } else { Phase::Stopped };
    }
    while life.recent.front().is_some_and(|at| now.saturating_sub(*at) > policy.limit_interval.0) {
        life.recent.pop_front();
    }
    let restarts = life.recent.len() as u32;
    if restarts >= policy.limit_burst {
        return Phase::GivenUp;
    }
    life.recent.push_back(now);
    // The delay is against crash loops: it doubles from one short life to the next, and begins anew after one that was long beside the delay before it.
    let lived = now.saturating_sub(life.began);
    let delay = match life.delay {
        Some(delay) if lived < delay.saturating_mul(LONG_LIFE) => delay.saturating_mul(2).min(policy.max_delay.0),
        _ => policy.delay.0,
    };
    life.delay = Some(delay);
    Phase::Waiting(now + delay)
}

/// The domains that the thread was in, from the outermost; without the kernel, where every thread begins.
pub(crate) fn chain(death: &crate::incarnation::Death) -> Vec<String> {
    death.chain[..death.chain_len]
        .iter()
        .filter(|index| **index != 0)
        .map(|index| domain::name_of(usize::from(*index)))
        .collect()
}

/// A thread of the kernel's own that runs for good.
pub(crate) fn kernel_thread(name: &str, cpu: usize, work: fn()) -> bool {
    let spawn = Spawn {
        name: name.into(),
        cpu,
        priority: Priority::Normal,
        stack_pages: STACK_PAGES,
        base: None,
        domain: None,
        work: alloc::boxed::Box::new(work),
    };
    thread::spawn(spawn).is_some()
}
