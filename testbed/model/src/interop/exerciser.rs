//! The far end of testpmd's cable: sends the same few kinds of frames all the time and tells by what comes
//! back which forwarding mode is at work, and whether it works.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::frame_socket::FrameSocket;
use crate::frames::{self, FROM, TO};
use crate::packet::Parsed;
use crate::surroundings::Wire;

/// As many of a kind as make it no accident.
pub const ENOUGH: u64 = 20;
/// Between two rounds of frames.
const PAUSE: Duration = Duration::from_millis(20);
/// Flows, so that RSS has something to spread.
const FLOWS: u16 = 16;
/// UDP destination ports that tell the kinds apart.
const GOOD: u16 = 5000;
const WRONG_SUM: u16 = 5001;

const US: [u8; 4] = [10, 9, 0, 1];
const THEM: [u8; 4] = [10, 9, 0, 2];

/// Where testpmd's first port sends to if it isn't told otherwise (DPDK: `peer_eth_addrs`).
const TESTPMDS_PEER: [u8; 6] = [2, 0, 0, 0, 0, 0];

/// What came back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub unchanged: u64,
    pub readdressed: u64,
    pub swapped: u64,
    pub pongs: u64,
    pub mended: u64,
    pub damaged: u64,
}

fn good(flow: u16) -> Vec<u8> {
    frames::udp(US, THEM, 1000 + flow, GOOD, &[flow as u8; 200])
}

/// The same with a checksum that no receiver would take.
fn wrong(flow: u16) -> Vec<u8> {
    let mut frame = frames::udp(US, THEM, 1000 + flow, WRONG_SUM, &[flow as u8; 200]);
    frame[40] ^= 0x55;
    frame
}

impl Seen {
    fn take(&mut self, frame: &[u8]) {
        let parsed = Parsed::new(frame);
        match parsed.ports {
            Some((from, GOOD)) => {
                let sent = good(from.wrapping_sub(1000));
                if frame.len() != sent.len() || frame[12..] != sent[12..] {
                    self.damaged += 1;
                } else if frame[..12] == sent[..12] {
                    self.unchanged += 1;
                } else if frame[..6] == TESTPMDS_PEER && frame[6..12] == TO {
                    self.readdressed += 1;
                } else if frame[..6] == FROM && frame[6..12] == TO {
                    self.swapped += 1;
                }
            }
            // Modes that don't compute sums bring it back as wrong as it was.
            Some((_, WRONG_SUM)) => self.mended += u64::from(parsed.transport_sum_good(frame) == Some(true)),
            // ICMP: an echo reply is type 0.
            _ if parsed.protocol == Some(1) && frame.get(parsed.transport_offset) == Some(&0) => self.pongs += 1,
            _ => {}
        }
    }
}

/// Sends and looks until the cable's other end goes.
pub fn exercise(mut cable: FrameSocket) -> io::Result<Seen> {
    let mut seen = Seen::default();
    let ping = frames::ping(US, THEM, 7);
    let mut next = Instant::now();
    loop {
        while let Some(frame) = cable.receive() {
            seen.take(frame);
        }
        if cable.closed() {
            return Ok(seen);
        }
        if Instant::now() >= next {
            next = Instant::now() + PAUSE;
            for flow in 0..FLOWS {
                cable.send(&good(flow));
                cable.send(&wrong(flow));
            }
            cable.send(&ping);
        }
        let left = next.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };
        poll(&mut [PollFd::new(&cable, PollFlags::IN)], Some(&left))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each mode's work is recognised, and nobody else's is taken for it.
    #[test]
    fn modes_are_told_apart() {
        let mut seen = Seen::default();
        seen.take(&good(3));
        let mut swapped = good(3);
        swapped[..6].copy_from_slice(&FROM);
        swapped[6..12].copy_from_slice(&TO);
        seen.take(&swapped);
        let mut readdressed = good(3);
        readdressed[..6].copy_from_slice(&TESTPMDS_PEER);
        readdressed[6..12].copy_from_slice(&TO);
        seen.take(&readdressed);
        let mut damaged = good(3);
        damaged[100] ^= 1;
        seen.take(&damaged);
        seen.take(&wrong(3));
        let mut mended = wrong(3);
        mended[40] ^= 0x55;
        seen.take(&mended);
        seen.take(&frames::ping(US, THEM, 7));
        let counts = (seen.unchanged, seen.readdressed, seen.swapped, seen.damaged, seen.mended, seen.pongs);
        assert_eq!(counts, (1, 1, 1, 1, 1, 0));
    }
}
