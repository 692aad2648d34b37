//! The shadow on the host's kernel table, above a driver that fails by script: each request comes to an end once, done, with its own data.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex},
};

use block_shadow::{Exports, Imports, start};
use interfaces::{
    CallError, Cap, Port, RRef,
    block::{Block, BlockError, BlockInfo, BlockQueue, InFlight, Opening, Operation, Order, Requests, Status},
    config::NoConfig,
    host,
};
use proptest::prelude::*;
use runtime::env::Env;

/// How a generation of the driver ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Before it has touched the batch, which the kernel gives back.
    Before,
    /// When it has done its work, but hasn't returned.
    After,
    /// It has ended between two calls.
    Between,
    /// The controller was reset too: what was in flight is lost.
    Reset,
    /// The kernel finds the batch no more.
    WithBatch,
}

/// The driver and its lease, which outlives its generations.
#[derive(Default)]
struct Driver {
    generation: u32,
    away: u32,
    script: VecDeque<Option<End>>,
    /// Requests of the lease.
    lease: VecDeque<RRef<Requests>>,
    room: usize,
    refusal: Option<BlockError>,
    openings: Vec<Opening>,
}

impl Driver {
    fn take(&mut self, batch: &mut RRef<Requests>) {
        while self.lease.len() < self.room && !batch.is_empty() {
            let mut one = Requests::allocate().unwrap();
            batch.transfer(1, &mut one);
            self.lease.push_back(one);
        }
    }

    fn complete(&mut self, batch: &mut RRef<Requests>) {
        // The newest first: any order is right.
        while batch.len() < Requests::CAPACITY
            && let Some(mut one) = self.lease.pop_back()
        {
            let mut request = one.request_mut(0).unwrap();
            if request.status() == Status::Open {
                request.set_status(Status::Done);
            }
            one.transfer(1, batch);
        }
    }

    fn reset(&mut self) {
        for one in &mut self.lease {
            one.request_mut(0).unwrap().set_status(Status::Lost);
        }
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Driver>>);

impl Block for Shared {
    fn info(&self, _namespace: u16) -> Result<BlockInfo, BlockError> {
        Err(BlockError::NoSuchNamespace)
    }

