//! The watchdog: a visit that neither returns nor yields for too long is a crash of the domain that it is in.
//!
//! The supervisor asks for samples; each is taken on the sampled thread's own CPU, in its trap, so that a CPU that doesn't run (a stalled host, a thread
//! that waits for its turn) is charged nothing. Only the innermost frame is charged; the clocks of those outside pause, and go on when it has come
//! back. A frame's visit has a number, so a loop of short inner calls is still one visit of the outer domain.
//!
//! Who waits is left alone, but in visits of the kernel's own threads. Some of these serve all domains: one that never comes back from such a visit would keep
//! the console from its operator, and the others' handles from being dropped. And a start that never comes to its end would keep those that come after it at boot
//! from being started.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use interfaces::abi::Reason;

use crate::{
    incarnation::Cause,
    machine,
    platform::NEVER,
    thread::{self, MAX_FRAMES, ThreadBlock},
};

/// Samples within a watchdog's time: the precision of its expiry.
const SAMPLES: u64 = 8;
const SHORTEST: u64 = 1_000_000;
const LONGEST: u64 = 50_000_000;

/// What a visit of a thread that serves all domains may take.
const PATIENCE: u64 = 10_000_000_000;

/// Time between samples, as the live domains' watchdogs want it.
static INTERVAL: AtomicU64 = AtomicU64::new(LONGEST);

/// A thread's clocks. Written in the thread's own trap; reset by the supervisor when there is no thread.
pub(crate) struct Watch {
    asked: AtomicU32,
    /// Visit numbers that the clocks are of, and what each has run.
    visits: [AtomicU64; MAX_FRAMES],
    ran: [AtomicU64; MAX_FRAMES],
    /// Visits and signs of life at the last sample.
    seen_visits: AtomicU64,
    seen_signs: AtomicU64,
    /// What a visit of this thread of the kernel's may take, waiting included (0: as long as it likes), and whether it is a start. Set by the thread itself.
    patience: AtomicU64,
    starts: AtomicU32,
    /// The outermost visit at the last sweep, and for how long it has been that. The supervisor's.
    outermost: AtomicU64,
    lasted: AtomicU64,
}

impl Watch {
    pub(crate) fn forget(&self) {
        self.asked.store(0, Ordering::Relaxed);
        self.patience.store(0, Ordering::Relaxed);
        self.starts.store(0, Ordering::Relaxed);
        self.ran.iter().for_each(|ran| ran.store(0, Ordering::Relaxed));
    }

    /// Ends a visit of the kernel's own that has lasted for longer than it may, even if it waits. A start is charged to the domain that starts, wherever it waits: of
    /// others it may have asked what comes late or never. Other visits to the domain in which they are then. By the supervisor, at each sweep: a box that stood still
    /// is charged one interval, as in a sample.
    fn hurry(&self, block: &ThreadBlock) {
        let patience = self.patience.load(Ordering::Relaxed);
        if patience == 0 {
            return;
        }
        let published = block.published();
        let visit = published.get(1).map_or(0, |outermost| outermost.visit.load(Ordering::Relaxed));
        let goes_on = self.outermost.swap(visit, Ordering::Relaxed) == visit && visit != 0;
        let lasted = if goes_on { self.lasted.load(Ordering::Relaxed) + INTERVAL.load(Ordering::Relaxed) } else { 0 };
        let is_over = lasted >= patience;
        self.lasted.store(if is_over { 0 } else { lasted }, Ordering::Relaxed);
        if !is_over {
            return;
        }
        let (charged, words): (_, &[u8]) = match published.get(1) {
            Some(start) if self.starts.load(Ordering::Relaxed) != 0 => {
                // SAFETY: published a moment ago, and this is the supervisor, which alone frees records.
                (unsafe { start.record().incarnation() }, b"its start didn't come to an end in time")
            }
            _ => (block.innermost(), b"a visit of the kernel's own didn't come back"),
        };
        if charged.domain.is_some() {
            charged.die(Cause::Crash(Reason::Watchdog), None, words);
        }
    }

    /// One sample, in the trap of `block`'s thread, if the supervisor has asked for it.
    pub(crate) fn sample(&self, block: &ThreadBlock) {
        if self.asked.load(Ordering::Relaxed) == 0 || self.asked.swap(0, Ordering::Relaxed) == 0 {
            return;
        }
        if block.blocked.load(Ordering::Relaxed) != 0 {
            return;
        }
        let published = block.published();
        let at = published.len() - 1;
        let visit = published[at].visit.load(Ordering::Relaxed);
        let visits = block.visits.load(Ordering::Relaxed);
        let signs = block.signs.load(Ordering::Relaxed);
        let signed = self.seen_signs.swap(signs, Ordering::Relaxed) != signs;
        // For a domain's own thread, which never returns, calling others is a sign of life.
        let own = at == 1 && block.own.load(Ordering::Relaxed) != 0;
        let called = self.seen_visits.swap(visits, Ordering::Relaxed) != visits && own;
        if self.visits[at].swap(visit, Ordering::Relaxed) != visit || signed || called {
            self.ran[at].store(0, Ordering::Relaxed);
            return;
        }
        let incarnation = block.innermost();
        let Some(domain) = incarnation.domain else { return };
        let ran = self.ran[at].load(Ordering::Relaxed) + INTERVAL.load(Ordering::Relaxed);
        self.ran[at].store(ran, Ordering::Relaxed);
        let limit = domain.spec.watchdog.0;
        if limit != 0 && ran >= limit {
            incarnation.die(
                Cause::Crash(Reason::Watchdog),
                Some(block),
                b"a visit neither returned nor yielded in time",
            );
        }
    }
}

/// The calling thread, one of the kernel's own, serves all domains from now on.
pub(crate) fn serve_all() {
    thread::current().watch.patience.store(PATIENCE, Ordering::Relaxed);
}

/// The calling thread, one of the kernel's own, is about to start a domain, which may take so long.
pub(crate) fn start_within(limit: u64) {
    let watch = &thread::current().watch;
    watch.starts.store(1, Ordering::Relaxed);
    watch.patience.store(limit, Ordering::Relaxed);
}

/// Sets the pace by the shortest watchdog of the box.
pub(crate) fn set_pace(watchdogs: impl Iterator<Item = u64>) {
    let shortest = watchdogs.filter(|watchdog| *watchdog != 0).min().unwrap_or(NEVER);
    INTERVAL.store((shortest / SAMPLES).clamp(SHORTEST, LONGEST), Ordering::Relaxed);
}

/// Asks for a sample of every thread that is in a domain, if it is time; returns when to come again. For the supervisor.
pub(crate) fn sweep(due: u64) -> u64 {
    let now = machine().now();
    if now < due {
        return due;
    }
    for block in thread::all() {
        block.watch.hurry(block);
        let runs = block.held.load(Ordering::Relaxed) == 0 && block.blocked.load(Ordering::Relaxed) == 0;
        if runs && block.innermost().domain.is_some() {
            block.watch.asked.store(1, Ordering::Relaxed);
            machine().kick(block);
        }
    }
    now + INTERVAL.load(Ordering::Relaxed)
}
