//! The SFP+ module behind the bit-banged I2C of I2CCTL (82599 §8.2.3.1.6, SFF-8472).
//!
//! An I2C target that follows the two lines edge by edge, as drivers toggle them.

use crate::config::SfpModule;

/// I2CCTL's lines (82599 §8.2.3.1.6): what the NIC reads from and drives onto the bus.
const CLOCK_IN: u32 = 1 << 0;
const CLOCK_OUT: u32 = 1 << 1;
const DATA_IN: u32 = 1 << 2;
const DATA_OUT: u32 = 1 << 3;

/// The module's serial-id memory answers at this address (SFF-8472 §4).
const SERIAL_ID: u8 = 0xA0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// Shifting in a byte; which one it is.
    Listen(Byte),
    /// Pulling data low while the master clocks the acknowledge; then what follows.
    Acknowledge(Next),
    /// Shifting out the byte at the cursor.
    Talk,
    /// The master's acknowledge after a byte of ours.
    AwaitAcknowledge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Byte {
    Address,
    Cursor,
    Data,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Listen(Byte),
    Talk,
}

pub struct Module {
    /// An empty cage acknowledges nothing.
    present: bool,
    memory: [u8; 256],
    cursor: u8,
    state: State,
    bits: u8,
    shift: u8,
    /// The target's own drive of the data line; true is released.
    released: bool,
    clock: bool,
    data: bool,
}

impl Module {
    pub fn new(kind: SfpModule) -> Self {
        let mut memory = [0u8; 256];
        memory[0] = 3; // SFP or SFP+ (SFF-8472 table 5-1)
        memory[20..36].copy_from_slice(b"RedLeaf model   ");
        match kind {
            SfpModule::DirectAttach | SfpModule::Absent => {
                memory[2] = 0x21; // copper pigtail
                memory[8] = 0x04; // passive cable (SFF-8472 table 5-3)
                memory[18] = 1; // metres of copper
                memory[40..56].copy_from_slice(b"Passive DAC     ");
            }
            SfpModule::ShortRange | SfpModule::LongRange => {
                let short = kind == SfpModule::ShortRange;
                memory[2] = 0x07; // LC
                memory[3] = if short { 0x10 } else { 0x20 }; // 10GBASE-SR or -LR (SFF-8472 table 5-3)
                memory[37..40].copy_from_slice(&[0x00, 0x1B, 0x21]); // Linux takes no other vendor's optics
                memory[40..56].copy_from_slice(if short { b"Optics SR       " } else { b"Optics LR       " });
            }
        }
        memory[63] = memory[..63].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        memory[68..84].copy_from_slice(b"0001            ");
        memory[95] = memory[64..95].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        Module {
            present: kind != SfpModule::Absent,
            memory,
            cursor: 0,
            state: State::Idle,
            bits: 0,
            shift: 0,
            released: true,
            clock: true,
            data: true,
        }
    }

    /// I2CCTL as it reads: both lines are wired-and.
    pub fn read(&self) -> u32 {
        let mut value = 0;
        if self.clock {
            value |= CLOCK_IN | CLOCK_OUT;
        }
        if self.data {
            value |= DATA_OUT;
        }
        if self.data && self.released {
            value |= DATA_IN;
        }
        value
    }

    pub fn write(&mut self, value: u32) {
        let (clock, data) = (value & CLOCK_OUT != 0, value & DATA_OUT != 0);
        if self.clock && clock && self.data != data {
            // Data moving while the clock is high: start when it falls, stop when it rises.
            self.state = if data { State::Idle } else { State::Listen(Byte::Address) };
            (self.bits, self.shift, self.released) = (0, 0, true);
        }
        let (rose, fell) = (!self.clock && clock, self.clock && !clock);
        self.data = data;
        self.clock = clock;
        if rose {
            self.sample();
        } else if fell {
            self.shift_on();
        }
    }

    /// The clock rose: the data line is valid.
    fn sample(&mut self) {
        match self.state {
            State::Listen(_) => {
                self.shift = self.shift << 1 | u8::from(self.data);
                self.bits += 1;
            }
            State::Talk => self.bits += 1,
            State::AwaitAcknowledge => {
                if self.data {
                    self.state = State::Idle;
                }
            }
            State::Idle | State::Acknowledge(_) => {}
        }
    }

