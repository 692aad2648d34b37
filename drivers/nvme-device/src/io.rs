//! An I/O queue: requests in flight, each with its buffer's hold, and the PRP lists by which the device finds the buffers.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};

use interfaces::{
    block::{
        InFlight, Operation, Order, Requests, Status,
        trusted::{self, Parts},
    },
    device::nvme::{DeviceError, Oldest, QueueCounts},
};

use crate::{
    admin::Formats,
    commands::{self, MOST_BLOCKS, PAGE},
    hardware::{DmaMemory, Hardware},
    number::Number,
    pair::{Completion, Pair},
};

/// Bytes of a command's PRP list: 64 entries, as many as the largest buffer has pages beyond the first and one more when it begins amid a page. A power of 2, so that no list
/// crosses a page (§4.1.1).
const LIST_BYTES: usize = 512;

/// A request in flight.
struct Flying {
    parts: Parts,
    number: Number,
    since: u64,
}

/// The queue as the device has it.
struct Live {
    pair: Pair,
    lists: DmaMemory,
    /// By index.
    slots: Box<[Option<Flying>]>,
    free: Vec<u16>,
    turn: u16,
    /// The device has lied here: nothing more is believed.
    lied: bool,
}

// SAFETY: the memory is the queue's alone, and the holds of requests belong to it; all of that means the same on every thread.
unsafe impl Send for Live {}

/// Invariant: a request is in one place only: in `live`'s slots while the device may use its buffer, else in `ended`. Together there are at most as many as the
/// queue has command numbers, after the queue has been made.
#[derive(Default)]
pub struct Io {
    live: Option<Live>,
    /// Came to an end without the device's completing them: refused, or in flight when the controller was reset.
    ended: VecDeque<Parts>,
    pub counts: QueueCounts,
}

// SAFETY: as for `Live`.
unsafe impl Send for Io {}

impl Io {
    /// Makes the queue's memory, if it isn't there yet.
    pub fn make(&mut self, hardware: &impl Hardware, id: u16, entries: u16, stride: u32) -> Result<(), DeviceError> {
        if self.live.is_some() {
            return Err(DeviceError::Busy);
        }
        let slots = usize::from(entries) - 1;
        let lists = hardware.allocate(slots * LIST_BYTES).ok_or(DeviceError::NoMemory)?;
        let Some(pair) = Pair::new(hardware, id, entries, stride) else {
            // SAFETY: just allocated; the device has never heard of it.
            unsafe { hardware.free(lists) };
            return Err(DeviceError::NoMemory);
        };
        self.ended.reserve(slots);
        let live = Live {
            pair,
            lists,
            slots: (0..slots).map(|_| None).collect(),
            free: (0..slots as u16).rev().collect(),
            turn: 0,
            lied: false,
        };
        self.live = Some(live);
        Ok(())
    }

    /// The bus addresses of submission and completion queue, and their entries.
    pub fn place(&self) -> Option<(u64, u64, u16)> {
        let pair = &self.live.as_ref()?.pair;
        Some((pair.submission_bus(), pair.completion_bus(), pair.entries))
    }

    /// Takes all requests back as `Lost`; returns how many there were.
    ///
    /// # Safety
    /// The device can't reach memory any more.
    pub unsafe fn dissolve(&mut self, hardware: &impl Hardware) -> u32 {
        let Some(live) = self.live.take() else { return 0 };
        let mut lost = 0;
        for flying in live.slots.into_iter().flatten() {
            self.ended.push_back(Parts { status: Status::Lost, ..flying.parts });
            lost += 1;
        }
        // SAFETY: from `allocate`, and the caller's promise.
        unsafe {
            hardware.free(live.lists);
            live.pair.free(hardware);
        }
        lost
    }

    pub fn in_flight(&self) -> usize {
        self.ended.len() + self.live.as_ref().map_or(0, |live| live.slots.len() - live.free.len())
    }

