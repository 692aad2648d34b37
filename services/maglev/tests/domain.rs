//! The whole domain as the box starts it, on the host's kernel table, above a card that crashes at will.

mod stage;

use std::{
    collections::VecDeque,
    sync::Mutex,
    time::{Duration, Instant},
};

use interfaces::{
    CallError, Cap, Port, RRef,
    control::{Control, ControlError, Counters, Text},
    host,
    net::{Link, MacAddress, Net, NetError, NetInfo, NetQueue},
    packet::{Batch, PacketFlags},
};
use maglev::{Config, Exports, Imports, drops::DropReason};
use runtime::env::Env;
use stage::*;

/// A card with a segment behind it whose backends answer ARP.
#[derive(Default)]
struct Card {
    queues: Vec<Mutex<Wire>>,
    /// Calls that still fail before the card works again.
    failures: Mutex<usize>,
    /// The next call of this kind crashes.
    crash_next: Mutex<Option<Call>>,
    /// Frames that the transmit ring takes a call.
    room: Mutex<Option<usize>>,
    /// The backends don't answer ARP.
    silent: Mutex<bool>,
}

#[derive(Default)]
struct Wire {
    arriving: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Receive,
    Send,
    Wait,
}

impl Card {
    fn leak(queues: usize) -> &'static Card {
        Box::leak(Box::new(Card { queues: (0..queues).map(|_| Mutex::default()).collect(), ..Card::default() }))
    }

    /// What a call meets: a crash when one is due, and the time after it.
    fn meet(&self, call: Call) -> Result<(), NetError> {
        let mut due = self.crash_next.lock().unwrap();
        if *due == Some(call) {
            *due = None;
            *self.failures.lock().unwrap() = 5;
            return Err(NetError::Call(CallError::Crashed));
        }
        self.available()
    }

    fn available(&self) -> Result<(), NetError> {
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(NetError::Call(CallError::Restarting));
        }
        Ok(())
    }

    fn arrives(&self, queue: usize, frame: Vec<u8>) {
        self.queues[queue].lock().unwrap().arriving.push_back(frame);
    }

    fn sent(&self, queue: usize) -> Vec<Vec<u8>> {
        self.queues[queue].lock().unwrap().sent.clone()
    }
}

impl Net for &'static Card {
    fn info(&self) -> Result<NetInfo, NetError> {
        self.available()?;
        Ok(NetInfo {
            mac: MacAddress(BOX),
            queues: self.queues.len() as u16,
            max_frame: 1514,
            fills_checksums: false,
            link: Link::Up { mbps: 10_000 },
        })
    }

    fn open_queue(&self, index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        self.available()?;
        let queue = Queue { card: *self, index: usize::from(index), gone: false };
        Ok(Cap::new(Box::new(queue) as Box<dyn NetQueue>))
    }

    fn wake(&self, _index: u16) -> Result<(), NetError> {
        Ok(())
    }
}

struct Queue {
    card: &'static Card,
    index: usize,
    /// After a crash a capability errs for ever.
    gone: bool,
}

impl Queue {
    fn meet(&mut self, call: Call) -> Result<(), NetError> {
        if self.gone {
            return Err(NetError::Call(CallError::Gone));
        }
        self.card.meet(call).inspect_err(|_| self.gone = true)
    }
}

impl NetQueue for Queue {
    fn receive(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        self.meet(Call::Receive)?;
        let mut wire = self.card.queues[self.index].lock().unwrap();
        let count = wire.arriving.len().min(Batch::CAPACITY - batch.len());
        let first = batch.len();
        let count = batch.fill(count);
        for at in first..first + count {
            let frame = wire.arriving.pop_front().unwrap();
            let mut packets = batch.packets_mut();
            let mut packet = packets.get(at).unwrap();
            packet.set_len(frame.len());
            packet.data_mut().copy_from_slice(&frame);
            packet.set_flags(PacketFlags::IP_CHECKSUM_GOOD | PacketFlags::L4_CHECKSUM_GOOD);
        }
        Ok(batch)
    }

