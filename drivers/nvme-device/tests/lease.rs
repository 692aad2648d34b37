//! The lease against a controller that does right, and one that misbehaves: requests come to an end once, and memory is touched that is the lease's or none.

mod model;

use std::{collections::BTreeMap, sync::Arc};

use interfaces::{
    Cap, RRef,
    block::{Operation, Order, Requests, Status},
    device::nvme::{AdminCommand, DATA_BYTES, DeviceError, LeaseState, NvmeDevice, NvmeQueue},
    host,
};
use model::{BLOCKS, Handle, Lie};
use nvme_device::{Device, Lease};
use proptest::prelude::*;

struct Bench {
    model: Handle,
    lease: Arc<Lease<Handle>>,
}

impl Bench {
    fn new(block_shift: u8) -> Self {
        host::connect();
        let model = Handle::new(block_shift);
        let bench = Bench { lease: Lease::new(model.clone()), model };
        bench.initialise(32);
        bench
    }

    fn device(&self) -> Device<Handle> {
        Device::new(&self.lease)
    }

    /// What a driver does to make one queue.
    fn initialise(&self, entries: u16) {
        let device = self.device();
        device.reset_lease().unwrap();
        device.enable().unwrap();
        let mut admin = device.admin().unwrap();
        let mut data = Box::new([0; DATA_BYTES]);
        for command in [
            AdminCommand::Identify { structure: 0, namespace: 1 },
            AdminCommand::CreateCompletionQueue { queue: 0, entries },
            AdminCommand::CreateSubmissionQueue { queue: 0 },
        ] {
            admin.submit(command).unwrap();
            assert_eq!(admin.poll(&mut data).unwrap().unwrap().status, 0, "{command:?}");
        }
        device.set_live(1, entries - 1).unwrap();
    }

    fn queue(&self) -> Cap<dyn NvmeQueue> {
        self.device().queue(0).unwrap()
    }

    /// Tells the model's book which buffers it may touch from now on.
    fn allow(&self, batch: &Requests) {
        let mut state = self.model.state();
        for request in batch.requests() {
            state.buffers.insert(request.data().as_ptr().addr() as u64, request.data().len());
        }
    }

    fn well(&self) {
        let state = self.model.state();
        assert!(state.wrong.is_empty(), "{:?}", state.wrong);
    }
}

fn batch() -> RRef<Requests> {
    Requests::allocate().unwrap()
}

fn order(id: u64, operation: Operation, block: u64, blocks: u32) -> Order {
    Order { id, operation, block, blocks, ..Order::default() }
}

/// Takes what has ended; from then on the device must not touch its buffers.
fn poll_all(bench: &Bench, queue: &mut Cap<dyn NvmeQueue>) -> Vec<(u64, Status)> {
    let mut ended = batch();
    let mut found = Vec::new();
    while queue.poll(&mut ended).unwrap() > 0 {
        for request in ended.requests() {
            bench.model.state().buffers.remove(&(request.data().as_ptr().addr() as u64));
        }
        found.extend(ended.requests().iter().map(|request| (request.order().id, request.status())));
        ended.clear();
    }
    found
}

/// A batch costs one doorbell each way, and what is written is read back, through PRP entries and lists of all sizes and offsets.
#[test]
fn what_is_written_is_read_back_with_one_doorbell_per_batch() {
    for shift in [9, 12] {
        let bench = Bench::new(shift);
        let mut queue = bench.queue();
        let blocks = [1, 2, 8, 9, 16, 31].map(|blocks| blocks.min(262_144 >> shift));
        let mut requests = batch();
        for (id, blocks) in (0..).zip(blocks) {
            let offset = (id as u32 % 3) * 132;
            let bytes = (blocks as usize) << shift;
            let order = Order { offset, ..order(id, Operation::Write, 64 * id, blocks) };
            let mut request = requests.add(order, bytes + offset as usize).unwrap();
            let data = request.data_mut().unwrap();
            (0..).zip(data.iter_mut()).for_each(|(at, byte): (usize, &mut u8)| *byte = (at * 7 + id as usize) as u8);
        }
        bench.allow(&requests);
        let before = bench.model.state().doorbells;
        assert_eq!(queue.submit(&mut requests).unwrap(), 6);
        assert!(requests.is_empty());
        assert_eq!(bench.model.state().doorbells, before + 1);
        let mut ended = batch();
        assert_eq!(queue.poll(&mut ended).unwrap(), 6);
        assert_eq!(bench.model.state().doorbells, before + 2);
        assert!(ended.requests().iter().all(|request| request.status() == Status::Done));
        // Into the same buffers, at another offset, scribbled over before.
        for index in 0..6 {
            let mut request = ended.request_mut(index).unwrap();
            let order = request.order();
            request.set_order(Order { operation: Operation::Read, offset: 0, ..order });
            request.data_mut().unwrap().fill(0);
        }
        assert_eq!(queue.submit(&mut ended).unwrap(), 6);
        assert_eq!(queue.poll(&mut ended).unwrap(), 6);
        for request in ended.requests() {
            let id = request.order().id as usize;
            let written = |at: usize| ((at + (id % 3) * 132) * 7 + id) as u8;
            let bytes = (request.order().blocks as usize) << shift;
            let wrong = (0..bytes).find(|at| request.data()[*at] != written(*at));
            assert_eq!((request.status(), wrong), (Status::Done, None), "request {id} with blocks of 2^{shift}");
        }
        bench.well();
        drop((requests, ended));
        assert_eq!(host::buffers_out(), 0);
    }
}

