//! The shadow on the host's kernel table, above a driver that fails by script: what its client sees, and where the packets go.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use interfaces::{
    CallError, Cap, Port, RRef,
    config::NoConfig,
    control::{Control, Counters},
    host,
    net::{Link, MacAddress, Net, NetError, NetInfo, NetQueue},
    packet::Batch,
};
use net_shadow::{Exports, Imports, start};
use proptest::prelude::*;
use runtime::{env::Env, time::now};

/// How a generation of the driver ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Before it has touched the batch, which the kernel gives back.
    Before,
    /// When it has done its work, but hasn't returned.
    After,
    /// The kernel finds the batch no more.
    WithBatch,
    /// It has ended between two calls.
    Between,
    /// It says that its device is being reset.
    Reset,
}

#[derive(Default)]
struct Driver {
    generation: u32,
    /// Attempts to open a queue that find nobody.
    away: u32,
    /// The next calls, in order; then all go well.
    script: VecDeque<Option<End>>,
    arriving: VecDeque<u8>,
    sent: Vec<u8>,
    room: usize,
    /// What opening answers, if not by `away`.
    refusal: Option<NetError>,
    open: bool,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Driver>>);

impl Net for Shared {
    fn info(&self) -> Result<NetInfo, NetError> {
        let mut driver = self.0.lock().unwrap();
        if driver.away > 0 {
            driver.away -= 1;
            return Err(NetError::Call(CallError::Restarting));
        }
        Ok(NetInfo { mac: MacAddress([2; 6]), queues: 1, max_frame: 1514, fills_checksums: false, link: Link::Down })
    }

    fn wake(&self, _index: u16) -> Result<(), NetError> {
        Ok(())
    }

    fn open_queue(&self, index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        let mut driver = self.0.lock().unwrap();
        if let Some(error) = driver.refusal {
            return Err(error);
        }
        if index > 0 {
            return Err(NetError::NoSuchQueue);
        }
        if driver.away > 0 {
            driver.away -= 1;
            return Err(NetError::Call(CallError::Restarting));
        }
        if driver.open {
            return Err(NetError::QueueBusy);
        }
        driver.open = true;
        let queue = Queue { generation: driver.generation, driver: self.clone() };
        drop(driver);
        Ok(Cap::new(Box::new(queue) as Box<dyn NetQueue>))
    }
}

struct Queue {
    driver: Shared,
    generation: u32,
}

impl Drop for Queue {
    fn drop(&mut self) {
        let mut driver = self.driver.0.lock().unwrap();
        if driver.generation == self.generation {
            driver.open = false;
        }
    }
}

impl Queue {
    /// The call as the script has it.
    fn act(
        &self,
        batch: RRef<Batch>,
        work: impl FnOnce(&mut Driver, &mut RRef<Batch>),
    ) -> Result<RRef<Batch>, NetError> {
        let mut driver = self.driver.0.lock().unwrap();
        let mut batch = batch;
        if driver.generation != self.generation {
            host::give_back(batch);
            return Err(NetError::Call(CallError::Gone));
        }
        let end = driver.script.pop_front().flatten();
        if matches!(end, None | Some(End::After)) {
            work(&mut driver, &mut batch);
        }
        let Some(end) = end else { return Ok(batch) };
        driver.generation += 1;
        driver.open = false;
        driver.away = 3;
        match end {
            End::WithBatch => drop(batch),
            _ => host::give_back(batch),
        }
        Err(match end {
            End::Between => NetError::Call(CallError::Gone),
            End::Reset => NetError::Device,
            _ => NetError::Call(CallError::Crashed),
        })
    }
}

impl NetQueue for Queue {
    fn receive(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        self.act(batch, |driver, batch| {
            let (first, count) = (batch.len(), driver.arriving.len().min(Batch::CAPACITY - batch.len()).min(4));
            batch.fill(count);
            for mut packet in batch.packets_mut().into_iter().skip(first) {
                packet.set_len(60);
                packet.data_mut()[0] = driver.arriving.pop_front().unwrap();
            }
        })
    }

    fn send(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        self.act(batch, |driver, batch| {
            let count = batch.len().min(driver.room);
            driver.sent.extend(batch.packets()[..count].iter().map(|packet| packet.data()[0]));
            if count > 0 {
                batch.discard(u32::MAX >> (32 - count));
            }
        })
    }

    fn wait(&mut self, _deadline: u64) -> Result<(), NetError> {
        let batch = Batch::allocate().unwrap();
        let result = self.act(batch, |_, _| {}).map(drop);
        // The script's batch is the test's own.
        drop(RRef::<Batch>::given_back());
        result
    }
}

fn driver(script: impl IntoIterator<Item = Option<End>>) -> Shared {
    host::connect();
    Shared(Arc::new(Mutex::new(Driver { script: script.into_iter().collect(), room: 32, ..Driver::default() })))
}

fn shadow(driver: &Shared) -> Exports {
    // A port lives as long as the process.
    let below: &'static Shared = Box::leak(Box::new(driver.clone()));
    start(Env::new("shadow", 1, &[0]), Imports { net: Port::new(below) }, NoConfig {}).unwrap()
}

fn numbers(batch: &RRef<Batch>) -> Vec<u8> {
    batch.packets().iter().map(|packet| packet.data()[0]).collect()
}

