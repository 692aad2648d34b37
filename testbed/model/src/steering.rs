//! Which queue a received frame goes to: ethertype filters, 5-tuple filters, RSS (82599 §7.1.2).

use crate::bank::Bank;
use crate::packet::{Network, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, Parsed};
use crate::registers::*;

/// The outcome of steering, as the descriptor reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steered {
    pub queue: usize,
    pub hash: u32,
    /// The RSS type field of an advanced descriptor (82599 table 7-17); 0 is "no hash".
    pub hash_type: u8,
    /// Index of the ethertype filter that matched.
    pub ethertype_filter: Option<u8>,
}

/// Toeplitz hash of `input` under the 40-byte `key` (82599 §7.1.2.8.1).
pub fn toeplitz(key: &[u8; 40], input: &[u8]) -> u32 {
    let mut window = u32::from_be_bytes([key[0], key[1], key[2], key[3]]);
    let mut hash = 0;
    for (i, byte) in input.iter().enumerate() {
        let next = key.get(i + 4).copied().unwrap_or(0);
        for bit in 0..8 {
            if byte & (0x80 >> bit) != 0 {
                hash ^= window;
            }
            window = window << 1 | u32::from(next >> (7 - bit) & 1);
        }
    }
    hash
}

/// A hash key, unfolded so that hashing costs one look-up per byte.
pub struct HashKey {
    /// By position in the input and value of the byte there.
    table: Box<[[u32; 256]; INPUT]>,
    /// The key's registers have been written since.
    pub stale: bool,
}

/// The longest input: two IPv6 addresses and two ports.
const INPUT: usize = 36;

impl Default for HashKey {
    fn default() -> Self {
        HashKey { table: Box::new([[0; 256]; INPUT]), stale: false }
    }
}

impl HashKey {
    /// Reads the key's registers anew.
    fn refresh(&mut self, bank: &Bank) {
        let mut key = [0u8; 40];
        for (i, bytes) in key.chunks_exact_mut(4).enumerate() {
            bytes.copy_from_slice(&bank.get(RSSRK + 4 * i as u32).to_le_bytes());
        }
        let mut input = [0; INPUT];
        for at in 0..INPUT {
            // The hash is linear: what a byte adds doesn't depend on the others, nor what a bit adds on the byte's other bits.
            for value in 0..=255u8 {
                let rest = value & value.wrapping_sub(1);
                self.table[at][usize::from(value)] = if rest == 0 {
                    input[at] = value;
                    toeplitz(&key, &input)
                } else {
                    self.table[at][usize::from(rest)] ^ self.table[at][usize::from(value ^ rest)]
                };
            }
            input[at] = 0;
        }
        self.stale = false;
    }

    fn hash(&self, input: &[u8]) -> u32 {
        self.table.iter().zip(input).fold(0, |hash, (table, byte)| hash ^ table[usize::from(*byte)])
    }
}

/// Field-enable bits of MRQC (82599 §8.2.3.7.12) and the type each is reported as.
const TCP_V4: (u32, u8) = (1 << 16, 1);
const IPV4: (u32, u8) = (1 << 17, 2);
const IPV6: (u32, u8) = (1 << 20, 5);
const TCP_V6: (u32, u8) = (1 << 21, 3);
const UDP_V4: (u32, u8) = (1 << 22, 7);
const UDP_V6: (u32, u8) = (1 << 23, 8);

