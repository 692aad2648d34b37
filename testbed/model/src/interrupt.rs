//! Causes, masks and MSI-X messages (82599 §7.3).
//!
//! Drivers tell this module of causes; it decides when a message goes out. Queue causes reach a
//! vector through IVAR, everything else through IVAR_MISC. A message is due when its cause arrives
//! unmasked or is unmasked while set; it goes out once the vector's EITR interval has passed, and
//! then auto-clear (EIAC) and auto-mask (EIAM) act.

use crate::bank::Bank;
use crate::registers::*;

/// Which half of a queue pair had something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Receive,
    Transmit,
}

#[derive(Default)]
pub struct InterruptLogic {
    /// EICR's queue causes, which in MSI-X mode are the vectors' own bits; 63..32 show in the extended registers.
    queue_causes: u64,
    queue_mask: u64,
    /// EICR bits 31:16.
    other_causes: u32,
    other_mask: u32,
    /// Vectors whose message is due but not sent.
    due: u64,
    /// Earliest moment for the next message, by vector.
    not_before: Vec<u64>,
    /// Messages still to be lost, by command.
    pub lose: u32,
}

/// Bits of EICR that are not queues' own.
const OTHERS: u32 = !EICR_QUEUES;

impl InterruptLogic {
    pub fn new() -> Self {
        InterruptLogic { not_before: vec![0; VECTORS], ..Default::default() }
    }

    /// Vector (or EICR bit) that IVAR names for a queue (82599 §8.2.3.5.13).
    fn vector_of(bank: &Bank, direction: Direction, queue: usize) -> Option<u32> {
        let entry = bank.get(IVAR + 4 * (queue as u32 / 2));
        let shift = 16 * (queue as u32 & 1) + if direction == Direction::Transmit { 8 } else { 0 };
        let field = entry >> shift & 0xFF;
        (field & 0x80 != 0).then_some(field & 0x3F)
    }

    /// A queue wrote back a descriptor.
    pub fn queue_event(&mut self, bank: &Bank, direction: Direction, queue: usize) {
        if let Some(vector) = Self::vector_of(bank, direction, queue) {
            self.queue_causes |= 1 << vector;
            self.due |= self.queue_causes & self.queue_mask & 1 << vector;
        }
    }

    /// Something else happened: `causes` are bits of EICR above 15.
    pub fn other_event(&mut self, bank: &Bank, causes: u32) {
        self.other_causes |= causes & OTHERS;
        self.due_for_others(bank, causes);
    }

    fn due_for_others(&mut self, bank: &Bank, causes: u32) {
        self.due |= self.vectors_of_others(bank, causes);
    }

    /// The vectors that those of `causes` which are set and unmasked go to.
    fn vectors_of_others(&self, bank: &Bank, causes: u32) -> u64 {
        let live = causes & self.other_causes & self.other_mask;
        let misc = bank.get(IVAR_MISC);
        // The TCP timer has the low field of IVAR_MISC, all others the next one (82599 §8.2.3.5.14).
        let fields = [(live & EICR_TCP_TIMER, misc), (live & !EICR_TCP_TIMER, misc >> 8)];
        let named = fields.into_iter().filter(|(causes, field)| *causes != 0 && field & 0x80 != 0);
        named.fold(0, |vectors, (_, field)| vectors | 1 << (field & 0x3F))
    }

    /// EICR as it reads.
    fn causes(&self) -> u32 {
        let other = if self.other_causes & self.other_mask != 0 { EICR_OTHER } else { 0 };
        (self.queue_causes as u32 & EICR_QUEUES) | self.other_causes | other
    }

    /// Sets causes as software asks by EICS.
    fn set_causes(&mut self, bank: &Bank, queues: u64, others: u32) {
        self.queue_causes |= queues;
        self.due |= queues & self.queue_mask;
        self.other_event(bank, others);
    }

    fn unmask(&mut self, bank: &Bank, queues: u64, others: u32) {
        self.queue_mask |= queues;
        self.other_mask |= others & OTHERS;
        self.due |= self.queue_causes & queues;
        self.due_for_others(bank, others);
    }

    /// Reads one of this module's registers; `None` if `offset` isn't one.
    pub fn read(&mut self, bank: &Bank, offset: u32) -> Option<u32> {
        Some(match offset {
            EICR => {
                // Read clears (82599 §8.2.3.5.1); EICS shows the same without clearing, which Linux uses.
                let causes = self.causes();
                self.queue_causes &= !u64::from(EICR_QUEUES);
                self.other_causes = 0;
                causes
            }
            EICS => self.causes(),
            EIMS | EIMC => self.queue_mask as u32 & EICR_QUEUES | self.other_mask,
            EITR_LOW..EITR_LOW_END | EITR_HIGH..EITR_HIGH_END => bank.get(offset) & !EITR_CNT_WDIS,
            _ => {
                let (group, high) = extended(offset)?;
                let value = match group {
                    EICS_EX => self.queue_causes,
                    EIAM_EX => return Some(bank.get(offset)),
                    _ => self.queue_mask,
                };
                (value >> high) as u32
            }
        })
    }

