//! Advanced receive and transmit descriptors (82599 §7.1.6, §7.2.3.2.4): two little-endian 64-bit words each.

use interfaces::packet::PacketFlags;

/// Bytes of a descriptor.
pub const DESCRIPTOR: usize = 16;

/// The VLAN's number in a tag (IEEE 802.1Q §9.6); the rest is its frame's priority.
pub const VLAN: u16 = 0xFFF;

/// Of a written-back receive descriptor's second word (§7.1.6.2): status in bits 19:0, errors in 31:20, length in 47:32.
const RX_DONE: u64 = 1;
const RX_END_OF_PACKET: u64 = 1 << 1;
/// The frame had a VLAN tag, which has been taken out of it: bits 63:48.
const RX_TAG_TAKEN: u64 = 1 << 3;
const RX_L4_CHECKED: u64 = 1 << 5;
const RX_IP_CHECKED: u64 = 1 << 6;
/// Any MAC error: CRC, length, over- or undersize (§7.1.6.2).
const RX_DAMAGED: u64 = 1 << 29;
const RX_L4_WRONG: u64 = 1 << 30;
const RX_IP_WRONG: u64 = 1 << 31;
/// Packet type, bit 9 of the first word: UDP (§7.1.6.2).
const RX_UDP: u64 = 1 << 9;
const RX_HASH_TYPE: u64 = 0xF;

/// What the second word of a receive descriptor says.
#[derive(Clone, Copy)]
pub struct Received(pub u64);

/// What is to become of a buffer that the device has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A whole packet of this many bytes.
    Packet(u16),
    /// Damaged, or a part of a frame longer than a buffer.
    Drop,
    /// More of the frame is in the next buffer.
    DropWithNext,
    /// No device that keeps to its datasheet writes this.
    Lie,
}

impl Received {
    pub fn done(self) -> bool {
        self.0 & RX_DONE != 0
    }

    /// Of a buffer that has `bytes` for a frame.
    pub fn verdict(self, bytes: u16) -> Verdict {
        let length = (self.0 >> 32) as u16;
        if length == 0 || length > bytes {
            Verdict::Lie
        } else if self.0 & RX_END_OF_PACKET == 0 {
            Verdict::DropWithNext
        } else if self.0 & RX_DAMAGED != 0 {
            Verdict::Drop
        } else {
            Verdict::Packet(length)
        }
    }

    /// Whether the frame is of this VLAN, whose tag the device has taken out of it; of none are all frames.
    pub fn is_of(self, vlan: Option<u16>) -> bool {
        vlan.is_none_or(|vlan| self.0 & RX_TAG_TAKEN != 0 && (self.0 >> 48) as u16 & VLAN == vlan)
    }

    /// Flags and RSS hash; `first` is the descriptor's first word.
    pub fn findings(self, first: u64) -> (PacketFlags, u32) {
        let mut flags = PacketFlags::empty();
        if self.0 & RX_IP_CHECKED != 0 {
            flags |=
                if self.0 & RX_IP_WRONG == 0 { PacketFlags::IP_CHECKSUM_GOOD } else { PacketFlags::IP_CHECKSUM_BAD };
        }
        if self.0 & RX_L4_CHECKED != 0 {
            if self.0 & RX_L4_WRONG == 0 {
                flags |= PacketFlags::L4_CHECKSUM_GOOD;
            } else if first & RX_UDP == 0 {
                // The 82599 also calls a UDP packet without checksum wrong (specification update; Linux's ixgbe_rx_checksum): then we don't know.
                flags |= PacketFlags::L4_CHECKSUM_BAD;
            }
        }
        if first & RX_HASH_TYPE != 0 {
            flags |= PacketFlags::HASHED;
        }
        (flags, (first >> 32) as u32)
    }
}

/// Data descriptor, one frame in one buffer, frame check sequence put on by the device (§7.2.3.2.4).
const TX_DATA_FRAME: u64 = 0x3 << 20 | 1 << 24 | 1 << 25 | 1 << 29;
/// The device puts the tag of the queue's context into the frame.
pub const TX_INSERT_TAG: u64 = 1 << 30;
/// Report the status: the device sets DD when it has done with this descriptor and all before it.
pub const TX_REPORT_STATUS: u64 = 1 << 27;
const TX_DONE: u64 = 1 << 32;

/// The second word of a descriptor that sends `length` bytes.
pub fn transmit(length: u16) -> u64 {
    u64::from(length) << 46 | TX_DATA_FRAME | u64::from(length)
}

/// What the device is told by a context descriptor (§7.2.3.2.3) about the frames behind it: the VLAN whose tag they are given, and where the checksums are that they want. It keeps that
/// until the next one on that queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    pub first: u64,
    pub second: u64,
}

impl Context {
    pub fn new(vlan: Option<u16>, wanted: PacketFlags) -> Self {
        let ipv4 = wanted.contains(PacketFlags::FILL_IP_CHECKSUM);
        let tcp = wanted.contains(PacketFlags::FILL_TCP_CHECKSUM);
        Context {
            first: u64::from(vlan.unwrap_or(0)) << 16 | (ETHERNET as u64) << 9 | ip_header(wanted) as u64,
            second: 0x2 << 20 | 1 << 29 | u64::from(ipv4) << 10 | u64::from(tcp) << 11,
        }
    }
}

const ETHERNET: usize = 14;

fn ip_header(wanted: PacketFlags) -> usize {
    if wanted.contains(PacketFlags::FILL_IP_CHECKSUM) { 20 } else { 40 }
}

