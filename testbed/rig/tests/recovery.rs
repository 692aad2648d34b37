//! The 82599's driver natively, behind its shadow, against the model on shared memory: numbered frames go in, a client forwards them, the driver ends in every way meanwhile.
//! What comes out is what went in.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicI32, Ordering::SeqCst},
    },
    time::Duration,
};

use bundle::manifest::Nanos;
use interfaces::{
    InterfaceId, RRef,
    abi::{RawObject, Reason},
    control::{Control, Counters},
    net::{Net, NetError},
    packet::Batch,
};
use kernel_core::{
    device::{DeviceClass, Lease, Recipient},
    incarnation::Cause,
    platform::{PciFunction, PciIdentity},
    supervisor::Command,
};
use model::{MISHAPS, Mishap, NicConfig};
use rig::{Card, Counts, DomainSpec, Returned, Rig, Running, Settings, Tester, graphs};

const REASONS: [Reason; 5] =
    [Reason::Panic, Reason::StackOverflow, Reason::PageFault, Reason::CpuException, Reason::Quota];

struct Box82599 {
    rig: Rig,
    card: &'static Card<Tester>,
}

/// The trusted layer's lease of the 82599, which tells who told it of a death.
struct Watched(Arc<dyn Lease>);

/// The Linux thread that did it last.
static TOLD_BY: AtomicI32 = AtomicI32::new(0);

fn this_thread() -> i32 {
    // SAFETY: no arguments, no failure.
    unsafe { libc::gettid() }
}

impl Lease for Watched {
    fn mac(&self) -> Option<[u8; 6]> {
        self.0.mac()
    }

    fn interface(&self) -> InterfaceId {
        self.0.interface()
    }

    fn open(&self, driver: &Recipient) -> RawObject {
        self.0.open(driver)
    }

    fn died(&self) {
        TOLD_BY.store(this_thread(), SeqCst);
        self.0.died();
    }

    fn buffers(&self) -> usize {
        self.0.buffers()
    }
}

struct Watching;

impl DeviceClass for Watching {
    fn matches(&self, identity: &PciIdentity) -> bool {
        devices::CLASSES.iter().any(|class| class.matches(identity))
    }

    fn lease(&self, function: &'static dyn PciFunction, cpus: &[usize]) -> Result<Arc<dyn Lease>, String> {
        let class = devices::CLASSES.iter().find(|class| class.matches(&function.identity())).expect("it matches");
        Ok(Arc::new(Watched(class.lease(function, cpus)?)))
    }
}

static BOX: LazyLock<Box82599> = LazyLock::new(|| {
    // A reset takes longer than the driver's watchdog is patient: who waits for a device isn't hung.
    let config = NicConfig { reset_delay: Duration::from_millis(80), ..NicConfig::default() };
    let card = Card::new(0, config, Tester::new(64));
    card.serve(true);
    // As manifests have it: a driver whose card is away tries again, but not all the time.
    let pause = |domain: DomainSpec| {
        domain.with(|spec| (spec.restart.delay, spec.restart.max_delay) = (Nanos(1_000_000), Nanos(20_000_000)))
    };
    let settings = Settings {
        domains: graphs::driver(0).into_iter().map(pause).collect(),
        functions: vec![card],
        devices: &[&Watching],
        packet_buffers: 4096,
        ..Settings::default()
    };
    Box82599 { rig: Rig::start(settings), card }
});

fn counter(domain: &str, name: &'static str) -> u64 {
    let control = BOX.rig.port::<dyn Control>(domain, "control");
    BOX.rig.run(1, move || {
        let page = control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
        page.as_slice().iter().find(|counter| counter.name.as_str() == name).expect("it has one").value
    })
}

/// Tells a client to stop; at the latest when its test fails, or it would keep the queue from all others.
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A client that forwards whatever comes, until it is told to stop. It is to see no error.
struct Client {
    stop: Stop,
    thread: Running<()>,
    /// Its Linux thread.
    tid: Arc<AtomicI32>,
}

