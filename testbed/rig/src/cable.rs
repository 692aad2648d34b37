//! A cable with a tester at its far end: it sends numbered frames as fast as it is told to, and looks at the numbers of what comes back.

use model::Wire;

/// Where a frame's number stands: behind an Ethernet header.
const NUMBER_AT: usize = 14;
/// IEEE 802 local experimental ethertype.
const ETHERTYPE: [u8; 2] = [0x88, 0xB5];
/// Bytes of the frame check sequence, which a cable's frames are without.
const CHECK_SEQUENCE: usize = 4;

/// What has come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    pub frames: u64,
    /// Frames that came once more.
    pub repeated: u64,
    /// Frames that came after one with a higher number.
    pub reordered: u64,
    /// Frames that the tester hadn't sent.
    pub strange: u64,
}

pub struct Tester {
    frame: Vec<u8>,
    sent: u64,
    /// Frames that may have been sent by now.
    allowed: u64,
    forgiven: u64,
    returned: Returned,
    highest: u64,
    /// By number: it has come back.
    seen: Vec<u64>,
}

impl Tester {
    /// For frames of `bytes`, check sequence included.
    pub fn new(bytes: usize) -> Tester {
        let mut frame = vec![0; bytes - CHECK_SEQUENCE];
        frame[..6].copy_from_slice(&model::frames::TO);
        frame[6..12].copy_from_slice(&model::frames::FROM);
        frame[12..14].copy_from_slice(&ETHERTYPE);
        Tester { frame, sent: 0, allowed: 0, forgiven: 0, returned: Returned::default(), highest: 0, seen: Vec::new() }
    }

    /// From now on frames are of this size.
    pub fn resize(&mut self, bytes: usize) {
        self.frame.resize(bytes - CHECK_SEQUENCE, 0);
    }

    /// Lets `frames` more be sent.
    pub fn allow(&mut self, frames: u64) {
        self.allowed += frames;
    }

    /// Sent frames.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn returned(&self) -> Returned {
        self.returned
    }

    /// Waits for so many of the missing frames no longer.
    pub fn forgive(&mut self, frames: u64) {
        self.forgiven += frames;
    }

    /// Frames that have been sent, or are to be, and have not come back.
    pub fn missing(&self) -> u64 {
        let returned = self.returned.frames - self.returned.repeated - self.returned.strange;
        // What was forgiven may come yet.
        self.allowed.saturating_sub(self.forgiven + returned)
    }
}

impl Wire for Tester {
    fn send(&mut self, frame: &[u8]) {
        self.returned.frames += 1;
        let number = frame.get(NUMBER_AT..).and_then(<[u8]>::first_chunk).map(|bytes| u64::from_le_bytes(*bytes));
        let Some(number) = number.filter(|number| *number < self.sent && frame[12..14] == ETHERTYPE) else {
            self.returned.strange += 1;
            return;
        };
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1024, 0);
        }
        if self.seen[word] & bit != 0 {
            self.returned.repeated += 1;
        } else if number < self.highest {
            self.returned.reordered += 1;
        }
        self.seen[word] |= bit;
        self.highest = self.highest.max(number);
    }

    fn receive(&mut self) -> Option<&[u8]> {
        if self.sent == self.allowed {
            return None;
        }
        self.frame[NUMBER_AT..NUMBER_AT + 8].copy_from_slice(&self.sent.to_le_bytes());
        self.sent += 1;
        Some(&self.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tester's own judgement: each kind of mishap is called what it is.
    #[test]
    fn mishaps_are_told_apart() {
        let mut tester = Tester::new(64);
        tester.allow(5);
        let frames: Vec<Vec<u8>> = std::iter::from_fn(|| tester.receive().map(<[u8]>::to_vec)).collect();
        assert_eq!((frames.len(), frames[0].len(), tester.missing()), (5, 60, 5));
        [0, 2, 1, 2].into_iter().for_each(|number: usize| tester.send(&frames[number]));
        tester.send(&[0; 60]);
        let expected = Returned { frames: 5, repeated: 1, reordered: 1, strange: 1 };
        assert_eq!((tester.returned(), tester.missing()), (expected, 2));
    }
}
