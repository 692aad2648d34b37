//! Faults in force. The data paths ask here; [`crate::control::Fault`] says what each one means.

use crate::control::Fault;

/// What is broken at the moment. A reset of the device repairs all of it but surprise removal.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    hung_receive: u128,
    hung_transmit: u128,
    /// Queues that hang amid their next frame.
    stopping_receive: u128,
    stopping_transmit: u128,
    skip_write_back: u32,
    skip_report: u32,
    corrupt_report: u32,
    half_write: u32,
    late_write: u32,
    corrupt_length: (u32, u16),
    pub all_ones: bool,
}

impl Faults {
    /// Puts a fault of the data paths in force. The interrupt faults are the interrupt logic's.
    pub fn set(&mut self, fault: Fault) {
        match fault {
            Fault::HangReceive { queue } => self.hung_receive |= 1 << (queue & 127),
            Fault::HangTransmit { queue } => self.hung_transmit |= 1 << (queue & 127),
            Fault::StopReceive { queue } => self.stopping_receive |= 1 << (queue & 127),
            Fault::StopTransmit { queue } => self.stopping_transmit |= 1 << (queue & 127),
            Fault::SkipWriteBack { count } => self.skip_write_back = count,
            Fault::SkipReport { count } => self.skip_report = count,
            Fault::CorruptReport { count } => self.corrupt_report = count,
            Fault::CorruptLength { count, length } => self.corrupt_length = (count, length),
            Fault::HalfWrite { count } => self.half_write = count,
            Fault::WriteLate { count } => self.late_write = count,
            Fault::AllOnes(removed) => self.all_ones = removed,
            Fault::LoseInterrupts { .. } | Fault::SpuriousInterrupt { .. } => {}
        }
    }

    pub fn repair(&mut self) {
        *self = Faults { all_ones: self.all_ones, ..Default::default() };
    }

    pub fn receive_hangs(&self, queue: usize) -> bool {
        self.hung_receive >> queue & 1 != 0
    }

    pub fn transmit_hangs(&self, queue: usize) -> bool {
        self.hung_transmit >> queue & 1 != 0
    }

    /// Whether the queue stops amid the frame at hand; from then on it hangs.
    pub fn stops_receive(&mut self, queue: usize) -> bool {
        stop(&mut self.stopping_receive, &mut self.hung_receive, queue)
    }

    pub fn stops_transmit(&mut self, queue: usize) -> bool {
        stop(&mut self.stopping_transmit, &mut self.hung_transmit, queue)
    }

    /// Whether the status that is asked for is never written; counts one down.
    pub fn skips_report(&mut self) -> bool {
        take(&mut self.skip_report)
    }

    /// Whether the status that is asked for is garbage; counts one down.
    pub fn corrupts_report(&mut self) -> bool {
        take(&mut self.corrupt_report)
    }

    /// Whether the descriptor at hand loses its write-back; each question counts one down.
    pub fn skips_write_back(&mut self) -> bool {
        take(&mut self.skip_write_back)
    }

    /// Whether the frame at hand is only half written; counts one down.
    pub fn halves_frame(&mut self) -> bool {
        take(&mut self.half_write)
    }

    /// Whether the buffer at hand is written once more later; counts one down.
    pub fn writes_late(&mut self) -> bool {
        take(&mut self.late_write)
    }

    /// The length that the descriptor at hand reports instead of the true one; counts one down.
    pub fn false_length(&mut self) -> Option<u16> {
        take(&mut self.corrupt_length.0).then_some(self.corrupt_length.1)
    }
}

fn take(count: &mut u32) -> bool {
    let any = *count > 0;
    *count -= u32::from(any);
    any
}

fn stop(stopping: &mut u128, hung: &mut u128, queue: usize) -> bool {
    let bit = *stopping & 1 << queue;
    *stopping &= !bit;
    *hung |= bit;
    bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counted faults end by themselves, hanging queues with a reset, removal with neither.
    #[test]
    fn faults_end_as_they_say() {
        let mut faults = Faults::default();
        faults.set(Fault::SkipWriteBack { count: 1 });
        assert!(faults.skips_write_back());
        assert!(!faults.skips_write_back());
        faults.set(Fault::HangReceive { queue: 3 });
        faults.set(Fault::AllOnes(true));
        assert!(faults.receive_hangs(3) && !faults.receive_hangs(2) && !faults.transmit_hangs(3));
        faults.set(Fault::StopTransmit { queue: 1 });
        assert!(!faults.transmit_hangs(1) && faults.stops_transmit(1));
        assert!(faults.transmit_hangs(1) && !faults.stops_transmit(1));
        faults.repair();
        assert!(!faults.receive_hangs(3) && faults.all_ones);
    }
}
