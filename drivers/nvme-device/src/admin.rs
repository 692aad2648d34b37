//! The admin queue: a page of the lease for each command's data, and the formats of namespaces as the device itself has told them.

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU8, Ordering},
};

use interfaces::device::nvme::{AdminCommand, AdminDone, DATA_BYTES, DeviceError};

use crate::{
    commands::{self, QueuePlace},
    hardware::{DmaMemory, Hardware},
    number::Number,
    pair::Pair,
};

/// Entries of the admin queue.
pub const ENTRIES: u16 = 32;
/// Commands in flight.
const SLOTS: usize = 16;

/// Namespaces that this crate knows the format of: numbers 1 to this.
pub const MAX_NAMESPACES: usize = 64;

/// Block sizes of namespaces, as the power of 2; 0: unknown, and not to be used.
pub struct Formats([AtomicU8; MAX_NAMESPACES]);

impl Formats {
    pub const fn new() -> Self {
        Formats([const { AtomicU8::new(0) }; MAX_NAMESPACES])
    }

    pub fn forget(&self) {
        self.0.iter().for_each(|format| format.store(0, Ordering::Relaxed));
    }

    /// The block's size of namespace `index` (its number less 1), as a power of 2.
    pub fn shift(&self, index: u16) -> Option<u32> {
        match self.0.get(usize::from(index))?.load(Ordering::Relaxed) {
            0 => None,
            shift => Some(shift.into()),
        }
    }

    /// Takes the format from what Identify gave for a namespace (NVM Command Set 1.0 §4.1.5.1). One with metadata isn't used: its blocks are longer than they look.
    fn learn(&self, namespace: u32, data: &[u8; DATA_BYTES]) {
        let Some(place) = (namespace as usize).checked_sub(1).and_then(|index| self.0.get(index)) else { return };
        let size = u64::from_le_bytes([data[0], data[1], data[2], data[3], data[4], data[5], data[6], data[7]]);
        let at = 128 + 4 * (usize::from(data[26] & 0xF) | usize::from(data[26] >> 5 & 3) << 4);
        let (metadata, shift) = (u16::from_le_bytes([data[at], data[at + 1]]), data[at + 2]);
        let usable = size > 0 && metadata == 0 && (9..=16).contains(&shift);
        place.store(if usable { shift } else { 0 }, Ordering::Relaxed);
    }
}

pub struct Admin {
    pair: Pair,
    data: DmaMemory,
    /// What is in flight, by the index of its number.
    slots: [Option<(Number, AdminCommand)>; SLOTS],
    turn: u16,
    /// The device has lied here: nothing more is believed.
    lied: bool,
}

// SAFETY: the memory is the queue's alone, and so goes with it from thread to thread.
unsafe impl Send for Admin {}

impl Admin {
    pub fn new(hardware: &impl Hardware, stride: u32) -> Option<Self> {
        let data = hardware.allocate(SLOTS * DATA_BYTES)?;
        let Some(pair) = Pair::new(hardware, 0, ENTRIES, stride) else {
            // SAFETY: just allocated; the device has never heard of it.
            unsafe { hardware.free(data) };
            return None;
        };
        Some(Admin { pair, data, slots: [None; SLOTS], turn: 0, lied: false })
    }

    /// # Safety
    /// The device can't reach the queue any more.
    pub unsafe fn free(self, hardware: &impl Hardware) {
        // SAFETY: from `allocate`; the rest is the caller's promise.
        unsafe {
            hardware.free(self.data);
            self.pair.free(hardware);
        }
    }

    pub fn submission_bus(&self) -> u64 {
        self.pair.submission_bus()
    }

    pub fn completion_bus(&self) -> u64 {
        self.pair.completion_bus()
    }

    pub fn has_place(&self) -> bool {
        self.slots.iter().any(Option::is_none)
    }

    pub fn is_in_flight(&self, command: AdminCommand) -> bool {
        self.slots.iter().flatten().any(|(_, flying)| *flying == command)
    }

    pub fn submit(
        &mut self,
        hardware: &impl Hardware,
        command: AdminCommand,
        place: Option<QueuePlace>,
    ) -> Result<(), DeviceError> {
        let index = self.slots.iter().position(Option::is_none).ok_or(DeviceError::Full)?;
        let number = Number::new(index as u16, self.turn);
        self.turn = self.turn.wrapping_add(1);
        self.slots[index] = Some((number, command));
        let data = self.data.bus + (index * DATA_BYTES) as u64;
        self.pair.push(&commands::admin(command, number.0, data, place));
        self.pair.ring(hardware);
        Ok(())
    }

    pub fn poll(
        &mut self,
        hardware: &impl Hardware,
        formats: &Formats,
        data: &mut [u8; DATA_BYTES],
    ) -> Result<Option<AdminDone>, DeviceError> {
        if self.lied {
            return Err(DeviceError::Lied);
        }
        let Some(completion) = self.pair.next() else { return Ok(None) };
        self.pair.taken(hardware);
        let number = Number(completion.number);
        let index = usize::from(number.index());
        let slot = self.slots.get_mut(index).filter(|_| completion.queue == 0);
        let Some((_, command)) = slot.and_then(|slot| slot.take_if(|(flying, _)| *flying == number)) else {
            self.lied = true;
            return Err(DeviceError::Lied);
        };
        if matches!(command, AdminCommand::Identify { .. } | AdminCommand::GetLog { .. }) {
            // SAFETY: the command's page; the device has completed it, and a copy is what is looked at.
            unsafe {
                self.data
                    .address
                    .add(index * DATA_BYTES)
                    .copy_to_nonoverlapping(NonNull::from(&mut data[0]), DATA_BYTES)
            };
            if let AdminCommand::Identify { structure: 0, namespace } = command
                && completion.status == 0
            {
                formats.learn(namespace, data);
            }
        }
        Ok(Some(AdminDone { command, status: completion.status, result: completion.result }))
    }
}
