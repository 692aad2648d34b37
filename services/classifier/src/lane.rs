//! One queue of the card, and the two clients that share it.
//!
//! Whoever comes to receive and finds nothing waiting takes a batch from the card, keeps what is its own, and leaves the rest for the other, whom it wakes. A batch that is all
//! of one side's passes as it is; what is mixed is parted by moving headers, never bytes; only what both are to have (answers to ARP) is copied.
//!
//! The lock is held over calls to the card that don't block, never over a wait: nobody could do anything without the queue. One client at most waits at the queue,
//! the other at an event of its own; who has something to send, while the other waits at the queue, ends that wait (`Net::wake`).

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::net::Ipv4Addr;

use interfaces::{
    CallError, Cap, Port, RRef,
    net::{Net, NetError, NetQueue},
    packet::Batch,
};
use runtime::{
    sync::{Event, Guard, Mutex},
    tally::Tally,
    time,
};

use crate::sorting::{LISTED, OTHERS, sides};

/// Nobody waits at the queue for longer, so that a client that goes away unseen holds the other up for no longer.
const LONGEST_WAIT: u64 = 20_000_000;
/// How often who has frames to send asks for the queue.
const ASK_AGAIN: u64 = 10_000_000;
/// Empty batches that are kept for the next frames.
const SPARES: usize = 8;

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Listed = 0,
    Others = 1,
}

/// What is counted, of one lane. Written under its lock.
#[derive(Debug, Default)]
pub struct Tallies {
    pub received: Tally,
    /// By side: frames for it, and those among them for which there was no place.
    pub passed: [Tally; 2],
    pub dropped: [Tally; 2],
    /// Frames that both have got; and those that only one could have, for want of a buffer.
    pub copied: Tally,
    pub not_copied: Tally,
    pub sent: [Tally; 2],
    pub reopened: Tally,
}

enum Queue {
    /// To be opened: at first, and after an error.
    Closed,
    Here(Cap<dyn NetQueue>),
    /// That side waits at it.
    Away(Side),
}

struct Inbox {
    batches: VecDeque<RRef<Batch>>,
    frames: usize,
    /// Whether the side's handle is open.
    open: bool,
    asleep: bool,
    woken: bool,
}

struct State {
    queue: Queue,
    inboxes: [Inbox; 2],
    /// A side that has frames to send, and waits until the other no longer waits at the queue: that goes there again when these are sent.
    wanted: Option<Side>,
    spares: Vec<RRef<Batch>>,
}

pub struct Lane {
    index: u16,
    port: Port<dyn Net>,
    listed: Arc<[Ipv4Addr]>,
    /// Frames that wait for a side at most.
    waiting: usize,
    state: Mutex<State>,
    events: [Event; 2],
    pub tallies: Tallies,
}

impl Lane {
    pub fn new(port: Port<dyn Net>, index: u16, listed: Arc<[Ipv4Addr]>, waiting: usize) -> Lane {
        let inbox = || Inbox { batches: VecDeque::new(), frames: 0, open: false, asleep: false, woken: false };
        let inboxes = [inbox(), inbox()];
        let state = State { queue: Queue::Closed, inboxes, wanted: None, spares: Vec::new() };
        Lane {
            index,
            port,
            listed,
            waiting,
            state: Mutex::new(state),
            events: [Event::new(), Event::new()],
            tallies: Tallies::default(),
        }
    }

    /// A side's handle is opened: one at a time.
    pub fn open(&self, side: Side) -> Result<(), NetError> {
        let mut state = self.state.lock();
        if state.inboxes[side as usize].open {
            return Err(NetError::QueueBusy);
        }
        // Who asks for a queue that the card hasn't, or hasn't yet, is to hear of it now.
        if matches!(state.queue, Queue::Closed) {
            self.reach(&mut state)?;
        }
        state.inboxes[side as usize].open = true;
        Ok(())
    }

    pub fn close(&self, side: Side) {
        let mut state = self.state.lock();
        state.inboxes[side as usize].open = false;
        state.wanted = state.wanted.filter(|who| *who != side);
        self.hand_over(&state, side);
    }

    /// Ends a side's wait, this one or the next.
    pub fn wake(&self, side: Side) -> Result<(), NetError> {
        let at_queue = {
            let mut state = self.state.lock();
            state.inboxes[side as usize].woken = true;
            matches!(state.queue, Queue::Away(who) if who == side)
        };
        self.events[side as usize].set();
        if at_queue { self.port.wake(self.index) } else { Ok(()) }
    }

