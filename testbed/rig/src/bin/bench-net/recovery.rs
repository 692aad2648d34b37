//! What a crash of the driver costs its client, behind the shadow: frames lost and repeated, and for how long none came.
//!
//! The wire runs by a clock of its own: the time that the box's CPU has been ours, by the system's accounts (a thread that yields to everybody spins when the box has nothing to
//! do). So what the host does meanwhile is not held against the box; it is reported as `stolen`. When the model's own thread was away, the wire stood still.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use interfaces::{
    net::{Net, NetError},
    packet::Batch,
};
use kernel_core::supervisor::Command;
use rig::{Card, Rig, Tester};

use crate::{Row, median, percentile};

/// Frame sizes, with check sequence.
const SIZES: [usize; 3] = [64, 512, 1518];
/// Frames a second that a 10 Gb/s wire has room for: 20 bytes of preamble and gap beside each.
const WIRE_BITS: f64 = 10e9;
/// The wire never runs further than this between two looks of the model.
const LONGEST_STEP: u64 = 20_000;
/// How long a rate must be without loss, in the wire's time.
const TRIAL: u64 = 20_000_000;
/// Steps of the search for the loss-free rate.
const STEPS: usize = 7;
/// The wire's time from one crash to the next, and the step by which it varies.
const BETWEEN_CRASHES: u64 = 2_000_000;
const VARIATION: u64 = 37_003;
/// A crash that has not been caught up with by then is not waited for.
const LONGEST_CATCH_UP: u64 = 300_000_000;
/// Of the loss-free rate.
const LOAD: f64 = 0.9;

/// What the wire's thread and the bench tell each other.
#[derive(Default)]
struct Wire {
    /// Frames a second; 0: none.
    rate: AtomicU64,
    /// The wire's time.
    now: AtomicU64,
    /// The longest gap between frames that came back, since this was last set to 0.
    gap: AtomicU64,
    stop: AtomicBool,
}

pub fn measure(rig: &Rig, card: &'static Card<Tester>, crashes: usize) -> Vec<Row> {
    card.pause(true);
    let wire = Arc::new(Wire::default());
    let threads = [spinner(wire.clone()), pump(wire.clone(), card)];
    let client = Client::start(rig, wire.clone());
    let rows = SIZES.into_iter().flat_map(|size| of_size(rig, card, &wire, size, crashes)).collect();
    wire.stop.store(true, SeqCst);
    client.join();
    threads.into_iter().for_each(|thread| _ = thread.join());
    rows
}

fn of_size(rig: &Rig, card: &'static Card<Tester>, wire: &Wire, size: usize, crashes: usize) -> Vec<Row> {
    card.with(|device| device.nic().wire_mut().resize(size));
    let most = WIRE_BITS / ((size + 20) as f64 * 8.0);
    let rate = LOAD * loss_free(card, wire, most);
    let before = card.with(|device| (device.nic().wire().missing(), device.nic().wire().returned().repeated));
    wire.rate.store(rate as u64, SeqCst);
    run_for(wire, BETWEEN_CRASHES);
    let (begun, wire_begun, mut blocked) = (Instant::now(), wire.now.load(SeqCst), Vec::with_capacity(crashes));
    for at in 0..crashes {
        catch_up(card, wire);
        run_for(wire, BETWEEN_CRASHES + at as u64 % 29 * VARIATION);
        let generation = rig.status("ixgbe0").generation;
        wire.gap.store(0, SeqCst);
        rig.order(Command::Kill, "ixgbe0");
        rig.until_restarted("ixgbe0", generation);
        run_for(wire, BETWEEN_CRASHES);
        blocked.push(wire.gap.load(SeqCst) as f64 / 1e3);
    }
    let stolen =
        begun.elapsed().as_nanos() as u64 - (wire.now.load(SeqCst) - wire_begun).min(begun.elapsed().as_nanos() as u64);
    settle(card, wire);
    let after = card.with(|device| (device.nic().wire().missing(), device.nic().wire().returned().repeated));
    card.with(|device| device.nic().wire_mut().forgive(after.0));
    let row = |metric, value, unit| Row::new(format!("recovery.{size}"), metric, value, unit);
    vec![
        row("rate", rate, "frames/s"),
        row("crashes", crashes as f64, "crashes"),
        row("frames_lost", after.0.saturating_sub(before.0) as f64, "frames"),
        row("frames_repeated", (after.1 - before.1) as f64, "frames"),
        row("blocked", median(blocked.clone()), "us"),
        row("blocked_p99", percentile(blocked, 99), "us"),
        row("stolen", stolen as f64 / 1e6, "ms"),
    ]
}

