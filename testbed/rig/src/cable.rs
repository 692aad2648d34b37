//! A cable with a tester at its far end: it sends numbered frames as fast as it is told to, and looks at the numbers of what comes back.
//!
//! The frames are UDP datagrams to one address, of as many flows as one likes.

use std::net::Ipv4Addr;

use model::Wire;

/// Where they go.
pub const DESTINATION: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 100);
pub const DESTINATION_PORT: u16 = 53;
/// Where they come from: port and the lower half of the address are the flow's.
const SOURCE: [u8; 2] = [10, 77];
const FIRST_SOURCE_PORT: u16 = 1024;
/// Flows that have one source address.
const PORTS: u32 = 16;
/// Flows that there can be.
pub const FLOWS: u32 = PORTS << 16;

/// Where things stand: Ethernet, then IPv4, then UDP, then the frame's number. Its low bits stand in the IP header's identification, too: half a frame has two numbers.
const IP: usize = 14;
const IDENTIFICATION_AT: usize = IP + 4;
const UDP: usize = IP + 20;
const NUMBER_AT: usize = UDP + 8;
const ETHERTYPE: [u8; 2] = [0x08, 0x00];
/// Bytes of the frame check sequence, which a cable's frames are without.
const CHECK_SEQUENCE: usize = 4;

/// What has come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    pub frames: u64,
    /// Frames that came once more.
    pub repeated: u64,
    /// Frames that came after one with a higher number.
    pub reordered: u64,
    /// Frames that the tester hadn't sent, or not so.
    pub strange: u64,
}

pub struct Tester {
    frame: Vec<u8>,
    /// The VLAN tag that all frames have and are to come back with, if any; and the frame with it.
    tag: Vec<u8>,
    tagged: Vec<u8>,
    /// Of the IP header, with neither flow nor identification nor checksum in it.
    sum: u32,
    /// Sent in turn.
    flows: Vec<u32>,
    next_flow: usize,
    sent: u64,
    /// Frames that may have been sent by now.
    allowed: u64,
    forgiven: u64,
    returned: Returned,
    highest: u64,
    /// By number: it has come back.
    seen: Vec<u64>,
}

impl Tester {
    /// For frames of `bytes`, check sequence included, of one flow.
    pub fn new(bytes: usize) -> Tester {
        let mut tester = Tester {
            frame: Vec::new(),
            tag: Vec::new(),
            tagged: Vec::new(),
            sum: 0,
            flows: vec![0],
            next_flow: 0,
            sent: 0,
            allowed: 0,
            forgiven: 0,
            returned: Returned::default(),
            highest: 0,
            seen: Vec::new(),
        };
        tester.resize(bytes);
        tester
    }

    /// From now on frames are of this size.
    pub fn resize(&mut self, bytes: usize) {
        let length = bytes - CHECK_SEQUENCE;
        self.frame.clear();
        self.frame.resize(length, 0);
        let frame = &mut self.frame;
        frame[..6].copy_from_slice(&model::frames::TO);
        frame[6..12].copy_from_slice(&model::frames::FROM);
        frame[12..14].copy_from_slice(&ETHERTYPE);
        frame[IP] = 0x45;
        frame[IP + 2..IP + 4].copy_from_slice(&((length - IP) as u16).to_be_bytes());
        frame[IP + 8..IP + 10].copy_from_slice(&[64, 17]);
        frame[IP + 12..IP + 14].copy_from_slice(&SOURCE);
        frame[IP + 16..IP + 20].copy_from_slice(&DESTINATION.octets());
        // No checksum, as RFC 768 allows.
        frame[UDP + 2..UDP + 4].copy_from_slice(&DESTINATION_PORT.to_be_bytes());
        frame[UDP + 4..UDP + 6].copy_from_slice(&((length - UDP) as u16).to_be_bytes());
        self.sum = frame[IP..UDP].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    }

    /// From now on frames are of a VLAN.
    pub fn set_vlan(&mut self, vlan: u16) {
        self.tag = [[0x81, 0x00], vlan.to_be_bytes()].concat();
    }

    /// From now on frames are of these flows, in turn; each below [`FLOWS`].
    pub fn set_flows(&mut self, flows: Vec<u32>) {
        assert!(!flows.is_empty() && flows.iter().all(|flow| *flow < FLOWS), "flows that there are");
        (self.flows, self.next_flow) = (flows, 0);
    }

    /// Lets `frames` more be sent.
    pub fn allow(&mut self, frames: u64) {
        self.allowed += frames;
    }

    /// Sent frames.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn returned(&self) -> Returned {
        self.returned
    }

    /// Waits for so many of the missing frames no longer.
    pub fn forgive(&mut self, frames: u64) {
        self.forgiven += frames;
    }

    /// The number in a frame that is like the tester's.
    fn number_of(&self, frame: &[u8]) -> Option<u64> {
        let behind = frame.get(12..)?.strip_prefix(&*self.tag)?;
        // As far from there as from an untagged frame's ethertype.
        let at = |place: usize| behind.get(place - 12..);
        let number = u64::from_le_bytes(*at(NUMBER_AT)?.first_chunk()?);
        let is_ours =
            behind.starts_with(&ETHERTYPE) && at(IDENTIFICATION_AT)?.starts_with(&(number as u16).to_be_bytes());
        is_ours.then_some(number)
    }

    /// Frames that have been sent, or are to be, and have not come back.
    pub fn missing(&self) -> u64 {
        let returned = self.returned.frames - self.returned.repeated - self.returned.strange;
        // What was forgiven may come yet.
        self.allowed.saturating_sub(self.forgiven + returned)
    }
}

