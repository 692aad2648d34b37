//! The switch's port that the box's cable ends in. Of a box in a VLAN it is a trunk (IEEE 802.1Q §6.9): the hosts on the segment are in that VLAN and know nothing
//! of it; on the cable their frames bear its tag.
//!
//! What the box sends without the tag, or with another's, is nothing that such a switch brings to these hosts: it is lost, and the run's sums say so.

use model::Wire;
use model::vfio_user::PollableWire;
use std::os::fd::{AsFd, BorrowedFd};

const TPID: [u8; 2] = [0x81, 0x00];
/// Where the tag stands: behind the two addresses.
const AT: usize = 12;

pub struct SwitchPort<W> {
    segment: W,
    /// Of the box; none of one that is in no VLAN.
    vlan: Option<u16>,
    /// The frame under way, with its tag put in or taken out.
    changed: Vec<u8>,
}

impl<W> SwitchPort<W> {
    pub fn new(segment: W, vlan: Option<u16>) -> Self {
        Self { segment, vlan, changed: Vec::new() }
    }
}

impl<W: Wire> Wire for SwitchPort<W> {
    fn send(&mut self, frame: &[u8]) {
        let Some(vlan) = self.vlan else { return self.segment.send(frame) };
        let Some((addresses, tagged)) = frame.split_at_checked(AT) else { return };
        let Some((&[_, _, high, low], rest)) = tagged.split_first_chunk().filter(|(tag, _)| tag.starts_with(&TPID))
        else {
            return;
        };
        // The upper four bits are priority and drop eligibility (802.1Q §9.6).
        if u16::from_be_bytes([high & 0xf, low]) == vlan {
            self.changed.clear();
            self.changed.extend_from_slice(addresses);
            self.changed.extend_from_slice(rest);
            self.segment.send(&self.changed);
        }
    }

    fn flush(&mut self) {
        self.segment.flush();
    }

    fn receive(&mut self) -> Option<&[u8]> {
        let frame = self.segment.receive()?;
        let Some((vlan, (addresses, rest))) = self.vlan.zip(frame.split_at_checked(AT)) else { return Some(frame) };
        self.changed.clear();
        for part in [addresses, &TPID, &vlan.to_be_bytes(), rest] {
            self.changed.extend_from_slice(part);
        }
        Some(&self.changed)
    }
}

impl<W: PollableWire> PollableWire for SwitchPort<W> {
    fn outlives_error(&mut self) -> bool {
        self.segment.outlives_error()
    }
}

impl<W: AsFd> AsFd for SwitchPort<W> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    #[derive(Default)]
    struct Segment {
        sent: Vec<Vec<u8>>,
        coming: VecDeque<Vec<u8>>,
        last: Vec<u8>,
    }

    impl Wire for Segment {
        fn send(&mut self, frame: &[u8]) {
            self.sent.push(frame.to_vec());
        }

        fn receive(&mut self) -> Option<&[u8]> {
            self.last = self.coming.pop_front()?;
            Some(&self.last)
        }
    }

    fn frame(tag: &[u8]) -> Vec<u8> {
        [&[1; 6], &[2; 6], tag, &[0x08, 0x00], &[7; 46]].concat()
    }

    /// A box in a VLAN is heard with its own tag only, and hears everything with it; one in none is on a plain cable.
    #[test]
    fn the_box_s_side_bears_the_tag_and_the_hosts_none() {
        let (plain, mine, other) = (frame(&[]), frame(&[0x81, 0, 0xe0, 10]), frame(&[0x81, 0, 0, 11]));
        let short = mine[..15].to_vec();
        let through = |vlan| {
            let coming = [plain.clone(), other.clone()].into();
            let mut port = SwitchPort::new(Segment { coming, ..Segment::default() }, vlan);
            for frame in [&plain, &mine, &other, &short] {
                port.send(frame);
            }
            let mut came = Vec::new();
            while let Some(frame) = port.receive() {
                came.push(frame.to_vec());
            }
            (port.segment.sent, came)
        };
        let tagged = |inner: &[u8]| [&inner[..AT], &[0x81, 0, 0, 10], &inner[AT..]].concat();
        assert_eq!(through(Some(10)), (vec![plain.clone()], vec![tagged(&plain), tagged(&other)]));
        assert_eq!(through(None), (vec![plain.clone(), mine.clone(), other.clone(), short], vec![plain, other]));
    }
}
