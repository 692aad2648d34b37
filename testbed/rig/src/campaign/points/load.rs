//! What keeps the graphs busy meanwhile: threads that call probes in every way and ask everybody for counters, and a client of the 82599's driver.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use interfaces::{
    CallError, Cap, Nested, Port, RRef,
    collections::{Bytes, Deque},
    control::{Control, Counters, Text},
    net::{Net, NetError, NetQueue},
    packet::Batch,
    probe::{Deed, Parcel, Probe, Relayed, Word},
};
use kernel_core::machine;

use super::GRAPHS;
use crate::{Card, Rig, Running, Tester, campaign::Random};

/// Threads that use the graphs as long as they are let.
pub struct Load {
    rests: Arc<AtomicBool>,
    /// Rounds that were begun and ended, by all threads.
    turns: Arc<[[AtomicU64; 2]; 3]>,
    strange: Arc<Mutex<Vec<String>>>,
    /// No more frames are sent; and the driver's client has a queue.
    dry: Arc<AtomicBool>,
    connected: Arc<AtomicBool>,
    card: &'static Card<Tester>,
    running: Vec<Running<()>>,
}

/// Frames that are on their way at most.
const IN_FLIGHT: u64 = 64;
/// Frames that don't come back for so long were lost with the shadow, in whose hands they were.
const LOST: Duration = Duration::from_millis(100);

impl Load {
    pub fn begin(rig: &'static Rig, card: &'static Card<Tester>) -> Load {
        let mut load = Load {
            rests: Arc::default(),
            turns: Arc::default(),
            strange: Arc::default(),
            dry: Arc::default(),
            connected: Arc::default(),
            card,
            running: vec![],
        };
        for cpu in 0..2 {
            let mut caller = Caller::new(rig, cpu as u64);
            load.spawn(rig, cpu, cpu, move || caller.turn());
        }
        let mut client = Client {
            net: rig.port::<dyn Net>("shadow0", "net"),
            queue: None,
            batch: None,
            card,
            dry: load.dry.clone(),
            connected: load.connected.clone(),
            back: (0, Instant::now()),
        };
        load.spawn(rig, 1, 2, move || client.turn());
        load
    }

    /// A thread that takes turn after turn; an error is what it should not have heard.
    fn spawn(
        &mut self,
        rig: &Rig,
        cpu: usize,
        place: usize,
        mut turn: impl FnMut() -> Result<(), String> + Send + 'static,
    ) {
        let (rests, turns, strange) = (self.rests.clone(), self.turns.clone(), self.strange.clone());
        self.running.push(rig.spawn(cpu, move || {
            loop {
                if rests.load(SeqCst) {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                turns[place][0].fetch_add(1, SeqCst);
                // It may have been told to rest meanwhile.
                if !rests.load(SeqCst)
                    && let Err(heard) = turn()
                {
                    strange.lock().expect("nobody panics with it").push(heard);
                }
                turns[place][1].fetch_add(1, SeqCst);
            }
        }));
    }

    /// Has everybody rest, and waits until they do.
    pub fn rest(&self, rig: &Rig) {
        self.dry.store(true, SeqCst);
        let until_back = || {
            rig.until("all frames are back, and the client has a queue", || {
                self.connected.load(SeqCst) && self.card.with(|device| device.nic().wire().missing()) == 0
            });
        };
        until_back();
        // In its waits the driver takes out of the ring what has been sent.
        let turns = || self.turns[2][1].load(SeqCst);
        let until = turns() + 4;
        rig.until("the client has waited", || turns() > until);
        self.rests.store(true, SeqCst);
        rig.until("the load rests", || self.turns.iter().all(|turn| turn[0].load(SeqCst) == turn[1].load(SeqCst)));
        rig.until("the segment's clients rest", || tell_segment(rig, "pause"));
    }

    pub fn resume(&self, rig: &Rig) {
        rig.until("the segment's clients send", || tell_segment(rig, "resume"));
        self.dry.store(false, SeqCst);
        self.rests.store(false, SeqCst);
    }

    /// What callers have heard that they shouldn't have.
    pub fn faults(&self) -> Option<String> {
        let strange = std::mem::take(&mut *self.strange.lock().expect("nobody panics with it"));
        strange.first().map(|heard| format!("callers heard {} times what they shouldn't, first {heard}", strange.len()))
    }
}

fn tell_segment(rig: &Rig, word: &str) -> bool {
    let line = RRef::new(Text::new(word)).expect("the kernel has no quota");
    rig.port::<dyn Control>("segment", "control").command(line).is_ok()
}

/// Calls probes in every way, and asks every domain for its counters.
struct Caller {
    probes: Vec<Port<dyn Probe>>,
    controls: Vec<Port<dyn Control>>,
    random: Random,
}

impl Caller {
    fn new(rig: &Rig, seed: u64) -> Caller {
        Caller {
            probes: GRAPHS[0].iter().map(|name| rig.port(name, "probe")).collect(),
            controls: GRAPHS[1..].iter().flat_map(|graph| graph.iter().map(|name| rig.port(name, "control"))).collect(),
            random: Random(seed),
        }
    }

