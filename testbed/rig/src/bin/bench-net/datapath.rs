//! Cycles a packet in our driver: receive, transmit and forward, by batches of 32 and of 1.
//!
//! Received packets are given back to the pool, sent ones are taken from it: that is in the figures. A batch of one is had by offering a batch with 31 packets in it: the one that
//! arrives is taken out of it, so those rows have one call of the kernel more than a driver with a smaller batch would need.

use std::{
    hint::{black_box, spin_loop},
    mem::ManuallyDrop,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use interfaces::{
    Cap, Interface, Port, RRef,
    net::{Net, NetError, NetQueue},
    packet::Batch,
};
use kernel_core::domain;
use rig::{
    Card, Rig, Tester,
    bench::{Row, stamp},
};

use crate::{
    method::{self, BATCH, Book, LENGTH, PACKETS, PASSES, Rounds, all_rounds, counted, rounds, work},
    progress,
};

const SAME_DOMAIN: &str = "same-domain";
/// Rounds and calls of the card without a card.
const NULL_ROUNDS: usize = 301;
const NULL_CALLS: usize = 1000;

pub fn measure(rig: &Rig, card: &'static Card<Tester>) -> Vec<Row> {
    card.pause(true);
    let mut book = Book::default();
    let paths = [("own-domain", rig.port("ixgbe0", "net")), ("shadow", rig.port("shadow", "net"))];
    for pass in 1..=PASSES {
        progress(&format!("cycles a packet: own domain and shadow, one queue and two, pass {pass} of {PASSES}"));
        for (path, net) in paths {
            rig.spawn(0, move || of_path(path, net, card))
                .wait(LONGEST)
                .into_iter()
                .for_each(|part| part.enter(&mut book));
            two_queues(rig, path, net, card).into_iter().for_each(|part| part.enter(&mut book));
        }
    }
    progress("cycles a packet: no card");
    for (path, net) in [("null-net", rig.port("null", "net")), ("null-net-shadow", rig.port("null-shadow", "net"))] {
        rig.spawn(0, move || of_null(path, net)).wait(LONGEST).into_iter().for_each(|part| part.enter(&mut book));
    }
    card.pause(false);
    book.rows()
}

/// What one pass along a path has found of a direction and batch.
struct Part {
    path: String,
    direction: &'static str,
    batch: usize,
    rounds: Rounds,
}

impl Part {
    fn enter(self, book: &mut Book) {
        book.add(&self.path, self.direction, self.batch, self.rounds);
    }
}

/// The driver called without a proxy, as if it were a part of its client. For the end: its queue is opened once and never closed, since that would be the driver's own to do.
pub fn measure_same_domain(rig: &Rig, card: &'static Card<Tester>) -> Vec<Row> {
    progress("cycles a packet: same-domain");
    card.pause(true);
    card.with(|device| device.nic().wire_mut().resize(64));
    let bare = domain::by_name("ixgbe0").and_then(|domain| domain.bare_object("net")).expect("the driver lives");
    // SAFETY: the domain's own object, of this interface; nothing ends the driver while this is used.
    let same: Port<dyn Net> = Port::new(unsafe { &*<dyn Net as Interface>::from_raw(bare) });
    let mut book = Book::default();
    let passes = move || {
        let mut queue = ManuallyDrop::new(open(same, 0));
        (0..PASSES).flat_map(|_| of_queue(SAME_DOMAIN, &mut queue, card)).collect::<Vec<_>>()
    };
    rig.spawn(0, passes).wait(LONGEST).into_iter().for_each(|part| part.enter(&mut book));
    book.rows()
}

/// Measuring a path takes seconds.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(300);

pub fn open(net: Port<dyn Net>, index: u16) -> Cap<dyn NetQueue> {
    loop {
        match net.open_queue(index) {
            Ok(queue) => return queue,
            // The row before has just let go of it.
            Err(NetError::QueueBusy) => std::thread::yield_now(),
            Err(error) => panic!("no queue: {error:?}"),
        }
    }
}

fn of_path(path: &str, net: Port<dyn Net>, card: &'static Card<Tester>) -> Vec<Part> {
    of_queue(path, &mut open(net, 0), card)
}

fn of_queue(path: &str, queue: &mut Cap<dyn NetQueue>, card: &'static Card<Tester>) -> Vec<Part> {
    drain(queue, card);
    let flows = method::flows_by_queue(card, 1);
    card.with(|device| device.nic().wire_mut().set_flows(flows));
    drain(queue, card);
    let mut parts = Vec::new();
    for (direction, frames, run_32, run_1) in DEEDS {
        for (batch, run) in [(32, run_32), (1, run_1)] {
            let rounds = rounds(card, frames, || run(queue));
            parts.push(Part { path: path.into(), direction, batch, rounds });
        }
    }
    parts
}

/// What is done to a queue in a round; it says how many cycles that took.
type Deed = fn(&mut Cap<dyn NetQueue>) -> u64;

/// Directions, frames of a round, and how they are done by batches of 32 and of 1.
const DEEDS: [(&str, usize, Deed, Deed); 3] = [
    ("receive", PACKETS, receive_32, receive_1),
    ("transmit", 0, transmit_32, transmit_1),
    ("forward", PACKETS, forward_32, forward_1),
];

/// Two threads on two CPUs, each with a queue of its own: the card fills both rings, then both are drained at once.
fn two_queues(rig: &Rig, path: &'static str, net: Port<dyn Net>, card: &'static Card<Tester>) -> Vec<Part> {
    let meeting = Arc::new(Meeting::default());
    let threads = [0, 1].map(|at| {
        let meeting = meeting.clone();
        rig.spawn(usize::from(at), move || {
            let mut queue = open(net, at);
            // One after the other: the card is one.
            (0..2).for_each(|turn| {
                if turn == at {
                    drain(&mut queue, card);
                }
                meeting.meet();
            });
            if at == 0 {
                let flows = method::flows_by_queue(card, 2);
                card.with(|device| device.nic().wire_mut().set_flows(flows));
            }
            meeting.meet();
            (0..2).for_each(|turn| {
                if turn == at {
                    drain(&mut queue, card);
                }
                meeting.meet();
            });
            let mut all = Vec::new();
            for (direction, frames, run_32, run_1) in DEEDS {
                for (batch, run) in [(32, run_32), (1, run_1)] {
                    let samples = (0..all_rounds()).map(|_| {
                        if at == 0 {
                            work(card, 2 * frames);
                        }
                        meeting.meet();
                        let cycles = run(&mut queue);
                        meeting.meet();
                        cycles as f64 / PACKETS as f64
                    });
                    all.push((direction, batch, counted(samples.collect())));
                }
            }
            all
        })
    });
    let [first, second] = threads.map(|thread| thread.wait(LONGEST));
    let both = first.into_iter().zip(second);
    both.map(|((direction, batch, mut driver), (.., more))| {
        driver.extend(more);
        let rounds = Rounds { driver, model: vec![] };
        Part { path: format!("{path}-two-queues"), direction, batch, rounds }
    })
    .collect()
}

/// Where two threads wait for each other, without sleeping.
#[derive(Default)]
struct Meeting(AtomicUsize);

impl Meeting {
    fn meet(&self) {
        let arrived = self.0.fetch_add(1, SeqCst) + 1;
        let all = arrived.next_multiple_of(2);
        while self.0.load(SeqCst) < all {
            spin_loop();
        }
    }
}

/// Takes out whatever is in the ring, and has the driver see that it is empty for good.
pub fn drain(queue: &mut Cap<dyn NetQueue>, card: &Card<Tester>) {
    let mut batch = empty();
    let mut in_vain = 0;
    while in_vain < 64 {
        batch = queue.receive(batch).expect("the driver lives");
        in_vain = if batch.is_empty() { in_vain + 1 } else { 0 };
        batch.clear();
        work(card, 0);
    }
}

pub fn empty() -> RRef<Batch> {
    Batch::allocate().expect("the kernel has no quota")
}

/// The packets of a round have come; it took as long as it says.
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
    assert_eq!(batch.fill(BATCH - 1), BATCH - 1, "the pool has enough");
    batch
}

