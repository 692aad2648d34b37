//! Random register and descriptor traffic, as from a driver gone mad or a guest that means harm: the
//! model doesn't panic, writes no byte that isn't the device's to write, and its books balance.

use crate::driver::*;
use model::control::Fault;
use model::harness::RAM_BASE;
use model::registers::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Read(u32),
    Write(u32, u32),
    /// A quadword of the area that rings and buffers lie in.
    Poke(u64, u64),
    Descriptor {
        queue: usize,
        slot: u64,
        first: u64,
        second: u64,
    },
    TransmitTail(usize, u32),
    ReceiveTail(usize, u32),
    Frame(Vec<u8>),
    Datagram {
        port: u16,
        payload: usize,
        tag: Option<u16>,
    },
    Time(u64),
    Cable(bool),
    Fault(Fault),
    Pci(usize, Vec<u8>),
}

fn register() -> impl Strategy<Value = u32> {
    prop_oneof![
        0u32..0x2_0010,
        (0u32..0x8000).prop_map(|word| 4 * word),
        (0usize..4, 0u32..16).prop_map(|(queue, word)| rx(queue, 4 * word)),
        (0usize..4, 0u32..16).prop_map(|(queue, word)| tx(queue, 4 * word)),
        proptest::sample::select(vec![
            CTRL, RXCTRL, DMATXCTL, HLREG0, MAXFRS, FCTRL, MRQC, VLNCTRL, RXPBSIZE, EICS, EIMS, EIMC, EICR, GPIE, EIAC,
            EIAM, IVAR, IVAR_MISC, EICS_EX, EIMS_EX, I2CCTL, EERD, EEC, AUTOC, SWSM,
        ]),
        Just(u32::MAX),
    ]
}

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0u64..AREA).prop_map(|offset| RAM_BASE + AREA_START + offset),
        1 => any::<u64>(),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        (0u8..255).prop_map(|queue| Fault::HangReceive { queue }),
        (0u8..255).prop_map(|queue| Fault::HangTransmit { queue }),
        (0u32..4).prop_map(|count| Fault::LoseInterrupts { count }),
        any::<u8>().prop_map(|vector| Fault::SpuriousInterrupt { vector }),
        (0u8..255).prop_map(|queue| Fault::StopReceive { queue }),
        (0u8..255).prop_map(|queue| Fault::StopTransmit { queue }),
        (0u32..4).prop_map(|count| Fault::SkipWriteBack { count }),
        (0u32..4).prop_map(|count| Fault::SkipReport { count }),
        (0u32..4).prop_map(|count| Fault::CorruptReport { count }),
        (0u32..4, any::<u16>()).prop_map(|(count, length)| Fault::CorruptLength { count, length }),
        (0u32..4).prop_map(|count| Fault::HalfWrite { count }),
        (0u32..4).prop_map(|count| Fault::WriteLate { count }),
        any::<bool>().prop_map(Fault::AllOnes),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let tail = || (0usize..4, prop_oneof![8 => 0u32..16, 1 => any::<u32>()]);
    prop_oneof![
        2 => register().prop_map(Step::Read),
        4 => (register(), any::<u32>()).prop_map(|(at, value)| Step::Write(at, value)),
        1 => (0u64..AREA / 8, any::<u64>()).prop_map(|(at, value)| Step::Poke(8 * at, value)),
        6 => (0usize..4, 0u64..16, address(), any::<u64>(), 0u64..4096, any::<u8>()).prop_map(
            |(queue, slot, first, random, length, kind)| {
                // Half of them look like what a driver writes.
                let second = if kind & 1 == 0 { random } else { TX_DATA & random | length | 1 << 29 };
                Step::Descriptor { queue, slot, first, second }
            }
        ),
        4 => tail().prop_map(|(queue, value)| Step::TransmitTail(queue, value)),
        4 => tail().prop_map(|(queue, value)| Step::ReceiveTail(queue, value)),
        2 => proptest::collection::vec(any::<u8>(), 0..120).prop_map(Step::Frame),
        4 => (any::<u16>(), 0usize..1500, proptest::option::of(any::<u16>()))
            .prop_map(|(port, payload, tag)| Step::Datagram { port, payload, tag }),
        1 => (0u64..10_000_000_000).prop_map(Step::Time),
        1 => any::<bool>().prop_map(Step::Cable),
        1 => fault().prop_map(Step::Fault),
        1 => (0usize..5000, proptest::collection::vec(any::<u8>(), 0..9)).prop_map(|(at, bytes)| Step::Pci(at, bytes)),
    ]
}

