//! What keeps a box busy while its domains are ended, and sees whether it is.

use model::{Wire, frame_socket::FrameSocket, frames};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Between two frames.
const FRAME_GAP: Duration = Duration::from_millis(2);
/// The network stack's address in the manifest, a virtual one of the balancer's, and a station beside them.
const STACK: [u8; 4] = [10, 0, 1, 3];
const VIP: [u8; 4] = [10, 0, 1, 101];
const VIP_PORT: u16 = 9000;
const ASKER: [u8; 4] = [10, 0, 1, 77];

/// The far end of the box's cable: it asks the network stack for echoes and sends datagrams to a virtual address of the balancer's, while it may; it answers for every address that the
/// box asks for, and so gets to see the echoes, and what goes to the backends.
pub struct Traffic {
    flows: Arc<AtomicBool>,
    came_back: Arc<AtomicU64>,
}

impl Traffic {
    /// It ends when the cable's other end has gone.
    pub fn start(mut cable: FrameSocket) -> Traffic {
        let (flows, came_back) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let traffic = Traffic { flows: flows.clone(), came_back: came_back.clone() };
        thread::spawn(move || {
            let mut number = 0u16;
            loop {
                while let Some(frame) = cable.receive().map(<[u8]>::to_vec) {
                    match arp_answer(&frame) {
                        Some(answer) => cable.send(&answer),
                        None => drop(came_back.fetch_add(1, Ordering::Relaxed)),
                    }
                }
                if cable.closed() {
                    return;
                }
                if flows.load(Ordering::Relaxed) {
                    number = number.wrapping_add(1);
                    cable.send(&frames::ping(ASKER, STACK, number));
                    cable.send(&frames::udp(ASKER, VIP, 1024 + number % 1000, VIP_PORT, &number.to_be_bytes()));
                }
                thread::sleep(FRAME_GAP);
            }
        });
        traffic
    }

    pub fn flow(&self, on: bool) {
        self.flows.store(on, Ordering::Relaxed);
    }

    /// A box that never let a frame through was never busy.
    pub fn verdict(&self) -> Result<(), String> {
        match self.came_back.load(Ordering::Relaxed) {
            0 => Err("no frame has come through the box".to_owned()),
            _ => Ok(()),
        }
    }
}

/// The answer to a request of ARP's for any address (RFC 826), from the station that model frames come from.
fn arp_answer(frame: &[u8]) -> Option<Vec<u8>> {
    const REQUEST: [u8; 10] = [0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1];
    let asked = frame.get(12..42).filter(|rest| rest[..10] == REQUEST)?;
    let mut answer = Vec::with_capacity(60);
    answer.extend(
        [&frame[6..12], &frames::FROM, &REQUEST[..9], &[2], &frames::FROM, &asked[26..30], &asked[10..20]].concat(),
    );
    answer.resize(60, 0);
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The far end of the cable answers whoever asks, and nobody else.
    #[test]
    fn arp_is_answered() {
        let mut asked = vec![0xff; 6];
        asked.extend([
            2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 1, 3, 0, 0, 0, 0, 0, 0, 10, 0, 1,
            77,
        ]);
        let answer = arp_answer(&asked).unwrap();
        assert_eq!(answer[..12], [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        assert_eq!(answer[20..42], [0, 2, 2, 0, 0, 0, 0, 2, 10, 0, 1, 77, 2, 0, 0, 0, 0, 1, 10, 0, 1, 3]);
        assert_eq!(arp_answer(&answer), None);
        assert_eq!(arp_answer(&frames::ping(ASKER, STACK, 1)), None);
    }
}
