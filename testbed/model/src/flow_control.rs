//! Link flow control: pause frames sent when the packet buffer fills, and obeyed when received
//! (82599 §3.7.7, IEEE 802.3 annex 31B).

use crate::bank::{Bank, statistic};
use crate::registers::*;

/// Where pause frames go, whoever the neighbour is (IEEE 802.3 annex 31B.1).
const PAUSE_ADDRESS: [u8; 6] = [0x01, 0x80, 0xC2, 0x00, 0x00, 0x01];
const MAC_CONTROL: [u8; 2] = [0x88, 0x08];
const OPCODE_PAUSE: [u8; 2] = [0x00, 0x01];
/// A quantum is 512 bit times, which take 51.2 ns at 10 Gb/s.
const QUANTUM_TENTHS_OF_NS: u64 = 512;
/// The threshold fields count units of 32 bytes from bit 5, so they read as bytes (82599 §8.2.3.3.4).
const THRESHOLD: u32 = 0x0007_FFE0;

#[derive(Default)]
pub struct FlowControl {
    /// The neighbour has been told to stop.
    stopped_neighbour: bool,
    /// Until when the neighbour has told us to stop.
    paused_until: Option<u64>,
}

impl FlowControl {
    /// Whether `frame` is a pause frame that the MAC keeps; it takes effect at once.
    pub fn takes(&mut self, bank: &mut Bank, now: u64, frame: &[u8]) -> bool {
        let pause = frame.len() >= 18
            && frame[..6] == PAUSE_ADDRESS
            && frame[12..14] == MAC_CONTROL
            && frame[14..16] == OPCODE_PAUSE;
        if !pause || !bank.has(MFLCN, MFLCN_RFCE) {
            return false;
        }
        let quanta = u64::from(u16::from_be_bytes([frame[16], frame[17]]));
        bank.count(if quanta > 0 { statistic::LXOFFRXC } else { statistic::LXONRXC }, 1);
        self.paused_until = (quanta > 0).then(|| now + quanta * QUANTUM_TENTHS_OF_NS / 10);
        true
    }

    /// Whether transmission waits.
    pub fn pauses(&self, now: u64) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// When a pause ends.
    pub fn resumes(&self) -> Option<u64> {
        self.paused_until
    }

    /// Looks at the packet buffer's fill: a frame to send when it crosses a threshold.
    pub fn regulate(&mut self, bank: &mut Bank, held: usize) -> Option<[u8; 60]> {
        let (high, low) = (bank.get(FCRTH), bank.get(FCRTL));
        if bank.get(FCCFG) & FCCFG_TFCE != FCCFG_TFCE_LINK || high & FCRTH_FCEN == 0 {
            return None;
        }
        if !self.stopped_neighbour && held > (high & THRESHOLD) as usize {
            self.stopped_neighbour = true;
            bank.count(statistic::LXOFFTXC, 1);
            return Some(pause_frame(bank, bank.get(FCTTV) as u16));
        }
        if self.stopped_neighbour && held <= (low & THRESHOLD) as usize {
            self.stopped_neighbour = false;
            if low & FCRTL_XONE != 0 {
                bank.count(statistic::LXONTXC, 1);
                return Some(pause_frame(bank, 0));
            }
        }
        None
    }
}

fn pause_frame(bank: &Bank, quanta: u16) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&PAUSE_ADDRESS);
    frame[6..10].copy_from_slice(&bank.get(RAL).to_le_bytes());
    frame[10..12].copy_from_slice(&bank.get(RAL + 4).to_le_bytes()[..2]);
    frame[12..14].copy_from_slice(&MAC_CONTROL);
    frame[14..16].copy_from_slice(&OPCODE_PAUSE);
    frame[16..18].copy_from_slice(&quanta.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One frame per crossing, and none without permission.
    #[test]
    fn thresholds() {
        let mut bank = Bank::new();
        let mut flow = FlowControl::default();
        bank.set(FCRTH, FCRTH_FCEN | 0x4_0000);
        bank.set(FCRTL, FCRTL_XONE | 0x2_0000);
        bank.set(FCTTV, 0x1234);
        assert_eq!(flow.regulate(&mut bank, 0x5_0000), None, "not enabled");
        bank.set(FCCFG, FCCFG_TFCE_LINK);
        assert_eq!(flow.regulate(&mut bank, 0x3_0000), None);
        let stop = flow.regulate(&mut bank, 0x5_0000).expect("over the high mark");
        assert_eq!(stop[12..18], [0x88, 0x08, 0, 1, 0x12, 0x34]);
        assert_eq!(flow.regulate(&mut bank, 0x5_0000), None);
        assert_eq!(flow.regulate(&mut bank, 0x3_0000), None);
        let go = flow.regulate(&mut bank, 0x2_0000).expect("at the low mark");
        assert_eq!(go[16..18], [0, 0]);
        assert_eq!((bank.get(statistic::LXOFFTXC), bank.get(statistic::LXONTXC)), (1, 1));
    }

    /// A pause lasts as long as it says, a second one with zero ends it, and it is taken only if enabled.
    #[test]
    fn pauses_are_obeyed() {
        let mut bank = Bank::new();
        let mut flow = FlowControl::default();
        let frame = pause_frame(&bank, 1000);
        assert!(!flow.takes(&mut bank, 0, &frame));
        bank.set(MFLCN, MFLCN_RFCE);
        assert!(flow.takes(&mut bank, 0, &frame));
        assert!(flow.pauses(51_199) && !flow.pauses(51_200));
        let end = pause_frame(&bank, 0);
        assert!(flow.takes(&mut bank, 10, &end));
        assert!(!flow.pauses(11));
        assert!(!flow.takes(&mut bank, 0, &[0; 60]));
    }
}