fn rss(bank: &Bank, key: &mut HashKey, parsed: &Parsed) -> Option<(u32, u8)> {
    let mrqc = bank.get(MRQC);
    // MRQE 0001b: RSS only. The modes that mix in DCB or VMDq pools are not modelled, and hash nothing.
    if mrqc & 0xF != 1 {
        return None;
    }
    let mut input = [0u8; INPUT];
    let (addresses, with_ports, plain) = match parsed.network? {
        Network::V4 { source, destination, .. } => {
            input[..4].copy_from_slice(&source);
            input[4..8].copy_from_slice(&destination);
            (8, [TCP_V4, UDP_V4], IPV4)
        }
        Network::V6 { source, destination, .. } => {
            input[..16].copy_from_slice(&source);
            input[16..32].copy_from_slice(&destination);
            (32, [TCP_V6, UDP_V6], IPV6)
        }
    };
    let transport = match parsed.protocol {
        Some(PROTOCOL_TCP) => Some(with_ports[0]),
        Some(PROTOCOL_UDP) => Some(with_ports[1]),
        _ => None,
    };
    let mut length = addresses;
    let (bit, kind) = match (transport, parsed.ports) {
        (Some(field), Some((from, to))) if mrqc & field.0 != 0 => {
            input[length..length + 2].copy_from_slice(&from.to_be_bytes());
            input[length + 2..length + 4].copy_from_slice(&to.to_be_bytes());
            length += 4;
            field
        }
        _ => plain,
    };
    if mrqc & bit == 0 {
        return None;
    }
    if key.stale {
        key.refresh(bank);
    }
    Some((key.hash(&input[..length]), kind))
}

/// The 5-tuple filters (82599 §7.1.2.5): of the matching ones, that of the highest priority.
fn five_tuple(bank: &Bank, parsed: &Parsed) -> Option<usize> {
    let Network::V4 { source, destination, .. } = parsed.network? else {
        return None;
    };
    let (from, to) = parsed.ports.unwrap_or((0, 0));
    let protocol = match parsed.protocol {
        Some(PROTOCOL_TCP) => 0,
        Some(PROTOCOL_UDP) => 1,
        Some(PROTOCOL_SCTP) => 2,
        _ => 3,
    };
    let mut best: Option<(u32, usize)> = None;
    for i in 0..128u32 {
        let ftqf = bank.get(FTQF + 4 * i);
        // Enable bit; the mask bits say "don't compare" (82599 §8.2.3.7.19).
        if ftqf >> 31 == 0 {
            continue;
        }
        let ignore = |bit: u32| ftqf >> bit & 1 != 0;
        let ports = bank.get(SDPQF + 4 * i).to_le_bytes();
        let matches = (ignore(25) || bank.get(SAQF + 4 * i).to_le_bytes() == source)
            && (ignore(26) || bank.get(DAQF + 4 * i).to_le_bytes() == destination)
            && (ignore(27) || u16::from_be_bytes([ports[0], ports[1]]) == from)
            && (ignore(28) || u16::from_be_bytes([ports[2], ports[3]]) == to)
            && (ignore(29) || ftqf & 3 == protocol);
        let priority = ftqf >> 2 & 7;
        if matches && best.is_none_or(|(p, _)| priority > p) {
            // L34TIMIR's queue field (82599 §8.2.3.7.20).
            best = Some((priority, (bank.get(L34TIMIR + 4 * i) >> 21 & 0x7F) as usize));
        }
    }
    best.map(|(_, queue)| queue)
}

