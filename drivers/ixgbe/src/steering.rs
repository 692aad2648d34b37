//! Receive-side scaling: which flow goes to which queue (82599 §7.1.2.8).
//!
//! The key repeats two bytes, so that both directions of a flow have one hash and meet on one CPU (Woo and Park, "Scalable TCP Session Monitoring
//! with Symmetric Receive-side Scaling", KAIST 2012).

/// The 40 bytes of the key, as RSSRK's ten registers hold them: byte 0 in bits 7:0.
pub const KEY: [u32; 10] = [u32::from_le_bytes([0x6D, 0x5A, 0x6D, 0x5A]); 10];

/// RSS without other classes, over addresses and, where there are ports, ports: TCP and UDP, IPv4 and IPv6 (MRQC, §8.2.3.7.12).
pub const HASHED_FIELDS: u32 = 1 | 1 << 16 | 1 << 17 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23;

/// The 32 registers of the redirection table: entry i of 128 is queue i modulo `queues`.
pub fn redirection(queues: u16) -> impl Iterator<Item = u32> {
    let queue = move |entry: u32| entry % u32::from(queues.max(1));
    (0..32).map(move |register| (0..4).fold(0, |word, byte| word | queue(4 * register + byte) << (8 * byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each queue has its share of the table, to within one entry.
    #[test]
    fn the_table_is_even() {
        for queues in [1, 2, 3, 5, 16] {
            let mut entries = [0; 16];
            for register in redirection(queues) {
                register.to_le_bytes().into_iter().for_each(|queue| entries[usize::from(queue)] += 1);
            }
            let used = &entries[..usize::from(queues)];
            assert_eq!(entries.iter().sum::<u32>(), 128);
            assert_eq!(used.iter().sum::<u32>(), 128, "no entry beyond the queues");
            assert!(used.iter().max().unwrap() - used.iter().min().unwrap() <= 1);
        }
    }

    /// The Toeplitz hash with this key doesn't tell source from destination.
    #[test]
    fn the_key_is_symmetric() {
        let bit = |at: usize| KEY[at / 32 % 10].to_le_bytes()[at / 8 % 4] >> (7 - at % 8) & 1;
        let hash = |input: &[u8]| {
            (0..8 * input.len())
                .filter(|at| input[at / 8] >> (7 - at % 8) & 1 != 0)
                .fold(0u32, |hash, at| hash ^ (0..32).fold(0, |window, i| window << 1 | u32::from(bit(at + i))))
        };
        let there = [10, 0, 1, 7, 10, 0, 1, 100, 0xC3, 0x51, 0x00, 0x50];
        let back = [10, 0, 1, 100, 10, 0, 1, 7, 0x00, 0x50, 0xC3, 0x51];
        assert_eq!(hash(&there), hash(&back));
        assert_ne!(hash(&there), hash(&[10, 0, 1, 8, 10, 0, 1, 100, 0xC3, 0x51, 0x00, 0x50]));
    }
}
