//! What can go wrong with a card, by the names that a command line has for it.

use std::time::Duration;

use crate::control::{Control, Fault};

/// Something that goes wrong with a card.
#[derive(Debug, PartialEq, Eq)]
pub struct Mishap {
    pub name: &'static str,
    pub what: &'static str,
    /// The device is at fault so that its driver can see it: what a driver does about it is a reset.
    pub is_seen: bool,
    /// What the model is commanded, and how long after the first command.
    pub steps: &'static [(Duration, Control)],
}

const NOW: Duration = Duration::ZERO;

const fn after(millis: u64, control: Control) -> (Duration, Control) {
    (Duration::from_millis(millis), control)
}

/// All of them; a queue is the first.
pub const MISHAPS: &[Mishap] = &[
    Mishap {
        name: "rx-hang",
        what: "a receive queue hangs",
        is_seen: true,
        steps: &[(NOW, Control::Fault(Fault::HangReceive { queue: 0 }))],
    },
    Mishap {
        name: "rx-stop",
        what: "DMA of a received frame stops half way",
        is_seen: true,
        steps: &[(NOW, Control::Fault(Fault::StopReceive { queue: 0 }))],
    },
    Mishap {
        name: "rx-skip",
        what: "a receive descriptor is never written back",
        is_seen: true,
        steps: &[(NOW, Control::Fault(Fault::SkipWriteBack { count: 1 }))],
    },
    Mishap {
        name: "rx-length",
        what: "a receive descriptor is written back with a length that no buffer has",
        is_seen: true,
        steps: &[(NOW, Control::Fault(Fault::CorruptLength { count: 1, length: 0xFFFF }))],
    },
    Mishap {
        name: "rx-empty",
        what: "a receive descriptor is written back with a length of nothing",
        is_seen: true,
        steps: &[(NOW, Control::Fault(Fault::CorruptLength { count: 1, length: 0 }))],
    },
    Mishap {
        name: "rx-half",
        what: "a received frame is written half, and reported whole",
        is_seen: false,
        steps: &[(NOW, Control::Fault(Fault::HalfWrite { count: 1 }))],
    },
    Mishap {
        name: "rx-late",
        what: "received frames' buffers are written once more after they were given back",
        is_seen: false,
        steps: &[(NOW, Control::Fault(Fault::WriteLate { count: 20 }))],
    },
    Mishap {
        name: "tx-hang",
        what: "a transmit queue hangs",
        is_seen: true,
        steps: &[(NOW, Control::Fault(Fault::HangTransmit { queue: 0 }))],
    },
    Mishap {
        name: "tx-stop",
        what: "DMA of a frame to be sent stops half way",
        is_seen: true,
        steps: &[(NOW, Control::Fault(Fault::StopTransmit { queue: 0 }))],
    },
    Mishap {
        name: "tx-skip",
        what: "a transmit descriptor is never written back",
        is_seen: true,
        steps: &[(NOW, Control::Fault(Fault::SkipReport { count: 1 }))],
    },
    Mishap {
        name: "tx-garbage",
        what: "a transmit descriptor is written back with everything but its status",
        is_seen: true,
        steps: &[(NOW, Control::Fault(Fault::CorruptReport { count: 1 }))],
    },
    Mishap {
        name: "lost-interrupts",
        what: "interrupts are lost",
        is_seen: false,
        steps: &[(NOW, Control::Fault(Fault::LoseInterrupts { count: 20 }))],
    },
    Mishap {
        name: "spurious-interrupts",
        what: "interrupts without a cause",
        is_seen: false,
        steps: &[
            (NOW, Control::Fault(Fault::SpuriousInterrupt { vector: 0 })),
            (NOW, Control::Fault(Fault::SpuriousInterrupt { vector: 1 })),
            after(1, Control::Fault(Fault::SpuriousInterrupt { vector: 0 })),
            after(1, Control::Fault(Fault::SpuriousInterrupt { vector: 2 })),
        ],
    },
    Mishap {
        name: "link-flap",
        what: "the link goes down and comes up, twice",
        is_seen: false,
        steps: &[
            (NOW, Control::Cable(false)),
            after(50, Control::Cable(true)),
            after(100, Control::Cable(false)),
            after(400, Control::Cable(true)),
        ],
    },
    Mishap {
        name: "removal",
        what: "the card is pulled out, and put in again a second later",
        is_seen: true,
        steps: &[(NOW, Control::Fault(Fault::AllOnes(true))), after(1_000, Control::Fault(Fault::AllOnes(false)))],
    },
];

impl Mishap {
    pub fn find(name: &str) -> Option<&'static Mishap> {
        MISHAPS.iter().find(|mishap| mishap.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name means one mishap, and each ends with the cable and the card where they were.
    #[test]
    fn mishaps_are_told_apart_and_end() {
        for mishap in MISHAPS {
            assert_eq!(Mishap::find(mishap.name), Some(mishap));
            assert!(mishap.steps.is_sorted_by_key(|(after, _)| *after));
            let last = mishap.steps.last().expect("something is commanded").1;
            assert!(!matches!(last, Control::Cable(false) | Control::Fault(Fault::AllOnes(true))), "{}", mishap.name);
        }
        assert_eq!(Mishap::find("meltdown"), None);
    }
}
