//! Segmentation: smoltcp makes *trains*, segments as long as many frames, which are cut here into frames that the peer takes. So it thinks about a connection once for a train, and not for
//! each frame. (Linux does the same without a card's help: "generic segmentation offload".)
//!
//! A segment of smoltcp's is as long as the peer's maximum segment size (MSS), which it has from the peer's SYN, and the device's longest frame admit. So the device is said to admit trains
//! ([`longest_frame`]); the MSS in the peer's SYN is multiplied before smoltcp sees it ([`admit_trains`]); and the one in our SYN, which smoltcp takes from its device, becomes what a frame
//! holds ([`name_own_mss`]).

use smoltcp::wire::{Ipv4Packet, Ipv6Packet};

use crate::sums::{self, ETHERNET, TCP};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
/// The shortest and the longest headers, of TCP without options: smoltcp puts none into segments with data.
const LEAST_HEADERS: usize = ETHERNET + IPV4_HEADER + TCP_HEADER;
const MOST_HEADERS: usize = ETHERNET + IPV6_HEADER + TCP_HEADER;
/// As much as a train carries at most: less than a level-1 cache holds, and a small part of what thinking about it costs.
const LONGEST_TRAIN: usize = 16 << 10;
/// Frames of a train at most, whatever size the peer names.
const MOST_FRAMES: usize = 32;
/// The option that names a maximum segment size: kind, length, two bytes (RFC 9293 §3.2).
const MSS_OPTION: [u8; 2] = [2, 4];
const NO_OPTION: u8 = 1;
const END_OF_OPTIONS: u8 = 0;
/// Where in TCP's header sequence number and flags are (RFC 9293 §3.1).
const SEQUENCE: usize = 4;
const FLAGS: usize = 13;
const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;

/// The longest frame that smoltcp may write where the card's longest has `max_frame` bytes.
pub fn longest_frame(max_frame: usize) -> usize {
    max_frame.max(MOST_HEADERS + LONGEST_TRAIN)
}

/// Whether what smoltcp writes for a connection whose frames carry `size` bytes (0: that makes no trains) may have to be cut.
pub fn may_be_train(len: usize, size: usize, max_frame: usize) -> bool {
    len > max_frame || size > 0 && len > LEAST_HEADERS + size
}

/// Where TCP's header begins, if the frame is a TCP segment.
fn tcp_at(frame: &[u8]) -> Option<usize> {
    let (_, protocol, segment) = sums::parts(frame)?;
    (protocol == TCP && segment.len() >= TCP_HEADER).then_some(segment.start)
}

/// The maximum segment size in a SYN: which bytes of the frame it is.
fn mss_of(frame: &mut [u8]) -> Option<(usize, &mut [u8; 2])> {
    let tcp = tcp_at(frame)?;
    if frame[tcp + FLAGS] & SYN == 0 {
        return None;
    }
    let end = tcp + usize::from(frame[tcp + 12] >> 4) * 4;
    let mut at = tcp + TCP_HEADER;
    while at < end {
        match *frame.get(at..)? {
            [END_OF_OPTIONS, ..] => return None,
            [NO_OPTION, ..] => at += 1,
            [kind, length, _, _, ..] if [kind, length] == MSS_OPTION && at + 4 <= end => {
                return Some((tcp, frame[at + 2..].first_chunk_mut()?));
            }
            [_, length, ..] if length >= 2 => at += usize::from(length),
            _ => return None,
        }
    }
    None
}

/// What a frame of `max_frame` bytes holds behind the headers of a segment whose TCP header begins at `tcp`.
fn own_mss(tcp: usize, max_frame: usize) -> usize {
    max_frame.saturating_sub(tcp + TCP_HEADER)
}

/// In a SYN of the peer's, multiplies the size of the segments that it takes, so that smoltcp makes trains; tells how much of a train goes into each frame. None: it is no SYN, or it names
/// no size, and smoltcp's segments are frames. The frame's checksum isn't right afterwards.
pub fn admit_trains(syn: &mut [u8], max_frame: usize) -> Option<usize> {
    let (tcp, named) = mss_of(syn)?;
    let size = usize::from(u16::from_be_bytes(*named)).min(own_mss(tcp, max_frame));
    // (Of 0 smoltcp knows that it is none.)
    let frames = LONGEST_TRAIN.checked_div(size)?.clamp(1, MOST_FRAMES);
    *named = ((frames * size) as u16).to_be_bytes();
    Some(size)
}