/// The highest rate at which nothing is lost, up to `most`.
fn loss_free(card: &'static Card<Tester>, wire: &Wire, most: f64) -> f64 {
    let is_free = |rate: f64| {
        wire.rate.store(rate as u64, SeqCst);
        run_for(wire, TRIAL);
        settle(card, wire);
        let lost = card.with(|device| device.nic().wire().missing());
        card.with(|device| device.nic().wire_mut().forgive(lost));
        lost == 0
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
fn catch_up(card: &'static Card<Tester>, wire: &Wire) {
    let until = wire.now.load(SeqCst) + LONGEST_CATCH_UP;
    while card.with(|device| device.nic().counters().rx_held) > 0 && wire.now.load(SeqCst) < until {
        run_for(wire, BETWEEN_CRASHES / 2);
    }
}

/// Waits until the wire's clock has gone on so far.
fn run_for(wire: &Wire, nanos: u64) {
    let until = wire.now.load(SeqCst) + nanos;
    while wire.now.load(SeqCst) < until {
        thread::sleep(Duration::from_micros(100));
    }
}

/// Sends nothing more, and waits until nothing more comes back.
fn settle(card: &'static Card<Tester>, wire: &Wire) {
    wire.rate.store(0, SeqCst);
    let missing = || card.with(|device| device.nic().wire().missing());
    let mut last = u64::MAX;
    while missing() != 0 && missing() != last {
        last = missing();
        run_for(wire, 2 * BETWEEN_CRASHES);
    }
}

/// A client that forwards all that comes, at once.
struct Client(rig::Running<()>);

impl Client {
    fn start(rig: &Rig, wire: Arc<Wire>) -> Client {
        let net = rig.port::<dyn Net>("shadow", "net");
        Client(rig.spawn(0, move || {
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
        }))
    }

    fn join(self) {
        self.0.join();
    }
}

/// Spins on the box's CPU when nobody else wants it, so that the CPU's time goes on when the box sleeps.
fn spinner(wire: Arc<Wire>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        // SAFETY: plain data for the calling thread; a refusal makes the spinner a thread like others.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(0, &mut set);
            libc::sched_setaffinity(0, size_of_val(&set), &set);
            let idle: libc::sched_param = std::mem::zeroed();
            libc::sched_setscheduler(0, libc::SCHED_IDLE, &idle);
        }
        while !wire.stop.load(SeqCst) {
            std::hint::spin_loop();
        }
    })
}

fn cpu_time(clock: libc::clockid_t) -> u64 {
    // SAFETY: a place for the answer.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(clock, &mut time);
        time
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The wire: lets as many frames be sent as its time and rate say, and has the card work.
fn pump(wire: Arc<Wire>, card: &'static Card<Tester>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        // The box has all the process's time but this thread's. (The bench itself sleeps.)
        let of_box =
            || cpu_time(libc::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(cpu_time(libc::CLOCK_THREAD_CPUTIME_ID));
        let (mut now, mut last, mut owed) = (0u64, of_box(), 0.0);
        let (mut returned, mut returned_at) = (0, 0);
        while !wire.stop.load(SeqCst) {
            let at = of_box();
            let step = at.saturating_sub(last).min(LONGEST_STEP);
            (now, last) = (now + step, at);
            owed += wire.rate.load(SeqCst) as f64 * step as f64 / 1e9;
            let frames = owed as u64;
            owed -= frames as f64;
            let total = card.with(|device| {
                device.nic().set_time(now);
                device.nic().wire_mut().allow(frames);
                device.look();
                device.nic().wire().returned().frames
            });
            if total != returned {
                wire.gap.fetch_max(now - returned_at, SeqCst);
                (returned, returned_at) = (total, now);
            }
            wire.now.store(now, SeqCst);
        }
    })
}
