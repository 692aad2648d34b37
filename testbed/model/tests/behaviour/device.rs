//! The device as a whole: reset, link, interrupts, faults on command.

use std::time::Duration;

use crate::driver::*;
use model::control::Fault;
use model::registers::*;
use model::{NicConfig, statistic};

/// After a reset nothing of the old driver is left, and the station address is back.
#[test]
fn reset_forgets_everything_but_the_address() {
    let d = Driver::new();
    let ring = d.receive_ring(0, 8, false);
    d.machine.peer_send(&Driver::frame(1, 60));
    d.machine.process();
    assert_eq!(d.machine.counters().rx_held, 1);
    d.write(RAL, 0);
    d.write(CTRL, CTRL_RESET);
    assert_eq!(d.read(CTRL) & CTRL_RESET, 0, "the bit clears itself");
    assert_eq!((d.read(RAL), d.read(RAL + 4)), (0x0000_0002, 0x8000_0100));
    assert_eq!(d.read(rx(0, RXDCTL)), 0);
    assert_eq!(d.read(statistic::GPRC), 0);
    let counters = d.machine.counters();
    assert_eq!((counters.rx_held, counters.rx_missed_reset), (0, 1));
    assert!(counters.balanced());
    assert_eq!(d.received(ring, 0), None);
}

/// A reset reads as under way for as long as it takes, whatever is written meanwhile, and as over from then on.
#[test]
fn a_reset_takes_its_time() {
    let d = Driver::with(NicConfig { reset_delay: Duration::from_millis(1), ..NicConfig::default() });
    d.write(CTRL, CTRL_RESET | CTRL_LINK_RESET);
    d.machine.at(999_999);
    d.write(CTRL, 0);
    assert_eq!(d.read(CTRL), CTRL_RESET | CTRL_LINK_RESET);
    d.machine.at(1_000_000);
    assert_eq!(d.read(CTRL), 0);
}

/// The link takes its time after a reset, tells of itself, and can be pulled and plugged.
#[test]
fn link_follows_cable_and_delay() {
    let d = Driver::with(NicConfig { link_delay: Duration::from_millis(200), ..NicConfig::default() });
    d.write(GPIE, GPIE_MULTIPLE_MSIX);
    d.write(IVAR_MISC, 0x8500);
    d.write(EIMS, EICR_LSC);
    let ring = d.transmit_ring(0, 8);
    d.describe(ring, 0, &Driver::frame(1, 60), TX_DATA);
    d.tail(ring, 1);
    d.machine.at(199_999_999);
    assert_eq!((d.read(LINKS) & LINKS_UP, d.machine.interrupts()), (0, vec![]));
    assert_eq!(d.machine.peer_receive(), None, "nothing leaves without link");
    d.machine.at(200_000_000);
    assert_eq!((d.read(LINKS) & LINKS_UP, d.machine.interrupts()), (LINKS_UP, vec![5]));
    assert!(d.machine.peer_receive().is_some());
    d.machine.nic().set_cable(false);
    assert_eq!((d.read(LINKS) & LINKS_UP, d.machine.interrupts()), (0, vec![5]));
    d.machine.peer_send(&Driver::frame(1, 60));
    d.machine.process();
    assert_eq!(d.machine.counters().rx_missed_off, 1);
}

/// A queue's message goes to the vector that IVAR names, once, until the driver asks again.
#[test]
fn one_message_per_request() {
    let d = Driver::new();
    let ring = d.receive_ring(1, 8, false);
    d.post(ring, 0, 7);
    // Everything to queue 1, queue 1's receive half to vector 3; auto-mask and auto-clear.
    d.write(ETQF, 1 << 31 | 0x0800);
    d.write(ETQS, 1 << 31 | 1 << 16);
    d.write(GPIE, GPIE_MULTIPLE_MSIX | GPIE_EIAME);
    d.write(IVAR, 0x83 << 16);
    d.write(EIAC, 0xFFFF);
    d.write(EIAM_EX, u32::MAX);
    d.write(EIMS_EX, 1 << 3);
    for i in 0..3 {
        d.machine.peer_send(&Driver::frame(i, 60));
        d.machine.process();
    }
    assert_eq!(d.machine.interrupts(), [3]);
    assert_eq!(d.read(EIMS_EX), 0, "masked by itself");
    d.write(EIMS_EX, 1 << 3);
    assert_eq!(d.machine.interrupts(), [3], "what came meanwhile isn't forgotten");
}

