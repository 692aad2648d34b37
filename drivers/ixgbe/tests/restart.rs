//! The driver domain dies and comes again: adoption, and reset where the device is at fault.

#[path = "../../ixgbe-device/tests/bench/mod.rs"]
mod bench;
mod generation;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use bench::{Bench, frame, number};
use generation::{Generation, receive};
use interfaces::{
    Cap,
    config::Configuration,
    device::ixgbe::{IxgbeDevice, LeaseState},
    net::NetQueue,
    packet::{Batch, buffer_for},
};
use ixgbe::Config;
use ixgbe_device::{Device, Lease};
use model::control::Fault;
use runtime::time::now;

const BUFFERS: usize = 2048;

fn start(lease: &Arc<Lease<Bench>>) -> Generation {
    Generation::start(lease, &[0], Config::default()).unwrap()
}

fn state(lease: &Arc<Lease<Bench>>) -> LeaseState {
    Device::new(lease).lease()
}

/// The words of the panic that `work` ends in.
fn panic_of(work: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(work)).expect_err("the driver should have given up");
    *panic.downcast::<String>().expect("a message")
}

fn forward(queue: &mut Cap<dyn NetQueue>) -> Vec<u32> {
    let batch = receive(queue);
    let numbers = batch.packets().iter().map(|packet| number(packet.data())).collect();
    assert!(queue.send(batch).unwrap().is_empty());
    numbers
}

#[test]
fn twenty_crashes_amid_traffic_lose_no_packet() {
    crashes_amid_traffic(Config::default(), 60, 600);
}

/// Buffers of another size are adopted as they are; long frames find the posted descriptors, and less room in the packet buffer.
#[test]
fn twenty_crashes_amid_traffic_of_long_frames_lose_no_packet() {
    crashes_amid_traffic(Config { mtu: 9000, ..Config::default() }, 9014, 540);
}

/// So many frames come while nobody is there.
fn crashes_amid_traffic(config: Config, length: usize, pile: u32) {
    let device = model::NicConfig::default().device;
    let bench = Bench::with_buffers_of(buffer_for(config.longest_frame()), device, BUFFERS);
    let lease = bench.lease();
    let start = |lease| Generation::start(lease, &[0], config.clone()).unwrap();
    let (mut sent, mut forwarded) = (0, Vec::new());
    for generation in 0..20 {
        let driver = start(&lease);
        let mut queue = driver.open(0);
        for _ in 0..10 {
            (0..29).for_each(|at| bench.peer_send(&frame(3, sent + at, length)));
            sent += 29;
            bench.process();
            forwarded.extend(forward(&mut queue));
        }
        drop(queue);
        driver.crash();
        assert_eq!(state(&lease), LeaseState::Live { rx_queues: 1, tx_queues: 1 }, "generation {generation}");
        // Nobody is there for a while; the ring has 511 places, the packet buffer some more.
        (0..pile).for_each(|at| bench.peer_send(&frame(3, sent + at, length)));
        sent += pile;
        bench.process();
        let driver = start(&lease);
        let mut queue = driver.open(0);
        while forwarded.len() < sent as usize {
            let more = forward(&mut queue);
            assert!(!more.is_empty(), "generation {generation}: {} of {sent} came through", forwarded.len());
            forwarded.extend(more);
            bench.process();
        }
        drop(queue);
        driver.crash();
    }
    assert_eq!(forwarded, (0..sent).collect::<Vec<_>>());
    let out: Vec<(u32, usize)> =
        std::iter::from_fn(|| bench.peer_receive()).map(|frame| (number(&frame), frame.len())).collect();
    assert!(out.into_iter().eq(forwarded.into_iter().map(|number| (number, length))));
    assert_eq!(bench.violations(), 0);
}

/// A client that dies (its queue is dropped) and comes again finds all that arrived meanwhile, more than the ring holds.
#[test]
fn a_client_that_dies_loses_no_packet() {
    let bench = Bench::new(BUFFERS);
    let driver = start(&bench.lease());
    let mut queue = driver.open(0);
    for at in 0..100 {
        bench.peer_send(&frame(3, at, 60));
        bench.process();
        assert_eq!(forward(&mut queue), [at]);
        assert_eq!(forward(&mut queue), []);
    }
    drop(queue);
    (100..1000).for_each(|at| bench.peer_send(&frame(3, at, 60)));
    bench.process();
    let mut queue = driver.open(0);
    let mut seen = Vec::new();
    while seen.len() < 900 {
        let more = forward(&mut queue);
        assert!(!more.is_empty(), "{} came through", seen.len());
        seen.extend(more);
        bench.process();
    }
    assert_eq!(seen, (100..1000).collect::<Vec<_>>());
}

/// What a dead generation had in hand (a batch) is lost to nobody: its buffers are in the pool again.
#[test]
fn a_crash_leaks_no_buffer() {
    let bench = Bench::new(BUFFERS);
    let lease = bench.lease();
    let driver = start(&lease);
    let mut queue = driver.open(0);
    (0..100).for_each(|at| bench.peer_send(&frame(3, at, 60)));
    bench.process();
    let batch = receive(&mut queue);
    drop((batch, queue));
    driver.crash();
    assert_eq!(bench.pool.available() + lease.buffers(), BUFFERS);
    Device::new(&lease).reset_lease().unwrap();
    assert_eq!(Device::new(&lease).losses().received, 68);
    assert_eq!(bench.pool.available(), BUFFERS);
}

