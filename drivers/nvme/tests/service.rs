//! The driver on the host's kernel table, above the trusted layer and the controller that misbehaves on command.

#[path = "../../nvme-device/tests/model/mod.rs"]
#[allow(dead_code, reason = "each test program uses its part of it")]
mod model;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use interfaces::{
    CallError, Cap, Port, RRef,
    block::{BlockError, BlockQueue, Opening, Operation, Order, Requests, Status},
    config,
    control::{Counters, Text},
    device::nvme::{DeviceError, Identity, LeaseState, NvmeAdmin, NvmeDevice, NvmeQueue, NvmeVector, Register},
    host,
};
use model::{BLOCKS, Handle, Lie};
use nvme::{Config, Exports, Imports, start};
use nvme_device::{Device, Lease};
use runtime::{env::Env, time::now};

/// A generation's access to the device, which can be cut: the end of its keeper, which on the host nobody else ends.
struct Access {
    device: Device<Handle>,
    cut: Arc<AtomicBool>,
}

impl NvmeDevice for Access {
    fn identity(&self) -> Identity {
        self.device.identity()
    }

    fn read(&self, register: Register) -> Result<u64, DeviceError> {
        if self.cut.load(SeqCst) { Err(CallError::Gone.into()) } else { self.device.read(register) }
    }

    fn lease(&self) -> LeaseState {
        self.device.lease()
    }

    fn set_live(&self, queues: u16, depth: u16) -> Result<(), DeviceError> {
        self.device.set_live(queues, depth)
    }

    fn set_suspect(&self) -> Result<(), DeviceError> {
        self.device.set_suspect()
    }

    fn reset_lease(&self) -> Result<u32, DeviceError> {
        self.device.reset_lease()
    }

    fn enable(&self) -> Result<(), DeviceError> {
        self.device.enable()
    }

    fn shut_down(&self) -> Result<(), DeviceError> {
        self.device.shut_down()
    }

    fn admin(&self) -> Result<Cap<dyn NvmeAdmin>, DeviceError> {
        self.device.admin()
    }

    fn queue(&self, queue: u16) -> Result<Cap<dyn NvmeQueue>, DeviceError> {
        self.device.queue(queue)
    }

    fn queue_vector(&self, queue: u16) -> Result<Cap<dyn NvmeVector>, DeviceError> {
        self.device.queue_vector(queue)
    }

    fn admin_vector(&self) -> Result<Cap<dyn NvmeVector>, DeviceError> {
        self.device.admin_vector()
    }
}

struct Bench {
    model: Handle,
    lease: Arc<Lease<Handle>>,
    cut: Arc<AtomicBool>,
}

impl Bench {
    fn new() -> Self {
        host::connect();
        let model = Handle::new(9);
        Bench { lease: Lease::new(model.clone()), model, cut: Arc::default() }
    }

    fn start(&self) -> Exports {
        self.start_with(60_000)
    }

    /// A generation of the driver that aborts after so many milliseconds.
    fn start_with(&self, time_out: u64) -> Exports {
        self.cut.store(false, SeqCst);
        let access = Access { device: Device::new(&self.lease), cut: self.cut.clone() };
        let device: &'static Access = Box::leak(Box::new(access));
        let config = Config { time_out: config::Duration::from_millis(time_out), ..Config::default() };
        start(Env::new("nvme0", 1, &[0]), Imports { device: Port::new(device) }, config).unwrap()
    }

    fn state(&self) -> LeaseState {
        Device::new(&self.lease).lease()
    }
}

fn submit(queue: &mut Cap<dyn BlockQueue>, order: Order) {
    let mut batch = Requests::allocate().unwrap();
    batch.add(order, 0).unwrap();
    assert!(queue.submit(batch).unwrap().is_empty());
}

/// Polls until something has come to an end.
fn ended(queue: &mut Cap<dyn BlockQueue>) -> Vec<(u64, Status)> {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        let batch = queue.poll(Requests::allocate().unwrap()).unwrap();
        if !batch.is_empty() {
            return batch.requests().iter().map(|request| (request.order().id, request.status())).collect();
        }
        assert!(Instant::now() < limit, "nothing came to an end");
        queue.wait(now() + 10_000_000).unwrap();
    }
}