    pub fn list(&self, list: &mut InFlight) {
        let flying = self.live.iter().flat_map(|live| live.slots.iter().flatten()).map(|flying| &flying.parts);
        for parts in self.ended.iter().chain(flying) {
            list.push(parts.order.id);
        }
    }

    pub fn oldest(&self) -> Option<Oldest> {
        let flying = self.live.iter().flat_map(|live| live.slots.iter().flatten());
        let oldest = flying.min_by_key(|flying| flying.since)?;
        Some(Oldest { command: oldest.number.0, since: oldest.since })
    }

    #[inline]
    pub fn ready(&self) -> bool {
        !self.ended.is_empty() || self.live.as_ref().is_some_and(|live| live.lied || live.pair.ready())
    }

    /// Moves requests into the queue, as many as there is room for.
    pub fn submit(
        &mut self,
        hardware: &impl Hardware,
        formats: &Formats,
        batch: &mut Requests,
    ) -> Result<usize, DeviceError> {
        let (now, ended) = (hardware.now(), &mut self.ended);
        let live = self.live.as_mut().ok_or(DeviceError::NoSuchQueue)?;
        if live.lied {
            return Err(DeviceError::Lied);
        }
        let mut told = 0;
        let take = |parts: Parts| {
            if ended.len() >= live.free.len() {
                return false;
            }
            let Some(index) = live.free.pop() else { return false };
            let number = Number::new(index, live.turn);
            match live.entry(formats, &parts, number) {
                Some(entry) => {
                    live.pair.push(&entry);
                    let parts = Parts { status: Status::Open, ..parts };
                    live.slots[usize::from(index)] = Some(Flying { parts, number, since: now });
                    live.turn = live.turn.wrapping_add(1);
                    told += 1;
                }
                None => {
                    live.free.push(index);
                    ended.push_back(Parts { status: Status::Refused, ..parts });
                }
            }
            true
        };
        // SAFETY: what is taken is in `slots` or in `ended`, with its hold. We are the kernel's image.
        let taken = unsafe { trusted::take(batch, u32::MAX, take) };
        if told > 0 {
            live.pair.ring(hardware);
            self.counts.doorbells += 1;
        }
        self.counts.submitted += taken as u64;
        Ok(taken)
    }

    /// Moves requests that have come to an end into `batch`, as far as it has place.
    pub fn poll(&mut self, hardware: &impl Hardware, batch: &mut Requests) -> Result<usize, DeviceError> {
        let room = Requests::CAPACITY - batch.len();
        let mut moved = 0;
        while moved < room
            && let Some(parts) = self.ended.pop_front()
        {
            self.counts.failed += 1;
            // SAFETY: the hold was the queue's, and there is a place for it.
            unsafe { trusted::push(batch, parts) };
            moved += 1;
        }
        let ended = moved;
        if let Some(live) = &mut self.live {
            while moved < room
                && !live.lied
                && let Some(completion) = live.pair.next()
            {
                let Some(flying) = live.take(&completion) else {
                    live.lied = true;
                    break;
                };
                let status = meaning(completion.status);
                self.counts.failed += u64::from(status != Status::Done);
                // SAFETY: the device has completed the command: the hold was the queue's alone, and there is a place for it.
                unsafe { trusted::push(batch, Parts { status, ..flying.parts }) };
                moved += 1;
            }
            if moved > ended {
                live.pair.taken(hardware);
                self.counts.doorbells += 1;
            }
            if live.lied && moved == 0 {
                return Err(DeviceError::Lied);
            }
        }
        self.counts.completed += moved as u64;
        Ok(moved)
    }
}

impl Live {
    /// The request that a completion ends; `None` if the device completes what isn't in flight.
    fn take(&mut self, completion: &Completion) -> Option<Flying> {
        if completion.queue != self.pair.id {
            return None;
        }
        let index = Number(completion.number).index();
        let slot = self.slots.get_mut(usize::from(index))?;
        let flying = slot.take_if(|flying| flying.number.0 == completion.number)?;
        self.free.push(index);
        Some(flying)
    }