    /// Writes one of this module's registers; `false` if `offset` isn't one.
    pub fn write(&mut self, bank: &mut Bank, now: u64, offset: u32, value: u32) -> bool {
        let queues = u64::from(value & EICR_QUEUES);
        match offset {
            EICR => {
                // Write one to clear.
                self.queue_causes &= !queues;
                self.other_causes &= !value;
            }
            EICS => self.set_causes(bank, queues, value),
            EIMS => self.unmask(bank, queues, value),
            EIMC => {
                self.queue_mask &= !queues;
                self.other_mask &= !value;
            }
            EITR_LOW..EITR_LOW_END | EITR_HIGH..EITR_HIGH_END => {
                bank.set(offset, value);
                let vector =
                    if offset < EITR_LOW_END { (offset - EITR_LOW) / 4 } else { 24 + (offset - EITR_HIGH) / 4 };
                if value & EITR_CNT_WDIS == 0
                    && let Some(at) = self.not_before.get_mut(vector as usize)
                {
                    // The counter is loaded with bits 27:21 of what is written, in the interval's units.
                    *at = now + u64::from(value >> 21 & 0x7F) * EITR_UNIT_NS;
                }
            }
            EIAM => {
                bank.set(EIAM, value);
                let low = bank.get(EIAM_EX) & !EICR_QUEUES | value & EICR_QUEUES;
                bank.set(EIAM_EX, low);
            }
            _ => {
                let Some((group, high)) = extended(offset) else {
                    return false;
                };
                let bits = u64::from(value) << high;
                match group {
                    EICS_EX => self.set_causes(bank, bits, 0),
                    EIMS_EX => self.unmask(bank, bits, 0),
                    EIMC_EX => self.queue_mask &= !bits,
                    _ => bank.set(offset, value),
                }
            }
        }
        true
    }

    /// Sends what is due at `now`; calls `send` once for each message.
    pub fn deliver(&mut self, bank: &Bank, now: u64, mut send: impl FnMut(u16)) {
        if self.due == 0 {
            return;
        }
        // What was masked or read away while it was throttled has nothing to tell any more; if masked, it will
        // be due again when it is unmasked.
        self.due &= self.queue_causes & self.queue_mask | self.vectors_of_others(bank, u32::MAX);
        let msix = bank.has(GPIE, GPIE_MULTIPLE_MSIX);
        let automask = if bank.has(GPIE, GPIE_EIAME) { bank.wide(EIAM_EX, EIAM_EX + 4) } else { 0 };
        for vector in 0..VECTORS {
            let bit = 1u64 << vector;
            if self.due & bit == 0 || now < self.not_before[vector] {
                continue;
            }
            self.due &= !bit;
            // Interval in bits 11:3, units of 2 us at 10 Gb/s (82599 §7.3.2.1.1).
            let interval = u64::from(bank.get(eitr(vector)) >> 3 & 0x1FF) * EITR_UNIT_NS;
            self.not_before[vector] = now + interval;
            // EIAC's 16 queue bits; vectors beyond them always clear (82599 §7.3.1.4).
            let autoclear = u64::from(bank.get(EIAC) & EICR_QUEUES) | !u64::from(EICR_QUEUES);
            if msix {
                self.queue_causes &= !(bit & autoclear);
            }
            self.queue_mask &= !(bit & automask);
            if self.lose > 0 {
                self.lose -= 1;
                continue;
            }
            // Without multiple MSI-X every cause shares the first message (82599 §7.3.4).
            send(if msix { vector as u16 } else { 0 });
        }
    }

    /// When a message that is due but throttled may go, if there is one.
    pub fn next_delivery(&self) -> Option<u64> {
        (0..VECTORS).filter(|v| self.due >> v & 1 != 0).map(|v| self.not_before[v]).min()
    }
}

const EITR_LOW_END: u32 = EITR_LOW + 4 * 24;
const EITR_HIGH_END: u32 = EITR_HIGH + 4 * 104;
const EITR_UNIT_NS: u64 = 2_000;