const LAST: u32 = 1 << (BATCH - 1);

fn receive_1(queue: &mut Cap<dyn NetQueue>) -> u64 {
    let (mut batch, mut count) = (crowded(), 0);
    let begun = stamp();
    while count < PACKETS {
        batch = queue.receive(batch).expect("the driver lives");
        count += batch.len() - (BATCH - 1);
        batch.discard(LAST);
    }
    let cycles = stamp() - begun;
    expect(count);
    cycles
}

fn transmit_32(queue: &mut Cap<dyn NetQueue>) -> u64 {
    transmit(queue, 32)
}

fn transmit_1(queue: &mut Cap<dyn NetQueue>) -> u64 {
    transmit(queue, 1)
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

/// A batch there and back where there is no device.
fn of_null(path: &str, net: Port<dyn Net>) -> Vec<Part> {
    let mut queue = open(net, 0);
    let mut parts = Vec::new();
    for size in [32, 1] {
        let mut batch = empty();
        batch.fill(size);
        let (mut receive, mut send, mut forward) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..NULL_ROUNDS {
            let begun = stamp();
            for _ in 0..NULL_CALLS {
                batch = queue.receive(black_box(batch)).expect("it lives");
            }
            let received = stamp();
            for _ in 0..NULL_CALLS {
                batch = queue.send(black_box(batch)).expect("it lives");
            }
            let sent = stamp();
            for _ in 0..NULL_CALLS {
                batch = queue.receive(black_box(batch)).expect("it lives");
                batch = queue.send(black_box(batch)).expect("it lives");
            }
            let packets = (NULL_CALLS * size) as f64;
            receive.push((received - begun) as f64 / packets);
            send.push((sent - received) as f64 / packets);
            forward.push((stamp() - sent) as f64 / packets);
        }
        for (direction, samples) in [("receive", receive), ("transmit", send), ("forward", forward)] {
            let rounds = Rounds { driver: samples, model: vec![] };
            parts.push(Part { path: path.into(), direction, batch: size, rounds });
        }
    }
    parts
}