/// Where the fuzzer lets the device write: everything else in RAM must stay as it was.
const AREA_START: u64 = 0x2_0000;
const AREA: u64 = 0x8_0000;

fn apply(d: &Driver, rings: &[(Ring, Ring)], step: Step) {
    match step {
        Step::Read(at) => {
            d.read(at);
        }
        Step::Write(at, value) => {
            // Ring bases stay where they are: the guard below must know where writes may go.
            let base = receive_queue(at).is_some_and(|(_, r)| matches!(r, RDBAL | RDBAH | RDLEN))
                || transmit_queue(at).is_some_and(|(_, r)| matches!(r, TDBAL | TDBAH | TDLEN | TDWBAL | TDWBAH));
            if !base {
                d.write(at, value);
            }
        }
        Step::Poke(at, value) => d.machine.ram().set_quad(RAM_BASE + AREA_START + at, value),
        Step::Descriptor { queue, slot, first, second } => {
            let (receive, transmit) = rings[queue];
            for base in [receive.base, transmit.base] {
                d.machine.ram().set_quad(base + 16 * slot, first);
                d.machine.ram().set_quad(base + 16 * slot + 8, second);
            }
        }
        Step::TransmitTail(queue, value) => d.write(tx(queue, TDT), value),
        Step::ReceiveTail(queue, value) => d.write(rx(queue, RDT), value),
        Step::Frame(bytes) => d.machine.peer_send(&bytes),
        Step::Datagram { port, payload, tag } => {
            let frame = Driver::frame(port, payload);
            d.machine.peer_send(&tag.map_or(frame.clone(), |tag| model::frames::tagged(&frame, tag)));
        }
        Step::Time(now) => d.machine.at(now),
        Step::Cable(plugged) => d.machine.nic().set_cable(plugged),
        Step::Fault(fault) => d.machine.nic().inject(fault),
        Step::Pci(at, bytes) => d.machine.nic().write_pci(at, &bytes),
    }
    d.machine.process();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn survives_anything(steps in proptest::collection::vec(step(), 1..200)) {
        let d = Driver::new();
        let ram = d.machine.ram();
        // A guard that nothing points into, then the area that descriptors point into, then the rings.
        let guard = ram.allocate(AREA_START as usize);
        let area = ram.allocate(AREA as usize);
        prop_assert_eq!((guard, area), (RAM_BASE, RAM_BASE + AREA_START));
        let rings: Vec<(Ring, Ring)> =
            (0..4).map(|queue| (d.receive_ring(queue, 16, queue % 2 == 0), d.transmit_ring(queue, 16))).collect();
        let pattern = [0xA5u8; 0x1_0000];
        for at in (guard..guard + AREA_START).step_by(pattern.len()) {
            ram.write(at, &pattern).expect("the guard is RAM");
        }
        for step in steps {
            apply(&d, &rings, step);
        }
        let counters = d.machine.counters();
        prop_assert!(counters.balanced(), "{counters:?}");
        let mut bytes = vec![0; pattern.len()];
        for at in (guard..guard + AREA_START).step_by(pattern.len()) {
            ram.read(at, &mut bytes).expect("the guard is RAM");
            prop_assert!(bytes == pattern, "the device wrote into the guard at {at:#x}");
        }
    }
}
