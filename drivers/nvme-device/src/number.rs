//! Commands' numbers.

use interfaces::block::InFlight;

const INDEX_BITS: u32 = InFlight::CAPACITY.trailing_zeros();
const TURNS: u16 = 1 << (16 - INDEX_BITS);

/// The index of a command's slot and, above it, the slot's turn: so that a completion which the device repeats isn't taken for that of the slot's next command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Number(pub u16);

impl Number {
    pub fn new(index: u16, turn: u16) -> Self {
        Number(index | (turn % TURNS) << INDEX_BITS)
    }

    pub fn index(self) -> u16 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }
}
