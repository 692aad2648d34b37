//! Forwarding by Maglev, ours above our driver and a lean C program (`maglev.c`) above DPDK's: a million flows, a lookup table of 65,537 slots, batches of 32.
//!
//! Ours is the domain's own worker, whose calls go to the driver in its domain; it is compiled into this program and driven batch by batch, so that a round can be timed.

use std::{ffi::c_int, sync::Arc};

use interfaces::net::Net;
use maglev::{
    connections::{Connections, Lifetimes},
    director::Director,
    holding::Holding,
    plan::{Plan, Published, Services, Stage, View},
    shared::Shared,
    statistics::CpuCounters,
    table::{BackendId, Member, Table},
    worker::Worker,
};
use model::registers::RETA;
use rig::{
    Card, DESTINATION, DESTINATION_PORT, FLOWS, Rig, Tester,
    bench::{Row, median, stamp},
};
use twox_hash::XxHash3_64;

use crate::{
    datapath::{drain, empty, open},
    dpdk::{Deed, Port, Width},
    method::{BATCH, PACKETS, PASSES, all_rounds, rounds, work},
    progress,
};

const SLOTS: usize = 65_537;
const BACKENDS: u16 = 8;
/// Connections that there is room for: half of it is in use.
const CAPACITY: usize = 2 * FLOWS as usize;
/// Every flow has been seen this often before anything is timed, so that all are established.
const TIMES_BEFORE: usize = 2;
const LONGEST: std::time::Duration = std::time::Duration::from_secs(300);
const RETA_END: u32 = RETA + 128;

fn mac(backend: u16) -> [u8; 6] {
    [2, 0, 0, 1, 0, backend as u8]
}

fn table() -> Table {
    let names: Vec<String> = (0..BACKENDS).map(|backend| format!("b{backend}")).collect();
    let members =
        (0..BACKENDS).zip(&names).map(|(backend, name)| Member { backend: BackendId(backend), name, weight: 1 });
    Table::build(SLOTS, &members.collect::<Vec<_>>())
}

type Hash = unsafe extern "C" fn(*const u8) -> u64;
type Start = unsafe extern "C" fn(usize, *const u16, u32, *const [u8; 6], u32, *const u8, u32) -> c_int;

fn row(path: &str, samples: Vec<f64>) -> Row {
    Row::new(format!("maglev.forward.{path}.batch-32"), "cost", median(samples), "cycles/packet")
}

/// So many looks in vain at a ring that the card has filled, and what is missing will never come: the card stands still.
const IN_VAIN: usize = 100_000;

fn said_by(card: &Card<Tester>) -> String {
    card.with(|device| {
        let counters = device.nic().counters();
        let counted: Vec<_> = counters.named().into_iter().filter(|(_, value)| *value > 0).collect();
        format!("the card has counted {counted:?}, received by queues {:?}", &counters.rx_queue[..2])
    })
}

/// Our worker, above our driver in its own domain.
pub fn measure_ours(rig: &Rig, card: &'static Card<Tester>) -> Vec<Row> {
    progress("maglev: ours");
    card.pause(true);
    card.with(|device| {
        // What the driver has written of late isn't to come after this.
        device.look_at_all();
        // All flows to one queue.
        (RETA..RETA_END).step_by(4).for_each(|register| device.nic().write32(register, 0));
    });
    let net = rig.port::<dyn Net>("ixgbe0", "net");
    let work = move || {
        let mut queue = open(net, 0);
        drain(&mut queue, card);
        let mut worker = worker(net);
        let mut batch = Some(empty());
        let mut forward = || {
            let begun = stamp();
            let (mut count, mut in_vain) = (0, 0);
            while count < PACKETS {
                let now = (interfaces::abi::kernel().now)();
                worker.director.between_batches(now);
                let received = queue.receive(batch.take().expect("it comes back")).expect("the driver lives");
                count += received.len();
                in_vain = if received.is_empty() { in_vain + 1 } else { 0 };
                assert!(in_vain < IN_VAIN, "{count} of {PACKETS} packets have come: {}", said_by(card));
                worker.director.counters().received.add(received.len() as u64);
                batch = Some(worker.handle(&mut queue, received, now).expect("the driver lives"));
            }
            stamp() - begun
        };
        establish(card, &mut forward);
        let samples = (0..PASSES).flat_map(|_| rounds(card, PACKETS, &mut forward).driver).collect();
        let counters = worker.director.counters();
        assert_eq!(counters.forwarded.get(), counters.received.get(), "everything is forwarded");
        // A few find no place of their own, whatever the hash.
        assert!(
            counters.replaced.get() + counters.untracked.get() < u64::from(FLOWS) / 1000,
            "the flows are remembered"
        );
        vec![row("ours", samples)]
    };
    rig.spawn(0, work).wait(LONGEST)
}