    /// The command for a request; `None` if it is refused.
    fn entry(&self, formats: &Formats, parts: &Parts, number: Number) -> Option<commands::Entry> {
        let order = &parts.order;
        let shift = formats.shift(order.namespace)?;
        if order.operation != Operation::Flush && order.blocks == 0 {
            return None;
        }
        match order.operation {
            Operation::Flush => Some(commands::io(order, number.0, 0, 0)),
            Operation::Deallocate => {
                self.write_range(number, order);
                Some(commands::io(order, number.0, self.list_bus(number), 0))
            }
            _ if order.blocks > MOST_BLOCKS => None,
            Operation::WriteZeroes => Some(commands::io(order, number.0, 0, 0)),
            Operation::Read | Operation::Write => {
                let (first, second) = self.prps(parts, u64::from(order.blocks) << shift, number)?;
                Some(commands::io(order, number.0, first, second))
            }
        }
    }

    /// The PRP entries that cover `bytes` of the request's buffer (§4.1.1), the list written if there is one.
    fn prps(&self, parts: &Parts, bytes: u64, number: Number) -> Option<(u64, u64)> {
        // SAFETY: the request's hold keeps the head.
        let head = unsafe { parts.buffer?.as_ref() };
        let offset = u64::from(parts.order.offset);
        let fits = offset.is_multiple_of(4) && offset + bytes <= u64::from(head.bytes);
        let others_hold = head.holds.load(core::sync::atomic::Ordering::Acquire) != 1;
        if !fits || (parts.order.operation == Operation::Read && others_hold) {
            return None;
        }
        let first = head.bus + offset;
        let mut next = (first | (PAGE - 1)) + 1;
        let end = first + bytes;
        if next >= end {
            return Some((first, 0));
        }
        if next + PAGE >= end {
            return Some((first, next));
        }
        let mut at = 0;
        while next < end {
            self.write_list(number, at, next);
            next += PAGE;
            at += 1;
        }
        Some((first, self.list_bus(number)))
    }

    fn list_bus(&self, number: Number) -> u64 {
        self.lists.bus + u64::from(number.index()) * LIST_BYTES as u64
    }

    fn write_list(&self, number: Number, at: usize, value: u64) {
        assert!(usize::from(number.index()) < self.slots.len() && at < LIST_BYTES / 8, "a list beyond its place");
        let place = usize::from(number.index()) * (LIST_BYTES / 8) + at;
        // SAFETY: inside the lists' memory (asserted), aligned; the command isn't in flight, so the device doesn't read it.
        unsafe { self.lists.address.cast::<u64>().add(place).write_volatile(value.to_le()) };
    }

    /// A deallocation's range (NVM Command Set 1.0 §3.2.3.1): attributes, length, first block.
    fn write_range(&self, number: Number, order: &Order) {
        self.write_list(number, 0, u64::from(order.blocks) << 32);
        self.write_list(number, 1, order.block);
    }
}

/// What a status code type and code (§3.3.3.2.1) mean to a client.
fn meaning(status: u16) -> Status {
    match (status >> 8, status & 0xFF) {
        (0, 0) => Status::Done,
        // Invalid opcode, field, namespace; beyond the end; capacity exceeded.
        (0, 0x01 | 0x02 | 0x0B | 0x80 | 0x81) => Status::Refused,
        // Aborted: power loss, on request, with its queue, or since a fused command failed.
        (0, 0x05 | 0x07 | 0x08 | 0x09) => Status::Lost,
        (2, _) => Status::Medium,
        _ => Status::Device(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_say_what_to_do() {
        assert_eq!(meaning(0), Status::Done);
        assert_eq!(meaning(0x080), Status::Refused, "beyond the end");
        assert_eq!(meaning(0x007), Status::Lost, "aborted on request");
        assert_eq!(meaning(0x281), Status::Medium, "unrecovered read error");
        assert_eq!(meaning(0x006), Status::Device(6), "internal error");
    }
}