/// What can't be is refused, and comes to an end as such: too small a buffer or none, a crooked offset, an unknown namespace, no blocks, a buffer to be read
/// into that others hold.
#[test]
fn what_cannot_be_is_refused() {
    let bench = Bench::new(9);
    let mut queue = bench.queue();
    let (mut requests, mut kept) = (batch(), batch());
    requests.add(order(0, Operation::Read, 0, 9), 4096).unwrap();
    requests.add(order(1, Operation::Write, 0, 1), 0).unwrap();
    requests.add(Order { offset: 2, ..order(2, Operation::Write, 0, 1) }, 4096).unwrap();
    requests.add(Order { namespace: 1, ..order(3, Operation::Write, 0, 1) }, 4096).unwrap();
    requests.add(Order { offset: 4092, ..order(4, Operation::Read, 0, 1) }, 4096).unwrap();
    requests.add(order(5, Operation::Read, 0, 0), 4096).unwrap();
    requests.add(order(6, Operation::Read, 0, 1), 4096).unwrap();
    requests.share(1 << 6, &mut kept);
    requests.add(order(7, Operation::WriteZeroes, 0, 65_537), 0).unwrap();
    requests.add(order(8, Operation::Write, BLOCKS, 1), 4096).unwrap();
    bench.allow(&requests);
    assert_eq!(queue.submit(&mut requests).unwrap(), 9);
    let ended = poll_all(&bench, &mut queue);
    assert_eq!(ended.len(), 9);
    assert!(ended.iter().all(|(_, status)| *status == Status::Refused), "{ended:?}");
    bench.well();
}

/// Zeroes and deallocation reach the blocks that they name, and no other.
#[test]
fn zeroes_and_deallocation() {
    let bench = Bench::new(9);
    bench.model.state().medium.fill(1);
    let mut queue = bench.queue();
    let mut requests = batch();
    requests.add(order(0, Operation::WriteZeroes, 4, 2), 0).unwrap();
    requests.add(order(1, Operation::Deallocate, 10, 3), 0).unwrap();
    requests.add(order(2, Operation::Flush, 0, 0), 0).unwrap();
    queue.submit(&mut requests).unwrap();
    assert!(poll_all(&bench, &mut queue).iter().all(|(_, status)| *status == Status::Done));
    let zeroed: Vec<usize> = bench
        .model
        .state()
        .medium
        .chunks(512)
        .enumerate()
        .filter(|(_, block)| block[0] == 0)
        .map(|(at, _)| at)
        .collect();
    assert_eq!(zeroed, [4, 5, 10, 11, 12]);
    bench.well();
}

/// Protects "every request completes once": the driver's generation ends with requests in flight; the next one has them, with their buffers.
#[test]
fn the_next_generation_adopts_what_is_in_flight() {
    let bench = Bench::new(9);
    bench.model.state().at_once = false;
    let mut queue = bench.queue();
    let mut requests = batch();
    for id in 0..8 {
        requests.add(order(id, Operation::Read, id, 1), 512).unwrap();
    }
    bench.allow(&requests);
    assert_eq!(queue.submit(&mut requests).unwrap(), 8);
    bench.model.carry_out(5);
    assert!(matches!(bench.device().queue(0), Err(DeviceError::Busy)), "one handle at a time");
    drop(queue);
    bench.model.carry_out(0);
    let device = bench.device();
    assert_eq!(device.lease(), LeaseState::Live { queues: 1, depth: 31 });
    let mut queue = device.queue(0).unwrap();
    assert_eq!(queue.in_flight(), 8);
    let mut list = RRef::new(Default::default()).unwrap();
    queue.list(&mut list).unwrap();
    let mut ids = list.ids().to_vec();
    ids.sort_unstable();
    assert_eq!(ids, (0..8).collect::<Vec<u64>>());
    while bench.model.carry_out(3) {}
    let mut ended = poll_all(&bench, &mut queue);
    ended.sort_by_key(|(id, _)| *id);
    assert_eq!(ended, (0..8).map(|id| (id, Status::Done)).collect::<Vec<_>>());
    assert_eq!(host::buffers_out(), 0);
    bench.well();
}