/// Faults do what they say: the recovery tests stand on them.
#[test]
fn faults() {
    let d = Driver::new();
    let (out, into) = (d.transmit_ring(0, 8), d.receive_ring(0, 8, false));
    d.post(into, 0, 7);
    let inject = |fault| d.machine.nic().inject(fault);
    let receive = |number| {
        d.machine.peer_send(&Driver::frame(number, 400));
        d.machine.process();
    };
    inject(Fault::SkipWriteBack { count: 1 });
    receive(0);
    assert_eq!((d.received(into, 0), d.read(rx(0, RDH))), (None, 1));
    inject(Fault::CorruptLength { count: 1, length: 0xFFFF });
    receive(1);
    assert_eq!(d.descriptor(into, 1).1 >> 32 & 0xFFFF, 0xFFFF);
    inject(Fault::HalfWrite { count: 1 });
    receive(2);
    let (half, whole) = (d.received(into, 2).unwrap(), Driver::frame(2, 400));
    assert!(half.len() == whole.len() && half != whole && half[..half.len() / 2] == whole[..half.len() / 2]);
    assert_eq!(d.read(RXMEMWRAP), RXMEMWRAP_ALL_EMPTY);
    inject(Fault::StopReceive { queue: 0 });
    receive(3);
    assert_eq!((d.received(into, 3), d.machine.counters().rx_held), (None, 1));
    assert_eq!(d.read(RXMEMWRAP) & RXMEMWRAP_TC0_EMPTY, 0, "it waits in the packet buffer");
    d.write(RXMEMWRAP, u32::MAX);
    assert_eq!(d.read(RXMEMWRAP) & RXMEMWRAP_TC0_EMPTY, 0, "read only");
    inject(Fault::HangReceive { queue: 0 });
    receive(4);
    assert_eq!((d.received(into, 4), d.machine.counters().rx_held), (None, 2));
    let transmit = |at: u64| {
        d.describe(out, at, &Driver::frame(9, 60), TX_DATA);
        d.tail(out, at + 1);
        let done = d.descriptor(out, at).1 >> 32 & 1 != 0;
        (d.machine.peer_receive().is_some(), d.read(tx(0, TDH)), done)
    };
    inject(Fault::SkipReport { count: 1 });
    assert_eq!(transmit(0), (true, 1, false));
    inject(Fault::CorruptReport { count: 1 });
    assert_eq!(transmit(1), (true, 2, false));
    inject(Fault::StopTransmit { queue: 0 });
    assert_eq!(transmit(2), (false, 2, false));
    inject(Fault::HangTransmit { queue: 0 });
    assert_eq!(transmit(3), (false, 2, false));
    inject(Fault::SpuriousInterrupt { vector: 7 });
    assert_eq!(d.machine.interrupts(), [7]);
    inject(Fault::AllOnes(true));
    assert_eq!((d.read(STATUS), d.read(rx(0, RDH))), (u32::MAX, u32::MAX));
    inject(Fault::AllOnes(false));
    assert_eq!(d.read(STATUS) & STATUS_GIO_MASTER, STATUS_GIO_MASTER);
    assert!(d.machine.counters().balanced());
}

/// A lost message is lost: nothing sends it again, and the cause stays set unless auto-cleared.
#[test]
fn lost_interrupts() {
    let d = Driver::new();
    d.write(GPIE, GPIE_MULTIPLE_MSIX);
    d.write(EIMS_EX, 1);
    d.machine.nic().inject(Fault::LoseInterrupts { count: 1 });
    d.write(EICS_EX, 1);
    assert_eq!(d.machine.interrupts(), []);
    d.write(EICS_EX, 1);
    assert_eq!(d.machine.interrupts(), [0]);
}

