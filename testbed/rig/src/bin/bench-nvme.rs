//! What an I/O costs in the NVMe driver, natively, on a drive that completes it as soon as it looks: submission and completion are timed, the drive's own work isn't.
//!
//! `bench-nvme [--report FILE]` prints a table, and writes a JSON list of `{"row", "metric", "median", "unit"}`. The client keeps its batch, with buffers of 4 KiB, for good, as a store
//! does.

use std::mem::ManuallyDrop;

use bundle::manifest::{Bytes, DeviceMatch, Import, Source};
use interfaces::{
    Cap, Interface, Port, RRef,
    block::{Block, BlockError, BlockQueue, Opening, Operation, Order, Requests, Status},
};
use kernel_core::domain;
use rig::{
    DomainSpec, Drive, Rig, Settings, Start,
    bench::{self, Row, median, stamp},
};

const NVME: Start = Start { name: "nvme", package: "nvme", path: "nvme::start" };
const SHADOW: Start = Start { name: "block-shadow", package: "block-shadow", path: "block_shadow::start" };

/// Rounds that are timed, after some that aren't; and I/Os of each.
const ROUNDS: usize = 301;
const WARM_UP: usize = 30;
const IOS: usize = 96;
const SAME_DOMAIN: &str = "same-domain";

fn main() {
    let report = bench::report_file("bench-nvme");
    let drive = Drive::new(0);
    drive.serve();
    let driver = DomainSpec::new("nvme0", NVME).export("block", "Block").export("control", "Control").with(|spec| {
        spec.device = Some(DeviceMatch::Id { vendor: 0x1b36, device: 0x0010 });
        let (port, from, interface) = ("device".into(), Source::Device, "NvmeDevice".into());
        spec.imports.push(Import { port, from, interface });
        spec.config = postcard::to_allocvec(&nvme::Config::default()).expect("plain data");
    });
    let shadow = DomainSpec::new("shadow", SHADOW).export("block", "Block").export("control", "Control");
    let mut domains = vec![driver, shadow.import("block", "Block", 0, "block")];
    for domain in &mut domains {
        domain.spec.cpus = vec![0];
        domain.spec.exchange = Bytes(8 << 20);
    }
    let settings =
        Settings { cpus: 1, domains, functions: vec![drive], devices: devices::CLASSES, ..Settings::default() };
    let rig = Rig::start(settings);
    rig.until("the driver serves", || rig.status("nvme0").state == "live");
    drive.pause(true);
    let mut rows = Vec::new();
    for (path, domain) in [("own-domain", "nvme0"), ("shadow", "shadow")] {
        let block = rig.port(domain, "block");
        rows.extend(rig.run(0, move || of_path(path, block, drive)));
    }
    let bare = domain::by_name("nvme0").and_then(|domain| domain.bare_object("block")).expect("the driver lives");
    // SAFETY: the domain's own object, of this interface; nothing ends the driver while this is used.
    let same: Port<dyn Block> = Port::new(unsafe { &*<dyn Block as Interface>::from_raw(bare) });
    rows.extend(rig.run(0, move || of_path(SAME_DOMAIN, same, drive)));
    let reported = bench::report(&rows, report.as_deref());
    // The box's threads have no end of their own.
    std::process::exit(i32::from(!reported))
}

/// Cycles between two stamps with nothing in between.
fn nothing() -> u64 {
    let one = |_| {
        let begun = stamp();
        stamp() - begun
    };
    (0..1000).map(one).min().unwrap_or(0)
}

fn open(block: Port<dyn Block>) -> Cap<dyn BlockQueue> {
    loop {
        match block.open_queue(0, Opening::Resume) {
            Ok(queue) => return queue,
            // The row before has just let go of it.
            Err(BlockError::QueueBusy) => std::thread::yield_now(),
            Err(error) => panic!("no queue: {error:?}"),
        }
    }
}

fn of_path(path: &str, block: Port<dyn Block>, drive: &Drive) -> Vec<Row> {
    let mut queue = ManuallyDrop::new(open(block));
    let mut rows = Vec::new();
    for (name, operation) in [("read", Operation::Read), ("write", Operation::Write)] {
        for size in [32, 1] {
            let name = format!("nvme.{name}.{path}.batch-{size}");
            rows.push(Row::new(name, "cost", measure(&mut queue, drive, operation, size), "cycles/IO"));
        }
    }
    // The driver's own queue, which was opened without a proxy, is never closed: that would be the driver's to do.
    if path != SAME_DOMAIN {
        drop(ManuallyDrop::into_inner(queue));
    }
    rows
}

fn measure(queue: &mut Cap<dyn BlockQueue>, drive: &Drive, operation: Operation, size: usize) -> f64 {
    let mut batch = Requests::allocate().expect("the kernel has no quota");
    for id in 0..size as u64 {
        batch.add(order(operation, id), 4096).expect("the pool has enough");
    }
    let overhead = 2 * nothing();
    let mut samples = Vec::with_capacity(ROUNDS);
    for round in 0..WARM_UP + ROUNDS {
        let mut cycles = 0;
        for _ in 0..IOS / size {
            let (taken, back) = one(queue, drive, batch);
            cycles += taken.saturating_sub(overhead);
            batch = back;
            assert_eq!(batch.len(), size, "all have come back");
            for at in 0..size {
                let mut request = batch.request_mut(at).expect("below the length");
                assert_eq!(request.status(), Status::Done);
                let id = request.order().id;
                request.set_order(order(operation, id));
            }
        }
        if round >= WARM_UP {
            samples.push(cycles as f64 / IOS as f64);
        }
    }
    median(samples)
}

fn order(operation: Operation, id: u64) -> Order {
    Order { id, operation, block: id, blocks: 1, ..Order::default() }
}

/// A batch there and back; and what it took without the drive's own work.
fn one(queue: &mut Cap<dyn BlockQueue>, drive: &Drive, batch: RRef<Requests>) -> (u64, RRef<Requests>) {
    let begun = stamp();
    let batch = queue.submit(batch).expect("the driver lives");
    let submitted = stamp() - begun;
    assert!(batch.is_empty(), "the queue has room");
    while drive.look() {}
    let begun = stamp();
    let batch = queue.poll(batch).expect("the driver lives");
    (submitted + (stamp() - begun), batch)
}
