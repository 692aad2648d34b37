//! What stands in a block: a mark, its address, the pass that wrote it, and in every further word a number made of these two and the word's place.

const MARK: u64 = 0x5245_444c_4541_4621;

/// Mixes bits well and fast (the finalizer of SplitMix64).
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

fn word(address: u64, pass: u64, at: usize) -> u64 {
    match at {
        0 => MARK,
        1 => address,
        2 => pass,
        _ => mix(mix(address ^ pass << 40) ^ at as u64),
    }
}

/// Fills a block.
pub fn write(block: &mut [u8], address: u64, pass: u64) {
    for (at, bytes) in block.chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&word(address, pass, at).to_le_bytes());
    }
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Zeroes only: never written.
    Nothing,
    /// Wholly what this pass has written to this very block.
    Pass(u64),
    /// Anything else: torn, another's, or rotten, from this word on.
    Damaged { at: usize },
}

/// Looks at a block.
pub fn read(block: &[u8], address: u64) -> Found {
    if block.iter().all(|byte| *byte == 0) {
        return Found::Nothing;
    }
    let words = || block.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()));
    let pass = words().nth(2).unwrap_or_default();
    match words().enumerate().find(|(at, value)| *value != word(address, pass, *at)) {
        None => Found::Pass(pass),
        Some((at, _)) => Found::Damaged { at },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The judge itself: a block of another place, of two passes, or with one bit wrong is found.
    #[test]
    fn damage_is_found() {
        let mut block = [0; 512];
        assert_eq!(read(&block, 7), Found::Nothing);
        write(&mut block, 7, 3);
        assert_eq!(read(&block, 7), Found::Pass(3));
        assert_eq!(read(&block, 8), Found::Damaged { at: 1 });
        let mut torn = [0; 512];
        write(&mut torn, 7, 4);
        torn[256..].copy_from_slice(&block[256..]);
        assert_eq!(read(&torn, 7), Found::Damaged { at: 32 });
        block[511] ^= 1;
        assert_eq!(read(&block, 7), Found::Damaged { at: 63 });
    }
}