/// Chooses the queue for a frame.
pub fn steer(bank: &Bank, key: &mut HashKey, filters_in_use: bool, parsed: &Parsed) -> Steered {
    let mut steered = Steered { queue: 0, hash: 0, hash_type: 0, ethertype_filter: None };
    for i in 0..8u32 {
        // ETQF enable is bit 31, ETQS's queue field bits 22:16 with its own enable in bit 31
        // (82599 §8.2.3.7.21, §8.2.3.7.22).
        let etqf = bank.get(ETQF + 4 * i);
        if etqf >> 31 != 0 && etqf as u16 == parsed.ethertype {
            steered.ethertype_filter = Some(i as u8);
            let etqs = bank.get(ETQS + 4 * i);
            if etqs >> 31 != 0 {
                steered.queue = (etqs >> 16 & 0x7F) as usize;
                return steered;
            }
            break;
        }
    }
    let hashed = rss(bank, key, parsed);
    if let Some((hash, kind)) = hashed {
        (steered.hash, steered.hash_type) = (hash, kind);
    }
    if filters_in_use && let Some(queue) = five_tuple(bank, parsed) {
        steered.queue = queue;
    } else if hashed.is_some() {
        // 128 entries of one byte; the low four bits are the queue (82599 §8.2.3.7.14).
        let index = steered.hash & 0x7F;
        steered.queue = (bank.get(RETA + (index & !3)) >> (8 * (index & 3)) & 0xF) as usize;
    }
    steered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames;

    /// The key that every RSS specification verifies with.
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    fn steered(bank: &Bank, filters: bool, parsed: &Parsed) -> Steered {
        steer(bank, &mut HashKey { stale: true, ..HashKey::default() }, filters, parsed)
    }

    fn bank(fields: u32) -> Bank {
        let mut bank = Bank::new();
        for (i, bytes) in KEY.chunks_exact(4).enumerate() {
            bank.set(RSSRK + 4 * i as u32, u32::from_le_bytes(bytes.try_into().unwrap()));
        }
        bank.set(MRQC, 1 | fields);
        bank
    }

    /// The verification suite of the RSS specification (82599 §7.1.2.8.3, table 7-9).
    #[test]
    fn published_vectors() {
        let frame = frames::tcp([66, 9, 149, 187], [161, 142, 100, 80], 2794, 1766, 2, b"");
        let parsed = Parsed::new(&frame);
        let with_ports = steered(&bank(TCP_V4.0 | IPV4.0), false, &parsed);
        assert_eq!((with_ports.hash, with_ports.hash_type), (0x51cc_c178, 1));
        let plain = steered(&bank(IPV4.0), false, &parsed);
        assert_eq!((plain.hash, plain.hash_type), (0x323e_8fc2, 2));
        assert_eq!(steered(&bank(UDP_V4.0), false, &parsed).hash_type, 0);
    }

    /// Protects the redirection table: the hash's low seven bits pick the entry.
    #[test]
    fn reta_picks_the_queue() {
        let mut bank = bank(TCP_V4.0);
        // 0x51ccc178 & 0x7f = 0x78.
        bank.set(RETA + 0x78, 5);
        let frame = frames::tcp([66, 9, 149, 187], [161, 142, 100, 80], 2794, 1766, 2, b"");
        assert_eq!(steered(&bank, false, &Parsed::new(&frame)).queue, 5);
    }

    /// A 5-tuple filter wins over RSS, and of two the higher priority.
    #[test]
    fn five_tuple_filters_by_priority() {
        let mut bank = bank(UDP_V4.0);
        for (i, priority, queue) in [(3u32, 1u32, 9u32), (4, 5, 11)] {
            bank.set(SDPQF + 4 * i, u32::from(53u16.swap_bytes()) << 16);
            // Compare the destination port and the protocol (UDP) only.
            bank.set(FTQF + 4 * i, 1 << 31 | 0b111 << 25 | priority << 2 | 1);
            bank.set(L34TIMIR + 4 * i, queue << 21);
        }
        let dns = Parsed::new(&frames::udp([1, 2, 3, 4], [5, 6, 7, 8], 999, 53, b"x"));
        assert_eq!(steered(&bank, true, &dns).queue, 11);
        let other = Parsed::new(&frames::udp([1, 2, 3, 4], [5, 6, 7, 8], 999, 54, b"x"));
        assert_eq!(steered(&bank, true, &other).queue, 0);
    }

    /// An ethertype filter with a queue wins over everything.
    #[test]
    fn ethertype_filters() {
        let mut bank = bank(UDP_V4.0);
        bank.set(ETQF + 4, 1 << 31 | 0x0800);
        bank.set(ETQS + 4, 1 << 31 | 7 << 16);
        let steered = steered(&bank, false, &Parsed::new(&frames::udp([1, 2, 3, 4], [5, 6, 7, 8], 1, 2, b"")));
        assert_eq!((steered.queue, steered.ethertype_filter), (7, Some(1)));
    }
}