/// A controller that doesn't answer is reset: what was in flight ends as `Lost`, once, its buffers untouched from then on; and the controller works again.
#[test]
fn a_reset_gives_back_what_was_in_flight() {
    let bench = Bench::new(9);
    bench.model.state().lie = Lie::Silent;
    let mut queue = bench.queue();
    let mut requests = batch();
    for id in 0..5 {
        requests.add(order(id, Operation::Write, id, 1), 512).unwrap();
    }
    bench.allow(&requests);
    queue.submit(&mut requests).unwrap();
    assert_eq!(queue.oldest().unwrap().since, 0);
    assert!(matches!(bench.device().reset_lease(), Err(DeviceError::Busy)));
    drop(queue);
    bench.device().set_suspect().unwrap();
    assert_eq!(bench.device().lease(), LeaseState::Suspect);
    assert_eq!(bench.device().reset_lease().unwrap(), 5);
    assert!(bench.device().queue(0).is_err(), "nothing works before it has been made again");
    bench.model.state().buffers.clear();
    bench.model.state().lie = Lie::Honest;
    bench.initialise(32);
    let mut queue = bench.queue();
    assert_eq!(poll_all(&bench, &mut queue), (0..5).map(|id| (id, Status::Lost)).collect::<Vec<_>>());
    requests.add(order(9, Operation::Flush, 0, 0), 0).unwrap();
    queue.submit(&mut requests).unwrap();
    assert_eq!(poll_all(&bench, &mut queue), [(9, Status::Done)]);
    bench.well();
}

/// A completion of what isn't in flight (repeated, invented, another queue's) is a lie: nothing more is believed, and the lease is suspect.
#[test]
fn bogus_completions_are_lies() {
    for lie in [Lie::Twice, Lie::Invented, Lie::OtherQueue] {
        let bench = Bench::new(9);
        bench.model.state().lie = lie;
        let mut queue = bench.queue();
        let mut requests = batch();
        requests.add(order(1, Operation::Flush, 0, 0), 0).unwrap();
        queue.submit(&mut requests).unwrap();
        let mut ended = batch();
        let caught = (0..2).any(|_| matches!(queue.poll(&mut ended), Err(DeviceError::Lied)));
        assert!(caught, "{lie:?}");
        assert_eq!(bench.device().lease(), LeaseState::Suspect, "{lie:?}");
        assert!(ended.len() <= 1, "{lie:?}");
        assert!(matches!(queue.submit(&mut ended), Err(DeviceError::Lied)), "{lie:?}");
        bench.well();
    }
}

/// A repeated completion isn't taken for that of the next command in the same slot.
#[test]
fn a_late_repetition_is_a_lie_too() {
    let bench = Bench::new(9);
    bench.model.state().at_once = false;
    let mut queue = bench.queue();
    let mut requests = batch();
    let mut flush = |queue: &mut Cap<dyn NvmeQueue>, id| {
        requests.add(order(id, Operation::Flush, 0, 0), 0).unwrap();
        queue.submit(&mut requests).unwrap();
    };
    flush(&mut queue, 1);
    let first = *bench.model.state().pending.front().unwrap();
    bench.model.carry_out(0);
    assert_eq!(poll_all(&bench, &mut queue), [(1, Status::Done)]);
    flush(&mut queue, 2);
    bench.model.state().pending.clear();
    bench.model.state().pending.push_back(first);
    bench.model.carry_out(0);
    assert!(matches!(queue.poll(&mut batch()), Err(DeviceError::Lied)));
}

