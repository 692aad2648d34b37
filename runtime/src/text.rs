//! Numbers as text, for protocols: what `core::fmt` does too, without its machinery.

use alloc::vec::Vec;
use core::ops::Deref;

/// The decimal digits of a number.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    digits: [u8; 20],
    first: usize,
}

impl Decimal {
    pub fn of(mut number: u64) -> Decimal {
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Decimal { digits, first };
            }
        }
    }
}

impl Deref for Decimal {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.digits[self.first..]
    }
}

pub fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&Decimal::of(number));
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn numbers_are_written_as_the_formatter_writes_them() {
        let numbers = (0..64).flat_map(|bit| [1u64 << bit, (1u64 << bit) - 1]).chain([10, 99, 100, u64::MAX]);
        for number in numbers {
            assert_eq!(*Decimal::of(number), *number.to_string().as_bytes());
        }
    }
}
