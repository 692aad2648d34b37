//! What a crash of the driver costs its client, behind the shadow: frames lost, repeated and reordered, and for how long none came.
//!
//! The claim that is judged here: as long as rate × outage fits into the posted descriptors and the packet buffer, no received frame is lost. The outage is all the time in which nothing came
//! back, from the crash until what had piled up was through: a second standstill (the kernel frees what the dead generation had, the host's scheduler has its turn) finds the ring and the buffer
//! as full as the first left them. A frame that is lost in an outage that those cover, or that nobody can account for, makes the run a failure. (`frames_lost` are all, those of longer
//! outages too; `frames_lost_running` those that found no place while frames did come back: there is a tenth of speed to spare, and a box whose host slows it by more doesn't get the pile away.)
//! `blocked` is the longest standstill alone.
//!
//! The wire's clock sees a virtual CPU that its host has taken away as one that works. Where that shows in the system's accounts, which count it in hundredths of a second, the
//! crash is reported apart: `crashes_robbed`.

use std::{thread, time::Instant};

use interfaces::{
    abi::Reason,
    net::{Net, NetError},
    packet::Batch,
};
use kernel_core::supervisor::Command;
use rig::{
    Card, Rig, Tester,
    bench::{Row, median, percentile},
};

use crate::{
    method::{RING, flows_by_queue},
    progress,
    wire::Wire,
};
use std::sync::{Arc, atomic::Ordering::SeqCst};

/// Frame sizes, with check sequence.
pub const SIZES: [usize; 3] = [64, 512, 1518];
/// Frames a second that a 10 Gb/s wire has room for: 20 bytes of preamble and gap beside each.
const WIRE_BITS: f64 = 10e9;
/// How long a rate must be without loss, in the wire's time.
const TRIAL: u64 = 20_000_000;
/// Steps of the search for the loss-free rate.
const STEPS: usize = 7;
/// The wire's time from one crash to the next, and the step by which it varies.
const BETWEEN_CRASHES: u64 = 2_000_000;
const VARIATION: u64 = 37_003;
/// A crash that has not been caught up with by then is not waited for.
const LONGEST_CATCH_UP: u64 = 300_000_000;
/// An outage that is to be explained.
const REMARKABLE: u64 = 10_000_000;
/// The box's CPU.
const BOX: usize = 0;
/// Of the loss-free rate.
const LOAD: f64 = 0.9;
/// Every other crash is a kill at whatever instruction that finds; these are the others.
const REASONS: [Reason; 4] = [Reason::Panic, Reason::StackOverflow, Reason::PageFault, Reason::CpuException];

/// One crash, in the wire's time.
struct Crash {
    /// The longest standstill.
    blocked: u64,
    /// All of them.
    outage: u64,
    /// Of the host's, in which the box's CPU was others'.
    robbed: u64,
    /// Frames that the card could not hold while nothing came back.
    lost: u64,
    /// And while something did: the box was slower than it had been when its rate was found, and what had piled up did not go.
    lost_running: u64,
}

/// How many frames of this size wait while nobody receives: in the ring, and in the packet buffer.
fn held(ring: u16, size: usize) -> f64 {
    f64::from(ring - 1) + (model::PACKET_BUFFER / size) as f64
}

fn line_rate(size: usize) -> f64 {
    WIRE_BITS / ((size + 20) as f64 * 8.0)
}

/// Rows, and what contradicts the claim.
pub fn measure(rig: &Rig, card: &'static Card<Tester>, crashes: usize) -> (Vec<Row>, Vec<String>) {
    card.pause(true);
    let flows = flows_by_queue(card, 1);
    card.with(|device| device.nic().wire_mut().set_flows(flows));
    let (wire, threads) = Wire::start(card);
    let client = forward(rig, wire.clone());
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    let bench = Bench { rig, card, wire: &wire };
    bench.settle();
    bench.forgive();
    for size in SIZES {
        progress(&format!("recovery: {crashes} crashes amid frames of {size} bytes"));
        bench.of_size(size, crashes, &mut rows, &mut faults);
    }
    wire.stop.store(true, SeqCst);
    client.join();
    threads.join();
    (rows, faults)
}

