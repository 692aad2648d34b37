//! The wire, on a clock of its own: it offers the next frame when that clock says so, not when the host's does.
//!
//! The clock is the time that the box's CPU has been the box's, by the system's accounts: of all threads but the wire's own and the bench's. A thread that yields to everybody
//! spins on that CPU when the box has nothing to do, so that the clock goes on when the box sleeps. What the host does with the CPU meanwhile passes in no time at all; that is
//! not held against the box, and reported as `stolen`. When the wire's own thread was away, the wire stood still.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rig::{Card, Tester, bench::cpu_time, pin};

/// The wire never runs further than this between two looks of the model.
const LONGEST_STEP: u64 = 20_000;
/// A gap that is longer than this is a standstill: at any rate that is measured here, frames come back in less.
const STANDSTILL: u64 = 2 * LONGEST_STEP;

/// What the wire's thread and the bench tell each other.
#[derive(Default)]
pub struct Wire {
    /// Frames a second; 0: none.
    pub rate: AtomicU64,
    /// The wire's time.
    now: AtomicU64,
    /// The longest gap between frames that came back, since this was last set to 0.
    pub gap: AtomicU64,
    /// All standstills together, since this was last set to 0. What piles up in one waits through the next, if that comes before the pile is through.
    pub stood: AtomicU64,
    /// Frames that the card could not hold while there was no standstill, since this was last set to 0.
    pub missed_running: AtomicU64,
    pub stop: AtomicBool,
}

/// The threads behind a wire.
pub struct Threads([JoinHandle<()>; 2]);

impl Wire {
    /// The wire of `card`, whose box lives on CPU 0; the caller is the bench.
    pub fn start(card: &'static Card<Tester>) -> (Arc<Wire>, Threads) {
        let wire = Arc::new(Wire::default());
        let mut bench = 0;
        // SAFETY: a place for the answer, about the calling thread.
        let known = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut bench) };
        assert_eq!(known, 0, "a thread has a clock");
        let (ours, theirs) = (wire.clone(), wire.clone());
        let threads = [thread::spawn(move || spin(&ours)), thread::spawn(move || pump(&theirs, card, bench))];
        (wire, Threads(threads))
    }

    pub fn now(&self) -> u64 {
        self.now.load(SeqCst)
    }

    /// Waits until the wire's clock has gone on so far.
    pub fn run_for(&self, nanos: u64) {
        let until = self.now() + nanos;
        while self.now() < until {
            thread::sleep(Duration::from_micros(100));
        }
    }
}

impl Threads {
    pub fn join(self) {
        self.0.into_iter().for_each(|thread| _ = thread.join());
    }
}

/// Spins on the box's CPU when nobody else wants it.
fn spin(wire: &Wire) {
    pin(0);
    // SAFETY: plain data for the calling thread; a refusal makes the spinner a thread like others.
    unsafe {
        let idle: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &idle);
    }
    while !wire.stop.load(SeqCst) {
        std::hint::spin_loop();
    }
}

/// Lets as many frames be sent as time and rate say, and has the card work.
fn pump(wire: &Wire, card: &'static Card<Tester>, bench: libc::clockid_t) {
    let of_box = || {
        let others = cpu_time(libc::CLOCK_THREAD_CPUTIME_ID) + cpu_time(bench);
        cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(others)
    };
    let (mut now, mut last, mut owed) = (0u64, of_box(), 0.0);
    let (mut returned, mut returned_at, mut missed_before) = (0, 0, 0);
    while !wire.stop.load(SeqCst) {
        let at = of_box();
        let step = at.saturating_sub(last).min(LONGEST_STEP);
        (now, last) = (now + step, at.max(last));
        owed += wire.rate.load(SeqCst) as f64 * step as f64 / 1e9;
        let frames = owed as u64;
        owed -= frames as f64;
        let (total, missed) = card.with(|device| {
            device.nic().set_time(now);
            device.nic().wire_mut().allow(frames);
            device.look();
            (device.nic().wire().returned().frames, device.nic().counters().rx_missed())
        });
        if total != returned {
            let gap = now - returned_at;
            wire.gap.fetch_max(gap, SeqCst);
            if gap > STANDSTILL {
                wire.stood.fetch_add(gap, SeqCst);
            } else {
                wire.missed_running.fetch_add(missed - missed_before, SeqCst);
            }
            (returned, returned_at, missed_before) = (total, now, missed);
        }
        wire.now.store(now, SeqCst);
    }
}
