//! The card's own loop from transmitter to receiver (HLREG0.LPBK, 82599 §3.7.6): drivers test themselves by it.

use std::collections::VecDeque;

use crate::surroundings::Wire;

/// Frames on their way round inside the card.
#[derive(Default)]
pub struct Loopback {
    frames: VecDeque<Vec<u8>>,
    current: Vec<u8>,
}

impl Wire for Loopback {
    fn send(&mut self, frame: &[u8]) {
        self.frames.push_back(frame.to_vec());
    }

    fn receive(&mut self) -> Option<&[u8]> {
        self.current = self.frames.pop_front()?;
        Some(&self.current)
    }
}