/// In a SYN that smoltcp has written, names the size of the segments that we take: what a frame holds.
pub fn name_own_mss(frame: &mut [u8], max_frame: usize) {
    if let Some((tcp, named)) = mss_of(frame) {
        *named = (own_mss(tcp, max_frame) as u16).to_be_bytes();
    }
}

/// A train that is to be cut.
pub struct Train<'a> {
    bytes: &'a [u8],
    tcp: usize,
    /// Where its payload begins.
    payload: usize,
    /// Bytes of payload for each frame.
    size: usize,
}

impl<'a> Train<'a> {
    /// None if it is no TCP segment with data, nobody has said how much of it a frame may carry, or it would be too many frames.
    pub fn new(bytes: &'a [u8], size: usize) -> Option<Train<'a>> {
        let tcp = tcp_at(bytes)?;
        let payload = tcp + usize::from(bytes[tcp + 12] >> 4) * 4;
        let carried = bytes.len().checked_sub(payload)?;
        let is_train = payload >= tcp + TCP_HEADER && (1..=size * MOST_FRAMES).contains(&carried);
        is_train.then_some(Train { bytes, tcp, payload, size })
    }

    /// Whether it is more than one frame.
    pub fn is_cut(&self) -> bool {
        self.bytes.len() - self.payload > self.size
    }

    /// The parts of its payload, from where to where.
    pub fn parts(&self) -> impl Iterator<Item = core::ops::Range<usize>> + use<> {
        let (size, end) = (self.size, self.bytes.len());
        (self.payload..end).step_by(size).map(move |from| from..end.min(from + size))
    }

    /// The length of the frame for one of these.
    pub fn frame_len(&self, part: &core::ops::Range<usize>) -> usize {
        self.payload + part.len()
    }

    /// Writes that frame: the train's headers, as if it had carried nothing else. `sum_ip`: IPv4's checksum is right, too; TCP's isn't there yet.
    pub fn write(&self, part: core::ops::Range<usize>, sum_ip: bool, frame: &mut [u8]) {
        let (headers, carried) = frame.split_at_mut(self.payload);
        headers.copy_from_slice(&self.bytes[..self.payload]);
        carried.copy_from_slice(&self.bytes[part.clone()]);
        let (outer, tcp) = headers.split_at_mut(self.tcp);
        let length = (tcp.len() + part.len()) as u16;
        let packet = &mut outer[ETHERNET..];
        if packet[0] >> 4 == 4 {
            let header = packet.len() as u16;
            let mut ip = Ipv4Packet::new_unchecked(packet);
            ip.set_total_len(header + length);
            if sum_ip {
                ip.fill_checksum();
            }
        } else {
            Ipv6Packet::new_unchecked(packet).set_payload_len(length);
        }
        let sequence = tcp[SEQUENCE..].first_chunk_mut().expect("TCP's header");
        *sequence = u32::from_be_bytes(*sequence).wrapping_add((part.start - self.payload) as u32).to_be_bytes();
        // What ends the train ends its last frame.
        if part.end < self.bytes.len() {
            tcp[FLAGS] &= !(FIN | PSH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sums::{IPV4, IPV6};
    use alloc::{vec, vec::Vec};
    use proptest::prelude::*;

    /// A segment by IPv4 or IPv6, with these flags, options and data.
    fn segment(v6: bool, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0; TCP_HEADER];
        tcp[SEQUENCE..SEQUENCE + 4].copy_from_slice(&u32::MAX.to_be_bytes());
        tcp[12] = ((TCP_HEADER + options.len()) / 4) as u8 * 16;
        tcp[FLAGS] = flags;
        let mut ip = vec![0; if v6 { IPV6_HEADER } else { IPV4_HEADER }];
        (ip[0], ip[if v6 { 6 } else { 9 }]) = (if v6 { 0x60 } else { 0x45 }, TCP);
        let mut ethernet = vec![0; ETHERNET];
        ethernet[12..].copy_from_slice(if v6 { &IPV6 } else { &IPV4 });
        [&ethernet, &ip, &tcp, options, data].concat()
    }

    /// smoltcp is told of as many whole frames as make a train, and of the peer's or our own size, whichever is less; a SYN without that option, and what is no SYN, says nothing.
    #[test]
    fn the_size_that_a_peer_names_is_multiplied() {
        let multiplied = |options: &[u8], flags| {
            let mut frame = segment(false, flags, options, &[]);
            let size = admit_trains(&mut frame, 1_514);
            size.map(|size| (size, mss_of(&mut frame).map(|(_, named)| u16::from_be_bytes(*named))))
        };
        assert_eq!(multiplied(&[2, 4, 5, 180], SYN), Some((1_460, Some(11 * 1_460))));
        assert_eq!(multiplied(&[1, 1, 3, 3, 7, 2, 4, 2, 0, 0, 0, 0], SYN), Some((512, Some(32 * 512))));
        assert_eq!(
            multiplied(&[2, 4, 0x23, 0], SYN | 16),
            Some((1_460, Some(11 * 1_460))),
            "jumbo frames are the peer's alone"
        );
        assert_eq!(multiplied(&[2, 4, 0, 1], SYN), Some((1, Some(32))));
        for none in [&[2, 4, 0, 0][..], &[], &[0, 2, 4, 5, 180, 0, 0, 0], &[2, 3, 5, 180], &[4, 2, 1, 2]] {
            assert_eq!(multiplied(none, SYN), None, "{none:?}");
        }
        assert_eq!(multiplied(&[2, 4, 5, 180], 16), None);
    }

    proptest! {
        #[test]
        fn any_frame_is_looked_at(mut bytes in proptest::collection::vec(any::<u8>(), 0..90), v6: bool, flags: u8, options in proptest::collection::vec(any::<u8>(), 0..40)) {
            admit_trains(&mut bytes, 1_514);
            name_own_mss(&mut bytes, 1_514);
            let mut frame = segment(v6, flags | SYN, &[], &options);
            frame[ETHERNET + if v6 { 40 } else { 20 } + 12] = bytes.first().copied().unwrap_or_default();
            admit_trains(&mut frame, 1_514);
            name_own_mss(&mut frame, 1_514);
        }

        /// All that a train carries is in its frames, once and in order; each says what it is, and only the last ends anything.
        #[test]
        fn a_train_is_cut_into_what_it_carries(v6: bool, size in 500..1_461usize, len in 1..15_000usize, sum_ip: bool) {
            let data: Vec<u8> = (0..len).map(|at| (at % 253) as u8).collect();
            let train = segment(v6, 16 | PSH | FIN, &[], &data);
            let cut = Train::new(&train, size).unwrap();
            let (mut carried, mut sequence) = (Vec::new(), u32::MAX);
            for part in cut.parts() {
                let is_last = part.end == train.len();
                let mut frame = vec![0xEE; cut.frame_len(&part)];
                cut.write(part, sum_ip, &mut frame);
                let tcp_at = tcp_at(&frame).unwrap();
                if v6 {
                    let ip = Ipv6Packet::new_checked(&frame[ETHERNET..]).unwrap();
                    prop_assert_eq!(usize::from(ip.payload_len()), frame.len() - tcp_at);
                } else {
                    let ip = Ipv4Packet::new_checked(&frame[ETHERNET..]).unwrap();
                    prop_assert_eq!(usize::from(ip.total_len()), frame.len() - ETHERNET);
                    prop_assert!(!sum_ip || ip.verify_checksum());
                }
                let tcp = smoltcp::wire::TcpPacket::new_checked(&frame[tcp_at..]).unwrap();
                prop_assert_eq!(tcp.seq_number().0 as u32, sequence);
                prop_assert_eq!((tcp.fin(), tcp.psh(), tcp.ack()), (is_last, is_last, true));
                prop_assert!(tcp.payload().len() == size || is_last && tcp.payload().len() < size);
                sequence = sequence.wrapping_add(tcp.payload().len() as u32);
                carried.extend_from_slice(tcp.payload());
            }
            prop_assert_eq!(carried, data);
            prop_assert!(Train::new(&train, len.div_ceil(MOST_FRAMES) - 1).is_none());
            prop_assert!(Train::new(&train, 0).is_none());
        }
    }
}
