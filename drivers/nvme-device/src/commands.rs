//! Submission queue entries (§3.3.3.1). Addresses come from this crate alone.

use interfaces::{
    block::{Operation, Order},
    device::nvme::{AdminCommand, Feature},
};

/// Bytes of a memory page, as CC.MPS says.
pub const PAGE: u64 = 4096;

/// A submission queue entry. (Double words 0 with command number, 1 namespace, 6 to 9 the two PRP entries, 10 to 15 the command's own.)
#[derive(Clone, Copy)]
pub struct Entry(pub [u32; 16]);

impl Entry {
    pub fn new(opcode: u8, number: u16, namespace: u32) -> Self {
        let mut words = [0; 16];
        words[0] = u32::from(opcode) | u32::from(number) << 16;
        words[1] = namespace;
        Entry(words)
    }

    pub fn with_prps(mut self, first: u64, second: u64) -> Self {
        [self.0[6], self.0[7]] = [first as u32, (first >> 32) as u32];
        [self.0[8], self.0[9]] = [second as u32, (second >> 32) as u32];
        self
    }

    pub fn with(mut self, word: usize, value: u32) -> Self {
        self.0[word] = value;
        self
    }
}

/// Where the queues are that an admin command makes: bus address, number, entries, vector.
#[derive(Clone, Copy)]
pub struct QueuePlace {
    pub bus: u64,
    pub id: u16,
    pub entries: u16,
    pub vector: Option<u16>,
}

/// An admin command that reads nothing but `data`, a page of the lease, and, for those that make queues, `place`.
pub fn admin(command: AdminCommand, number: u16, data: u64, place: Option<QueuePlace>) -> Entry {
    let entry = |opcode, namespace| Entry::new(opcode, number, namespace);
    let size = |place: QueuePlace| u32::from(place.id) | u32::from(place.entries - 1) << 16;
    let place = place.unwrap_or(QueuePlace { bus: data, id: 0, entries: 1, vector: None });
    match command {
        AdminCommand::Identify { structure, namespace } => {
            entry(0x06, namespace).with_prps(data, 0).with(10, structure.into())
        }
        AdminCommand::GetLog { page, namespace, bytes } => {
            // Double words, counted from 0 (§5.16); at most a page.
            let words = u32::from(bytes).clamp(4, PAGE as u32) / 4 - 1;
            entry(0x02, namespace).with_prps(data, 0).with(10, u32::from(page) | words << 16)
        }
        AdminCommand::SetFeature { feature, value } => entry(0x09, 0).with(10, feature_number(feature)).with(11, value),
        AdminCommand::Abort { queue, command } => {
            entry(0x08, 0).with(10, (u32::from(queue) + 1) | u32::from(command) << 16)
        }
        AdminCommand::AsynchronousEvent => entry(0x0C, 0),
        AdminCommand::CreateCompletionQueue { .. } => {
            // Physically contiguous; interrupts if there is a vector (§5.4).
            let interrupts = place.vector.map_or(0, |vector| 1 << 1 | u32::from(vector) << 16);
            entry(0x05, 0).with_prps(place.bus, 0).with(10, size(place)).with(11, 1 | interrupts)
        }
        AdminCommand::CreateSubmissionQueue { .. } => {
            // Physically contiguous, completions in the queue of the same number (§5.5).
            entry(0x01, 0).with_prps(place.bus, 0).with(10, size(place)).with(11, 1 | u32::from(place.id) << 16)
        }
    }
}

/// §5.27.1.
fn feature_number(feature: Feature) -> u32 {
    match feature {
        Feature::VolatileWriteCache => 0x06,
        Feature::NumberOfQueues => 0x07,
        Feature::InterruptCoalescing => 0x08,
        Feature::AsynchronousEvents => 0x0B,
    }
}

/// The most blocks of one command: its field has 16 bits and counts from 0 (NVM Command Set 1.0 §3.2).
pub const MOST_BLOCKS: u32 = 1 << 16;

/// An I/O command; `first` and `second` are its PRP entries, or, for a deallocation, `first` is where its one range stands.
pub fn io(order: &Order, number: u16, first: u64, second: u64) -> Entry {
    let opcode = match order.operation {
        Operation::Flush => 0x00,
        Operation::Write => 0x01,
        Operation::Read => 0x02,
        Operation::WriteZeroes => 0x08,
        Operation::Deallocate => 0x09,
    };
    let entry = Entry::new(opcode, number, u32::from(order.namespace) + 1).with_prps(first, second);
    match order.operation {
        Operation::Flush => entry,
        // One range, counted from 0; the attribute to deallocate (NVM Command Set 1.0 §3.2.3).
        Operation::Deallocate => entry.with(10, 0).with(11, 1 << 2),
        Operation::Read | Operation::Write | Operation::WriteZeroes => {
            let unit_access = if order.force_unit_access { 1 << 30 } else { 0 };
            let blocks = order.blocks.saturating_sub(1) & 0xFFFF;
            entry.with(10, order.block as u32).with(11, (order.block >> 32) as u32).with(12, blocks | unit_access)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects a client that counts on a write being on the medium when it completes: no device can be seen from outside to have ignored it.
    #[test]
    fn unit_access_is_said() {
        let order = Order { operation: Operation::Write, block: 0x1_0000_0002, blocks: 8, ..Order::default() };
        let words = |order: &Order| io(order, 1, 0, 0).0;
        // NVM Command Set 1.0 §3.2.6: block in double words 10 and 11; in 12 the number of blocks, counted from 0, and bit 30.
        assert_eq!(words(&order)[10..13], [2, 1, 7]);
        assert_eq!(words(&Order { force_unit_access: true, ..order })[10..13], [2, 1, 7 | 1 << 30]);
    }
}
