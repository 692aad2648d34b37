//! A bounded queue of bytes between an interrupt handler and the thread that reads. When it is full, new bytes are
//! refused and counted: what was typed first is kept.

/// A ring of `N` bytes.
pub struct ByteQueue<const N: usize> {
    bytes: [u8; N],
    first: usize,
    length: usize,
    refused: u64,
}

impl<const N: usize> ByteQueue<N> {
    pub const fn new() -> Self {
        Self { bytes: [0; N], first: 0, length: 0, refused: 0 }
    }

    pub fn push(&mut self, byte: u8) {
        if self.length == N {
            self.refused += 1;
            return;
        }
        self.bytes[(self.first + self.length) % N] = byte;
        self.length += 1;
    }

    pub fn pop(&mut self) -> Option<u8> {
        if self.length == 0 {
            return None;
        }
        let byte = self.bytes[self.first];
        self.first = (self.first + 1) % N;
        self.length -= 1;
        Some(byte)
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many bytes found the queue full.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl<const N: usize> Default for ByteQueue<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Order is kept across the wrap, and what doesn't fit is counted.
    #[test]
    fn keeps_order_and_counts_what_is_refused() {
        let mut queue = ByteQueue::<4>::new();
        for round in 0..10u8 {
            for byte in 0..3 {
                queue.push(round * 3 + byte);
            }
            for byte in 0..3 {
                assert_eq!(queue.pop(), Some(round * 3 + byte));
            }
            assert_eq!(queue.pop(), None);
        }
        (0..6).for_each(|byte| queue.push(byte));
        assert_eq!(queue.refused(), 2);
        assert_eq!(queue.pop(), Some(0));
        assert!(!queue.is_empty());
    }
}