    pub fn receive(&self, side: Side, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        let mut state = self.state.lock();
        if state.inboxes[side as usize].batches.is_empty() {
            self.take_in(&mut state)?;
        }
        let State { inboxes, spares, .. } = &mut *state;
        let inbox = &mut inboxes[side as usize];
        let Some(mut first) = inbox.batches.pop_front() else { return Ok(batch) };
        let before = batch.len();
        if before == 0 {
            core::mem::swap(&mut batch, &mut first);
        } else {
            first.transfer(u32::MAX, &mut batch);
        }
        inbox.frames -= batch.len() - before;
        match first.is_empty() {
            true => keep(spares, first),
            false => inbox.batches.push_front(first),
        }
        Ok(batch)
    }

    pub fn send(&self, side: Side, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        if batch.is_empty() {
            return Ok(batch);
        }
        let mut state = self.have_queue(side)?;
        let queue = self.reach(&mut state)?;
        let before = batch.len();
        match queue.send(batch) {
            Ok(rest) => {
                self.hand_over(&state, side);
                self.tallies.sent[side as usize].add((before - rest.len().min(before)) as u64);
                Ok(rest)
            }
            Err(error) => Err(self.fail(&mut state, error)),
        }
    }

    /// Waits until a frame for this side may be there.
    pub fn wait(&self, side: Side, deadline: u64) -> Result<(), NetError> {
        let cancelled = |_| NetError::Call(CallError::Cancelled);
        let deadline = deadline.min(time::now().saturating_add(LONGEST_WAIT));
        loop {
            let mut state = self.state.lock();
            self.take_in(&mut state)?;
            let inbox = &mut state.inboxes[side as usize];
            if core::mem::take(&mut inbox.woken) || !inbox.batches.is_empty() || time::now() >= deadline {
                // Who sleeps may have the queue now.
                self.hand_over(&state, side);
                return Ok(());
            }
            // Who waits for the queue in order to send has it first.
            if state.wanted.is_none_or(|who| who == side)
                && matches!(state.queue, Queue::Here(_))
                && let Queue::Here(queue) = core::mem::replace(&mut state.queue, Queue::Away(side))
            {
                drop(state);
                self.wait_at(side, queue, deadline)?;
            } else {
                state.inboxes[side as usize].asleep = true;
                drop(state);
                let ended = self.events[side as usize].wait(deadline);
                self.state.lock().inboxes[side as usize].asleep = false;
                ended.map_err(cancelled)?;
            }
        }
    }

    fn wait_at(&self, side: Side, mut queue: Cap<dyn NetQueue>, deadline: u64) -> Result<(), NetError> {
        let waited = queue.wait(deadline);
        let mut state = self.state.lock();
        match waited {
            Ok(()) => {
                state.queue = Queue::Here(queue);
                self.hand_over(&state, side);
                Ok(())
            }
            Err(NetError::Call(CallError::Cancelled)) => {
                // It is this client's thread that ends; the queue is as good as before.
                state.queue = Queue::Here(queue);
                self.hand_over(&state, side);
                Err(NetError::Call(CallError::Cancelled))
            }
            Err(error) => {
                drop(queue);
                Err(self.fail(&mut state, error))
            }
        }
    }

