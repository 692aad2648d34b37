//! Random interleavings of traffic, crashes, adoption, resets, lies and pool shortage, against a book of where every buffer and every packet is.

mod bench;

use std::{ptr::NonNull, sync::Arc};

use bench::{Bench, frame, number};
use interfaces::{
    Cap, RRef,
    device::ixgbe::{DeviceError, IxgbeDevice, RxRing, TxRing},
    packet::{Batch, BufferHead},
};
use ixgbe_device::{Device, Lease};
use model::control::Fault;
use proptest::{prelude::*, test_runner::Config};

const BUFFERS: usize = 400;
const RING: u16 = 64;
const QUEUES: usize = 2;

#[derive(Clone, Debug)]
enum Step {
    /// So many frames of a flow arrive.
    Arrive {
        count: u8,
        flow: u8,
    },
    /// The thread of a queue receives.
    Receive {
        queue: usize,
        limit: u8,
    },
    /// It sends the oldest batch that it holds, on any queue.
    Send {
        queue: usize,
    },
    /// It drops it.
    Drop,
    Reclaim {
        queue: usize,
    },
    /// The driver dies: all handles and batches are dropped. The next step that needs a ring adopts it.
    Crash,
    /// Somebody else takes buffers from the pool, or gives them back.
    Hog {
        count: u8,
    },
    Release,
    Cable(bool),
    /// The device lies about the length of the next packet.
    Lie,
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let queue = 0..QUEUES;
    prop_oneof![
        6 => (0..60u8, any::<u8>()).prop_map(|(count, flow)| Step::Arrive { count, flow }),
        8 => (queue.clone(), 0..40u8).prop_map(|(queue, limit)| Step::Receive { queue, limit }),
        8 => queue.clone().prop_map(|queue| Step::Send { queue }),
        1 => Just(Step::Drop),
        2 => queue.prop_map(|queue| Step::Reclaim { queue }),
        2 => Just(Step::Crash),
        1 => any::<u8>().prop_map(|count| Step::Hog { count }),
        1 => Just(Step::Release),
        1 => any::<bool>().prop_map(Step::Cable),
        1 => Just(Step::Lie),
        1 => Just(Step::Reset),
    ]
}

/// The world, and the book.
struct World {
    bench: Bench,
    lease: Arc<Lease<Bench>>,
    device: Device<Bench>,
    rx: [Option<Cap<dyn RxRing>>; QUEUES],
    tx: [Option<Cap<dyn TxRing>>; QUEUES],
    held: Vec<RRef<Batch>>,
    hogged: Vec<Option<NonNull<BufferHead>>>,
    arrived: u32,
    /// The last number received on each queue: numbers only grow, so none is seen twice or out of order.
    last: [Option<u32>; QUEUES],
    /// Numbers given to the rings and not seen on the wire yet, by queue.
    on_their_way: [Vec<u32>; QUEUES],
    /// Frames that a reset may have taken with it.
    may_be_lost: Vec<u32>,
    /// The device may have lied since it was reset: of what it has reported by then, it may reach less than is in its rings.
    may_have_lied: bool,
}

impl World {
    fn new(strict: bool) -> Self {
        let bench = if strict { Bench::strict(BUFFERS) } else { Bench::new(BUFFERS) };
        let lease = bench.lease();
        let device = bench::device(&lease);
        let mut world = World {
            bench,
            lease,
            device,
            rx: [const { None }; QUEUES],
            tx: [const { None }; QUEUES],
            held: Vec::new(),
            hogged: Vec::new(),
            arrived: 0,
            last: [None; QUEUES],
            on_their_way: Default::default(),
            may_be_lost: Vec::new(),
            may_have_lied: false,
        };
        world.reset();
        world
    }

    /// All handles and batches go; the device is reset and brought up again.
    fn reset(&mut self) {
        self.crash();
        self.release();
        self.device.reset_lease().unwrap();
        assert_eq!(
            (self.lease.buffers(), self.bench.pool.available()),
            (0, BUFFERS),
            "a reset brings every buffer back"
        );
        let write = |register: u32, value: u32| self.device.write(register, value).unwrap();
        // RSS over two queues (82599 §7.1.2.8), with as much of a key as ports need.
        (2..5).for_each(|at| write(0x5C80 + 4 * at, 0x5A6D_5A6D));
        (0..32).for_each(|at| write(0x5C00 + 4 * at, 0x0100_0100));
        write(0x5818, 1 | 1 << 22);
        write(0x4A80, 1);
        self.open();
        self.device.write(0x3000, 1).unwrap();
        let lost = self.on_their_way.iter_mut().flat_map(std::mem::take);
        self.may_be_lost.extend(lost);
        self.may_have_lied = false;
    }

    /// Opens what is closed: for a ring that the lease has, that is adoption.
    fn open(&mut self) {
        for queue in 0..QUEUES {
            self.rx[queue].get_or_insert_with(|| self.device.rx_ring(queue as u16, RING, None).unwrap());
            self.tx[queue].get_or_insert_with(|| self.device.tx_ring(queue as u16, RING, None).unwrap());
        }
    }