impl Client {
    fn start() -> Client {
        let net = BOX.rig.port::<dyn Net>("shadow0", "net");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let tid = Arc::new(AtomicI32::new(0));
        let its_tid = tid.clone();
        let thread = BOX.rig.spawn(0, move || {
            its_tid.store(this_thread(), SeqCst);
            let mut queue = loop {
                match net.open_queue(0) {
                    Ok(queue) => break queue,
                    // The client of another test has just let go of it.
                    Err(NetError::QueueBusy) => std::thread::yield_now(),
                    Err(error) => panic!("{error:?}"),
                }
            };
            let mut batch = Batch::allocate().unwrap();
            while !stopped.load(SeqCst) {
                batch = queue.receive(batch).expect("no error is seen");
                let idle = batch.is_empty();
                while !batch.is_empty() {
                    batch = queue.send(batch).expect("no error is seen");
                }
                if idle {
                    queue.wait(kernel_core::machine().now() + 1_000_000).expect("no error is seen");
                }
            }
            // What has been sent is taken back from the ring.
            queue.wait(0).expect("no error is seen");
        });
        Client { stop: Stop(stop), thread, tid }
    }

    fn stop(self) {
        drop(self.stop);
        self.thread.join();
    }
}

/// What there is when the client's queue has been dropped, and then the driver's, and then its rings: each by a visit of its own.
fn when_all_has_been_let_go() -> Counts {
    let mut counts = BOX.rig.baseline();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let last = std::mem::replace(&mut counts, BOX.rig.baseline());
        if last == counts {
            return counts;
        }
    }
}

fn send(frames: u64) {
    BOX.card.with(|device| device.nic().wire_mut().allow(frames));
}

fn missing() -> u64 {
    BOX.card.with(|device| device.nic().wire().missing())
}

fn returned() -> Returned {
    BOX.card.with(|device| device.nic().wire().returned())
}

/// Sends `frames` and waits until all of them are back.
fn round_trip(frames: u64) -> Returned {
    BOX.rig.until("the driver serves", || BOX.rig.status("ixgbe0").state == "live");
    // As a read would on a bus: all that the driver has written has reached the device.
    BOX.card.with(|device| device.look_at_all());
    send(frames);
    until_all_are_back();
    returned()
}

fn until_all_are_back() {
    BOX.rig.until("all frames are back", || missing() == 0);
}

fn crash(round: usize) {
    let generation = BOX.rig.status("ixgbe0").generation;
    match REASONS.get(round % (REASONS.len() + 1)) {
        Some(&reason) => BOX.rig.order(|domain| Command::Inject(domain, reason), "ixgbe0"),
        None => BOX.rig.order(Command::Kill, "ixgbe0"),
    }
    BOX.rig.until_restarted("ixgbe0", generation);
}

/// A hundred ends of the driver amid traffic, none of which the client sees: each frame comes out once.
#[test]
fn crashes_lose_and_repeat_nothing() {
    let _turn = BOX.rig.turn();
    let client = Client::start();
    let before = round_trip(400);
    for round in 0..100 {
        // Below what the ring holds, so that it is the crash that is tested.
        BOX.rig.until("the frames of the round before the last are back", || missing() <= 200);
        send(200);
        std::thread::sleep(Duration::from_micros(13 * (round as u64 % 17)));
        crash(round);
    }
    until_all_are_back();
    let after = returned();
    assert_eq!((after.repeated, after.strange), (before.repeated, before.strange));
    assert_eq!(after.frames, before.frames + 100 * 200);
    assert_eq!(counter("shadow0", "packets.lost"), 0);
    assert_eq!(rig::dma::violations(), 0);
    client.stop();
}

/// Whoever crashes the driver has its card hold frames at once: what comes before the supervisor has looked is not lost either.
#[test]
fn the_card_is_told_by_whoever_crashes() {
    let _turn = BOX.rig.turn();
    let client = Client::start();
    round_trip(100);
    TOLD_BY.store(0, SeqCst);
    let generation = BOX.rig.status("ixgbe0").generation;
    BOX.rig.order(|domain| Command::Inject(domain, Reason::PageFault), "ixgbe0");
    BOX.card.with(|device| device.nic().wire_mut().allow(100));
    BOX.rig.until_restarted("ixgbe0", generation);
    assert_eq!(TOLD_BY.load(SeqCst), client.tid.load(SeqCst));
    until_all_are_back();
    client.stop();
}

/// An endless loop is found by the watchdog, and costs no frame either.
#[test]
fn a_hang_loses_nothing() {
    let _turn = BOX.rig.turn();
    let client = Client::start();
    round_trip(100);
    let generation = BOX.rig.status("ixgbe0").generation;
    BOX.rig.order(|domain| Command::Inject(domain, Reason::Watchdog), "ixgbe0");
    send(400);
    BOX.rig.until_restarted("ixgbe0", generation);
    assert_eq!(BOX.rig.status("ixgbe0").last_death.map(|(_, death)| death.cause), Some(Cause::Crash(Reason::Watchdog)));
    until_all_are_back();
    client.stop();
}

