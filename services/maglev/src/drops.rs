//! Why a received packet was neither forwarded nor answered. Each reason is a counter, so that on every CPU, and so in sum:
//! received = forwarded + answered + drops of all reasons.

/// A reason to drop a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DropReason {
    /// Too short for the headers that it should have.
    Runt,
    /// Shorter than its own headers say, or need.
    Truncated,
    /// Sent to another station's link address.
    NotForUs,
    /// Of a VLAN: if the box is in one, the card has taken its tag out.
    OtherVlan,
    /// Neither ARP nor IPv4; neither TCP, UDP nor ICMP; no ICMP message that the box deals with.
    UnknownProtocol,
    /// A header that contradicts itself, or its specification.
    BadHeader,
    /// IPv4 options.
    IpOptions,
    /// A part of a fragmented datagram: only the first would show where the others belong.
    Fragment,
    /// Wrong checksum of IPv4, TCP, UDP or ICMP.
    BadChecksum,
    /// A source address that no single other host can have.
    BadSource,
    /// An IPv4 address that is no VIP and not the box's; or ARP about such.
    NotOurAddress,
    /// A VIP, or the box's own address, but a port or protocol that isn't served there.
    NotServed,
    /// The box has just started and doesn't know yet which backends are alive; and there was no place to hold the packet until then
    /// (`holding`).
    Starting,
    /// No backend of the VIP is alive, or the one that the table names has just died and the table is being made anew.
    NoBackend,
    /// An ARP message to the box that it has learned from: dealt with, not lost.
    Learned,
    /// The transmit ring had no place.
    TransmitFull,
    /// In the hands of the driver, or of what stands between, when that crashed: sent or not, nobody can tell.
    DriverLost,
}

impl DropReason {
    pub const COUNT: usize = Self::ALL.len();

    pub const ALL: [DropReason; 17] = [
        DropReason::Runt,
        DropReason::Truncated,
        DropReason::NotForUs,
        DropReason::OtherVlan,
        DropReason::UnknownProtocol,
        DropReason::BadHeader,
        DropReason::IpOptions,
        DropReason::Fragment,
        DropReason::BadChecksum,
        DropReason::BadSource,
        DropReason::NotOurAddress,
        DropReason::NotServed,
        DropReason::Starting,
        DropReason::NoBackend,
        DropReason::Learned,
        DropReason::TransmitFull,
        DropReason::DriverLost,
    ];

    /// Its counter's name.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Runt => "drop.runt",
            DropReason::Truncated => "drop.truncated",
            DropReason::NotForUs => "drop.not-for-us",
            DropReason::OtherVlan => "drop.other-vlan",
            DropReason::UnknownProtocol => "drop.unknown-protocol",
            DropReason::BadHeader => "drop.bad-header",
            DropReason::IpOptions => "drop.ip-options",
            DropReason::Fragment => "drop.fragment",
            DropReason::BadChecksum => "drop.bad-checksum",
            DropReason::BadSource => "drop.bad-source",
            DropReason::NotOurAddress => "drop.not-our-address",
            DropReason::NotServed => "drop.not-served",
            DropReason::Starting => "drop.starting",
            DropReason::NoBackend => "drop.no-backend",
            DropReason::Learned => "drop.learned",
            DropReason::TransmitFull => "drop.transmit-full",
            DropReason::DriverLost => "drop.driver-lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters are indexed by a reason's number.
    #[test]
    fn every_reason_stands_at_its_own_number() {
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
        }
    }
}
