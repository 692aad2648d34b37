//! The few frames of this segment, written and read byte by byte: the balancer under test has code of its own for the same, which must not judge itself.

pub const LEN: usize = 60;
pub const BOX: [u8; 6] = [2, 0, 0, 0, 0, 0xb0];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The last byte is the backend's number.
const BACKENDS: [u8; 5] = [2, 0, 0, 0, 1];
const NETWORK: [u8; 3] = [10, 0, 1];
const OWN_HOST: u8 = 2;
const VIP_HOST: u8 = 100;
/// Backend n is host 10 + n.
const BACKEND_HOSTS: core::ops::RangeInclusive<u8> = 11..=13;

/// A TCP segment of connection `number`, from a client behind the router to the VIP.
pub fn segment(number: u32) -> [u8; LEN] {
    let mut frame = [0; LEN];
    frame[..6].copy_from_slice(&BOX);
    frame[6..12].copy_from_slice(&ROUTER);
    frame[12..26].copy_from_slice(&[8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 60, 6, 0, 0]);
    frame[26..30].copy_from_slice(&[192, 0, 2, 1]);
    frame[30..33].copy_from_slice(&NETWORK);
    frame[33] = VIP_HOST;
    frame[34..36].copy_from_slice(&(10_000 + number as u16).to_be_bytes());
    frame[36..38].copy_from_slice(&80u16.to_be_bytes());
    // Header length 20, ACK.
    frame[46..48].copy_from_slice(&[0x50, 16]);
    frame
}

/// Backend `number` tells the box its link address.
pub fn arp_answer(number: u8) -> [u8; LEN] {
    let mut frame = [0; LEN];
    frame[..6].copy_from_slice(&BOX);
    frame[6..11].copy_from_slice(&BACKENDS);
    frame[11] = number;
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.copy_within(6..12, 22);
    frame[28..31].copy_from_slice(&NETWORK);
    frame[31] = 10 + number;
    frame[32..38].copy_from_slice(&BOX);
    frame[38..41].copy_from_slice(&NETWORK);
    frame[41] = OWN_HOST;
    frame
}

/// What the box has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// Asks for this backend's link address.
    Request(u8),
    /// Says what addresses the box has.
    Announcement,
    Segment {
        connection: u32,
        backend: u8,
    },
    /// Nothing that a balancer sends.
    Strange,
}

pub fn sent(frame: &[u8]) -> Sent {
    let Some(frame) = frame.first_chunk::<LEN>() else { return Sent::Strange };
    if frame[6..12] != BOX {
        return Sent::Strange;
    }
    if frame[12..14] == [8, 6] {
        return match frame[41] {
            host if BACKEND_HOSTS.contains(&host) && frame[31] == OWN_HOST => Sent::Request(host - 10),
            host if host == frame[31] => Sent::Announcement,
            _ => Sent::Strange,
        };
    }
    let connection = u32::from(u16::from_be_bytes([frame[34], frame[35]])).wrapping_sub(10_000);
    // All but the link addresses must be as the client sent it.
    if frame[..5] == BACKENDS && connection < super::CONNECTIONS && frame[12..] == segment(connection)[12..] {
        Sent::Segment { connection, backend: frame[5] }
    } else {
        Sent::Strange
    }
}

/// What a balancer does: for the tests of this crate.
#[cfg(test)]
pub fn redirect(frame: &mut [u8], backend: u8) {
    frame[..5].copy_from_slice(&BACKENDS);
    frame[5] = backend;
    frame[6..12].copy_from_slice(&BOX);
}
