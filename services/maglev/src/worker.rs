//! One CPU's worker: receives a batch, has each packet judged, sends what is left of the batch, and so on; sleeps when there is nothing to
//! do.
//!
//! A batch is one object that goes down to the driver and comes back: two crossings for up to 32 packets, and nothing is allocated, copied
//! or locked on the way. When a call says that what is below has crashed, the worker opens its queue anew through the port and goes on;
//! each packet that it had received is still counted exactly once.

use alloc::sync::Arc;

use interfaces::{
    CallError, Cap, Port, RRef,
    net::{Net, NetError, NetQueue},
    packet::{Batch, PacketFlags},
};
use runtime::{polling::Polling, thread, time};

use crate::{
    director::{Director, Look, Verdict},
    drops::DropReason,
    frame::{self, ArpRequest, BROADCAST, Checked, Checksums, Mac, SHORTEST},
    holding::Holding,
    plan::{Services, Stage},
    planner::Planner,
    shared::Shared,
    statistics::CpuCounters,
};

/// How long a worker polls without finding a packet before it waits for one, if that pays.
const POLL_BEFORE_WAIT: u64 = 20_000;
/// A waiting worker looks round this often at least: for a new plan, expired connections, the operator's wishes.
const LONGEST_WAIT: u64 = 50_000_000;
/// And this often while it holds packets until the first CPU's worker says that all may serve.
const LONGEST_HOLDING_WAIT: u64 = 500_000;
/// While the driver is away: first and longest pause between two attempts to reach it.
const FIRST_PAUSE: u64 = 20_000;
const LONGEST_PAUSE: u64 = 1_000_000;
/// How often what found no place in a full transmit ring is offered again.
const OFFERS: usize = 4;

/// What only the first CPU's worker does.
pub struct Duty {
    pub planner: Planner,
    /// Of the operator's wishes that the planner knows.
    pub wishes_seen: u64,
    /// Whether the box has told its segment who it is.
    pub announced: bool,
    /// For the box's own frames; kept, so that asking a backend allocates nothing.
    pub spare: Option<RRef<Batch>>,
}

/// The domain is ending; so does the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended;

pub struct Worker {
    pub index: u16,
    pub port: Port<dyn Net>,
    pub director: Director,
    pub services: Arc<Services>,
    pub shared: Arc<Shared>,
    pub duty: Option<Duty>,
    pub holding: Holding,
}

/// What is left of a judged batch, in the order in which its kept packets stand.
struct Kept {
    /// Bit i: kept packet i is an answer, else it is forwarded.
    answers: u32,
    count: usize,
}

impl Kept {
    /// Counts the first `sent` as done, and the others under `reason`.
    fn count(&self, counters: &CpuCounters, sent: usize, reason: DropReason) {
        let sent_mask = (1u64 << sent.min(self.count)) - 1;
        let answers = u64::from(self.answers) & sent_mask;
        counters.answered.add(u64::from(answers.count_ones()));
        counters.forwarded.add(u64::from((sent_mask & !answers).count_ones()));
        counters.count_drop(reason, (self.count - sent.min(self.count)) as u64);
    }
}

impl Worker {
    /// Works until the domain ends.
    pub fn run(mut self) -> Ended {
        loop {
            let Ok(mut queue) = persist(|| self.port.open_queue(self.index)) else { return Ended };
            match self.serve(&mut queue) {
                Ok(Ended) | Err(NetError::Call(CallError::Cancelled)) => return Ended,
                // Whatever else it was: what was in the driver's hands is gone, and the queue is opened anew (after this one is released).
                Err(_) => self.director.counters().reopened.add(1),
            }
        }
    }

    /// Serves one opened queue until a call fails.
    pub fn serve(&mut self, queue: &mut Cap<dyn NetQueue>) -> Result<Ended, NetError> {
        let Some(mut batch) = empty_batch() else { return Ok(Ended) };
        let mut idle_since = time::now();
        let mut polling = Polling::new(POLL_BEFORE_WAIT);
        loop {
            let now = time::now();
            self.duties(queue, now)?;
            self.director.between_batches(now);
            if !self.holding.is_empty() {
                self.release(queue, now)?;
            }
            batch = queue.receive(batch)?;
            if !batch.is_empty() {
                self.director.counters().received.add(batch.len() as u64);
                batch = self.handle(queue, batch, now)?;
                idle_since = now;
            } else if !polling.goes_on(idle_since, now) {
                let longest = if self.holding.is_empty() { LONGEST_WAIT } else { LONGEST_HOLDING_WAIT };
                let deadline = self.duty.as_ref().map_or(u64::MAX, |duty| duty.planner.deadline()).min(now + longest);
                if deadline > now {
                    queue.wait(deadline)?;
                    idle_since = time::now();
                    polling.waited(now, idle_since);
                }
            }
        }
    }

    /// Handles what was held while the box was starting, once it serves.
    fn release(&mut self, queue: &mut Cap<dyn NetQueue>, now: u64) -> Result<(), NetError> {
        while self.director.stage() == Stage::Serving
            && let Some(batch) = self.holding.release()
        {
            self.handle(queue, batch, now)?;
        }
        let expired = self.holding.expire(now);
        self.director.counters().count_drop(DropReason::Starting, expired as u64);
        self.director.counters().held.set(self.holding.count() as u64);
        Ok(())
    }

