//! What strangers can't foretell: keys of hash tables, first sequence numbers, identifiers of questions.
//!
//! One generator for the box. Its key is replaced at each draw by a hash of itself and of the moment, so that who learns a key can't tell what was drawn before it; the machine
//! seeds it before the first domain starts ([`seed`]). A draw is two SHA-256 of less than a block each: for secrets, not for streams.

use bundle::Hash;

use crate::{
    lock::Lock,
    log::{self, Level},
    machine,
};

/// A generator: 256 bits that nobody else knows.
struct Generator([u8; 32]);

/// What a hash of the key is for: no value of one purpose is one of another.
#[derive(Clone, Copy)]
enum Purpose {
    Seed,
    Number,
    NextKey,
}

static GENERATOR: Lock<Generator> = Lock::new(Generator([0; 32]));

impl Generator {
    fn hash(&self, purpose: Purpose, more: &[u8; 32]) -> [u8; 32] {
        let mut bytes = [0; 65];
        bytes[..32].copy_from_slice(&self.0);
        bytes[32..64].copy_from_slice(more);
        bytes[64] = purpose as u8;
        Hash::of(&bytes).0
    }

    /// Makes the key depend on `secret`, too.
    fn stir(&mut self, secret: &[u8; 32]) {
        self.0 = self.hash(Purpose::Seed, secret);
    }

    /// A number. The moment of the draw goes into the next key.
    fn draw(&mut self, now: u64) -> u64 {
        let mut moment = [0; 32];
        moment[..8].copy_from_slice(&now.to_le_bytes());
        let [a, b, c, d, e, f, g, h, ..] = self.hash(Purpose::Number, &moment);
        self.0 = self.hash(Purpose::NextKey, &moment);
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// Seeds the box's generator with what the machine has of chance.
pub(crate) fn seed() {
    let entropy = machine().entropy();
    GENERATOR.lock().stir(&entropy.secret);
    if !entropy.is_strong {
        log::kernel(
            Level::Warn,
            format_args!(
                "this CPU has no source of random numbers (RDRAND): the box's secrets rest on the times that its boot took"
            ),
        );
    }
}

/// A number that nobody can foretell, another each time.
pub fn draw() -> u64 {
    let now = machine().now();
    GENERATOR.lock().draw(now)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, vec::Vec};

    use super::*;

    fn numbers(seed: u8, moments: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let mut generator = Generator([0; 32]);
        generator.stir(&[seed; 32]);
        moments.into_iter().map(|now| generator.draw(now)).collect()
    }

    /// Who knows every moment of every draw knows nothing of what was drawn as long as the seed is unknown, and the other way round.
    #[test]
    fn seed_and_moment_both_count() {
        let known: BTreeSet<u64> = numbers(1, 0..1000).into_iter().collect();
        assert_eq!(known.len(), 1000, "another each time");
        assert!(numbers(2, 0..1000).iter().all(|number| !known.contains(number)), "another seed, other numbers");
        let later = numbers(1, [0, 2, 2, 3]);
        assert!(
            known.contains(&later[0]) && later[1..].iter().all(|number| !known.contains(number)),
            "another moment, other numbers from there on"
        );
    }

    /// Each bit is as often 1 as 0, as far as 4,096 numbers tell: the mean of a fair one is 2,048, its deviation 32.
    #[test]
    fn bits_are_fair() {
        let numbers = numbers(7, 0..4096);
        for bit in 0..64 {
            let ones = numbers.iter().filter(|number| **number >> bit & 1 == 1).count();
            assert!((2048 - 6 * 32..2048 + 6 * 32).contains(&ones), "bit {bit}: {ones}");
        }
    }
}