fn of(numbers: &[u8]) -> RRef<Batch> {
    let mut batch = Batch::allocate().unwrap();
    batch.fill(numbers.len());
    for (mut packet, number) in batch.packets_mut().into_iter().zip(numbers) {
        packet.set_len(60);
        packet.data_mut()[0] = *number;
    }
    batch
}

fn counter(control: &dyn Control, name: &str) -> u64 {
    let page = control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
    page.as_slice().iter().find(|counter| counter.name.as_str() == name).expect("it has one").value
}

/// Each way to end, in each call: the client sees none of it, and loses only what the kernel found no more.
#[test]
fn no_end_of_the_driver_is_seen() {
    for end in [End::Before, End::After, End::Between, End::Reset] {
        let driver = driver([Some(end), None, Some(end), None, Some(end)]);
        let Exports { net, control } = shadow(&driver);
        driver.0.lock().unwrap().arriving = (0..4).collect();
        let mut queue = net.open_queue(0).unwrap();
        let mut batch = Batch::allocate().unwrap();
        while batch.is_empty() {
            batch = queue.receive(batch).unwrap();
        }
        assert_eq!(numbers(&batch), [0, 1, 2, 3], "{end:?}");
        let mut rest = queue.send(batch).unwrap();
        while !rest.is_empty() {
            rest = queue.send(rest).unwrap();
        }
        queue.wait(now() + 1_000_000).unwrap();
        assert_eq!(driver.0.lock().unwrap().sent, [0, 1, 2, 3], "{end:?}");
        assert!(counter(&*control, "absences") >= 2, "{end:?}");
        assert_eq!(counter(&*control, "packets.lost"), 0);
        assert!(counter(&*control, "away.longest-ns") > 0);
        drop((queue, rest));
        assert_eq!((host::live_objects(), host::buffers_out()), (0, 0), "{end:?}");
    }
}

/// What can't be had back is counted, and the client still sees no error.
#[test]
fn what_is_gone_is_counted() {
    let driver = driver([Some(End::WithBatch)]);
    let Exports { net, control } = shadow(&driver);
    let mut queue = net.open_queue(0).unwrap();
    assert!(queue.send(of(&[1, 2, 3])).unwrap().is_empty());
    assert_eq!(counter(&*control, "packets.lost"), 3);
    assert_eq!(counter(&*control, "batches.given-back"), 0);
}

/// A driver that stays away keeps `receive` for a moment only, and `wait` until its deadline.
#[test]
fn a_long_absence_keeps_nobody() {
    let driver = driver([Some(End::Before)]);
    let Exports { net, .. } = shadow(&driver);
    let mut queue = net.open_queue(0).unwrap();
    driver.0.lock().unwrap().refusal = Some(NetError::Call(CallError::Restarting));
    let begun = now();
    assert_eq!(queue.receive(of(&[9])).map(|batch| numbers(&batch)), Ok(vec![9]), "with what was in it");
    assert_eq!(queue.wait(now() + 2_000_000), Ok(()));
    assert!((2_500_000..1_000_000_000).contains(&(now() - begun)));
    driver.0.lock().unwrap().refusal = None;
    assert_eq!(queue.send(of(&[9])).map(|rest| rest.len()), Ok(0));
}

/// A driver that the operator has stopped, or that has been given up, doesn't come back by itself: that is said.
#[test]
fn what_has_no_end_is_said() {
    for error in [CallError::Stopped, CallError::Gone, CallError::Cancelled] {
        let driver = driver([Some(End::Before)]);
        let Exports { net, .. } = shadow(&driver);
        let mut queue = net.open_queue(0).unwrap();
        driver.0.lock().unwrap().refusal = Some(NetError::Call(error));
        assert_eq!(queue.send(of(&[1])).err(), Some(NetError::Call(error)));
        assert_eq!(net.open_queue(0).err(), Some(NetError::Call(error)));
    }
    let net = shadow(&driver([])).net;
    assert_eq!(net.open_queue(1).err(), Some(NetError::NoSuchQueue));
}

/// A start of the client that meets a restart waits for it.
#[test]
fn opening_and_asking_wait_too() {
    let driver = driver([]);
    driver.0.lock().unwrap().away = 2;
    let net = shadow(&driver).net;
    assert!(net.info().is_ok());
    driver.0.lock().unwrap().away = 2;
    assert!(net.open_queue(0).is_ok());
}

fn ends() -> impl Strategy<Value = Option<End>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(Some(End::Before)),
        1 => Just(Some(End::After)),
        1 => Just(Some(End::Between)),
        1 => Just(Some(End::Reset)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever ends when: what arrived is forwarded once, in order.
    #[test]
    fn everything_is_forwarded_once_and_in_order(script in prop::collection::vec(ends(), 0..24), room in 1usize..8) {
        let driver = driver(script);
        let net = shadow(&driver).net;
        driver.0.lock().unwrap().arriving = (0..40).collect();
        driver.0.lock().unwrap().room = room;
        let mut queue = net.open_queue(0).unwrap();
        let mut batch = Batch::allocate().unwrap();
        for _ in 0..400 {
            if batch.is_empty() {
                batch = queue.receive(batch).unwrap();
            }
            batch = queue.send(batch).unwrap();
        }
        prop_assert_eq!(&driver.0.lock().unwrap().sent, &(0..40).collect::<Vec<u8>>());
        drop((queue, batch));
        prop_assert_eq!((host::live_objects(), host::buffers_out()), (0, 0));
    }
}