/// The C program, above DPDK's driver.
pub fn measure_peer(port: &Port, width: Width) -> Result<Vec<Row>, String> {
    progress(&format!("maglev: a C program on {}", width.name()));
    port.drain()?;
    // SAFETY: the function of this name has this type.
    let hash: Hash = unsafe { std::mem::transmute(port.library.function(c"maglev_hash")?) };
    for seed in 0..64u8 {
        let bytes: [u8; 16] = std::array::from_fn(|at| seed.wrapping_mul(31).wrapping_add(at as u8 * 17));
        // SAFETY: 16 bytes.
        if unsafe { hash(bytes.as_ptr()) } != XxHash3_64::oneshot(&bytes) {
            return Err("the C program's hash is another one than ours".into());
        }
    }
    let table: Vec<u16> = table().slots().iter().map(|backend| backend.0).collect();
    let macs: Vec<[u8; 6]> = (0..BACKENDS).map(mac).collect();
    let (table, macs) = (table.leak(), macs.leak());
    // SAFETY: the function of this name has this type.
    let start: Start = unsafe { std::mem::transmute(port.library.function(c"maglev_start")?) };
    let own = model::frames::TO;
    let address = DESTINATION.to_bits();
    // SAFETY: arrays of the lengths that are said, for good.
    let started = unsafe {
        start(CAPACITY, table.as_ptr(), SLOTS as u32, macs.as_ptr(), u32::from(BACKENDS), own.as_ptr(), address)
    };
    if started != 0 {
        return Err("no memory for the C program's connections".into());
    }
    // SAFETY: the function of this name has this type.
    let deed: Deed = unsafe { std::mem::transmute(port.library.function(c"maglev_forward")?) };
    // SAFETY: the port runs, and nobody else uses it.
    let mut forward = || unsafe { deed(PACKETS as u32, BATCH as u16) };
    establish(port.card, &mut forward);
    work(port.card, 0);
    let before = port.card.with(|device| device.nic().wire().returned());
    let mut samples = Vec::new();
    for _ in 0..PASSES {
        samples.extend(port.rounds_of(PACKETS, &mut forward)?.driver);
    }
    work(port.card, 0);
    let after = port.card.with(|device| device.nic().wire().returned());
    if (after.frames - before.frames) as usize != PASSES * all_rounds() * PACKETS {
        return Err("the C program didn't forward everything".into());
    }
    Ok(vec![row(&format!("c-on-{}", width.name()), samples)])
}

/// Has every flow come, as often as it takes until all are established.
fn establish(card: &'static Card<Tester>, forward: &mut impl FnMut() -> u64) {
    // An odd factor: each flow once, modulo a power of two, and none beside its neighbour.
    let scattered = (0..FLOWS).map(|flow| flow.wrapping_mul(0x9E37_79B1) % FLOWS).collect();
    card.with(|device| device.nic().wire_mut().set_flows(scattered));
    for _ in 0..(FLOWS as usize * TIMES_BEFORE).div_ceil(PACKETS) {
        work(card, PACKETS);
        forward();
    }
}

fn worker(net: interfaces::Port<dyn Net>) -> Worker {
    let backends = 0..BACKENDS;
    let config: maglev::Config = serde_json::from_value(serde_json::json!({
        "address": "10.0.1.10/24",
        "vips": [{
            "name": "v", "address": DESTINATION, "port": DESTINATION_PORT, "protocol": "udp",
            "backends": backends.clone().map(|at| serde_json::json!({ "name": format!("b{at}") })).collect::<Vec<_>>(),
        }],
        "backends": backends.clone()
            .map(|at| serde_json::json!({ "name": format!("b{at}"), "address": format!("10.0.1.{}", 20 + at) }))
            .collect::<Vec<_>>(),
    }))
    .expect("a configuration");
    let services = Arc::new(Services::new(&config));
    let plan = Plan {
        stage: Stage::Serving,
        tables: [Arc::new(table())].into(),
        routes: backends.map(|backend| Some(mac(backend))).collect(),
    };
    let long = 600_000_000_000;
    let lifetimes = Lifetimes { opening: long, established: long, closing: long, reset: long, datagram: long };
    let connections = Connections::new(CAPACITY, usize::from(BACKENDS), lifetimes);
    let counters = Arc::new(CpuCounters::new(1, usize::from(BACKENDS)));
    let view = View::new(Arc::new(Published::new(plan)));
    let director = Director::new(model::frames::TO, services.clone(), view, connections, counters);
    let shared = Arc::new(Shared::new(usize::from(BACKENDS)));
    Worker { index: 0, port: net, director, services, shared, duty: None, holding: Holding::new() }
}
