//! An instance at work: a [`Stack`] at one queue of the card, and the threads that come to it.
//!
//! No thread of this domain is on a request's way: a service's thread that calls `exchange` takes the instance's lock, does what is due for everybody (receives a batch,
//! has it processed, sends), and goes with what is its own. If there is nothing for it, it waits: at the queue's interrupt if nobody else does, else at an event of its
//! own, which whoever finds something for it sets. The lock is held over calls to the card that don't block, never over a wait: nobody else could do anything without
//! the queue. Who has frames to send while another waits at the queue ends that wait (`Net::wake`).
//!
//! When no service is inside, because it is busy, dead or there is none, the *caretaker* looks after the peers: one thread for each instance, asleep while others are
//! at work.

use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::{
    mem,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use interfaces::{
    CallError, Cap, Port, RRef,
    net::{Net, NetError, NetInfo, NetQueue},
    packet::Batch,
    socket::{Round, SocketError, SocketId},
};
use runtime::{
    polling::Polling,
    sync::{Event, Guard, Mutex},
    thread, time,
};

use crate::{
    addresses::Addresses,
    config::Config,
    flow::{Flow, is_superseded},
    stack::{ClientId, Concerns, Stack},
    statistics::Statistics,
};

/// A call of `exchange` ends after this long, whether something has happened or not: so a thread whose own domain has died doesn't stay, and its handle is let go of.
const LONGEST_WAIT: u64 = 20_000_000;
/// Nobody having done the stack's work for this long, the caretaker does.
const UNATTENDED: u64 = 2_000_000;
/// How often a driver that is away is looked for, or a full ring.
const LOOK_AGAIN: u64 = 500_000;
/// How long a thread polls before it waits, if that pays.
const POLL_BEFORE_WAIT: u64 = 10_000;
/// Frames from other instances that wait at most: more are lost, as on a full ring.
const MOST_PASSED: usize = 256;
/// The instance that learns the box's addresses.
const LEARNER: usize = 0;

/// The instances of a stack.
pub struct Instances {
    all: Vec<Instance>,
    /// Connections that services have asked for, by the instance that they asked: the card may give an answer to another queue.
    asked: Mutex<BTreeMap<Flow, u16>>,
    /// The box's own, as instance [`LEARNER`] has learned them; and how often they have changed.
    addresses: Mutex<Addresses>,
    changes: AtomicU64,
}

struct Instance {
    index: u16,
    port: Port<dyn Net>,
    /// None until the card has said what it is.
    core: Mutex<Option<Core>>,
    caretaker: Event,
    /// Frames that other instances have received.
    passed: Mutex<VecDeque<Passed>>,
    any_passed: AtomicBool,
}

enum Passed {
    /// For every instance to learn from.
    Neighbour(Vec<u8>),
    /// For a connection of this one, or for who learns the box's addresses.
    Segment(Vec<u8>),
    /// For whoever has asked a server for an address.
    Answer(Vec<u8>),
}

struct Core {
    stack: Stack,
    queue: Queue,
    /// For receiving: kept.
    batch: Option<RRef<Batch>>,
    /// At the queue.
    polling: Polling,
    waiters: BTreeMap<u32, Waiter>,
    /// The count of changes of the addresses that the stack goes by.
    moved: u64,
    /// When somebody last did the stack's work.
    attended: u64,
}

enum Queue {
    /// To be opened: at the start, and after an error.
    Closed {
        since: u64,
    },
    Here(Cap<dyn NetQueue>),
    /// Somebody waits at it.
    Away,
}

/// An open handle, as far as waiting goes.
struct Waiter {
    event: Arc<Event>,
    asleep: bool,
    /// By `NetStack::wake`.
    woken: bool,
}

/// The domain is ending, and so does what its threads were doing.
struct Ended;

impl Instances {
    pub fn new(port: Port<dyn Net>, count: u16, config: &Config) -> Instances {
        let instance = |index| Instance {
            index,
            port,
            core: Mutex::new(None),
            caretaker: Event::new(),
            passed: Mutex::new(VecDeque::new()),
            any_passed: AtomicBool::new(false),
        };
        Instances {
            all: (0..count).map(instance).collect(),
            asked: Mutex::new(BTreeMap::new()),
            addresses: Mutex::new(Addresses::of(config)),
            changes: AtomicU64::new(0),
        }
    }

    pub fn count(&self) -> u16 {
        self.all.len() as u16
    }

    /// The box's own addresses.
    pub fn addresses(&self) -> Addresses {
        self.addresses.lock().clone()
    }

    /// The counters of an instance, once it is at work.
    pub fn statistics(&self, index: u16) -> Option<Arc<Statistics>> {
        let core = self.all.get(usize::from(index))?.core.lock();
        core.as_ref().map(|core| core.stack.statistics.clone())
    }

    /// A service opens instance `index`.
    pub fn open(&self, index: u16) -> Result<ClientId, SocketError> {
        let instance = self.all.get(usize::from(index)).ok_or(SocketError::NoSuchInstance)?;
        let mut guard = instance.core.lock();
        let core = guard.as_mut().ok_or(SocketError::Call(CallError::Restarting))?;
        let client = core.stack.attach();
        core.waiters.insert(client.0, Waiter { event: Arc::new(Event::new()), asleep: false, woken: false });
        Ok(client)
    }

    pub fn close(&self, index: u16, client: ClientId) {
        let Some(instance) = self.all.get(usize::from(index)) else { return };
        if let Some(core) = instance.core.lock().as_mut() {
            core.waiters.remove(&client.0);
            core.stack.detach(client, time::now());
        }
        self.asked.lock().retain(|_, asker| *asker != index);
        instance.caretaker.set();
    }

    /// Ends the wait of a handle.
    pub fn wake(&self, index: u16, client: ClientId) -> Result<(), SocketError> {
        let Some(instance) = self.all.get(usize::from(index)) else { return Ok(()) };
        let mut at_queue = false;
        if let Some(core) = instance.core.lock().as_mut() {
            at_queue = matches!(core.queue, Queue::Away);
            if let Some(waiter) = core.waiters.get_mut(&client.0) {
                waiter.woken = true;
                waiter.event.set();
            }
        }
        if at_queue { instance.end_wait() } else { Ok(()) }
    }

    /// Has a service do something with its instance's stack.
    pub fn with<T>(
        &self,
        index: u16,
        act: impl FnOnce(&mut Stack, u64) -> Result<T, SocketError>,
    ) -> Result<T, SocketError> {
        let instance = self.all.get(usize::from(index)).ok_or(SocketError::NoSuchInstance)?;
        let mut guard = instance.core.lock();
        let core = guard.as_mut().ok_or(SocketError::Call(CallError::Restarting))?;
        act(&mut core.stack, time::now())
    }

    pub fn connect(&self, index: u16, client: ClientId, to: core::net::SocketAddr) -> Result<SocketId, SocketError> {
        let (id, flow) = self.with(index, |stack, now| stack.connect(client, to, now))?;
        if self.count() > 1 {
            let mut asked = self.asked.lock();
            // Forgotten ones cost a segment that finds no connection, and so an RST that is due anyway.
            while asked.len() >= 65_536 && asked.pop_first().is_some() {}
            asked.insert(flow, index);
        }
        Ok(id)
    }

    /// A service's turn: see `Sockets::exchange`.
    pub fn exchange(
        &self,
        index: u16,
        client: ClientId,
        mut round: RRef<Round>,
        deadline: u64,
    ) -> Result<RRef<Round>, SocketError> {
        let cancelled = |_| SocketError::Call(CallError::Cancelled);
        let instance = self.all.get(usize::from(index)).ok_or(SocketError::NoSuchInstance)?;
        let mut guard = instance.core.lock();
        let core = guard.as_mut().ok_or(SocketError::Call(CallError::Restarting))?;
        let started = time::now();
        let deadline = deadline.min(started + LONGEST_WAIT);
        core.stack.serve(client, &round, started);
        round.begin();
        loop {
            let core = guard.as_mut().ok_or(SocketError::Call(CallError::Restarting))?;
            let now = time::now();
            self.attend(instance, core, now).map_err(cancelled)?;
            core.stack.report(client, &mut round, now);
            let woken = core.waiters.get_mut(&client.0).is_some_and(|waiter| mem::take(&mut waiter.woken));
            if !round.events().is_empty() || woken || now >= deadline {
                break;
            }
            if !(core.polling.goes_on(started, now) && matches!(core.queue, Queue::Here(_))) {
                guard = instance.wait(guard, Some(client), deadline).map_err(cancelled)?;
            }
        }
        // Who waits elsewhere may have the queue now.
        if let Some(core) = guard.as_mut() {
            core.hand_over();
        }
        Ok(round)
    }

    /// Does the stack's work, as far as the queue is here: what was passed on and received is processed, what is due is sent.
    fn attend(&self, instance: &Instance, core: &mut Core, now: u64) -> Result<(), Ended> {
        core.attended = now;
        let changes = self.changes.load(Ordering::Acquire);
        if core.moved != changes {
            core.moved = changes;
            core.stack.move_to(&self.addresses(), now);
        }
        if instance.any_passed.swap(false, Ordering::Acquire) {
            let passed: Vec<Passed> = instance.passed.lock().drain(..).collect();
            for passed in passed {
                match passed {
                    Passed::Neighbour(frame) => {
                        core.stack.outbox.muted = true;
                        core.stack.input_neighbour(&frame, now);
                        core.stack.outbox.muted = false;
                    }
                    Passed::Segment(frame) => {
                        let checked = interfaces::packet::PacketFlags::IP_CHECKSUM_GOOD
                            | interfaces::packet::PacketFlags::L4_CHECKSUM_GOOD;
                        if let Concerns::Asker(_) = core.stack.input(&frame, checked, now) {
                            core.stack.input_stray(&frame);
                        }
                    }
                    Passed::Answer(frame) => core.stack.input_answer(&frame, now),
                }
            }
        }
        core.stack.output(now);
        let attended = match &core.queue {
            Queue::Away => Ok(()),
            Queue::Closed { since } if now - since < LOOK_AGAIN => Ok(()),
            Queue::Closed { .. } => instance.reopen(core),
            Queue::Here(_) => self.turn(instance, core, now),
        };
        self.publish(core);
        core.wake_news();
        match attended {
            Ok(()) => Ok(()),
            Err(NetError::Call(CallError::Cancelled)) => Err(Ended),
            Err(_) => {
                core.queue = Queue::Closed { since: now };
                core.stack.statistics.reopened.add(1);
                Ok(())
            }
        }
    }

    /// Sends what is to be sent and receives a batch.
    fn turn(&self, instance: &Instance, core: &mut Core, now: u64) -> Result<(), NetError> {
        let Queue::Here(queue) = &mut core.queue else { return Ok(()) };
        flush(queue, &mut core.stack)?;
        let Some(batch) = core.batch.take().or_else(|| Batch::allocate().ok()) else { return Ok(()) };
        let mut batch = queue.receive(batch)?;
        if !batch.is_empty() {
            let packets = batch.packets();
            for (at, packet) in packets.iter().enumerate() {
                if packets.get(at + 1).is_some_and(|next| is_superseded(packet.data(), (next.data(), next.flags))) {
                    core.stack.statistics.superseded.add(1);
                    continue;
                }
                match core.stack.input(packet.data(), packet.flags, now) {
                    Concerns::Nobody => {}
                    Concerns::All => self.share(instance, packet.data()),
                    Concerns::Resolvers => self.pass_to_others(instance, || Passed::Answer(packet.data().into())),
                    Concerns::Learner => {
                        if let Some(learner) = self.all.get(LEARNER).filter(|one| one.index != instance.index) {
                            learner.pass(Passed::Segment(packet.data().into()));
                        }
                    }
                    Concerns::Asker(flow) => {
                        let asker = self.asked.lock().get(&flow).copied().filter(|asker| *asker != instance.index);
                        match asker.and_then(|asker| self.all.get(usize::from(asker))) {
                            Some(asker) => asker.pass(Passed::Segment(packet.data().into())),
                            None => core.stack.input_stray(packet.data()),
                        }
                    }
                }
            }
            batch.clear();
            core.stack.output(now);
            flush(queue, &mut core.stack)?;
        }
        core.batch = Some(batch);
        Ok(())
    }

    /// A neighbour's message to this box, for the other instances to learn from; those to everybody they can do without.
    fn share(&self, from: &Instance, frame: &[u8]) {
        if frame.first().is_some_and(|first| first & 1 == 0) {
            self.pass_to_others(from, || Passed::Neighbour(frame.into()));
        }
    }

    fn pass_to_others(&self, from: &Instance, passed: impl Fn() -> Passed) {
        for other in self.all.iter().filter(|other| other.index != from.index) {
            other.pass(passed());
        }
    }

    /// What an instance has learned all are to go by.
    fn publish(&self, core: &mut Core) {
        let Some(addresses) = core.stack.learned() else { return };
        *self.addresses.lock() = addresses;
        core.moved = self.changes.fetch_add(1, Ordering::AcqRel) + 1;
        for instance in &self.all {
            instance.caretaker.set();
        }
    }

    /// The caretaker's thread. Ends with the domain.
    pub fn care(&self, index: u16, config: Arc<Config>) {
        let Some(instance) = self.all.get(usize::from(index)) else { return };
        let Ok(info) = instance.ask() else { return };
        if index == 0 && info.queues != self.count() {
            log::error!(
                "the card has {} queues, but this domain {} CPUs: give both the same",
                info.queues,
                self.count()
            );
        }
        let now = time::now();
        let mut stack = Stack::new(config, &info, now);
        if usize::from(index) == LEARNER {
            stack.learn(now);
        }
        *instance.core.lock() = Some(Core {
            stack,
            queue: Queue::Closed { since: 0 },
            batch: None,
            polling: Polling::new(POLL_BEFORE_WAIT),
            waiters: BTreeMap::new(),
            moved: 0,
            attended: 0,
        });
        let mut next = now;
        loop {
            if instance.caretaker.wait(next).is_err() {
                return;
            }
            let mut guard = instance.core.lock();
            loop {
                let now = time::now();
                let Some(core) = guard.as_mut() else { return };
                let passed = instance.any_passed.load(Ordering::Acquire);
                if matches!(core.queue, Queue::Away) {
                    // Whoever waits at the queue is to see to it.
                    next = now + LONGEST_WAIT;
                    if passed || !core.stack.outbox.is_empty() || core.stack.deadline() <= now {
                        drop(guard);
                        if instance.end_wait().is_err() {
                            next = now + LOOK_AGAIN;
                        }
                    }
                    break;
                }
                if self.attend(instance, core, now).is_err() {
                    return;
                }
                if core.hand_over() {
                    next = now + LONGEST_WAIT;
                    break;
                }
                if core.waiters.is_empty() || now.saturating_sub(core.attended) >= UNATTENDED || core.unattended(now) {
                    // Under load the queue never lets this thread wait: a service that wants the lock, to open the instance and listen, is to have it first.
                    drop(guard);
                    thread::yield_now();
                    guard = instance.core.lock();
                    match instance.wait(guard, None, now + LONGEST_WAIT) {
                        Ok(back) => guard = back,
                        Err(Ended) => return,
                    }
                } else {
                    next = now + UNATTENDED;
                    break;
                }
            }
        }
    }
}

impl Instance {
    /// What the card is, as soon as it says so.
    fn ask(&self) -> Result<NetInfo, Ended> {
        loop {
            match self.port.info() {
                Ok(info) => return Ok(info),
                Err(NetError::Call(CallError::Cancelled)) => return Err(Ended),
                Err(_) => thread::sleep_until(time::now() + LOOK_AGAIN).map_err(|_| Ended)?,
            }
        }
    }

    fn reopen(&self, core: &mut Core) -> Result<(), NetError> {
        match self.port.open_queue(self.index) {
            Ok(queue) => core.queue = Queue::Here(queue),
            Err(NetError::Call(CallError::Cancelled)) => return Err(NetError::Call(CallError::Cancelled)),
            Err(_) => core.queue = Queue::Closed { since: time::now() },
        }
        Ok(())
    }

    /// Ends the wait of whoever is at the queue. While the driver is away nobody is.
    fn end_wait(&self) -> Result<(), SocketError> {
        match self.port.wake(self.index) {
            Err(NetError::Call(CallError::Cancelled)) => Err(SocketError::Call(CallError::Cancelled)),
            _ => Ok(()),
        }
    }

    /// Waits until something may have happened, or `deadline`: at the queue if it is here, else at the client's event.
    fn wait<'a>(
        &'a self,
        mut guard: Guard<'a, Option<Core>>,
        client: Option<ClientId>,
        deadline: u64,
    ) -> Result<Guard<'a, Option<Core>>, Ended> {
        let Some(core) = guard.as_mut() else { return Err(Ended) };
        let now = time::now();
        let mut until = deadline.min(core.stack.deadline());
        if !core.stack.outbox.is_empty() {
            // A full ring, or no driver.
            until = until.min(now + LOOK_AGAIN);
        }
        if until <= now {
            return Ok(guard);
        }
        match mem::replace(&mut core.queue, Queue::Away) {
            Queue::Here(mut queue) => {
                drop(guard);
                let waited = queue.wait(until);
                let mut guard = self.core.lock();
                let Some(core) = guard.as_mut() else { return Err(Ended) };
                match waited {
                    Ok(()) => {
                        core.queue = Queue::Here(queue);
                        core.polling.waited(now, time::now());
                    }
                    Err(error) => {
                        core.queue = Queue::Closed { since: 0 };
                        core.stack.statistics.reopened.add(1);
                        drop(queue);
                        if error == NetError::Call(CallError::Cancelled) {
                            return Err(Ended);
                        }
                    }
                }
                Ok(guard)
            }
            elsewhere => {
                let away = matches!(elsewhere, Queue::Away);
                core.queue = elsewhere;
                let to_send = away && (!core.stack.outbox.is_empty() || core.stack.deadline() <= now);
                if !away {
                    until = until.min(now + LOOK_AGAIN);
                }
                let event = client.and_then(|client| {
                    let waiter = core.waiters.get_mut(&client.0)?;
                    waiter.asleep = true;
                    Some(waiter.event.clone())
                });
                drop(guard);
                if to_send && self.end_wait().is_err() {
                    return Err(Ended);
                }
                let waited = match &event {
                    Some(event) => event.wait(until).map(drop),
                    None => thread::sleep_until(until),
                };
                let mut guard = self.core.lock();
                if let Some(core) = guard.as_mut()
                    && let Some(waiter) = client.and_then(|client| core.waiters.get_mut(&client.0))
                {
                    waiter.asleep = false;
                }
                waited.map_err(|_| Ended)?;
                Ok(guard)
            }
        }
    }

    /// Another instance has received something for this one.
    fn pass(&self, frame: Passed) {
        let mut passed = self.passed.lock();
        if passed.len() < MOST_PASSED {
            passed.push_back(frame);
            drop(passed);
            self.any_passed.store(true, Ordering::Release);
            self.caretaker.set();
        }
    }
}