/// Sends now and then until some come through.
fn until_traffic_flows() {
    let before = returned().frames;
    BOX.rig.until("frames come through again", || {
        send(1);
        std::thread::sleep(Duration::from_micros(200));
        returned().frames > before + 100
    });
}

/// What the device itself says that it has thrown away.
fn thrown_away() -> u64 {
    let counters = BOX.card.with(|device| device.nic().counters());
    counters.rx_missed_reset
        + counters.rx_missed_off
        + counters.rx_missed_queue_disabled
        + counters.rx_missed_no_descriptor
}

/// What the driver says that resets have cost.
fn reset_losses() -> u64 {
    counter("ixgbe0", "reset.received") + counter("ixgbe0", "reset.unsent")
}

/// What the driver says of a mishap in its last words.
fn expected_words(mishap: &Mishap) -> Option<&'static str> {
    match mishap.name {
        _ if !mishap.is_seen => None,
        "rx-skip" | "rx-length" | "rx-empty" => Some("the device wrote back what cannot be"),
        "removal" => Some("the device has left the bus"),
        _ => Some("the device did not do a step in time"),
    }
}

/// Whatever is wrong with the device, a client of the shadow sees no error and traffic goes on. The driver ends only if the device is at fault, and says so; frames are lost only then, and
/// each one is counted: by the trusted layer, or (what was in the packet buffer or on the cable) by the device. Nothing else is touched, and all that there was is there again.
#[test]
fn a_device_at_fault_is_no_error_to_the_client() {
    let _turn = BOX.rig.turn();
    let client = Client::start();
    round_trip(100);
    client.stop();
    let before_all = when_all_has_been_let_go();
    for mishap in MISHAPS {
        let name = mishap.name;
        let client = Client::start();
        round_trip(100);
        let (driver, shadow) = (BOX.rig.status("ixgbe0").generation, BOX.rig.status("shadow0").generation);
        let (thrown, lost, (_, next)) = (thrown_away(), reset_losses(), BOX.rig.log_since(0));
        let before = returned();
        let mut begun = Duration::ZERO;
        for (at, step) in mishap.steps {
            std::thread::sleep(*at - begun);
            begun = *at;
            BOX.card.with(|device| assert!(device.nic().obey(*step)));
            // A descriptor that is never written back is found out also when the ring behind it fills at once, so that nothing moves any more.
            send(if mishap.name == "rx-skip" { 1_000 } else { 20 });
        }
        if mishap.is_seen {
            let mut looks = 0;
            BOX.rig.until(&format!("the driver notices: {name}"), || {
                // The network goes on, slowly.
                looks += 1;
                send(u64::from(looks % 200 == 0));
                BOX.rig.status("ixgbe0").generation > driver
            });
        }
        until_traffic_flows();
        let spoilt = || returned().strange - before.strange;
        let counted = || thrown_away() - thrown + reset_losses() - lost + spoilt();
        BOX.rig.until(&format!("each frame is back or counted as lost: {name}"), || missing() == counted());
        let (counted, (log, _)) = (counted(), BOX.rig.log_since(next));
        // What is written half and reported whole no driver can tell: it comes out so, once.
        assert_eq!(spoilt(), u64::from(name == "rx-half"), "{name}: {log}");
        BOX.card.with(|device| device.nic().wire_mut().forgive(counted));
        let words = ["the device wrote", "the device did", "the device has"];
        let said: Vec<&str> =
            log.split(": ").filter(|part| words.iter().any(|words| part.starts_with(words))).collect();
        let expected = expected_words(mishap);
        assert!(expected.is_none_or(|words| log.contains(words)), "{name}: {log}");
        assert!(said.iter().all(|said| expected.is_some_and(|words| said.starts_with(words))), "{name}: {log}");
        assert_eq!(BOX.rig.status("ixgbe0").generation > driver, mishap.is_seen, "{name}: {log}");
        if mishap.is_seen {
            // As long as the card is away the driver doesn't start, which is no crash of its.
            let cause = BOX.rig.status("ixgbe0").last_death.map(|(_, death)| death.cause);
            assert!(matches!(cause, Some(Cause::Crash(Reason::Panic) | Cause::Refused)), "{name}: {cause:?}: {log}");
        }
        assert_eq!(BOX.rig.status("shadow0").generation, shadow, "{name}: {log}");
        assert_eq!((counter("shadow0", "packets.lost"), rig::dma::violations()), (0, 0), "{name}");
        client.stop();
        BOX.rig.until_as_before(&before_all);
    }
}
