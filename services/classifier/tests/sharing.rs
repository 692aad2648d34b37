//! The whole domain on the host's kernel table: a card for two clients, on threads of their own.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use classifier::{Config, Exports, Imports};
use interfaces::{
    CallError, Cap, Port, RRef,
    config::Configuration,
    control::Counters,
    host,
    net::{Link, MacAddress, Net, NetError, NetInfo, NetQueue},
    packet::Batch,
};
use runtime::{env::Env, time::now};

/// To the list's address with `true`; carries a number.
fn frame(listed: bool, number: u32) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[30..34].copy_from_slice(&[10, 0, 1, if listed { 100 } else { 3 }]);
    frame[40..44].copy_from_slice(&number.to_be_bytes());
    frame
}

fn arp_answer() -> Vec<u8> {
    let mut frame = vec![0; 42];
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[40..44].try_into().unwrap())
}

#[derive(Default)]
struct Card {
    arriving: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    fail: Option<CallError>,
    woken: bool,
    open: usize,
    most_open: usize,
}

#[derive(Clone, Default)]
struct SharedCard(Arc<(Mutex<Card>, Condvar)>);

impl SharedCard {
    fn arrive(&self, frames: impl IntoIterator<Item = Vec<u8>>) {
        self.0.0.lock().unwrap().arriving.extend(frames);
        self.0.1.notify_all();
    }
}

impl Net for SharedCard {
    fn info(&self) -> Result<NetInfo, NetError> {
        Ok(NetInfo { mac: MacAddress([2; 6]), queues: 1, max_frame: 1514, fills_checksums: false, link: Link::Down })
    }

    fn open_queue(&self, _index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        let mut card = self.0.0.lock().unwrap();
        card.open += 1;
        card.most_open = card.most_open.max(card.open);
        Ok(Cap::new(Box::new(CardQueue { card: self.clone(), gone: false }) as Box<dyn NetQueue>))
    }

    fn wake(&self, _index: u16) -> Result<(), NetError> {
        self.0.0.lock().unwrap().woken = true;
        self.0.1.notify_all();
        Ok(())
    }
}

struct CardQueue {
    card: SharedCard,
    gone: bool,
}

impl CardQueue {
    fn meet(&mut self) -> Result<(), NetError> {
        if self.gone {
            return Err(NetError::Call(CallError::Gone));
        }
        match self.card.0.0.lock().unwrap().fail.take() {
            Some(error) => {
                self.gone = true;
                Err(NetError::Call(error))
            }
            None => Ok(()),
        }
    }
}

impl Drop for CardQueue {
    fn drop(&mut self) {
        self.card.0.0.lock().unwrap().open -= 1;
    }
}

impl NetQueue for CardQueue {
    fn receive(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        self.meet()?;
        let mut card = self.card.0.0.lock().unwrap();
        let count = batch.fill(card.arriving.len().min(Batch::CAPACITY));
        for mut packet in batch.packets_mut().into_iter().take(count) {
            let frame = card.arriving.pop_front().unwrap();
            packet.set_len(frame.len());
            packet.data_mut().copy_from_slice(&frame);
        }
        Ok(batch)
    }

    fn send(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        self.meet()?;
        let sent = batch.packets().iter().map(|packet| packet.data().to_vec());
        self.card.0.0.lock().unwrap().sent.extend(sent);
        batch.clear();
        Ok(batch)
    }

    fn wait(&mut self, deadline: u64) -> Result<(), NetError> {
        self.meet()?;
        let (card, changed) = &*self.card.0;
        let span = Duration::from_nanos(deadline.saturating_sub(now()));
        let waiting = |card: &mut Card| card.arriving.is_empty() && card.fail.is_none() && !card.woken;
        let (mut card, _) = changed.wait_timeout_while(card.lock().unwrap(), span, waiting).unwrap();
        card.woken = false;
        Ok(())
    }
}

fn classified(config: &str) -> (SharedCard, Exports) {
    host::connect();
    let config: Config = toml::from_str(config).unwrap();
    assert_eq!(config.validate(), []);
    let card = SharedCard::default();
    let below: &'static SharedCard = Box::leak(Box::new(card.clone()));
    let exports = classifier::start(Env::new("sort", 1, &[0]), Imports { net: Port::new(below) }, config);
    (card, exports.map_err(|error| error.0).unwrap())
}

const LISTED: &str = "listed = [\"10.0.1.100\"]";

fn counter(exports: &Exports, name: &str) -> u64 {
    let page = exports.control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
    let found = page.as_slice().iter().find(|counter| counter.name.as_str() == name);
    found.unwrap_or_else(|| panic!("no counter {name}")).value
}

fn received(queue: &mut Cap<dyn NetQueue>) -> Vec<Vec<u8>> {
    let batch = queue.receive(Batch::allocate().unwrap()).unwrap();
    batch.packets().iter().map(|packet| packet.data().to_vec()).collect()
}