#[test]
fn another_number_of_queues_is_a_reset() {
    let bench = Bench::new(BUFFERS);
    let lease = bench.lease();
    start(&lease).crash();
    let driver = Generation::start(&lease, &[0, 1], Config::default()).unwrap();
    assert_eq!(state(&lease), LeaseState::Live { rx_queues: 2, tx_queues: 2 });
    let mut queues = [driver.open(0), driver.open(1)];
    (0..64).for_each(|flow| bench.peer_send(&frame(flow, 0, 60)));
    bench.process();
    assert!(queues.iter_mut().all(|queue| !receive(queue).is_empty()));
}

/// A driver that dies between reset and `set_live` leaves rings behind; the next one resets them.
#[test]
fn a_crash_during_initialisation_is_reset() {
    let bench = Bench::new(BUFFERS);
    let lease = bench.lease();
    let device = Device::new(&lease);
    device.reset_lease().unwrap();
    drop(device.rx_ring(0, 64, None).unwrap());
    assert_eq!(state(&lease), LeaseState::Fresh);
    let driver = start(&lease);
    let mut queue = driver.open(0);
    bench.peer_send(&frame(0, 4, 60));
    bench.process();
    assert_eq!(forward(&mut queue), [4]);
    assert_eq!(bench.pool.available() + lease.buffers(), BUFFERS);
}

/// A lying device ends the generation with words that say so; the next one resets the device, and traffic goes on.
#[test]
fn a_lie_ends_the_generation_and_the_next_resets() {
    let bench = Bench::new(BUFFERS);
    let lease = bench.lease();
    let driver = start(&lease);
    let mut queue = driver.open(0);
    bench.nic().inject(Fault::CorruptLength { count: 1, length: 0xFFFF });
    bench.peer_send(&frame(0, 1, 60));
    bench.process();
    let words = panic_of(|| drop(queue.receive(Batch::allocate().unwrap())));
    assert_eq!(words, "queue 0: the device wrote back what cannot be");
    drop(queue);
    driver.crash();
    assert_eq!(state(&lease), LeaseState::Suspect);
    let driver = start(&lease);
    let mut queue = driver.open(0);
    bench.peer_send(&frame(0, 2, 60));
    bench.process();
    assert_eq!(forward(&mut queue), [2]);
    assert_eq!(bench.violations(), 0);
}

#[test]
fn a_transmitter_that_hangs_is_found_out_and_reset() {
    let bench = Bench::new(BUFFERS);
    let lease = bench.lease();
    let driver = start(&lease);
    let mut queue = driver.open(0);
    bench.peer_send(&frame(0, 1, 60));
    bench.process();
    bench.nic().inject(Fault::HangTransmit { queue: 0 });
    assert_eq!(forward(&mut queue), [1]);
    queue.wait(now()).unwrap();
    interfaces::host::advance_clock(Duration::from_secs(3));
    queue.wait(now()).unwrap();
    interfaces::host::advance_clock(Duration::from_secs(3));
    let words = panic_of(|| queue.wait(now()).unwrap());
    assert_eq!(words, "queue 0: the device did not do a step in time");
    drop(queue);
    driver.crash();
    let driver = start(&lease);
    let mut queue = driver.open(0);
    bench.peer_send(&frame(0, 2, 60));
    bench.process();
    assert_eq!(forward(&mut queue), [2]);
    assert_eq!(bench.peer_receive().map(|frame| number(&frame)), Some(2), "the one that hung is lost with the reset");
    assert_eq!(bench.pool.available() + lease.buffers(), BUFFERS);
}

/// A packet that has just been handed over may wait, however long nothing was to be sent before it: that rest is not held against the device. A transmitter that takes nothing
/// stands for one that hasn't looked yet.
#[test]
fn a_packet_after_a_long_rest_is_no_hang() {
    let bench = Bench::new(BUFFERS);
    let driver = start(&bench.lease());
    let mut queue = driver.open(0);
    queue.wait(now()).unwrap();
    interfaces::host::advance_clock(Duration::from_secs(10));
    bench.nic().inject(Fault::HangTransmit { queue: 0 });
    bench.peer_send(&frame(0, 1, 60));
    bench.process();
    assert_eq!(forward(&mut queue), [1]);
    queue.wait(now()).unwrap();
    interfaces::host::advance_clock(Duration::from_secs(3));
    queue.wait(now()).unwrap();
}

/// Without a link nothing leaves, however long: that is no fault of the device.
#[test]
fn a_missing_link_is_no_hang() {
    let bench = Bench::new(BUFFERS);
    let lease = bench.lease();
    let driver = start(&lease);
    let mut queue = driver.open(0);
    bench.peer_send(&frame(0, 1, 60));
    bench.process();
    bench.nic().set_cable(false);
    while driver.net.info().unwrap().link != interfaces::net::Link::Down {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(forward(&mut queue), [1]);
    for _ in 0..3 {
        interfaces::host::advance_clock(Duration::from_secs(10));
        queue.wait(now()).unwrap();
    }
    bench.nic().set_cable(true);
    bench.process();
    assert_eq!(bench.peer_receive().map(|frame| number(&frame)), Some(1));
}