/// The shortest frame that has a place for these checksums.
#[cold]
pub fn shortest_with(wanted: PacketFlags) -> usize {
    if !wanted.intersects(PacketFlags::FILL_CHECKSUMS) {
        return 0;
    }
    let transport = match () {
        () if wanted.contains(PacketFlags::FILL_TCP_CHECKSUM) => 20,
        () if wanted.contains(PacketFlags::FILL_UDP_CHECKSUM) => 8,
        () => 0,
    };
    ETHERNET + ip_header(wanted) + transport
}

/// Of a data descriptor's second word (§7.2.3.2.4, POPTS): the device fills in these checksums.
pub fn filling(wanted: PacketFlags) -> u64 {
    let transport = wanted.intersects(PacketFlags::FILL_TCP_CHECKSUM | PacketFlags::FILL_UDP_CHECKSUM);
    u64::from(wanted.contains(PacketFlags::FILL_IP_CHECKSUM)) << 40 | u64::from(transport) << 41
}

/// Whether a transmit descriptor's second word says that it is done.
pub fn transmitted(second: u64) -> bool {
    second & TX_DONE != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use interfaces::packet::{LARGEST_BUFFER, USUAL_BUFFER};

    fn received(length: u16, bits: u64) -> Received {
        Received(u64::from(length) << 32 | bits)
    }

    /// A length is taken only if the buffer holds it.
    #[test]
    fn impossible_lengths_are_lies() {
        for bytes in [USUAL_BUFFER, 9 << 10, LARGEST_BUFFER] {
            for length in [0, bytes + 1, u16::MAX] {
                assert_eq!(received(length, RX_DONE | RX_END_OF_PACKET).verdict(bytes), Verdict::Lie);
            }
            assert_eq!(received(bytes, RX_DONE | RX_END_OF_PACKET).verdict(bytes), Verdict::Packet(bytes));
            assert_eq!(Received(u64::MAX).verdict(bytes), Verdict::Lie, "a descriptor of all ones");
        }
    }

    #[test]
    fn damaged_and_partial_frames_are_dropped() {
        assert_eq!(received(60, RX_DONE | RX_END_OF_PACKET | RX_DAMAGED).verdict(USUAL_BUFFER), Verdict::Drop);
        assert_eq!(received(2048, RX_DONE).verdict(USUAL_BUFFER), Verdict::DropWithNext);
    }

    /// "Good" and "bad" are said only of what was checked.
    #[test]
    fn checksum_findings() {
        let flags = |bits, first| received(60, bits).findings(first).0;
        assert_eq!(flags(RX_IP_WRONG | RX_L4_WRONG, 0), PacketFlags::empty());
        assert_eq!(
            flags(RX_IP_CHECKED | RX_L4_CHECKED, 0),
            PacketFlags::IP_CHECKSUM_GOOD | PacketFlags::L4_CHECKSUM_GOOD
        );
        assert_eq!(flags(RX_IP_CHECKED | RX_IP_WRONG, 0), PacketFlags::IP_CHECKSUM_BAD);
        assert_eq!(flags(RX_L4_CHECKED | RX_L4_WRONG, 0), PacketFlags::L4_CHECKSUM_BAD);
        assert_eq!(flags(RX_L4_CHECKED | RX_L4_WRONG, RX_UDP), PacketFlags::empty());
        assert_eq!(received(60, 0).findings(0xABCD << 32 | 1), (PacketFlags::HASHED, 0xABCD));
    }

    /// The layout of §7.2.3.2.4, written out by hand: DTALEN 60, DTYP 3, EOP, IFCS, DEXT, PAYLEN 60.
    #[test]
    fn transmit_descriptor() {
        assert_eq!(transmit(60), 60 << 46 | 0x2330_003C);
        assert!(!transmitted(transmit(u16::MAX) | TX_REPORT_STATUS) && transmitted(1 << 32));
    }

    /// The layouts of §7.2.3.2.3 and §7.2.3.2.4, written out by hand: VLAN 10, MACLEN 14, IPLEN 20 or 40; DTYP 2, DEXT, TUCMD's IPV4 and L4T; POPTS.
    #[test]
    fn what_the_device_is_told_of_checksums() {
        let (ip, tcp, udp) =
            (PacketFlags::FILL_IP_CHECKSUM, PacketFlags::FILL_TCP_CHECKSUM, PacketFlags::FILL_UDP_CHECKSUM);
        let words = |vlan, wanted| {
            let Context { first, second } = Context::new(vlan, wanted);
            (first, second, filling(wanted) >> 40, shortest_with(wanted))
        };
        assert_eq!(words(Some(10), ip | tcp), (0x000A_1C14, 0x2020_0C00, 3, 54));
        assert_eq!(words(None, ip | udp), (0x1C14, 0x2020_0400, 3, 42));
        assert_eq!(words(None, ip), (0x1C14, 0x2020_0400, 1, 34));
        assert_eq!(words(None, tcp), (0x1C28, 0x2020_0800, 2, 74));
        assert_eq!(words(None, udp), (0x1C28, 0x2020_0000, 2, 62));
    }

    /// A tag is believed only where the device says that there was one; its priority is no part of the VLAN's number.
    #[test]
    fn tags_that_were_taken_out() {
        let is_of_10 = |bits| Received(bits).is_of(Some(10));
        assert!(is_of_10(0xE00A << 48 | RX_TAG_TAKEN) && !is_of_10(0xE00A << 48) && !is_of_10(11 << 48 | RX_TAG_TAKEN));
        assert!(Received(0).is_of(None));
    }
}
