//! Cycles a packet: receive, transmit and forward, by batches of 32 and of 1.
//!
//! Received packets are given back to the pool, sent ones are taken from it: that is in the figures. A batch of one is had by offering a batch with 31 packets in it: the one that
//! arrives is taken out of it, so those rows have one call of the kernel more than a driver with a smaller batch would need.

use std::{arch::x86_64::_rdtsc, hint::black_box, mem::ManuallyDrop};

use interfaces::{
    Cap, Interface, Port, RRef,
    net::{Net, NetError, NetQueue},
    packet::Batch,
};
use kernel_core::domain;
use rig::{Card, Rig, Tester};

use crate::{RING, Row, median};

/// Rounds that are timed, after some that aren't.
const ROUNDS: usize = 301;
const WARM_UP: usize = 30;
/// Packets of a round: whole batches, fewer than a ring has descriptors.
const PACKETS: usize = (RING as usize / Batch::CAPACITY - 1) * Batch::CAPACITY;
/// Bytes of a 64-byte frame without its check sequence.
const LENGTH: usize = 60;
const SAME_DOMAIN: &str = "same-domain";
/// Calls of the card without a card in a round.
const NULL_CALLS: usize = 1000;

pub fn measure(rig: &Rig, card: &'static Card<Tester>) -> Vec<Row> {
    card.pause(true);
    let mut rows = Vec::new();
    let paths = [("own-domain", rig.port("ixgbe0", "net")), ("shadow", rig.port("shadow", "net"))];
    for (path, net) in paths {
        rows.extend(rig.run(0, move || of_path(path, net, card)));
    }
    for (path, net) in [("own-domain", rig.port("null", "net")), ("shadow", rig.port("null-shadow", "net"))] {
        rows.extend(rig.run(0, move || of_null(path, net)));
    }
    card.pause(false);
    rows
}

/// The driver called without a proxy, as if it were a part of its client. For the end: its queue is never closed, since that would be the driver's own to do.
pub fn measure_same_domain(rig: &Rig, card: &'static Card<Tester>) -> Vec<Row> {
    card.pause(true);
    card.with(|device| device.nic().wire_mut().resize(64));
    let bare = domain::by_name("ixgbe0").and_then(|domain| domain.bare_object("net")).expect("the driver lives");
    // SAFETY: the domain's own object, of this interface; nothing ends the driver while this is used.
    let same: Port<dyn Net> = Port::new(unsafe { &*<dyn Net as Interface>::from_raw(bare) });
    rig.run(0, move || of_path(SAME_DOMAIN, same, card))
}

fn stamp() -> u64 {
    // SAFETY: every x86-64 has it.
    unsafe { _rdtsc() }
}

fn row(direction: &str, path: &str, batch: usize, samples: Vec<f64>) -> Row {
    Row::new(format!("net.{direction}.{path}.batch-{batch}"), "cost", median(samples), "cycles/packet")
}

/// Has the card take `frames` from the wire, and everything else that is to be done.
fn work(card: &Card<Tester>, frames: usize) {
    card.with(|device| {
        device.nic().wire_mut().allow(frames as u64);
        let mut more = device.look_at_all();
        while more {
            more = device.look();
        }
    });
}

fn open(net: Port<dyn Net>) -> Cap<dyn NetQueue> {
    loop {
        match net.open_queue(0) {
            Ok(queue) => return queue,
            // The row before has just let go of it.
            Err(NetError::QueueBusy) => std::thread::yield_now(),
            Err(error) => panic!("no queue: {error:?}"),
        }
    }
}

fn of_path(path: &str, net: Port<dyn Net>, card: &'static Card<Tester>) -> Vec<Row> {
    let mut queue = ManuallyDrop::new(open(net));
    drain(&mut queue, card);
    let mut rows = Vec::new();
    let (received, model) = rounds(card, PACKETS, || receive_32(&mut queue));
    rows.push(row("receive", path, 32, received));
    // The card's own speed, which would bound whatever is measured while it works.
    rows.push(Row::new(format!("model.receive.{path}"), "cost", median(model), "cycles/packet"));
    rows.push(row("receive", path, 1, rounds(card, PACKETS, || receive_1(&mut queue)).0));
    rows.push(row("transmit", path, 32, rounds(card, 0, || transmit(&mut queue, 32)).0));
    rows.push(row("transmit", path, 1, rounds(card, 0, || transmit(&mut queue, 1)).0));
    rows.push(row("forward", path, 32, rounds(card, PACKETS, || forward_32(&mut queue)).0));
    rows.push(row("forward", path, 1, rounds(card, PACKETS, || forward_1(&mut queue)).0));
    if path != SAME_DOMAIN {
        drop(ManuallyDrop::into_inner(queue));
    }
    rows
}

