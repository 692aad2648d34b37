//! What the transmitter does to a frame before it leaves: checksums, segmentation, VLAN tag, padding
//! (82599 §7.2.4, §7.2.5).
//!
//! Offsets come from the driver's context descriptor and may be anything: a request that doesn't
//! fit its frame is refused, never followed out of bounds.

use crate::packet::{fold, sum};

/// A context descriptor's content (82599 §7.2.3.2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    pub mac_length: usize,
    pub ip_length: usize,
    pub l4_length: usize,
    pub segment: usize,
    pub tag: u16,
    pub ipv4: bool,
    /// TUCMD.L4T: 0 UDP, 1 TCP, 2 SCTP.
    pub l4_type: u8,
}

impl Context {
    pub fn decode(low: u64, high: u64) -> Context {
        Context {
            ip_length: (low & 0x1FF) as usize,
            mac_length: (low >> 9 & 0x7F) as usize,
            tag: (low >> 16) as u16,
            ipv4: high >> 10 & 1 != 0,
            l4_type: (high >> 11 & 3) as u8,
            l4_length: (high >> 40 & 0xFF) as usize,
            segment: (high >> 48) as usize,
        }
    }
}

/// What the data descriptors of one frame ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub ip_sum: bool,
    pub l4_sum: bool,
    pub segmentation: bool,
    pub tag: Option<u16>,
    /// Legacy: sum from `.0` to the end, stored at `.1`.
    pub legacy_sum: Option<(usize, usize)>,
    pub context: Context,
}

/// Why a frame can't be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Header lengths in the context descriptor lie outside the frame.
    HeaderOutsideFrame,
    /// Segmentation with a segment size of zero.
    NoSegmentSize,
    /// Shorter than an Ethernet header, or longer than the MAC sends.
    Length,
}

/// Offset of the checksum in the header of TUCMD.L4T's protocol.
fn sum_offset(l4_type: u8) -> usize {
    if l4_type == 1 { 16 } else { 6 }
}

/// Completes the L4 sum: software has left the pseudo-header's sum in the field (82599 §7.2.5.1).
fn complete_l4_sum(frame: &mut [u8], start: usize, l4_type: u8, extra: u64) -> Result<(), Refused> {
    // SCTP's is a CRC, which no driver of ours asks for; the frame goes out as it is.
    if l4_type > 1 {
        return Ok(());
    }
    let at = start + sum_offset(l4_type);
    if at + 2 > frame.len() {
        return Err(Refused::HeaderOutsideFrame);
    }
    let mut value = !fold(sum(&frame[start..]) + extra);
    if value == 0 && l4_type == 0 {
        // "No checksum" must not come out of a computed one (RFC 768).
        value = 0xFFFF;
    }
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    Ok(())
}

fn complete_ip_sum(frame: &mut [u8], start: usize, length: usize) -> Result<(), Refused> {
    let header = frame.get_mut(start..start + length).filter(|h| h.len() >= 12).ok_or(Refused::HeaderOutsideFrame)?;
    header[10..12].fill(0);
    let value = !fold(sum(header));
    header[10..12].copy_from_slice(&value.to_be_bytes());
    Ok(())
}

/// Applies `request` to `frame` and hands each frame that results to `send`.
pub fn apply(
    frame: &mut Vec<u8>,
    request: &Request,
    pad: bool,
    longest: usize,
    mut send: impl FnMut(&[u8]),
) -> Result<(), Refused> {
    if frame.len() < 14 {
        return Err(Refused::Length);
    }
    if request.segmentation {
        return segment(frame, request, pad, longest, send);
    }
    if frame.len() > longest {
        return Err(Refused::Length);
    }
    let context = &request.context;
    if request.ip_sum {
        complete_ip_sum(frame, context.mac_length, context.ip_length)?;
    }
    if request.l4_sum {
        complete_l4_sum(frame, context.mac_length + context.ip_length, context.l4_type, 0)?;
    }
    if let Some((start, at)) = request.legacy_sum {
        if start >= frame.len() || at + 2 > frame.len() {
            return Err(Refused::HeaderOutsideFrame);
        }
        let value = !fold(sum(&frame[start..]));
        frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }
    finish(frame, request.tag, pad, &mut send);
    Ok(())
}

fn finish(frame: &mut Vec<u8>, tag: Option<u16>, pad: bool, send: &mut impl FnMut(&[u8])) {
    if let Some(tci) = tag {
        let [high, low] = tci.to_be_bytes();
        frame.splice(12..12, [0x81, 0x00, high, low]);
    }
    if pad && frame.len() < 60 {
        frame.resize(60, 0);
    }
    send(frame);
}

