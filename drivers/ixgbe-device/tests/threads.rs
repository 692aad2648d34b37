//! Several threads at one lease: whoever finds a ring free uses it, others are told `Busy`; resets go in between.

mod bench;

use std::{
    collections::HashSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use bench::{Bench, device, frame, number};
use interfaces::{
    device::ixgbe::{DeviceError, IxgbeDevice},
    packet::Batch,
};

const BUFFERS: usize = 1024;
const RING: u16 = 64;
/// What must have happened before the test ends, and the time it has for it.
const PACKETS: usize = 2_000;
const REFUSALS: u32 = 100;
const RESETS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a reset is refused before the users are asked to stand aside: they seldom leave all rings free at once by themselves.
const REFUSED: u32 = 1_000;

/// No ring is ever in two hands, no buffer lost, no packet seen twice, however the threads' steps fall between each other.
#[test]
fn contended_rings_are_used_by_one_thread_at_a_time() {
    let bench = Bench::new(BUFFERS);
    let lease = bench.lease();
    let bring_up = || {
        let device = device(&lease);
        device.reset_lease()?;
        device.rx_ring(0, RING, None)?;
        device.write(0x4A80, 1)?;
        device.tx_ring(0, RING, None)?;
        device.write(0x3000, 1)
    };
    bring_up().unwrap();
    let (done, aside) = (AtomicBool::new(false), AtomicBool::new(false));
    let (busy, seen) = (AtomicU32::new(0), Mutex::new(HashSet::new()));
    let user = || {
        let device = device(&lease);
        let mut batch = Batch::allocate().unwrap();
        while !done.load(SeqCst) {
            if aside.load(SeqCst) {
                thread::yield_now();
                continue;
            }
            // Busy; or, amid a reset, NotReset or TimedOut.
            let (Ok(mut rx), Ok(mut tx)) = (device.rx_ring(0, RING, None), device.tx_ring(0, RING, None)) else {
                busy.fetch_add(1, SeqCst);
                thread::yield_now();
                continue;
            };
            for _ in 0..4 {
                rx.receive(&mut batch, Batch::CAPACITY).unwrap();
                for packet in batch.packets() {
                    assert!(seen.lock().unwrap().insert(number(packet.data())), "a packet was received twice");
                }
                tx.send(&mut batch).unwrap();
                batch.clear();
            }
        }
    };
    thread::scope(|scope| {
        (0..3).for_each(|_| drop(scope.spawn(user)));
        let (mut sent, mut resets, mut refused, began) = (0, 0, 0, Instant::now());
        while seen.lock().unwrap().len() < PACKETS || busy.load(SeqCst) < REFUSALS || resets < RESETS {
            if began.elapsed() > PATIENCE {
                done.store(true, SeqCst);
                panic!("{} packets, {busy:?} refusals, {resets} resets after {PATIENCE:?}", seen.lock().unwrap().len());
            }
            (0..16).for_each(|at| bench.peer_send(&frame(0, sent + at, 60)));
            sent += 16;
            bench.process();
            match bring_up() {
                Ok(()) => (resets, refused) = (resets + 1, 0),
                Err(DeviceError::Busy) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            aside.store(refused >= REFUSED, SeqCst);
            thread::yield_now();
        }
        done.store(true, SeqCst);
    });
    assert_eq!(bench.pool.available() + lease.buffers(), BUFFERS);
    while device(&lease).reset_lease() == Err(DeviceError::Busy) {}
    assert_eq!(bench.pool.available(), BUFFERS);
    assert_eq!(bench.violations(), 0);
}