    /// Judges a received batch, sends what is to be sent, and gives the batch back empty.
    pub fn handle(
        &mut self,
        queue: &mut Cap<dyn NetQueue>,
        mut batch: RRef<Batch>,
        now: u64,
    ) -> Result<RRef<Batch>, NetError> {
        let counters = self.director.counters().clone();
        let kept = self.judge(&mut batch, now);
        for _ in 0..OFFERS {
            if batch.is_empty() {
                break;
            }
            let sent = kept.count - batch.len().min(kept.count);
            batch = match queue.send(batch) {
                Ok(rest) => rest,
                Err(error) => {
                    kept.count(&counters, sent, DropReason::DriverLost);
                    return Err(error);
                }
            };
        }
        kept.count(&counters, kept.count - batch.len().min(kept.count), DropReason::TransmitFull);
        batch.clear();
        Ok(batch)
    }

    fn judge(&mut self, batch: &mut RRef<Batch>, now: u64) -> Kept {
        let (mut dropped, mut kept) = (0u32, Kept { answers: 0, count: 0 });
        // By their places when the dropped ones are gone.
        let (mut held, mut held_count) = (0u32, 0);
        let mut looks = [Look::NOTHING; Batch::CAPACITY];
        for (look, packet) in looks.iter_mut().zip(batch.packets()) {
            *look = self.director.look(packet.data(), findings(packet.flags));
        }
        for (i, (mut packet, look)) in batch.packets_mut().into_iter().zip(&looks).enumerate() {
            match self.director.judge(packet.data_mut(), look, now) {
                Verdict::Forward => kept.count += 1,
                Verdict::Answer => {
                    kept.answers |= 1 << kept.count;
                    kept.count += 1;
                }
                Verdict::Drop(DropReason::Starting) => {
                    held |= 1 << (kept.count + held_count);
                    held_count += 1;
                }
                Verdict::Drop(reason) => {
                    self.director.counters().count_drop(reason, 1);
                    dropped |= 1 << i;
                }
                Verdict::Learn(heard) => {
                    match &mut self.duty {
                        Some(duty) => duty.planner.heard(heard, now),
                        None => self.shared.hear(heard),
                    }
                    self.director.counters().count_drop(DropReason::Learned, 1);
                    dropped |= 1 << i;
                }
            }
        }
        if dropped != 0 {
            batch.discard(dropped);
        }
        if held != 0 {
            let counters = self.director.counters();
            counters.count_drop(DropReason::Starting, self.holding.keep(batch, held, now) as u64);
            counters.held.set(self.holding.count() as u64);
        }
        kept
    }

    /// The first worker's other work.
    fn duties(&mut self, queue: &mut Cap<dyn NetQueue>, now: u64) -> Result<(), NetError> {
        let Some(duty) = &mut self.duty else { return Ok(()) };
        let own = *self.director.own();
        let counters = self.director.counters();
        let mut failed = None;
        let spare = &mut duty.spare;
        let mut send = |request: ArpRequest| match originate(queue, spare, &request, &own) {
            Ok(sent) => {
                counters.originated.add(u64::from(sent));
                sent
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        };
        if !duty.announced {
            // RFC 5227 §2.3: an announcement makes neighbours forget who had the address before.
            duty.announced = self
                .services
                .addresses()
                .iter()
                .fold(true, |all, &own| all & send(ArpRequest { to: BROADCAST, sender: own, target: own }));
        }
        self.shared.for_heard(|heard| duty.planner.heard(heard, now));
        self.shared.for_new_wishes(&mut duty.wishes_seen, |backend, wish| duty.planner.wish(backend, wish));
        duty.planner.poll(now, &mut send);
        failed.map_or(Ok(()), Err)
    }
}

/// Sends an ARP request of the box's own; whether it went out.
fn originate(
    queue: &mut Cap<dyn NetQueue>,
    spare: &mut Option<RRef<Batch>>,
    request: &ArpRequest,
    own: &Mac,
) -> Result<bool, NetError> {
    let Some(mut batch) = spare.take().or_else(|| Batch::allocate().ok()) else { return Ok(false) };
    batch.fill(1);
    let mut written = false;
    if let Some(mut packet) = batch.packets_mut().get(0) {
        packet.set_len(SHORTEST);
        if let Some(bytes) = packet.data_mut().first_chunk_mut::<SHORTEST>() {
            frame::write_arp_request(bytes, request, own);
            written = true;
        }
    }
    let mut batch = queue.send(batch)?;
    let sent = written && batch.is_empty();
    batch.clear();
    *spare = Some(batch);
    Ok(sent)
}

fn findings(flags: PacketFlags) -> Checksums {
    let finding = |good, bad| {
        if flags.contains(bad) {
            Checked::Bad
        } else if flags.contains(good) {
            Checked::Good
        } else {
            Checked::Not
        }
    };
    Checksums {
        ip: finding(PacketFlags::IP_CHECKSUM_GOOD, PacketFlags::IP_CHECKSUM_BAD),
        transport: finding(PacketFlags::L4_CHECKSUM_GOOD, PacketFlags::L4_CHECKSUM_BAD),
    }
}

/// A batch, as soon as there is memory for one; none if the domain ends before.
fn empty_batch() -> Option<RRef<Batch>> {
    let mut pause = Pause::new();
    loop {
        match Batch::allocate() {
            Ok(batch) => return Some(batch),
            Err(_) => pause.wait().ok()?,
        }
    }
}

/// Asks until what is below answers.
pub fn persist<T>(mut ask: impl FnMut() -> Result<T, NetError>) -> Result<T, Ended> {
    let mut pause = Pause::new();
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(NetError::Call(CallError::Cancelled)) => return Err(Ended),
            Err(_) => pause.wait()?,
        }
    }
}

/// Growing pauses, so that a driver that is away for long isn't asked without end, and one that is soon back is found soon.
struct Pause(u64);

impl Pause {
    fn new() -> Pause {
        Pause(FIRST_PAUSE)
    }

    fn wait(&mut self) -> Result<(), Ended> {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        thread::sleep_until(time::now() + pause).map_err(|_| Ended)
    }
}