    fn crash(&mut self) {
        self.rx = [const { None }; QUEUES];
        self.tx = [const { None }; QUEUES];
        self.held.clear();
    }

    fn release(&mut self) {
        self.hogged.drain(..).flatten().for_each(|head| self.bench.pool.give(head));
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Arrive { count, flow } => {
                for _ in 0..count {
                    self.bench.peer_send(&frame(u16::from(flow), self.arrived, 60 + self.arrived as usize % 500));
                    self.arrived += 1;
                }
                self.bench.process();
            }
            Step::Receive { queue, limit } => {
                self.open();
                let mut batch = Batch::allocate().unwrap();
                match self.rx[queue].as_mut().unwrap().receive(&mut batch, usize::from(limit)) {
                    Ok(moved) => assert_eq!(moved, batch.len()),
                    Err(DeviceError::Lied) => return self.reset(),
                    Err(error) => panic!("{error}"),
                }
                for packet in batch.packets() {
                    let number = number(packet.data());
                    assert_eq!(packet.data().len(), 60 + number as usize % 500, "length and bytes belong together");
                    assert!(self.last[queue].is_none_or(|last| last < number), "{number} after {:?}", self.last[queue]);
                    self.last[queue] = Some(number);
                }
                self.held.push(batch);
            }
            Step::Send { queue } => {
                self.open();
                if self.held.is_empty() {
                    return;
                }
                let mut batch = self.held.remove(0);
                let numbers: Vec<u32> = batch.packets().iter().map(|packet| number(packet.data())).collect();
                let sent = self.tx[queue].as_mut().unwrap().send(&mut batch).unwrap();
                let rest: Vec<u32> = batch.packets().iter().map(|packet| number(packet.data())).collect();
                assert_eq!(rest, numbers[sent..], "what has no place stays, in order");
                self.on_their_way[queue].extend(&numbers[..sent]);
                if !batch.is_empty() {
                    self.held.insert(0, batch);
                }
            }
            Step::Drop if self.held.is_empty() => {}
            Step::Drop => drop(self.held.remove(0)),
            Step::Reclaim { queue } => {
                self.open();
                self.tx[queue].as_mut().unwrap().reclaim().unwrap();
            }
            Step::Crash => self.crash(),
            Step::Hog { count } => {
                let mut taken = vec![None; usize::from(count)];
                self.bench.pool.take(&mut taken);
                self.hogged.extend(taken.into_iter().filter(Option::is_some));
            }
            Step::Release => self.release(),
            Step::Cable(plugged) => {
                self.bench.nic().set_cable(plugged);
                self.bench.process();
            }
            Step::Lie => {
                self.may_have_lied = true;
                self.bench.nic().inject(Fault::CorruptLength { count: 1, length: 3000 });
            }
            Step::Reset => self.reset(),
        }
    }

    fn check(&mut self) {
        while let Some(frame) = self.bench.peer_receive() {
            let number = number(&frame);
            let expected = self.on_their_way.iter_mut().find(|queue| queue.first() == Some(&number));
            match expected {
                Some(queue) => drop(queue.remove(0)),
                None => assert!(
                    self.may_be_lost.contains(&number),
                    "{number} on the wire: not sent, sent before, or out of order"
                ),
            }
            assert_eq!(frame.len(), 60 + number as usize % 500);
        }
        let in_batches: usize = self.held.iter().map(|batch| batch.len()).sum();
        let known = self.bench.pool.available() + self.lease.buffers() + in_batches + self.hogged.len();
        assert_eq!(known, BUFFERS, "a buffer is in the pool, a ring or a batch");
        assert_eq!(self.bench.violations(), 0, "the device reached for what isn't its own");
        if self.bench.pool.is_strict() {
            let (granted, in_rings) = (self.bench.pool.granted(), self.lease.buffers());
            assert!(granted == in_rings || self.may_have_lied && granted < in_rings, "in rings, and no others");
            let mut packets = self.held.iter().flat_map(|batch| batch.packets()).map(|packet| packet.data().as_ptr());
            let is_reached = |byte: *const u8| self.bench.pool.device_may_touch(byte.addr() as u64, 1);
            assert!(!packets.any(is_reached), "what is in a batch is its holder's alone");
        }
    }

    /// With a cable, a pool and readers, all that is on its way comes out.
    fn finish(&mut self) {
        self.bench.nic().set_cable(true);
        self.release();
        self.bench.process();
        self.check();
        assert!(self.on_their_way.iter().all(Vec::is_empty), "never sent: {:?}", self.on_their_way);
        self.reset();
        self.check();
    }
}

proptest! {
    #![proptest_config(Config { cases: 300, ..Config::default() })]

    /// Invariant 5 of the design: no device writes memory that has been given to someone else; and no buffer or packet is lost or doubled. In a strict box the device reaches, after each step, just the
    /// buffers in its rings.
    #[test]
    fn buffers_and_packets_are_where_they_should_be(steps in prop::collection::vec(step(), 1..120), strict: bool) {
        let mut world = World::new(strict);
        for step in &steps {
            world.take(step);
            world.check();
        }
        world.finish();
    }
}