/// Takes out whatever is in the ring, and has the driver see that it is empty for good.
fn drain(queue: &mut Cap<dyn NetQueue>, card: &Card<Tester>) {
    let mut batch = Batch::allocate().expect("the kernel has no quota");
    let mut empty = 0;
    while empty < 64 {
        batch = queue.receive(batch).expect("the driver lives");
        empty = if batch.is_empty() { empty + 1 } else { 0 };
        batch.clear();
        work(card, 0);
    }
}

/// Cycles a packet, of each round of `run` after the card has received `frames`; and what that took the card.
fn rounds(card: &Card<Tester>, frames: usize, mut run: impl FnMut() -> u64) -> (Vec<f64>, Vec<f64>) {
    let (mut samples, mut model) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for round in 0..WARM_UP + ROUNDS {
        let begun = stamp();
        work(card, frames);
        let worked = stamp() - begun;
        let cycles = run();
        if round >= WARM_UP {
            samples.push(cycles as f64 / PACKETS as f64);
            model.push(worked as f64 / PACKETS as f64);
        }
    }
    (samples, model)
}

fn empty() -> RRef<Batch> {
    Batch::allocate().expect("the kernel has no quota")
}

/// The `count` packets of a round have come; it took as long as it says.
fn expect(count: usize) {
    assert_eq!(count, PACKETS, "packets of a round");
}

fn receive_32(queue: &mut Cap<dyn NetQueue>) -> u64 {
    let (mut batch, mut count) = (empty(), 0);
    let begun = stamp();
    while count < PACKETS {
        batch = queue.receive(batch).expect("the driver lives");
        count += batch.len();
        batch.clear();
    }
    let cycles = stamp() - begun;
    expect(count);
    cycles
}

/// A batch with one free place.
fn crowded() -> RRef<Batch> {
    let mut batch = empty();
    assert_eq!(batch.fill(Batch::CAPACITY - 1), Batch::CAPACITY - 1, "the pool has enough");
    batch
}

const LAST: u32 = 1 << (Batch::CAPACITY - 1);

fn receive_1(queue: &mut Cap<dyn NetQueue>) -> u64 {
    let (mut batch, mut count) = (crowded(), 0);
    let begun = stamp();
    while count < PACKETS {
        batch = queue.receive(batch).expect("the driver lives");
        count += batch.len() - (Batch::CAPACITY - 1);
        batch.discard(LAST);
    }
    let cycles = stamp() - begun;
    expect(count);
    cycles
}

fn transmit(queue: &mut Cap<dyn NetQueue>, size: usize) -> u64 {
    let (mut batch, mut count) = (empty(), 0);
    let begun = stamp();
    while count < PACKETS {
        count += batch.fill(size);
        for mut packet in batch.packets_mut() {
            packet.set_len(LENGTH);
        }
        batch = queue.send(batch).expect("the driver lives");
        assert!(batch.is_empty(), "the ring has room for a round");
    }
    let cycles = stamp() - begun;
    expect(count);
    cycles
}

fn forward_32(queue: &mut Cap<dyn NetQueue>) -> u64 {
    let (mut batch, mut count) = (empty(), 0);
    let begun = stamp();
    while count < PACKETS {
        batch = queue.receive(batch).expect("the driver lives");
        count += batch.len();
        batch = queue.send(batch).expect("the driver lives");
        assert!(batch.is_empty(), "the ring has room for a round");
    }
    let cycles = stamp() - begun;
    expect(count);
    cycles
}

fn forward_1(queue: &mut Cap<dyn NetQueue>) -> u64 {
    let (mut batch, mut outgoing, mut count) = (crowded(), empty(), 0);
    let begun = stamp();
    while count < PACKETS {
        batch = queue.receive(batch).expect("the driver lives");
        count += batch.transfer(LAST, &mut outgoing);
        outgoing = queue.send(outgoing).expect("the driver lives");
        assert!(outgoing.is_empty(), "the ring has room for a round");
    }
    let cycles = stamp() - begun;
    expect(count);
    cycles
}

/// Receiving and sending a batch where there is no device.
fn of_null(path: &str, net: Port<dyn Net>) -> Vec<Row> {
    let mut queue = open(net);
    [32, 1]
        .into_iter()
        .map(|size| {
            let mut batch = empty();
            batch.fill(size);
            let mut samples = Vec::with_capacity(ROUNDS);
            for _ in 0..ROUNDS {
                let begun = stamp();
                for _ in 0..NULL_CALLS {
                    batch = queue.receive(black_box(batch)).expect("it lives");
                    batch = queue.send(black_box(batch)).expect("it lives");
                }
                samples.push((stamp() - begun) as f64 / (NULL_CALLS * size) as f64);
            }
            row("no-device", path, size, samples)
        })
        .collect()
}