impl Wire for Tester {
    fn send(&mut self, frame: &[u8]) {
        self.returned.frames += 1;
        let Some(number) = self.number_of(frame).filter(|number| *number < self.sent) else {
            self.returned.strange += 1;
            return;
        };
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1024, 0);
        }
        if self.seen[word] & bit != 0 {
            self.returned.repeated += 1;
        } else if number < self.highest {
            self.returned.reordered += 1;
        }
        self.seen[word] |= bit;
        self.highest = self.highest.max(number);
    }

    fn receive(&mut self) -> Option<&[u8]> {
        if self.sent == self.allowed {
            return None;
        }
        let flow = self.flows[self.next_flow];
        self.next_flow = if self.next_flow + 1 == self.flows.len() { 0 } else { self.next_flow + 1 };
        let (address, port) = ((flow / PORTS) as u16, FIRST_SOURCE_PORT + (flow % PORTS) as u16);
        let identification = self.sent as u16;
        let sum = self.sum + u32::from(address) + u32::from(identification);
        let sum = (sum & 0xFFFF) + (sum >> 16);
        let sum = (sum & 0xFFFF) + (sum >> 16);
        let frame = &mut self.frame;
        frame[IDENTIFICATION_AT..IDENTIFICATION_AT + 2].copy_from_slice(&identification.to_be_bytes());
        frame[IP + 10..IP + 12].copy_from_slice(&(!sum as u16).to_be_bytes());
        frame[IP + 14..IP + 16].copy_from_slice(&address.to_be_bytes());
        frame[UDP..UDP + 2].copy_from_slice(&port.to_be_bytes());
        frame[NUMBER_AT..NUMBER_AT + 8].copy_from_slice(&self.sent.to_le_bytes());
        self.sent += 1;
        if self.tag.is_empty() {
            return Some(frame);
        }
        self.tagged.clear();
        [&frame[..12], &self.tag, &frame[12..]].into_iter().for_each(|part| self.tagged.extend_from_slice(part));
        Some(&self.tagged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(tester: &mut Tester) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| tester.receive().map(<[u8]>::to_vec)).collect()
    }

    /// The tester's own judgement: each kind of mishap is called what it is.
    #[test]
    fn mishaps_are_told_apart() {
        let mut tester = Tester::new(64);
        tester.allow(5);
        let frames = all(&mut tester);
        assert_eq!((frames.len(), frames[0].len(), tester.missing()), (5, 60, 5));
        [0, 2, 1, 2].into_iter().for_each(|number: usize| tester.send(&frames[number]));
        tester.send(&[0; 60]);
        tester.send(&[&frames[4][..30], &frames[0][30..]].concat());
        let expected = Returned { frames: 6, repeated: 1, reordered: 1, strange: 2 };
        assert_eq!((tester.returned(), tester.missing()), (expected, 2));
    }

    /// What comes back without its VLAN's tag, or with another's, is none of the tester's.
    #[test]
    fn tags_are_looked_at() {
        let mut tester = Tester::new(64);
        tester.set_vlan(10);
        tester.allow(2);
        let frames = all(&mut tester);
        assert_eq!((frames[0].len(), &frames[0][12..16]), (64, &[0x81, 0x00, 0, 10][..]));
        tester.send(&frames[1]);
        let (mut another, plain) = (frames[0].clone(), [&frames[0][..12], &frames[0][16..]].concat());
        another[15] = 11;
        [another, plain].iter().for_each(|frame| tester.send(frame));
        assert_eq!((tester.returned().frames, tester.returned().strange, tester.missing()), (3, 2, 1));
    }

    /// Whoever checks them finds headers that are right, and each flow its own.
    #[test]
    fn flows_are_sound_datagrams() {
        let mut tester = Tester::new(128);
        tester.set_flows(vec![0, 1, PORTS, FLOWS - 1]);
        tester.allow(5);
        let frames = all(&mut tester);
        for frame in &frames {
            let sum = |bytes: &[u8]| {
                bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>()
            };
            let ones = sum(&frame[IP..UDP]);
            assert_eq!((ones & 0xFFFF) + (ones >> 16), 0xFFFF, "the header's checksum");
            assert_eq!(usize::from(u16::from_be_bytes([frame[IP + 2], frame[IP + 3]])), frame.len() - IP);
        }
        let flow = |frame: &Vec<u8>| frame[IP + 12..UDP + 2].to_vec();
        assert_eq!(flow(&frames[0]), flow(&frames[4]));
        assert!((0..4).all(|a| (0..a).all(|b| flow(&frames[a]) != flow(&frames[b]))));
    }
}