/// What the device says of itself is what clients and the operator are told.
#[test]
fn it_says_what_the_device_is() {
    let bench = Bench::new();
    let driver = bench.start();
    let info = driver.block.info(0).unwrap();
    assert_eq!((info.namespaces, info.blocks, info.block_size, info.queues, info.depth), (1, BLOCKS, 512, 1, 128));
    assert_eq!(driver.block.info(1), Err(BlockError::NoSuchNamespace));
    let answer = driver.control.command(RRef::new(Text::new("device")).unwrap()).unwrap();
    assert!(answer.as_str().contains("serial MODEL-1"), "{}", answer.as_str());
    let page = driver.control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
    assert_eq!(page.as_slice()[0].name.as_str(), "queue.0.submitted");
    assert_eq!(bench.state(), LeaseState::Live { queues: 1, depth: 128 });
}

/// A queue has one holder; an earlier client's requests have ended when another opens it, and nobody hears of them; who resumes does.
#[test]
fn openings() {
    let bench = Bench::new();
    let driver = bench.start();
    bench.model.state().at_once = false;
    let mut queue = driver.block.open_queue(0, Opening::Fresh).unwrap();
    assert_eq!(driver.block.open_queue(0, Opening::Resume).err(), Some(BlockError::QueueBusy));
    assert_eq!(driver.block.open_queue(1, Opening::Fresh).err(), Some(BlockError::NoSuchQueue));
    submit(&mut queue, Order { id: 1, operation: Operation::Flush, ..Order::default() });
    drop(queue);
    bench.model.carry_out(0);
    let mut queue = driver.block.open_queue(0, Opening::Resume).unwrap();
    assert_eq!(ended(&mut queue), [(1, Status::Done)]);
    submit(&mut queue, Order { id: 2, operation: Operation::Flush, ..Order::default() });
    drop(queue);
    bench.model.carry_out(0);
    let mut queue = driver.block.open_queue(0, Opening::Fresh).unwrap();
    assert!(queue.poll(Requests::allocate().unwrap()).unwrap().is_empty());
}

/// A request that the device leaves lying is aborted, and comes to an end as lost; the device goes on.
#[test]
fn what_takes_too_long_is_aborted() {
    let bench = Bench::new();
    let driver = bench.start_with(1_500);
    bench.model.state().at_once = false;
    let mut queue = driver.block.open_queue(0, Opening::Fresh).unwrap();
    submit(&mut queue, Order { id: 1, operation: Operation::Flush, ..Order::default() });
    assert_eq!(ended(&mut queue), [(1, Status::Lost)]);
    assert!(matches!(bench.state(), LeaseState::Live { .. }));
}

/// A device that doesn't even abort, or that has gone, ends the driver's generation; the next one resets it, and what was in flight comes to an end as lost, once.
#[test]
fn what_does_not_obey_is_reset() {
    let bench = Bench::new();
    let driver = bench.start_with(200);
    bench.model.state().lie = Lie::Silent;
    let mut queue = driver.block.open_queue(0, Opening::Fresh).unwrap();
    submit(&mut queue, Order { id: 1, operation: Operation::Flush, ..Order::default() });
    assert!(catch_unwind(AssertUnwindSafe(|| ended(&mut queue))).is_err(), "the generation should have ended");
    assert_eq!(bench.state(), LeaseState::Suspect);
    drop(queue);
    bench.cut.store(true, SeqCst);
    while matches!(Device::new(&bench.lease).admin(), Err(DeviceError::Busy)) {
        std::thread::sleep(Duration::from_millis(10));
    }
    bench.model.state().lie = Lie::Honest;
    let driver = bench.start();
    assert!(matches!(bench.state(), LeaseState::Live { .. }));
    let mut queue = driver.block.open_queue(0, Opening::Resume).unwrap();
    assert_eq!(ended(&mut queue), [(1, Status::Lost)]);
    submit(&mut queue, Order { id: 2, operation: Operation::Flush, ..Order::default() });
    assert_eq!(ended(&mut queue), [(2, Status::Done)]);
    assert!(bench.model.state().wrong.is_empty());
}