/// TCP and UDP segmentation (82599 §7.2.4).
fn segment(
    frame: &[u8],
    request: &Request,
    pad: bool,
    longest: usize,
    mut send: impl FnMut(&[u8]),
) -> Result<(), Refused> {
    let context = &request.context;
    let ip = context.mac_length;
    let l4 = ip + context.ip_length;
    let headers = l4 + context.l4_length;
    let tcp = context.l4_type == 1;
    let (ip_least, l4_least) = (if context.ipv4 { 20 } else { 40 }, if tcp { 20 } else { 8 });
    if headers > frame.len() || context.ip_length < ip_least || context.l4_length < l4_least || ip < 12 {
        return Err(Refused::HeaderOutsideFrame);
    }
    if context.segment == 0 {
        return Err(Refused::NoSegmentSize);
    }
    if headers + context.segment > longest {
        return Err(Refused::Length);
    }
    let payload = &frame[headers..];
    let count = payload.len().div_ceil(context.segment).max(1);
    let be32 = |at: usize| u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let first_id = u16::from_be_bytes([frame[ip + 4], frame[ip + 5]]);
    let mut out = Vec::with_capacity(headers + context.segment + 4);
    for i in 0..count {
        let from = i * context.segment;
        let part = &payload[from..payload.len().min(from + context.segment)];
        out.clear();
        out.extend_from_slice(&frame[..headers]);
        out.extend_from_slice(part);
        let l4_bytes = context.l4_length + part.len();
        if context.ipv4 {
            // Total length, identification counting up, header checksum (82599 §7.2.4.7).
            out[ip + 2..ip + 4].copy_from_slice(&((context.ip_length + l4_bytes) as u16).to_be_bytes());
            out[ip + 4..ip + 6].copy_from_slice(&first_id.wrapping_add(i as u16).to_be_bytes());
            complete_ip_sum(&mut out, ip, context.ip_length)?;
        } else {
            let length = (context.ip_length - 40 + l4_bytes) as u16;
            out[ip + 4..ip + 6].copy_from_slice(&length.to_be_bytes());
        }
        if tcp {
            let sequence = be32(l4 + 4).wrapping_add(from as u32);
            out[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
            // FIN and PSH belong to the last segment, CWR to the first (82599 §8.2.3.9.4, DTXTCPFLG).
            if i + 1 != count {
                out[l4 + 13] &= !0x09;
            }
            if i != 0 {
                out[l4 + 13] &= !0x80;
            }
        } else {
            out[l4 + 4..l4 + 6].copy_from_slice(&(l4_bytes as u16).to_be_bytes());
        }
        // The pseudo-header that software left has no length in it (82599 §7.2.5.1).
        complete_l4_sum(&mut out, l4, context.l4_type, l4_bytes as u64)?;
        finish(&mut out, request.tag, pad, &mut send);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames;
    use crate::packet::Parsed;
    use proptest::prelude::*;

    fn pseudo(frame: &mut [u8], with_length: usize) {
        let value = fold(sum(&frame[26..34]) + u64::from(frame[23]) + with_length as u64);
        let at = 34 + if frame[23] == 6 { 16 } else { 6 };
        frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    fn context(l4_type: u8, l4_length: usize, segment: usize) -> Context {
        Context { mac_length: 14, ip_length: 20, l4_length, segment, tag: 0, ipv4: true, l4_type }
    }

    /// The checksums that the hardware fills in are those that a receiver wants.
    #[test]
    fn checksums_are_completed() {
        for (mut frame, l4_type) in [
            (frames::udp([10, 0, 0, 1], [10, 0, 0, 2], 7, 9, &[5; 33]), 0),
            (frames::tcp([10, 0, 0, 1], [10, 0, 0, 2], 7, 9, 0x18, &[6; 77]), 1),
        ] {
            let whole = frame.clone();
            let l4_bytes = frame.len() - 34;
            pseudo(&mut frame, l4_bytes);
            frame[24..26].fill(0xEE);
            let request = Request { ip_sum: true, l4_sum: true, context: context(l4_type, 0, 0), ..Default::default() };
            let mut sent = Vec::new();
            apply(&mut frame, &request, true, 9000, |f| sent.push(f.to_vec())).unwrap();
            assert_eq!(sent, [whole]);
        }
    }

    /// Protects TSO: payload, sequence numbers, flags and sums of every segment.
    #[test]
    fn segmentation() {
        let payload: Vec<u8> = (0..2500u32).map(|i| i as u8).collect();
        let mut frame = frames::tcp([10, 0, 0, 1], [10, 0, 0, 2], 7, 9, 0x19, &payload);
        pseudo(&mut frame, 0);
        let request = Request { segmentation: true, tag: Some(5), context: context(1, 20, 1000), ..Default::default() };
        let mut sent = Vec::new();
        apply(&mut frame, &request, true, 9000, |f| sent.push(f.to_vec())).unwrap();
        assert_eq!(sent.len(), 3);
        let mut joined = Vec::new();
        for (i, segment) in sent.iter().enumerate() {
            let parsed = Parsed::new(segment);
            assert_eq!(parsed.vlan, Some(5));
            assert_eq!(parsed.network_sum_good(segment), Some(true));
            assert_eq!(parsed.transport_sum_good(segment), Some(true));
            assert_eq!(parsed.tcp_flags, if i == 2 { 0x19 } else { 0x10 });
            let sequence = u32::from_be_bytes(segment[42..46].try_into().unwrap());
            assert_eq!(sequence, 1 + 1000 * i as u32);
            joined.extend_from_slice(&segment[58..parsed.end]);
        }
        assert_eq!(joined, payload);
    }

    proptest! {
        /// Whatever a driver asks for: an answer, no panic.
        #[test]
        fn any_request(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            (mac_length, ip_length, l4_length, segment) in (0usize..128, 0usize..512, 0usize..256, 0usize..65536),
            (ip_sum, l4_sum, segmentation, ipv4, l4_type) in any::<(bool, bool, bool, bool, u8)>(),
            legacy in proptest::option::of((0usize..256, 0usize..256)),
        ) {
            let request = Request {
                ip_sum, l4_sum, segmentation, tag: None, legacy_sum: legacy,
                context: Context { mac_length, ip_length, l4_length, segment, tag: 0, ipv4, l4_type: l4_type & 3 },
            };
            let mut frame = bytes;
            let mut longest_sent = 0;
            let _ = apply(&mut frame, &request, true, 9000, |f| longest_sent = longest_sent.max(f.len()));
            prop_assert!(longest_sent <= 9000);
        }
    }
}