/// Each side gets its own frames, in their order, whoever took them from the card; answers to ARP both.
#[test]
fn frames_go_to_their_side() {
    let (card, exports) = classified(LISTED);
    let mut listed = exports.listed.open_queue(0).unwrap();
    let mut others = exports.others.open_queue(0).unwrap();
    card.arrive([frame(true, 1), frame(false, 2), arp_answer(), frame(true, 3), frame(false, 4)]);
    assert_eq!(received(&mut others), [frame(false, 2), arp_answer(), frame(false, 4)]);
    let mut got = received(&mut listed);
    got.extend(received(&mut listed));
    got.sort();
    let mut wanted = vec![frame(true, 1), frame(true, 3), arp_answer()];
    wanted.sort();
    assert_eq!(got, wanted);
    assert_eq!((received(&mut listed), received(&mut others)), (vec![], vec![]));
    for (name, value) in [("received", 5), ("listed.passed", 3), ("others.passed", 3), ("copied", 1)] {
        assert_eq!(counter(&exports, name), value, "{name}");
    }
    assert!(matches!(exports.listed.open_queue(1), Err(NetError::NoSuchQueue)));
    assert!(matches!(exports.listed.open_queue(0), Err(NetError::QueueBusy)));
    drop(listed);
    assert!(exports.listed.open_queue(0).is_ok());
}

/// Who doesn't come for its frames loses those for which there is no place, and the other none.
#[test]
fn a_slow_client_costs_the_other_nothing() {
    let (card, exports) = classified("listed = [\"10.0.1.100\"]\nwaiting = 64");
    let mut listed = exports.listed.open_queue(0).unwrap();
    let mut others = exports.others.open_queue(0).unwrap();
    let mut got = 0;
    for round in 0..20 {
        card.arrive((0..32).map(|at| frame(at % 2 == 0, round * 32 + at)));
        got += received(&mut others).len();
    }
    assert_eq!((got, counter(&exports, "drop.listed-full"), counter(&exports, "drop.others-full")), (320, 256, 0));
    let mut numbers = Vec::new();
    while numbers.len() < 64 {
        let frames = received(&mut listed);
        assert!(!frames.is_empty());
        numbers.extend(frames.iter().map(|frame| number(frame)));
    }
    assert!(numbers.is_sorted() && numbers.last() == Some(&126), "{numbers:?}");
}

/// What is below crashes: both hear of it, and go on with the same queues.
#[test]
fn a_crash_below_is_an_error_and_no_more() {
    let (card, exports) = classified(LISTED);
    let mut listed = exports.listed.open_queue(0).unwrap();
    let mut others = exports.others.open_queue(0).unwrap();
    card.0.0.lock().unwrap().fail = Some(CallError::Crashed);
    let error = listed.receive(Batch::allocate().unwrap()).err();
    assert_eq!(error, Some(NetError::Call(CallError::Crashed)));
    card.arrive([frame(true, 1), frame(false, 2)]);
    assert_eq!(received(&mut others), [frame(false, 2)]);
    assert_eq!(received(&mut listed), [frame(true, 1)]);
    card.0.0.lock().unwrap().fail = Some(CallError::Crashed);
    assert!(others.wait(now() + 1_000_000).is_err());
    let mut batch = Batch::allocate().unwrap();
    batch.fill(1);
    assert!(others.send(batch).unwrap().is_empty());
    let card = card.0.0.lock().unwrap();
    assert_eq!((card.sent.len(), card.open, card.most_open), (1, 1, 1));
}

/// Two clients receive, send and wait at the same time: no frame is lost, none comes out of order, nobody sleeps for ever while there is something to receive or to send.
#[test]
fn two_threads_share_a_queue() {
    const FRAMES: u32 = 4_000;
    let (card, exports) = classified("listed = [\"10.0.1.100\"]\nwaiting = 65536");
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = [(true, &exports.listed), (false, &exports.others)]
        .into_iter()
        .map(|(side, net)| {
            let mut queue = net.open_queue(0).unwrap();
            let stop = stop.clone();
            std::thread::spawn(move || {
                host::connect();
                let mut next = 0;
                while next < FRAMES && !stop.load(Ordering::Relaxed) {
                    let batch = queue.receive(Batch::allocate().unwrap()).unwrap();
                    if batch.is_empty() {
                        queue.wait(now() + 10_000_000_000).unwrap();
                        continue;
                    }
                    for packet in batch.packets() {
                        assert_eq!((packet.data()[33] == 100, number(packet.data())), (side, next));
                        next += 1;
                    }
                    assert!(queue.send(batch).unwrap().is_empty());
                }
                next
            })
        })
        .collect();
    let (mut numbers, mut random) = ([0u32; 2], 1u32);
    while numbers != [FRAMES; 2] {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let side = (random >> 16 & 1) as usize;
        if numbers[side] < FRAMES {
            card.arrive([frame(side == 0, numbers[side])]);
            numbers[side] += 1;
        }
        if random >> 20 & 7 == 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while clients.iter().any(|client| !client.is_finished()) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    stop.store(true, Ordering::Relaxed);
    let got: Vec<u32> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert_eq!(got, [FRAMES, FRAMES]);
    assert_eq!(card.0.0.lock().unwrap().sent.len() as u32, 2 * FRAMES);
    assert_eq!(counter(&exports, "listed.sent") + counter(&exports, "others.sent"), u64::from(2 * FRAMES));
}
