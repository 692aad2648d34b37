//! The register bank: what was last written, and the counting registers that reading clears.
//!
//! Registers with behaviour are handled where the behaviour lives; the bank is only their memory.

use crate::registers::BAR_SIZE;

/// Statistics registers (82599 §8.2.3.23): each is cleared by being read and doesn't wrap.
pub mod statistic {
    /// Pause frames sent and received (82599 §8.2.3.23.10).
    pub const LXONTXC: u32 = 0x3F60;
    pub const LXOFFTXC: u32 = 0x3F68;
    pub const LXONRXC: u32 = 0x41A4;
    pub const LXOFFRXC: u32 = 0x41A8;
    /// Missed packets, by packet buffer.
    pub const MPC: u32 = 0x3FA0;
    pub const RLEC: u32 = 0x4040;
    pub const PRC64: u32 = 0x405C;
    pub const GPRC: u32 = 0x4074;
    pub const BPRC: u32 = 0x4078;
    pub const MPRC: u32 = 0x407C;
    pub const GPTC: u32 = 0x4080;
    pub const GORCL: u32 = 0x4088;
    pub const GOTCL: u32 = 0x4090;
    pub const RUC: u32 = 0x40A4;
    pub const ROC: u32 = 0x40AC;
    pub const TORL: u32 = 0x40C0;
    pub const TPR: u32 = 0x40D0;
    pub const TPT: u32 = 0x40D4;
    pub const PTC64: u32 = 0x40D8;
    pub const MPTC: u32 = 0x40F0;
    pub const BPTC: u32 = 0x40F4;
    /// Received and sent packets of a statistics counter (RQSMR and TQSM say which queue counts where).
    pub const QPRC: u32 = 0x1030;
    pub const QBRC_L: u32 = 0x1034;
    pub const QPRDC: u32 = 0x1430;
    pub const QPTC: u32 = 0x6030;
    pub const QBTC_L: u32 = 0x8700;
    pub const RQSMR: u32 = 0x2300;
    pub const TQSM: u32 = 0x8600;
    /// IPv4 and L4 receive checksum errors.
    pub const XEC: u32 = 0x4120;

    /// Whether reading `offset` clears it.
    pub fn clears_on_read(offset: u32) -> bool {
        match offset {
            0x3F60..=0x3FDF | 0x4000..=0x40FF | 0x4120 | 0x41A4..=0x41AF | 0x8700..=0x877F => true,
            // QPRC, QBRC and QPRDC: in the gaps of the first 32 receive queues' blocks.
            0x1000..=0x17FF => matches!(offset % 0x40, 0x30 | 0x34 | 0x38),
            0x6000..=0x63FF => offset % 0x40 == 0x30,
            _ => false,
        }
    }
}

/// All registers of BAR0 as last written.
pub struct Bank {
    words: Box<[u32]>,
}

impl Bank {
    pub fn new() -> Self {
        Bank { words: vec![0; (BAR_SIZE / 4) as usize].into_boxed_slice() }
    }

    pub fn get(&self, offset: u32) -> u32 {
        self.words.get((offset / 4) as usize).copied().unwrap_or(0)
    }

    pub fn set(&mut self, offset: u32, value: u32) {
        if let Some(word) = self.words.get_mut((offset / 4) as usize) {
            *word = value;
        }
    }

    pub fn has(&self, offset: u32, bits: u32) -> bool {
        self.get(offset) & bits == bits
    }

    pub fn set_bits(&mut self, offset: u32, bits: u32) {
        self.set(offset, self.get(offset) | bits);
    }

    pub fn clear_bits(&mut self, offset: u32, bits: u32) {
        self.set(offset, self.get(offset) & !bits);
    }

    /// A 64-bit register made of a low and a high word.
    pub fn wide(&self, low: u32, high: u32) -> u64 {
        u64::from(self.get(low)) | u64::from(self.get(high)) << 32
    }

    /// Adds to a 32-bit statistic, which sticks at its maximum.
    pub fn count(&mut self, offset: u32, n: u32) {
        self.set(offset, self.get(offset).saturating_add(n));
    }

    /// Adds to a 36-bit statistic of two registers (82599 §8.2.3.23.24: GORCL/GORCH).
    pub fn count_wide(&mut self, low: u32, n: u64) {
        let sum = (self.wide(low, low + 4) + n).min((1 << 36) - 1);
        self.set(low, sum as u32);
        self.set(low + 4, (sum >> 32) as u32);
    }

    /// Counts a frame of `length` bytes (with FCS) in the six size classes that start at `first`
    /// (82599 §8.2.3.23.16: PRC64 and its neighbours; PTC64 alike).
    pub fn count_size(&mut self, first: u32, length: usize) {
        let class = match length {
            0..=64 => 0,
            65..=127 => 1,
            128..=255 => 2,
            256..=511 => 3,
            512..=1023 => 4,
            _ => 5,
        };
        self.count(first + 4 * class, 1);
    }

    /// Reads as a driver does: statistics are cleared by it.
    pub fn read(&mut self, offset: u32) -> u32 {
        let value = self.get(offset);
        if statistic::clears_on_read(offset) {
            self.set(offset, 0);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::{statistic::*, *};

    /// Protects the clear-on-read of statistics, and only of those.
    #[test]
    fn statistics_clear_on_read_and_stick_at_the_top() {
        let mut bank = Bank::new();
        bank.count(GPRC, u32::MAX - 1);
        bank.count(GPRC, 5);
        assert_eq!(bank.read(GPRC), u32::MAX);
        assert_eq!(bank.read(GPRC), 0);
        bank.count_wide(GORCL, 1 << 33);
        assert_eq!((bank.read(GORCL), bank.read(GORCL + 4)), (0, 2));
        bank.set(crate::registers::MRQC, 7);
        assert_eq!((bank.read(crate::registers::MRQC), bank.read(crate::registers::MRQC)), (7, 7));
    }

    /// Protects the boundaries of the size classes.
    #[test]
    fn size_classes() {
        let mut bank = Bank::new();
        for length in [64, 65, 127, 128, 255, 256, 511, 512, 1023, 1024, 1522] {
            bank.count_size(PRC64, length);
        }
        let classes: Vec<u32> = (0..6).map(|i| bank.get(PRC64 + 4 * i)).collect();
        assert_eq!(classes, [1, 2, 2, 2, 2, 2]);
    }

    /// A read beyond the BAR is a driver's mistake, not ours to die of.
    #[test]
    fn outside_the_bar_reads_zero() {
        let mut bank = Bank::new();
        bank.set(0xFFFF_FFFC, 1);
        assert_eq!(bank.read(0xFFFF_FFFC), 0);
    }
}
