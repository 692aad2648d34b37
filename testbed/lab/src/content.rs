//! Bytes whose SHA-256 both ends know: files that the backends serve, bodies that the client sends.

use sha2::{Digest, Sha256};

pub type Hash = [u8; 32];

/// Bytes made from a seed, however they are cut into pieces, and of no use to a compressor.
pub struct Stream {
    random: fastrand::Rng,
    left: u64,
    /// Bytes drawn and not yet handed out.
    rest: Vec<u8>,
}

impl Stream {
    pub fn new(seed: u64, length: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), left: length, rest: Vec::new() }
    }

    /// The next piece, of at most `most` bytes; `None` at the end.
    pub fn next(&mut self, most: usize) -> Option<Vec<u8>> {
        if self.left == 0 {
            return None;
        }
        let length = usize::try_from(self.left).unwrap_or(most).min(most);
        let mut piece = Vec::with_capacity(length + 8);
        piece.append(&mut self.rest);
        while piece.len() < length {
            piece.extend(self.random.u64(..).to_le_bytes());
        }
        self.rest = piece.split_off(length);
        self.left -= length as u64;
        Some(piece)
    }
}

/// The whole of a stream.
pub fn bytes(seed: u64, length: u64) -> Vec<u8> {
    let mut whole = Vec::with_capacity(length as usize);
    let mut stream = Stream::new(seed, length);
    while let Some(piece) = stream.next(64 << 10) {
        whole.extend_from_slice(&piece);
    }
    whole
}

pub fn hash(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_in_pieces_of_any_size() {
        let mut stream = Stream::new(7, 100_000);
        let mut whole = Vec::new();
        while let Some(piece) = stream.next(1_001) {
            assert!(piece.len() <= 1_001);
            whole.extend(piece);
        }
        assert_eq!(whole.len(), 100_000);
        assert_eq!(whole, bytes(7, 100_000));
        assert_ne!(hash(&whole), hash(&bytes(8, 100_000)));
    }
}