    fn send(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        self.meet(Call::Send)?;
        let count = batch.len().min(self.card.room.lock().unwrap().unwrap_or(usize::MAX));
        for packet in &batch.packets()[..count] {
            let frame = packet.data().to_vec();
            // ARP requests of the box are answered by all three backends; announcements by nobody.
            if frame[12..14] == [8, 6] && frame[21] == 1 {
                let target = frame[41];
                let mut wire = self.card.queues[0].lock().unwrap();
                if (11..14).contains(&target) && !*self.card.silent.lock().unwrap() {
                    wire.arriving.push_back(arp_answer(target - 10));
                }
            } else {
                self.card.queues[self.index].lock().unwrap().sent.push(frame);
            }
        }
        batch.discard(((1u64 << count) - 1) as u32);
        Ok(batch)
    }

    fn wait(&mut self, _deadline: u64) -> Result<(), NetError> {
        self.meet(Call::Wait)?;
        std::thread::sleep(Duration::from_micros(100));
        Ok(())
    }
}

struct Running {
    card: &'static Card,
    control: Box<dyn Control>,
}

impl Running {
    fn new(queues: usize) -> Running {
        let running = Running::above(Card::leak(queues));
        running.until("it serves", || running.counter("serving") == 1);
        running
    }

    /// Started, but maybe not serving yet.
    fn above(card: &'static Card) -> Running {
        host::connect();
        let queues = card.queues.len();
        let net: &'static dyn Net = Box::leak(Box::new(card));
        let cpus: Vec<u32> = (0..queues as u32).collect();
        let imports = Imports { net: Port::new(net) };
        let Ok(Exports { control }) = maglev::start(Env::new("lb", 1, &cpus), imports, config()) else {
            panic!("does not start")
        };
        Running { card, control }
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn counters(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = vec![];
        loop {
            let page = self.control.counters(all.len() as u32, RRef::new(Counters::default()).unwrap()).unwrap();
            all.extend(page.as_slice().iter().map(|counter| (counter.name.as_str().to_owned(), counter.value)));
            if !page.more {
                return all;
            }
        }
    }

    fn counter(&self, name: &str) -> u64 {
        let all = self.counters();
        all.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("{name} among {all:?}")).1
    }

    fn command(&self, line: &str) -> Result<String, ControlError> {
        self.control.command(RRef::new(Text::new(line)).unwrap()).map(|answer| answer.as_str().to_owned())
    }

    /// The equation of the issue, once all that arrived has been received.
    fn check_equation(&self) {
        self.until("all is received and accounted for", || {
            let all = self.counters();
            let value = |name: &str| all.iter().find(|(known, _)| known == name).unwrap().1;
            let drops: u64 = all.iter().filter(|(name, _)| name.starts_with("drop.")).map(|(_, value)| value).sum();
            let waiting: usize = self.card.queues.iter().map(|wire| wire.lock().unwrap().arriving.len()).sum();
            waiting == 0 && value("received") == value("forwarded") + value("answered") + drops + value("held")
        });
    }
}

#[test]
fn packets_go_through_both_queues() {
    let running = Running::new(2);
    for n in 0..1_000 {
        running.card.arrives((n % 2) as usize, tcp(n, WEB, 80, SYN));
    }
    running.card.arrives(0, echo(WEB));
    running.until("all are forwarded", || running.counter("forwarded") == 1_000 && running.counter("answered") == 1);
    running.check_equation();
    let sent = running.card.sent(1);
    assert_eq!(sent.len(), 500);
    assert!(sent.iter().all(|frame| (1..4).contains(&backend_of(frame))));
    assert_eq!(running.counter("cpu.0.forwarded") + running.counter("cpu.1.forwarded"), 1_000);
    assert_eq!(running.counter("vip.web.packets"), 1_000);
    assert!(running.counter("originated") >= 6, "announcements and requests");
}

