//! Frames for tests and benches, with right checksums.

use crate::packet::{PROTOCOL_TCP, PROTOCOL_UDP, fold, sum};

/// The station address that [`crate::NicConfig::default`] has; frames made here go to it.
pub const TO: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// The source address of frames made here.
pub const FROM: [u8; 6] = [0x02, 0, 0, 0, 0, 0x02];

fn ipv4(protocol: u8, source: [u8; 4], destination: [u8; 4], mut segment: Vec<u8>, sum_at: usize) -> Vec<u8> {
    let pseudo = sum(&source) + sum(&destination) + u64::from(protocol) + segment.len() as u64;
    let checksum = !fold(pseudo + sum(&segment));
    segment[sum_at..sum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    enclose(protocol, source, destination, &segment)
}

const PROTOCOL_ICMP: u8 = 1;

/// `payload` in an IPv4 packet in a frame of at least 60 bytes.
fn enclose(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
    header[8] = 64;
    header[9] = protocol;
    header[12..16].copy_from_slice(&source);
    header[16..20].copy_from_slice(&destination);
    let checksum = !fold(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = Vec::with_capacity(34 + payload.len());
    frame.extend_from_slice(&TO);
    frame.extend_from_slice(&FROM);
    frame.extend_from_slice(&[0x08, 0x00]);
    frame.extend_from_slice(&header);
    frame.extend_from_slice(payload);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A UDP datagram in IPv4, padded to 60 bytes.
pub fn udp(source: [u8; 4], destination: [u8; 4], from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::with_capacity(8 + payload.len());
    segment.extend_from_slice(&from.to_be_bytes());
    segment.extend_from_slice(&to.to_be_bytes());
    segment.extend_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    segment.extend_from_slice(&[0, 0]);
    segment.extend_from_slice(payload);
    ipv4(PROTOCOL_UDP, source, destination, segment, 6)
}

/// A TCP segment in IPv4 with sequence number 1, padded to 60 bytes.
pub fn tcp(source: [u8; 4], destination: [u8; 4], from: u16, to: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0u8; 20];
    segment[0..2].copy_from_slice(&from.to_be_bytes());
    segment[2..4].copy_from_slice(&to.to_be_bytes());
    segment[4..8].copy_from_slice(&1u32.to_be_bytes());
    segment[12] = 0x50;
    segment[13] = flags;
    segment[14..16].copy_from_slice(&1024u16.to_be_bytes());
    segment.extend_from_slice(payload);
    ipv4(PROTOCOL_TCP, source, destination, segment, 16)
}

/// An ICMP echo request in IPv4 with 32 bytes of payload.
pub fn ping(source: [u8; 4], destination: [u8; 4], sequence: u16) -> Vec<u8> {
    let mut message = vec![0u8; 40];
    message[0] = 8;
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let checksum = !fold(sum(&message));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    enclose(PROTOCOL_ICMP, source, destination, &message)
}

/// `frame` with an 802.1Q tag.
pub fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let mut tagged = frame[..12].to_vec();
    tagged.extend_from_slice(&[0x81, 0x00]);
    tagged.extend_from_slice(&tci.to_be_bytes());
    tagged.extend_from_slice(&frame[12..]);
    tagged
}