/// The extended register that `offset` belongs to, and the first bit that it shows.
fn extended(offset: u32) -> Option<(u32, u32)> {
    [EICS_EX, EIMS_EX, EIMC_EX, EIAM_EX].into_iter().find_map(|base| match offset.wrapping_sub(base) {
        0 => Some((base, 0)),
        4 => Some((base, 32)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        bank: Bank,
        logic: InterruptLogic,
    }

    impl Fixture {
        /// Queue 0 RX and TX on vector 0, queue 1 on vector 1, others on vector 2.
        fn new() -> Self {
            let mut bank = Bank::new();
            bank.set(IVAR, 0x8181_8080);
            bank.set(IVAR_MISC, 0x8200);
            bank.set(GPIE, GPIE_MULTIPLE_MSIX | GPIE_EIAME);
            bank.set(EIAC, EICR_QUEUES);
            Fixture { bank, logic: InterruptLogic::new() }
        }

        fn write(&mut self, now: u64, offset: u32, value: u32) {
            assert!(self.logic.write(&mut self.bank, now, offset, value));
        }

        fn read(&mut self, offset: u32) -> u32 {
            self.logic.read(&self.bank, offset).unwrap()
        }

        fn sent(&mut self, now: u64) -> Vec<u16> {
            let mut sent = Vec::new();
            self.logic.deliver(&self.bank, now, |v| sent.push(v));
            sent
        }
    }

    /// A masked cause waits; unmasking it sends the message: a driver that sleeps must not miss it.
    #[test]
    fn unmasking_a_set_cause_sends() {
        let mut f = Fixture::new();
        f.logic.queue_event(&f.bank, Direction::Receive, 1);
        assert_eq!(f.sent(0), []);
        assert_eq!(f.read(EICS_EX), 2);
        f.write(0, EIMS_EX, 2);
        assert_eq!(f.sent(0), [1]);
        assert_eq!(f.read(EICS_EX), 0, "auto-cleared");
        assert_eq!(f.sent(0), []);
    }

    /// Auto-mask: one message until the driver unmasks again (82599 §7.3.1.5).
    #[test]
    fn automask_stops_a_second_message() {
        let mut f = Fixture::new();
        f.write(0, EIAM_EX, u32::MAX);
        f.write(0, EIMS_EX, 1);
        f.logic.queue_event(&f.bank, Direction::Transmit, 0);
        assert_eq!(f.sent(0), [0]);
        f.logic.queue_event(&f.bank, Direction::Receive, 0);
        assert_eq!(f.sent(1), []);
        assert_eq!(f.read(EIMS), 0);
        f.write(2, EIMS_EX, 1);
        assert_eq!(f.sent(2), [0]);
    }

    /// EITR keeps two messages apart, and the second isn't lost.
    #[test]
    fn throttling_delays() {
        let mut f = Fixture::new();
        f.write(0, eitr(0), 50 << 3 | EITR_CNT_WDIS);
        f.write(0, EIMS_EX, 1);
        f.logic.queue_event(&f.bank, Direction::Receive, 0);
        assert_eq!(f.sent(0), [0]);
        f.logic.queue_event(&f.bank, Direction::Receive, 0);
        assert_eq!(f.sent(99_999), []);
        assert_eq!(f.logic.next_delivery(), Some(100_000));
        assert_eq!(f.sent(100_000), [0]);
    }

    /// A driver that masks to poll isn't woken by what was throttled before, and is told once it asks again.
    #[test]
    fn masking_stops_a_throttled_message() {
        let mut f = Fixture::new();
        f.write(0, eitr(0), 50 << 3 | EITR_CNT_WDIS);
        f.write(0, EIMS_EX, 1);
        for _ in 0..2 {
            f.logic.queue_event(&f.bank, Direction::Receive, 0);
            f.sent(0);
        }
        f.write(0, EIMC_EX, 1);
        assert_eq!(f.sent(200_000), []);
        f.write(0, EIMS_EX, 1);
        assert_eq!(f.sent(200_000), [0]);
    }

    /// Link changes reach the "other" vector and stay readable until cleared by writing.
    #[test]
    fn link_change_goes_to_the_other_vector() {
        let mut f = Fixture::new();
        f.write(0, EIMS, EICR_LSC);
        f.logic.other_event(&f.bank, EICR_LSC);
        assert_eq!(f.sent(0), [2]);
        assert_eq!(f.read(EICS), EICR_LSC | EICR_OTHER);
        f.write(0, EICR, EICR_LSC);
        assert_eq!(f.read(EICR), 0);
    }

    /// Software may raise any cause by EICS, as drivers do in their watchdogs.
    #[test]
    fn eics_sets_causes() {
        let mut f = Fixture::new();
        f.write(0, EIMS_EX, 3);
        f.write(0, EICS_EX, 3);
        assert_eq!(f.sent(0), [0, 1]);
    }
}