    fn turn(&mut self) -> Result<(), String> {
        let heard = match self.random.below(16) {
            0 => {
                let control = self.random.pick(&self.controls);
                let page = RRef::new(Counters::default()).expect("the kernel has no quota");
                let _ = control.counters(self.random.below(12) as u32, page);
                std::thread::sleep(Duration::from_micros(50));
                Ok(())
            }
            _ => self.call(),
        };
        match heard {
            Ok(())
            | Err(
                CallError::Crashed
                | CallError::Restarting
                | CallError::Stopped
                | CallError::Gone
                | CallError::Overloaded,
            ) => Ok(()),
            Err(error) => Err(format!("{error:?}")),
        }
    }

    fn call(&mut self) -> Result<(), CallError> {
        let (probe, number) = (self.random.pick(&self.probes), self.random.next() >> 32);
        let word = || RRef::new(Word(number)).expect("the kernel has no quota");
        match self.random.below(10) {
            0 => probe.next(number).map(|answer| assert_eq!(answer, number + 1)),
            1 => probe.pass(word()).map(|word| assert_eq!(word.0, number + 1)),
            2 => probe.look_on(word().lend(), 0, 0).map(|answer| assert_eq!(answer, number)),
            3 => self.probes[2].look_on(word().lend(), 2, 0).map(|answer| assert_eq!(answer, number)),
            4 => {
                let mut batch = Batch::allocate().expect("the kernel has no quota");
                batch.fill(1 + number as usize % Batch::CAPACITY);
                let filled = batch.len();
                probe.ferry(batch).map(|batch| assert_eq!(batch.len(), filled))
            }
            5 => probe.repack(parcel(number)).map(|parcel| assert_eq!(parcel.number, number + 1)),
            6 => {
                let mut handle = probe.handle()?;
                handle.act(Deed::Work(number))?;
                handle.next(number).map(|answer| assert_eq!(answer, number + 1))
            }
            7 => match self.probes[2].relay(self.random.below(3) as u32, Deed::Work(number))? {
                Relayed::Done => Ok(()),
                Relayed::Failed(error) => Err(error),
            },
            8 => probe.census().map(drop),
            _ => probe.act(Deed::Work(number)),
        }
    }
}

/// A parcel as the kernel's own threads make them.
fn parcel(number: u64) -> RRef<Parcel> {
    let empty = Parcel { number, word: Nested::empty(), batch: Some(Nested::empty()), texts: Deque::default() };
    let mut parcel = RRef::new(empty).expect("the kernel has no quota");
    let word = RRef::new(Word(number)).expect("the kernel has no quota");
    assert!(parcel.word.put(word).is_ok(), "the place is empty");
    for text in ["first", "second"] {
        let text = Bytes::copy_of(text.as_bytes()).expect("the kernel has no quota");
        assert!(parcel.texts.push_back(text).is_ok(), "there is room");
    }
    parcel
}

/// Sends back whatever comes through the driver; its shadow hides the driver's deaths, but nobody hides the shadow's.
struct Client {
    net: Port<dyn Net>,
    queue: Option<Cap<dyn NetQueue>>,
    batch: Option<RRef<Batch>>,
    card: &'static Card<Tester>,
    dry: Arc<AtomicBool>,
    connected: Arc<AtomicBool>,
    /// Frames that have come back, and when the last one did.
    back: (u64, Instant),
}

impl Client {
    fn turn(&mut self) -> Result<(), String> {
        let dry = self.dry.load(SeqCst);
        let back = self.card.with(|device| {
            let wire = device.nic().wire_mut();
            let missing = wire.missing();
            if missing > 0 && self.back.1.elapsed() > LOST {
                wire.forgive(missing);
            } else if missing < IN_FLIGHT && !dry {
                wire.allow(8);
            }
            wire.returned().frames
        });
        if back != self.back.0 {
            self.back = (back, Instant::now());
        }
        let forwarded = self.forward();
        self.connected.store(forwarded.is_ok(), SeqCst);
        match forwarded {
            Ok(()) | Err(NetError::QueueBusy | NetError::Call(_)) => Ok(()),
            Err(error) => Err(format!("{error:?}")),
        }
    }

    fn forward(&mut self) -> Result<(), NetError> {
        if self.queue.is_none() {
            self.queue = Some(self.net.open_queue(0)?);
        }
        let batch = self.batch.take().unwrap_or_else(|| Batch::allocate().expect("the kernel has no quota"));
        let queue = self.queue.as_mut().expect("just opened");
        let passed = (|| {
            let mut batch = queue.receive(batch)?;
            while !batch.is_empty() {
                batch = queue.send(batch)?;
            }
            queue.wait(machine().now() + 50_000)?;
            Ok(batch)
        })();
        match passed {
            Ok(batch) => self.batch = Some(batch),
            Err(error) => {
                // The shadow has died, with what it had of us.
                self.queue = None;
                return Err(error);
            }
        }
        Ok(())
    }
}