    /// The clock fell: the data line may change.
    fn shift_on(&mut self) {
        match self.state {
            State::Listen(byte) if self.bits == 8 => {
                self.bits = 0;
                self.state = match byte {
                    Byte::Address if !self.present => State::Idle,
                    Byte::Address if self.shift == SERIAL_ID => State::Acknowledge(Next::Listen(Byte::Cursor)),
                    Byte::Address if self.shift == SERIAL_ID | 1 => State::Acknowledge(Next::Talk),
                    Byte::Address => State::Idle,
                    Byte::Cursor => {
                        self.cursor = self.shift;
                        State::Acknowledge(Next::Listen(Byte::Data))
                    }
                    // The memory is write protected: the byte is acknowledged and forgotten.
                    Byte::Data => State::Acknowledge(Next::Listen(Byte::Data)),
                };
                self.released = !matches!(self.state, State::Acknowledge(_));
            }
            State::Acknowledge(Next::Listen(byte)) => {
                self.released = true;
                self.state = State::Listen(byte);
            }
            State::Acknowledge(Next::Talk) => self.talk(),
            State::Talk if self.bits == 8 => {
                self.released = true;
                self.cursor = self.cursor.wrapping_add(1);
                self.state = State::AwaitAcknowledge;
            }
            State::Talk => self.drive(),
            State::AwaitAcknowledge => self.talk(),
            State::Listen(_) | State::Idle => {}
        }
    }

    fn talk(&mut self) {
        self.state = State::Talk;
        self.bits = 0;
        self.drive();
    }

    fn drive(&mut self) {
        self.released = self.memory[usize::from(self.cursor)] >> (7 - self.bits) & 1 != 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A master as drivers write it.
    struct Master(Module);

    impl Master {
        fn lines(&mut self, clock: bool, data: bool) {
            self.0.write(if clock { CLOCK_OUT } else { 0 } | if data { DATA_OUT } else { 0 });
        }

        fn start(&mut self) {
            self.lines(false, true);
            self.lines(true, true);
            self.lines(true, false);
            self.lines(false, false);
        }

        fn stop(&mut self) {
            self.lines(false, false);
            self.lines(true, false);
            self.lines(true, true);
        }

        fn bit_out(&mut self, bit: bool) {
            self.lines(false, bit);
            self.lines(true, bit);
            self.lines(false, bit);
        }

        fn bit_in(&mut self) -> bool {
            self.lines(false, true);
            self.lines(true, true);
            let bit = self.0.read() & DATA_IN != 0;
            self.lines(false, true);
            bit
        }

        fn byte_out(&mut self, byte: u8) -> bool {
            (0..8).for_each(|i| self.bit_out(byte >> (7 - i) & 1 != 0));
            !self.bit_in()
        }

        fn byte_in(&mut self, more: bool) -> u8 {
            let byte = (0..8).fold(0, |byte, _| byte << 1 | u8::from(self.bit_in()));
            self.bit_out(!more);
            byte
        }
    }

    /// A random read, as Linux's and DPDK's drivers identify the module.
    #[test]
    fn identifies_itself() {
        let mut master = Master(Module::new(SfpModule::DirectAttach));
        for (at, expected) in [(0, 3), (8, 4), (20, b'R'), (63, 0)] {
            master.start();
            assert!(master.byte_out(0xA0));
            assert!(master.byte_out(at));
            master.start();
            assert!(master.byte_out(0xA1));
            let byte = master.byte_in(false);
            master.stop();
            if at == 63 {
                let sum = master.0.memory[..63].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                assert_eq!(byte, sum, "the base checksum of SFF-8472");
            } else {
                assert_eq!(byte, expected);
            }
        }
    }

    /// An empty cage doesn't answer, and optics name their reach.
    #[test]
    fn other_modules() {
        let mut cage = Master(Module::new(SfpModule::Absent));
        cage.start();
        assert!(!cage.byte_out(0xA0));
        let mut optics = Master(Module::new(SfpModule::LongRange));
        optics.start();
        assert!(optics.byte_out(0xA0) && optics.byte_out(3));
        optics.start();
        assert!(optics.byte_out(0xA1));
        assert_eq!(optics.byte_in(false), 0x20);
    }

    /// Sequential reads, and silence to an address that isn't there.
    #[test]
    fn sequential_reads_and_strangers() {
        let mut master = Master(Module::new(SfpModule::DirectAttach));
        master.start();
        assert!(!master.byte_out(0xA4));
        master.stop();
        master.start();
        assert!(master.byte_out(0xA0));
        assert!(master.byte_out(20));
        master.start();
        assert!(master.byte_out(0xA1));
        let name: Vec<u8> = (0..7).map(|i| master.byte_in(i < 6)).collect();
        assert_eq!(name, b"RedLeaf");
    }
}