/// What arrives while the box finds out who is alive is forwarded a little later; and if nobody answers, it is counted and not kept for
/// ever.
#[test]
fn packets_that_come_during_the_start_are_held() {
    let card = Card::leak(2);
    *card.silent.lock().unwrap() = true;
    for n in 0..100 {
        card.arrives((n % 2) as usize, tcp(n, WEB, 80, SYN));
    }
    card.arrives(1, echo(WEB));
    let running = Running::above(card);
    running.until("echo is answered even now", || running.counter("answered") == 1);
    running.until("they are held", || running.counter("held") == 100);
    *card.silent.lock().unwrap() = false;
    running.until("they are forwarded", || running.counter("forwarded") == 100);
    assert_eq!(running.counter(DropReason::Starting.name()), 0);
    running.check_equation();
}

#[test]
fn packets_are_not_held_for_ever() {
    let card = Card::leak(1);
    *card.silent.lock().unwrap() = true;
    for n in 0..400 {
        card.arrives(0, tcp(n, WEB, 80, SYN));
    }
    let running = Running::above(card);
    running.until("they are dropped", || running.counter(DropReason::Starting.name()) == 400);
    assert_eq!(running.counter("held"), 0);
    running.check_equation();
}

/// In whichever call the crash comes: the worker opens its queue anew and goes on, connections stay, each packet is counted once.
#[test]
fn a_crash_below_is_survived_and_accounted_for() {
    let running = Running::new(1);
    for (round, call) in [Call::Receive, Call::Send, Call::Wait, Call::Send].into_iter().enumerate() {
        *running.card.crash_next.lock().unwrap() = Some(call);
        for n in 0..200 {
            running.card.arrives(0, tcp(n, WEB, 80, if round == 0 { SYN } else { ACK }));
        }
        running.until("the queue is opened again", || running.counter("queue.reopened") == round as u64 + 1);
        running.check_equation();
    }
    let lost = running.counter(DropReason::DriverLost.name());
    assert!((1..=64).contains(&lost), "two batches at most: {lost}");
    assert_eq!(running.counter("forwarded") + lost, 800);
    assert_eq!(running.counter("connections.moved"), 0);
}

#[test]
fn a_full_transmit_ring_is_counted() {
    let running = Running::new(1);
    *running.card.room.lock().unwrap() = Some(2);
    for n in 0..320 {
        running.card.arrives(0, tcp(n, WEB, 80, SYN));
    }
    let full = || running.counter(DropReason::TransmitFull.name());
    running.until("each has left or been dropped", || running.card.sent(0).len() as u64 + full() == 320);
    assert!(full() > 0);
    running.check_equation();
}

#[test]
fn the_operator_is_obeyed_and_answered() {
    let running = Running::new(1);
    assert!(running.command("backend b3 drain").unwrap().contains("no new ones"));
    running.until("drained", || {
        running.card.queues[0].lock().unwrap().sent.clear();
        for n in 0..64 {
            running.card.arrives(0, tcp(n, WEB, 80, RST));
        }
        running.until("sent", || running.card.sent(0).len() == 64);
        running.card.sent(0).iter().all(|frame| backend_of(frame) != 3)
    });
    assert_eq!(running.counter("backend.b3.draining"), 1);
    assert_eq!(running.command("backend b7 up").unwrap(), "error: no backend is named \"b7\"; there are: b1 b2 b3");
    assert_eq!(running.command("backend b1 sideways").unwrap(), "error: it is `backend NAME up|down|drain`");
    for malformed in ["backend", "backend b1", "backend b1 up now"] {
        assert_eq!(running.command(malformed).unwrap(), "error: it is `backend NAME up|down|drain`");
    }
    for unknown in ["", "frontend b1 up"] {
        assert_eq!(running.command(unknown), Err(ControlError::UnknownCommand));
    }
}

#[test]
fn a_faulty_configuration_does_not_start() {
    host::connect();
    let net: &'static dyn Net = Box::leak(Box::new(Card::leak(1)));
    let faulty = Config { table_size: 4, ..config() };
    let Err(error) = maglev::start(Env::new("lb", 1, &[0]), Imports { net: Port::new(net) }, faulty) else {
        panic!("started")
    };
    assert!(error.0.contains("table-size: 4 is not a prime"), "{}", error.0);
}