impl Core {
    /// Wakes those who sleep and for whom there is something.
    fn wake_news(&mut self) {
        for (&client, waiter) in self.waiters.iter_mut().filter(|(_, waiter)| waiter.asleep) {
            if self.stack.has_news(ClientId(client)) {
                waiter.asleep = false;
                waiter.event.set();
            }
        }
    }

    /// Has somebody who sleeps elsewhere come to the queue, if it is here. Whether there is one.
    fn hand_over(&mut self) -> bool {
        let here = !matches!(self.queue, Queue::Away);
        match self.waiters.values_mut().find(|waiter| here && waiter.asleep) {
            Some(waiter) => {
                waiter.asleep = false;
                waiter.event.set();
                true
            }
            None => false,
        }
    }

    /// Whether something is due that nobody sees to.
    fn unattended(&self, now: u64) -> bool {
        self.stack.deadline() <= now
    }
}

fn flush(queue: &mut Cap<dyn NetQueue>, stack: &mut Stack) -> Result<(), NetError> {
    while let Some(batch) = stack.outbox.take() {
        let rest = queue.send(batch)?;
        let full = !rest.is_empty();
        stack.outbox.put_back(rest);
        if full {
            break;
        }
    }
    Ok(())
}

/// What a caretaker's thread is called.
pub fn caretaker_name(index: u16) -> String {
    format!("caretaker{index}")
}
