//! The EEPROM's words and the register that reads them (82599 §6, §8.2.3.2.2).
//!
//! The map holds what drivers look at: checksum, firmware version, SFP+ initialisation list, PBA
//! number. Everything else reads as an erased or absent section.

/// Words that EERD can address here; drivers read no further.
const WORDS: usize = 0x400;
/// What the words 0 to 0x3F add up to (82599 §6.3.6).
const SUM: u16 = 0xBABA;
const CHECKSUM_WORD: usize = 0x3F;

/// Firmware section, which Linux wants at version 6 or later for SFP+ (`ixgbe_verify_fw_version_82599`).
const FIRMWARE: usize = 0x100;
const PASS_THROUGH: usize = 0x120;
/// List of (module type, data) pairs (Linux: `ixgbe_get_sfp_init_sequence_offsets`).
const SFP_LIST: usize = 0x140;
const SFP_DATA: usize = 0x160;

pub struct Eeprom {
    words: [u16; WORDS],
    /// EERD as it reads.
    command: u32,
}

impl Eeprom {
    pub fn new(mac: [u8; 6], device: u16) -> Self {
        let mut words = [0u16; WORDS];
        // Section pointers: none, so that the checksum covers the first words alone.
        words[0x03..0x0F].fill(0xFFFF);
        // No SAN address, no world-wide names (82599 §6.3.7).
        words[0x27..0x29].fill(0xFFFF);
        words[0x0F] = FIRMWARE as u16;
        words[FIRMWARE + 2] = 0xFFFF;
        words[FIRMWARE + 4] = PASS_THROUGH as u16;
        words[PASS_THROUGH + 7] = 6;
        // The PBA number in its old, hexadecimal form: 007000-001 (82599 §6.3.5).
        words[0x15] = 0x0070;
        words[0x16] = 0x0001;
        words[0x2B] = SFP_LIST as u16;
        // Both copper and optical modules, on either port; Linux's numbers for them are 3 to 6.
        for (i, kind) in (3u16..=6).enumerate() {
            words[SFP_LIST + 1 + 2 * i] = kind;
            words[SFP_LIST + 2 + 2 * i] = SFP_DATA as u16;
        }
        words[SFP_LIST + 9] = 0xFFFF;
        // No value to write into the analogue part: the list ends at once.
        words[SFP_DATA + 1] = 0xFFFF;
        words[0x1A] = device;
        for (i, pair) in mac.chunks_exact(2).enumerate() {
            words[0x30 + i] = u16::from_le_bytes([pair[0], pair[1]]);
        }
        let sum = words[..CHECKSUM_WORD].iter().fold(0u16, |sum, word| sum.wrapping_add(*word));
        words[CHECKSUM_WORD] = SUM.wrapping_sub(sum);
        Eeprom { words, command: 0 }
    }

    /// EERD: address in bits 15:2, start bit 0, done bit 1, data in bits 31:16.
    pub fn write(&mut self, value: u32) {
        if value & 1 == 0 {
            self.command = value;
            return;
        }
        let word = self.words.get((value >> 2 & 0x3FFF) as usize).copied().unwrap_or(0xFFFF);
        self.command = u32::from(word) << 16 | value & 0xFFFC | 2;
    }

    pub fn read(&self) -> u32 {
        self.command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(eeprom: &mut Eeprom, address: u32) -> u16 {
        eeprom.write(address << 2 | 1);
        assert_eq!(eeprom.read() & 2, 2, "done");
        (eeprom.read() >> 16) as u16
    }

    /// The checksum that every driver verifies at start.
    #[test]
    fn checksum() {
        let mut eeprom = Eeprom::new([2, 0, 0, 0, 0, 1], 0x10FB);
        let sum = (0..0x40).fold(0u16, |sum, i| sum.wrapping_add(word(&mut eeprom, i)));
        assert_eq!(sum, SUM);
    }

    /// Addresses beyond the map read as erased.
    #[test]
    fn beyond_the_map() {
        let mut eeprom = Eeprom::new([2, 0, 0, 0, 0, 1], 0x10FB);
        assert_eq!(word(&mut eeprom, 0x3FFF), 0xFFFF);
    }
}