/// What drivers take and give back in a certain way: the semaphore, the EEPROM's grant, master disable.
#[test]
fn handshakes() {
    let d = Driver::new();
    assert_eq!(d.read(SWSM) & SWSM_SMBI, 0, "reading takes it");
    assert_eq!(d.read(SWSM) & SWSM_SMBI, SWSM_SMBI);
    d.write(SWSM, 0);
    assert_eq!(d.read(SWSM) & SWSM_SMBI, 0);
    d.write(EEC, EEC_REQUEST);
    assert_eq!(d.read(EEC) & EEC_GRANT, EEC_GRANT);
    d.write(CTRL, CTRL_GIO_MASTER_DISABLE);
    assert_eq!(d.read(STATUS) & STATUS_GIO_MASTER, 0);
    d.write(CTRL, 0);
    assert_eq!(d.read(STATUS) & STATUS_GIO_MASTER, STATUS_GIO_MASTER);
}

/// The loop inside the card works without a link, as drivers' self-tests want it.
#[test]
fn loopback() {
    let d = Driver::new();
    let (out, into) = (d.transmit_ring(0, 8), d.receive_ring(0, 8, false));
    d.post(into, 0, 7);
    d.machine.nic().set_cable(false);
    d.write(HLREG0, d.read(HLREG0) | HLREG0_LPBK);
    d.describe(out, 0, &Driver::frame(1, 60), TX_DATA);
    d.tail(out, 1);
    assert_eq!(d.received(into, 0), Some(Driver::frame(1, 60)));
    assert_eq!(d.machine.peer_receive(), None);
}

/// A disabled queue finishes what it has under way before its bit clears: memory may be taken away only then.
#[test]
fn disabling_takes_its_time() {
    let d = Driver::with(NicConfig { disable_delay: Duration::from_micros(100), ..NicConfig::default() });
    let ring = d.receive_ring(0, 8, false);
    d.post(ring, 0, 7);
    d.write(rx(0, RXDCTL), 0);
    assert_eq!(d.read(rx(0, RXDCTL)) & DCTL_ENABLE, DCTL_ENABLE);
    d.machine.peer_send(&Driver::frame(1, 60));
    d.machine.at(50_000);
    assert!(d.received(ring, 0).is_some(), "DMA goes on meanwhile");
    d.machine.at(100_000);
    assert_eq!(d.read(rx(0, RXDCTL)) & DCTL_ENABLE, 0);
    d.machine.peer_send(&Driver::frame(2, 60));
    d.machine.process();
    assert_eq!(d.received(ring, 1), None);
    assert_eq!(d.machine.counters().rx_missed_queue_disabled, 1);
}

/// A filling packet buffer stops the neighbour, an emptied one lets it go on; a neighbour's pause holds us.
#[test]
fn pause_frames_both_ways() {
    let d = Driver::new();
    let (into, out) = (d.receive_ring(0, 256, false), d.transmit_ring(0, 8));
    d.write(FCCFG, FCCFG_TFCE_LINK);
    d.write(FCRTH, FCRTH_FCEN | 0x1_0000);
    d.write(FCRTL, FCRTL_XONE | 0x4000);
    d.write(FCTTV, 0xFFFF);
    for i in 0..80 {
        d.machine.peer_send(&Driver::frame(i, 1000));
    }
    d.machine.process();
    let stop = d.machine.peer_receive().expect("a pause frame");
    assert_eq!((&stop[12..18], d.machine.peer_receive()), (&[0x88, 0x08, 0, 1, 0xFF, 0xFF][..], None));
    d.post(into, 0, 255);
    let go = d.machine.peer_receive().expect("a frame that ends the pause");
    assert_eq!(go[16..18], [0, 0]);

    d.write(MFLCN, MFLCN_RFCE);
    d.machine.peer_send(&stop);
    d.machine.process();
    d.describe(out, 0, &Driver::frame(1, 60), TX_DATA);
    d.tail(out, 1);
    assert_eq!(d.machine.peer_receive(), None);
    d.machine.at(65_535 * 512 / 10);
    assert!(d.machine.peer_receive().is_some());
    let counters = d.machine.counters();
    assert_eq!((counters.rx_control, counters.tx_pause, counters.tx_wire), (1, 2, 1));
    assert!(counters.balanced());
}

/// The second port of a card says so, and an empty cage shows.
#[test]
fn ports_and_cages() {
    let d = Driver::with(NicConfig { port: 1, module: model::SfpModule::Absent, ..NicConfig::default() });
    assert_eq!(d.read(STATUS) >> STATUS_LAN_ID_SHIFT & 3, 1);
    assert_eq!(d.read(ESDP) & 1 << 2, 0);
}