    fn open_queue(&self, _index: u16, opening: Opening) -> Result<Cap<dyn BlockQueue>, BlockError> {
        let mut driver = self.0.lock().unwrap();
        if let Some(error) = driver.refusal {
            return Err(error);
        }
        if driver.away > 0 {
            driver.away -= 1;
            return Err(if driver.away % 2 == 0 { BlockError::QueueBusy } else { CallError::Restarting.into() });
        }
        driver.openings.push(opening);
        Ok(Cap::new(Box::new(Queue { generation: driver.generation, driver: self.clone() })))
    }
}

struct Queue {
    driver: Shared,
    generation: u32,
}

impl Queue {
    /// The call as the script has it.
    fn act(
        &self,
        mut batch: RRef<Requests>,
        work: impl FnOnce(&mut Driver, &mut RRef<Requests>),
    ) -> Result<RRef<Requests>, BlockError> {
        let mut driver = self.driver.0.lock().unwrap();
        if driver.generation != self.generation {
            host::give_back(batch);
            return Err(CallError::Gone.into());
        }
        let Some(end) = driver.script.pop_front().flatten() else {
            work(&mut driver, &mut batch);
            return Ok(batch);
        };
        (driver.generation, driver.away) = (driver.generation + 1, 3);
        if matches!(end, End::After | End::WithBatch) {
            work(&mut driver, &mut batch);
        }
        if let End::Reset = end {
            driver.reset();
        }
        match end {
            End::WithBatch => drop(batch),
            _ => host::give_back(batch),
        }
        Err(if let End::Between = end { CallError::Gone } else { CallError::Crashed }.into())
    }
}

impl BlockQueue for Queue {
    fn submit(&mut self, batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError> {
        self.act(batch, Driver::take)
    }

    fn poll(&mut self, batch: RRef<Requests>) -> Result<RRef<Requests>, BlockError> {
        self.act(batch, Driver::complete)
    }

    fn wait(&mut self, _deadline: u64) -> Result<(), BlockError> {
        let driver = self.driver.0.lock().unwrap();
        if driver.generation == self.generation { Ok(()) } else { Err(CallError::Gone.into()) }
    }

    fn in_flight(&mut self, mut list: RRef<InFlight>) -> Result<RRef<InFlight>, BlockError> {
        list.clear();
        for one in &self.driver.0.lock().unwrap().lease {
            list.push(one.requests()[0].order().id);
        }
        Ok(list)
    }
}

fn shadow(room: usize, script: impl IntoIterator<Item = Option<End>>) -> (Shared, Exports) {
    host::connect();
    let driver = Shared::default();
    (driver.0.lock().unwrap().room, driver.0.lock().unwrap().script) = (room, script.into_iter().collect());
    let below: &'static Shared = Box::leak(Box::new(driver.clone()));
    let exports = start(Env::new("shadow", 1, &[0]), Imports { block: Port::new(below) }, NoConfig {}).unwrap();
    (driver, exports)
}

/// Writes `count` requests, each with its id in its data; returns the ids that came to an end, in order.
fn work(exports: &Exports, count: u64) -> Result<Vec<u64>, String> {
    let mut queue = exports.block.open_queue(0, Opening::Fresh).map_err(|error| format!("{error:?}"))?;
    let (mut next, mut ended) = (0, Vec::new());
    let (mut batch, mut done) = (Requests::allocate().unwrap(), Requests::allocate().unwrap());
    for _ in 0..10_000 {
        while next < count && batch.len() < 5 {
            let order = Order { id: next, operation: Operation::Write, blocks: 1, ..Order::default() };
            let mut request = batch.add(order, 512).unwrap();
            request.data_mut().unwrap()[..8].copy_from_slice(&next.to_le_bytes());
            next += 1;
        }
        batch = queue.submit(batch).map_err(|error| format!("submit: {error:?}"))?;
        done = queue.poll(done).map_err(|error| format!("poll: {error:?}"))?;
        for request in done.requests() {
            if request.status() != Status::Done || request.data()[..8] != request.order().id.to_le_bytes() {
                return Err(format!("{}: {:?}", request.order().id, request.status()));
            }
            ended.push(request.order().id);
        }
        done.clear();
        if ended.len() as u64 >= count {
            return Ok(ended);
        }
        queue.wait(0).map_err(|error| format!("wait: {error:?}"))?;
    }
    Err(format!("only {} of {count} came to an end", ended.len()))
}

fn ends() -> impl Strategy<Value = Option<End>> {
    prop_oneof![
        Just(None),
        Just(None),
        Just(Some(End::Before)),
        Just(Some(End::After)),
        Just(Some(End::Between)),
        Just(Some(End::Reset)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the generations of the driver end, each request is done once, and its data are its own.
    #[test]
    fn each_request_is_done_once(script in proptest::collection::vec(ends(), 0..40), room in 1usize..20) {
        let (driver, exports) = shadow(room, script);
        let ended = work(&exports, 60).map_err(TestCaseError::fail)?;
        prop_assert_eq!(ended.len(), 60);
        prop_assert_eq!(ended.iter().collect::<BTreeSet<_>>().len(), 60, "one came to an end twice");
        let openings = driver.0.lock().unwrap().openings.clone();
        prop_assert!(openings[0] == Opening::Fresh && openings[1..].iter().all(|opening| *opening == Opening::Resume));
        drop(exports);
        prop_assert_eq!(host::buffers_out(), 0);
    }
}

/// A batch that doesn't come back is no secret: the client is told, and goes on with the same queue.
#[test]
fn a_batch_that_does_not_come_back_is_said() {
    let (_, exports) = shadow(8, [Some(End::WithBatch)]);
    let mut queue = exports.block.open_queue(0, Opening::Fresh).unwrap();
    let mut batch = Requests::allocate().unwrap();
    for id in 0..10 {
        batch.add(Order { id, ..Order::default() }, 0).unwrap();
    }
    assert_eq!(queue.submit(batch).err(), Some(CallError::Crashed.into()));
    // Eight had been taken up; of the others the client knows now that they are gone.
    let list = queue.in_flight(RRef::new(InFlight::default()).unwrap()).unwrap();
    assert_eq!(list.ids(), (0..8).collect::<Vec<u64>>());
    assert_eq!(queue.poll(Requests::allocate().unwrap()).unwrap().len(), 8);
}

/// Nobody waits for a driver that doesn't come back.
#[test]
fn what_has_no_end_is_said() {
    let (driver, exports) = shadow(8, [Some(End::Before)]);
    driver.0.lock().unwrap().script = VecDeque::from([None, Some(End::Before)]);
    let mut queue = exports.block.open_queue(0, Opening::Fresh).unwrap();
    driver.0.lock().unwrap().refusal = Some(CallError::Stopped.into());
    let batch = queue.poll(Requests::allocate().unwrap()).unwrap();
    assert_eq!(queue.poll(batch).err(), Some(CallError::Stopped.into()));
}

/// Requests that are lost again and again are passed on, so that nobody waits for ever.
#[test]
fn what_is_lost_for_ever_is_passed_on() {
    let (driver, exports) = shadow(8, []);
    let mut queue = exports.block.open_queue(0, Opening::Fresh).unwrap();
    let mut batch = Requests::allocate().unwrap();
    batch.add(Order { id: 7, ..Order::default() }, 0).unwrap();
    batch = queue.submit(batch).unwrap();
    for _ in 0..20 {
        driver.0.lock().unwrap().reset();
        batch = queue.poll(batch).unwrap();
        if !batch.is_empty() {
            break;
        }
    }
    let ended: Vec<_> = batch.requests().iter().map(|request| (request.order().id, request.status())).collect();
    assert_eq!(ended, [(7, Status::Lost)]);
}
