//! What this machine has of chance, for the box's secrets: the CPU's own source of random numbers, and the times that things take.

use alloc::vec::Vec;
use core::hint;

use bundle::Hash;
use kernel_core::platform::Entropy;
use x86_64::instructions::random::RdRand;

use crate::clock;

/// Intel's manual (volume 1, 7.3.17.1) takes a source that fails ten times in a row for broken.
const ATTEMPTS: usize = 10;
/// Words from the source: twice what the secret holds.
const WORDS: usize = 8;
/// Readings of the time-stamp counter.
const MOMENTS: usize = 1024;

/// Numbers of the CPU's source, if it has one that works. All equal (as after a bug of some AMD processors, which gave all ones after a suspend) is broken.
fn from_the_cpu() -> Option<[u64; WORDS]> {
    let source = RdRand::new()?;
    let mut words = [0; WORDS];
    for word in &mut words {
        *word = (0..ATTEMPTS).find_map(|_| source.get_u64())?;
    }
    words.iter().any(|word| *word != words[0]).then_some(words)
}

/// Everything in one hash, so that the weakest part weakens nothing.
pub fn entropy() -> Entropy {
    let source = from_the_cpu();
    let mut chance: Vec<u64> = source.into_iter().flatten().collect();
    chance.push(clock::boot_date().unwrap_or(0));
    for _ in 0..MOMENTS {
        hint::spin_loop();
        chance.push(clock::ticks());
    }
    let bytes: Vec<u8> = chance.into_iter().flat_map(u64::to_le_bytes).collect();
    Entropy { secret: Hash::of(&bytes).0, is_strong: source.is_some() }
}