/// Hundredths of a second for which the host has given this CPU to others, since the system started (`man 5 proc_stat`, "steal").
fn taken_away(cpu: usize) -> u64 {
    let accounts = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let of_cpu = accounts.lines().find_map(|line| line.strip_prefix(&format!("cpu{cpu} ")));
    of_cpu.and_then(|line| line.split_whitespace().nth(7)?.parse().ok()).unwrap_or(0)
}

/// The longest outage that costs nothing, by frame size and ring, at a full wire and at the rate that was found.
fn covers(size: usize, rate: f64, rows: &mut Vec<Row>) {
    for ring in [512, 1024, 4096] {
        let row = |load: &str, rate: f64| {
            Row::new(
                format!("cover.{size}.ring-{ring}"),
                format!("outage_at_{load}"),
                held(ring, size) / rate * 1e6,
                "us",
            )
        };
        rows.extend([row("line_rate", line_rate(size)), row("measured_rate", rate)]);
    }
}

struct Bench<'a> {
    rig: &'a Rig,
    card: &'static Card<Tester>,
    wire: &'a Wire,
}

impl Bench<'_> {
    fn of_size(&self, size: usize, crashes: usize, rows: &mut Vec<Row>, faults: &mut Vec<String>) {
        let (card, wire) = (self.card, self.wire);
        card.with(|device| device.nic().wire_mut().resize(size));
        let rate = LOAD * self.loss_free(line_rate(size));
        covers(size, rate, rows);
        let totals = || {
            card.with(|device| (device.nic().wire().missing(), device.nic().wire().returned(), device.nic().counters()))
        };
        let before = totals();
        wire.rate.store(rate as u64, SeqCst);
        wire.run_for(BETWEEN_CRASHES);
        let (begun, wire_begun) = (Instant::now(), wire.now());
        let seen: Vec<Crash> = (0..crashes).map(|at| self.crash(at)).collect();
        let stolen = (begun.elapsed().as_nanos() as u64).saturating_sub(wire.now() - wire_begun);
        self.settle();
        let after = totals();
        self.forgive();

        let lost = after.0.saturating_sub(before.0);
        let by_card = after.2.rx_missed() - before.2.rx_missed();
        let robbed = seen.iter().filter(|crash| crash.robbed > 0).count();
        let seen: Vec<Crash> = seen.into_iter().filter(|crash| crash.robbed == 0).collect();
        let is_covered = |crash: &&Crash| rate * crash.outage as f64 / 1e9 <= held(RING, size);
        let covered: Vec<&Crash> = seen.iter().filter(is_covered).collect();
        let lost_covered: u64 = covered.iter().map(|crash| crash.lost).sum();
        let lost_running: u64 = seen.iter().map(|crash| crash.lost_running).sum();
        let blocked: Vec<f64> = seen.iter().map(|crash| crash.blocked as f64 / 1e3).collect();
        let repeated = after.1.repeated - before.1.repeated;
        let row = |metric: &str, value, unit| Row::new(format!("recovery.{size}"), metric, value, unit);
        rows.extend([
            row("rate", rate, "frames/s"),
            row("crashes", crashes as f64, "crashes"),
            row("crashes_robbed", robbed as f64, "crashes"),
            row("crashes_covered", covered.len() as f64, "crashes"),
            row("frames_lost", lost as f64, "frames"),
            row("frames_lost_covered", lost_covered as f64, "frames"),
            row("frames_lost_running", lost_running as f64, "frames"),
            row("frames_repeated", repeated as f64, "frames"),
            row("frames_reordered", (after.1.reordered - before.1.reordered) as f64, "frames"),
            row("blocked", median(blocked.clone()), "us"),
            row("blocked_p99", percentile(blocked.clone(), 99), "us"),
            row("blocked_max", percentile(blocked, 100), "us"),
            row("stolen", stolen as f64 / 1e6, "ms"),
        ]);
        if lost_covered > 0 {
            faults.push(format!("{size} bytes: {lost_covered} frames lost in outages that the card covers"));
        }
        if lost > by_card {
            faults.push(format!("{size} bytes: {} frames lost that the card had received", lost - by_card));
        }
        if repeated > 0 {
            faults.push(format!("{size} bytes: {repeated} frames came twice"));
        }
    }

    /// What is missing by now will not come any more.
    fn forgive(&self) {
        self.card.with(|device| {
            let missing = device.nic().wire().missing();
            device.nic().wire_mut().forgive(missing);
        });
    }

    fn missed(&self) -> u64 {
        self.card.with(|device| device.nic().counters().rx_missed())
    }

    fn crash(&self, at: usize) -> Crash {
        let (rig, wire) = (self.rig, self.wire);
        self.catch_up();
        wire.run_for(BETWEEN_CRASHES + at as u64 % 29 * VARIATION);
        let (generation, missed, (_, line)) = (rig.status("ixgbe0").generation, self.missed(), rig.log_since(u64::MAX));
        let robbed = taken_away(BOX);
        wire.gap.store(0, SeqCst);
        wire.stood.store(0, SeqCst);
        wire.missed_running.store(0, SeqCst);
        match REASONS.get(at / 2 % REASONS.len()).filter(|_| at % 2 == 1) {
            Some(&reason) => rig.order(|domain| Command::Inject(domain, reason), "ixgbe0"),
            None => rig.order(Command::Kill, "ixgbe0"),
        }
        rig.until_restarted("ixgbe0", generation);
        wire.run_for(BETWEEN_CRASHES);
        self.catch_up();
        let lost_running = wire.missed_running.load(SeqCst);
        let crash = Crash {
            blocked: wire.gap.load(SeqCst),
            outage: wire.stood.load(SeqCst),
            robbed: taken_away(BOX).saturating_sub(robbed),
            lost: (self.missed() - missed).saturating_sub(lost_running),
            lost_running,
        };
        if crash.blocked > REMARKABLE {
            let Crash { blocked, robbed, .. } = crash;
            let (millis, log) = (blocked as f64 / 1e6, rig.log_since(line).0);
            eprintln!(
                "crash {at}: nothing came for {millis:.1} ms, {robbed} hundredths of a second of which the host took:\n{log}"
            );
        }
        crash
    }

    /// The highest rate at which nothing is lost, up to `most`.
    fn loss_free(&self, most: f64) -> f64 {
        let is_free = |rate: f64| {
            let before = self.missed();
            self.wire.rate.store(rate as u64, SeqCst);
            self.wire.run_for(TRIAL);
            let held = self.card.with(|device| device.nic().counters().rx_held);
            self.settle();
            let missing = self.card.with(|device| device.nic().wire().missing());
            self.forgive();
            // What piles up would be lost, had it been tried for longer.
            self.missed() == before && missing == 0 && held == 0
        };
        if is_free(most) {
            return most;
        }
        let (mut free, mut lossy) = (0.0, most);
        for _ in 0..STEPS {
            let rate = (free + lossy) / 2.0;
            if is_free(rate) { free = rate } else { lossy = rate }
        }
        free
    }

    /// Waits until what piled up during a crash has come through: there is little speed to spare for that.
    fn catch_up(&self) {
        let until = self.wire.now() + LONGEST_CATCH_UP;
        while self.card.with(|device| device.nic().counters().rx_held) > 0 && self.wire.now() < until {
            self.wire.run_for(BETWEEN_CRASHES / 2);
        }
    }

    /// Sends nothing more, and waits until nothing more comes back.
    fn settle(&self) {
        self.wire.rate.store(0, SeqCst);
        let missing = || self.card.with(|device| device.nic().wire().missing());
        let mut last = u64::MAX;
        while missing() != 0 && missing() != last {
            last = missing();
            self.wire.run_for(2 * BETWEEN_CRASHES);
        }
    }
}

/// A client that forwards all that comes, at once, and sees no error.
fn forward(rig: &Rig, wire: Arc<Wire>) -> rig::Running<()> {
    let net = rig.port::<dyn Net>("shadow", "net");
    rig.spawn(0, move || {
        let mut queue = loop {
            match net.open_queue(0) {
                Ok(queue) => break queue,
                Err(NetError::QueueBusy) => thread::yield_now(),
                Err(error) => panic!("no queue: {error:?}"),
            }
        };
        let mut batch = Batch::allocate().expect("the kernel has no quota");
        while !wire.stop.load(SeqCst) {
            batch = queue.receive(batch).expect("the shadow hides it");
            while !batch.is_empty() {
                batch = queue.send(batch).expect("the shadow hides it");
            }
        }
    })
}