    /// The lock, with the queue not away: whoever waits at it is asked to come back, as often as it takes.
    fn have_queue(&self, side: Side) -> Result<Guard<'_, State>, NetError> {
        loop {
            let mut state = self.state.lock();
            if !matches!(state.queue, Queue::Away(_)) {
                state.wanted = state.wanted.filter(|who| *who != side);
                return Ok(state);
            }
            state.wanted = Some(side);
            state.inboxes[side as usize].asleep = true;
            drop(state);
            // Should the card's driver be away, the wait there has ended by itself.
            let _ = self.port.wake(self.index);
            let ended = self.events[side as usize].wait(time::now().saturating_add(ASK_AGAIN));
            let mut state = self.state.lock();
            state.inboxes[side as usize].asleep = false;
            if ended.is_err() {
                state.wanted = state.wanted.filter(|who| *who != side);
                self.hand_over(&state, side);
                return Err(NetError::Call(CallError::Cancelled));
            }
        }
    }

    /// Wakes the other side, if that sleeps while the queue is to be had.
    fn hand_over(&self, state: &State, side: Side) {
        let other = other(side) as usize;
        if state.inboxes[other].asleep && !matches!(state.queue, Queue::Away(_)) {
            self.events[other].set();
        }
    }

    /// Takes a batch from the card and sorts it, if the queue is here.
    fn take_in(&self, state: &mut State) -> Result<(), NetError> {
        if matches!(state.queue, Queue::Away(_)) {
            return Ok(());
        }
        // For want of a batch frames wait in the card.
        let Some(batch) = state.spares.pop().or_else(|| Batch::allocate().ok()) else { return Ok(()) };
        let queue = self.reach(state)?;
        let batch = match queue.receive(batch) {
            Ok(batch) => batch,
            Err(error) => return Err(self.fail(state, error)),
        };
        if batch.is_empty() {
            keep(&mut state.spares, batch);
        } else {
            self.sort(state, batch);
        }
        Ok(())
    }

    fn sort(&self, state: &mut State, mut batch: RRef<Batch>) {
        self.tallies.received.add(batch.len() as u64);
        let mut masks = [0u32; 2];
        for (at, packet) in batch.packets().iter().enumerate() {
            let sides = sides(packet.data(), &self.listed);
            masks[0] |= u32::from(sides & LISTED != 0) << at;
            masks[1] |= u32::from(sides & OTHERS != 0) << at;
        }
        let both = masks[0] & masks[1];
        if both != 0 {
            self.copy(state, &batch, both);
        }
        // The originals of what was copied are the others'.
        masks[0] &= !both;
        if masks[0] != 0 && masks[1] != 0 {
            match state.spares.pop().or_else(|| Batch::allocate().ok()) {
                Some(mut part) => {
                    batch.transfer(masks[0], &mut part);
                    self.put(state, Side::Listed, part);
                }
                None => {
                    self.tallies.dropped[0].add(u64::from(masks[0].count_ones()));
                    batch.discard(masks[0]);
                }
            }
            self.put(state, Side::Others, batch);
        } else {
            self.put(state, if masks[0] != 0 { Side::Listed } else { Side::Others }, batch);
        }
    }

    /// Gives the listed side's client copies of frames that both are to have.
    #[cold]
    fn copy(&self, state: &mut State, batch: &RRef<Batch>, both: u32) {
        let wanted = both.count_ones() as usize;
        let mut copies = state.spares.pop().or_else(|| Batch::allocate().ok());
        let count = copies.as_mut().map_or(0, |copies| copies.fill(wanted));
        self.tallies.copied.add(count as u64);
        self.tallies.not_copied.add((wanted - count) as u64);
        let Some(mut copies) = copies else { return };
        let originals = batch.packets().iter().enumerate().filter(|(at, _)| both & 1 << at != 0);
        for ((_, original), mut copy) in originals.zip(copies.packets_mut()) {
            copy.set_len(original.data().len());
            copy.data_mut().copy_from_slice(original.data());
        }
        self.put(state, Side::Listed, copies);
    }

    fn put(&self, state: &mut State, side: Side, batch: RRef<Batch>) {
        if batch.is_empty() {
            return keep(&mut state.spares, batch);
        }
        let (count, at) = (batch.len(), side as usize);
        let inbox = &mut state.inboxes[at];
        if inbox.frames + count > self.waiting {
            self.tallies.dropped[at].add(count as u64);
            let mut batch = batch;
            batch.clear();
            return keep(&mut state.spares, batch);
        }
        self.tallies.passed[at].add(count as u64);
        inbox.frames += count;
        // What waits is kept together: fewer batches for who is behind.
        match inbox.batches.back_mut() {
            Some(last) if last.len() + count <= Batch::CAPACITY => {
                let mut batch = batch;
                batch.transfer(u32::MAX, last);
                keep(&mut state.spares, batch);
            }
            _ => inbox.batches.push_back(batch),
        }
        let inbox = &state.inboxes[at];
        if inbox.asleep {
            self.events[at].set();
        }
    }

    /// The queue, opened if it must be. It isn't away.
    fn reach<'a>(&self, state: &'a mut State) -> Result<&'a mut Cap<dyn NetQueue>, NetError> {
        if matches!(state.queue, Queue::Closed) {
            state.queue = Queue::Here(self.port.open_queue(self.index)?);
        }
        match &mut state.queue {
            Queue::Here(queue) => Ok(queue),
            Queue::Closed | Queue::Away(_) => Err(NetError::QueueBusy),
        }
    }

    /// After an error the queue isn't used any more: if its driver crashed it errs for ever.
    #[cold]
    fn fail(&self, state: &mut State, error: NetError) -> NetError {
        state.queue = Queue::Closed;
        self.tallies.reopened.add(1);
        self.events.iter().for_each(Event::set);
        error
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Listed => Side::Others,
        Side::Others => Side::Listed,
    }
}

fn keep(spares: &mut Vec<RRef<Batch>>, batch: RRef<Batch>) {
    if spares.len() < SPARES {
        spares.push(batch);
    }
}