/// The same of the admin queue: what a namespace is made of is not read from the page of a command that is still under way.
#[test]
fn a_repetition_ends_no_other_admin_command() {
    let bench = Bench::new(9);
    let mut admin = bench.device().admin().unwrap();
    let mut data = Box::new([0; DATA_BYTES]);
    bench.model.state().lie = Lie::Twice;
    admin.submit(AdminCommand::Identify { structure: 1, namespace: 0 }).unwrap();
    assert_eq!(admin.poll(&mut data).unwrap().unwrap().status, 0);
    bench.model.state().lie = Lie::Honest;
    admin.submit(AdminCommand::Identify { structure: 0, namespace: 1 }).unwrap();
    assert!(matches!(admin.poll(&mut data), Err(DeviceError::Lied)));
}

/// Errors are told as what they mean, and the queue goes on.
#[test]
fn errors_are_statuses() {
    let bench = Bench::new(9);
    let mut queue = bench.queue();
    for (code, status) in [(0x281, Status::Medium), (0x007, Status::Lost), (0x006, Status::Device(6))] {
        bench.model.state().lie = Lie::Refuses(code);
        let mut requests = batch();
        requests.add(order(1, Operation::Flush, 0, 0), 0).unwrap();
        queue.submit(&mut requests).unwrap();
        assert_eq!(poll_all(&bench, &mut queue), [(1, status)]);
    }
    assert_eq!(queue.counts().failed, 3);
}

/// A controller that has left the bus or hangs is an error in bounded time, with everything given back.
#[test]
fn a_controller_that_is_gone_or_stuck() {
    for (lie, error) in [(Lie::Gone, DeviceError::Vanished), (Lie::Stuck, DeviceError::TimedOut)] {
        let bench = Bench::new(9);
        let mut queue = bench.queue();
        bench.model.state().lie = Lie::Silent;
        let mut requests = batch();
        requests.add(order(1, Operation::Read, 0, 1), 512).unwrap();
        queue.submit(&mut requests).unwrap();
        drop(queue);
        bench.model.state().lie = lie;
        assert_eq!(bench.device().reset_lease(), Err(error));
        assert_eq!(bench.device().lease(), LeaseState::Suspect);
        assert!(bench.device().enable().is_err());
        assert!(bench.model.state().allocated.is_empty(), "{lie:?}: memory is given back all the same");
        bench.well();
    }
}

/// The device's serial number, for manifests; the controller is as it was after.
#[test]
fn the_serial_number_is_asked_for() {
    host::connect();
    let model = Handle::new(9);
    let lease = Lease::new(model.clone());
    assert_eq!(&lease.serial().unwrap()[..8], b"MODEL-1 ");
    assert_eq!(lease.state(), LeaseState::Fresh);
    assert!(model.state().allocated.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is submitted, carried out in any order, polled, adopted and reset: each request ends once, data are right, no access is wrong, nothing leaks.
    #[test]
    fn each_request_ends_once(steps in proptest::collection::vec((0u8..6, 0usize..64, 1u32..40), 1..120)) {
        let bench = Bench::new(9);
        bench.model.state().at_once = false;
        let mut queue = Some(bench.queue());
        let mut open: BTreeMap<u64, (u64, u32)> = BTreeMap::new();
        let (mut next, mut requests) = (0, batch());
        for (step, which, blocks) in steps {
            match step {
                0 | 1 => {
                    let block = which as u64 * 40 % (BLOCKS - 64);
                    let operation = if step == 0 { Operation::Read } else { Operation::Write };
                    if requests.add(order(next, operation, block, blocks), blocks as usize * 512).is_ok() {
                        bench.allow(&requests);
                        open.insert(next, (block, blocks));
                        next += 1;
                    }
                    queue.as_mut().unwrap().submit(&mut requests).unwrap();
                }
                2 | 3 => { bench.model.carry_out(which); }
                4 => {
                    for (id, status) in poll_all(&bench, queue.as_mut().unwrap()) {
                        prop_assert!(open.remove(&id).is_some(), "{} ended twice", id);
                        prop_assert!(matches!(status, Status::Done | Status::Lost));
                    }
                }
                _ => {
                    drop(queue.take());
                    if which < 8 {
                        bench.device().reset_lease().unwrap();
                        bench.initialise(16);
                    }
                    queue = Some(bench.queue());
                }
            }
        }
        let mut queue = queue.unwrap();
        for _ in 0..1000 {
            queue.submit(&mut requests).unwrap();
            while bench.model.carry_out(0) {}
            for (id, _) in poll_all(&bench, &mut queue) {
                prop_assert!(open.remove(&id).is_some(), "{} ended twice", id);
            }
        }
        prop_assert!(open.is_empty(), "{:?} never ended", open);
        bench.well();
        drop(requests);
        prop_assert_eq!(host::buffers_out(), 0);
    }
}
