//! The data paths as a driver sees them: descriptors in, write-backs out, frames on the wire.

use crate::driver::*;
use model::registers::*;
use model::{PACKET_BUFFER, frames, statistic};

/// Protects the basic promise of reception: bytes, length, DD, EOP, checksum and packet type.
#[test]
fn receives_into_posted_descriptors() {
    let d = Driver::new();
    let ring = d.receive_ring(0, 8, false);
    d.post(ring, 0, 7);
    let frame = Driver::frame(1, 100);
    d.machine.peer_send(&frame);
    d.machine.process();
    assert_eq!(d.received(ring, 0), Some(frame));
    let (low, high) = d.descriptor(ring, 0);
    assert_eq!(high & 0xFFF, DD | EOP | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10, "IPv4 and UDP checked");
    assert_eq!(high >> 30 & 3, 0, "and found right");
    assert_eq!(low >> 4 & 0xFFF, 0x21, "IPv4, UDP");
    assert_eq!(d.read(rx(0, RDH)), 1);
    assert_eq!(d.received(ring, 1), None);
    assert!(d.machine.counters().balanced());
}

/// A frame longer than a buffer spans descriptors, and only the last carries EOP and status.
#[test]
fn long_frames_span_descriptors() {
    let d = Driver::new();
    d.write(HLREG0, d.read(HLREG0) | HLREG0_JUMBOEN);
    d.write(MAXFRS, 9728 << 16);
    let ring = d.receive_ring(0, 16, false);
    d.post(ring, 0, 15);
    let frame = Driver::frame(3, 5000);
    d.machine.peer_send(&frame);
    d.machine.process();
    let parts: Vec<Vec<u8>> = (0..3).map(|i| d.received(ring, i).expect("written back")).collect();
    assert_eq!(parts.concat(), frame);
    let ends: Vec<bool> = (0..3).map(|i| d.descriptor(ring, i).1 & EOP != 0).collect();
    assert_eq!(ends, [false, false, true]);
}

/// Frames too long or too short for the MAC are dropped and counted.
#[test]
fn lengths_are_checked() {
    let d = Driver::new();
    let ring = d.receive_ring(0, 8, false);
    d.post(ring, 0, 7);
    d.machine.peer_send(&Driver::frame(1, 1500));
    d.machine.peer_send(&[0xFF; 59]);
    d.machine.process();
    assert_eq!((d.read(statistic::ROC), d.read(statistic::RUC)), (1, 1));
    assert_eq!(d.machine.counters().rx_bad_length, 2);
    assert_eq!(d.received(ring, 0), None);
}

/// Protects the address filter: own, broadcast, listed multicast and promiscuous pass, others don't.
#[test]
fn address_filter() {
    let d = Driver::new();
    let ring = d.receive_ring(0, 16, false);
    d.post(ring, 0, 15);
    let to = |address: [u8; 6]| {
        let mut frame = Driver::frame(1, 50);
        frame[..6].copy_from_slice(&address);
        d.machine.peer_send(&frame);
        d.machine.process();
        d.machine.counters().rx_delivered
    };
    assert_eq!(to(frames::TO), 1);
    assert_eq!(to([0xFF; 6]), 2);
    assert_eq!(to([2, 0, 0, 0, 0, 0x77]), 2);
    let group = [1, 0, 0x5E, 0, 0, 0x12];
    assert_eq!(to(group), 2);
    // Bits 47:36 of the address choose the bit (82599 §8.2.3.7.6, MO = 0).
    let hash = u32::from(group[4]) >> 4 | u32::from(group[5]) << 4;
    d.write(MTA + 4 * (hash >> 5), 1 << (hash & 31));
    d.write(MCSTCTRL, MCSTCTRL_MFE);
    assert_eq!(to(group), 3);
    d.write(FCTRL, FCTRL_BAM | FCTRL_UPE);
    assert_eq!(to([2, 0, 0, 0, 0, 0x77]), 4);
    assert_eq!(d.machine.counters().rx_filtered_address, 2);
}

/// VLAN: filtered by the table, and stripped into the descriptor where the queue asks for it.
#[test]
fn vlan_filter_and_strip() {
    let d = Driver::new();
    let ring = d.receive_ring(0, 8, false);
    d.post(ring, 0, 7);
    let plain = Driver::frame(1, 80);
    d.write(VLNCTRL, 0x8100 | VLNCTRL_VFE);
    d.write(VFTA, 1 << 5);
    d.write(rx(0, RXDCTL), DCTL_ENABLE | RXDCTL_VME);
    d.machine.peer_send(&frames::tagged(&plain, 0x6005));
    d.machine.peer_send(&frames::tagged(&plain, 6));
    d.machine.process();
    assert_eq!(d.received(ring, 0), Some(plain));
    let (_, high) = d.descriptor(ring, 0);
    assert_eq!((high >> 48, high >> 3 & 1), (0x6005, 1));
    assert_eq!(d.machine.counters().rx_filtered_vlan, 1);
}

/// The lease depends on it: an enabled queue without descriptors holds its frames, in order, up to
/// 512 KiB and no more, and the rest is missed.
#[test]
fn the_packet_buffer_holds_and_overflows() {
    let d = Driver::new();
    let ring = d.receive_ring(0, 1024, false);
    let size = Driver::frame(0, 1000).len();
    let fits = PACKET_BUFFER / size;
    for i in 0..fits as u16 + 10 {
        d.machine.peer_send(&Driver::frame(i, 1000));
    }
    d.machine.process();
    let counters = d.machine.counters();
    assert_eq!((counters.rx_held, counters.rx_missed_buffer_full), (fits as u64, 10));
    assert!(counters.balanced());
    assert_eq!(d.read(statistic::MPC), 10);
    d.post(ring, 0, 1023);
    assert_eq!(d.machine.counters().rx_held, 0);
    for i in 0..fits as u16 {
        assert_eq!(d.received(ring, u64::from(i)), Some(Driver::frame(i, 1000)), "frame {i}");
    }
}

/// One queue that holds up the buffer holds up all (82599 §7.1.3), unless it may drop.
#[test]
fn a_waiting_queue_blocks_the_others_unless_it_drops() {
    for drop in [false, true] {
        let d = Driver::new();
        // RSS off: steer by ethertype. IPv4 to queue 0, which has nothing posted; 0x88B5 to queue 1.
        let _stuck = d.receive_ring(0, 8, drop);
        let other = d.receive_ring(1, 8, false);
        d.post(other, 0, 7);
        d.write(ETQF, 1 << 31 | 0x88B5);
        d.write(ETQS, 1 << 31 | 1 << 16);
        let mut second = Driver::frame(2, 50);
        second[12..14].copy_from_slice(&[0x88, 0xB5]);
        d.machine.peer_send(&Driver::frame(1, 50));
        d.machine.peer_send(&second);
        d.machine.process();
        let counters = d.machine.counters();
        assert_eq!(d.received(other, 0).is_some(), drop);
        assert_eq!((counters.rx_missed_no_descriptor, counters.rx_held), if drop { (1, 0) } else { (0, 2) });
        assert!(counters.balanced());
        // Permission to drop, given later, frees the rest.
        let srrctl = d.read(rx(0, SRRCTL));
        d.write(rx(0, SRRCTL), srrctl | SRRCTL_DROP_EN);
        assert!(d.received(other, 0).is_some());
    }
}

/// A disabled queue drops at once, even what the buffer already holds for it (82599 §4.6.7.1).
#[test]
fn disabled_queues_drop() {
    let d = Driver::new();
    let _ring = d.receive_ring(0, 8, false);
    d.machine.peer_send(&Driver::frame(1, 50));
    d.machine.process();
    assert_eq!(d.machine.counters().rx_held, 1);
    d.write(rx(0, RXDCTL), 0);
    d.machine.peer_send(&Driver::frame(2, 50));
    d.machine.process();
    let counters = d.machine.counters();
    assert_eq!((counters.rx_held, counters.rx_missed_queue_disabled), (0, 2));
}

/// RSS spreads flows by the table, reports the hash, and both queues of a pair get their share.
#[test]
fn rss_spreads_flows() {
    let d = Driver::new();
    let rings = [d.receive_ring(0, 512, true), d.receive_ring(1, 512, true)];
    for (i, word) in [0x6d5a_56da, 0x255b_0ec2, 0x4167_253d, 0x43a3_8fb0, 0xd0ca_2bcb].iter().enumerate() {
        d.write(RSSRK + 4 * i as u32, u32::swap_bytes(*word));
    }
    for i in 0..32 {
        d.write(RETA + 4 * i, 0x0100_0100);
    }
    d.write(RXCSUM, RXCSUM_PCSD);
    d.write(MRQC, 1 | 1 << 22 | 1 << 17);
    for ring in rings {
        d.post(ring, 0, 511);
    }
    for port in 0..400 {
        d.machine.peer_send(&Driver::frame(port, 20));
    }
    d.machine.process();
    let counters = d.machine.counters();
    assert_eq!(counters.rx_delivered, 400);
    assert!(counters.rx_queue[0] > 120 && counters.rx_queue[1] > 120, "{:?}", &counters.rx_queue[..2]);
    for (queue, ring) in rings.iter().enumerate() {
        let (low, _) = d.descriptor(*ring, 0);
        assert_eq!((low & 0xF, (low >> 32) & 1), (7, queue as u64), "type UDP/IPv4, hash's low bit chose the queue");
    }
}

/// Protects transmission: legacy and advanced descriptors, several per frame, context ones skipped,
/// write-back where RS asks.
#[test]
fn transmits() {
    let d = Driver::new();
    let ring = d.transmit_ring(0, 16);
    let frame = Driver::frame(1, 200);
    d.describe(ring, 0, &frame, TX_DATA);
    // Legacy: EOP, FCS, RS.
    d.describe(ring, 1, &frame, 0b1011 << 24);
    d.machine.ram().set_quad(ring.base + 32, 0);
    d.machine.ram().set_quad(ring.base + 40, 2 << 20 | 1 << 29);
    d.describe(ring, 3, &frame[..100], TX_DATA & !TX_EOP & !(1 << 27));
    d.describe(ring, 4, &frame[100..], TX_DATA);
    d.tail(ring, 5);
    for _ in 0..3 {
        assert_eq!(d.machine.peer_receive().as_ref(), Some(&frame));
    }
    assert_eq!(d.machine.peer_receive(), None);
    let done: Vec<bool> = (0..5).map(|i| d.descriptor(ring, i).1 & TX_DD != 0).collect();
    assert_eq!(done, [true, true, false, false, true]);
    assert_eq!(d.read(tx(0, TDH)), 5);
    assert_eq!((d.read(statistic::GPTC), d.read(statistic::GPTC)), (3, 0));
}

/// Head write-back puts the head into memory instead of DD into descriptors (82599 §7.2.3.5.2).
#[test]
fn head_write_back() {
    let d = Driver::new();
    let ring = d.transmit_ring(0, 16);
    let head = d.machine.ram().allocate(8);
    d.write(tx(0, TDWBAH), (head >> 32) as u32);
    d.write(tx(0, TDWBAL), head as u32 | 1);
    for i in 0..3 {
        d.describe(ring, i, &Driver::frame(1, 60), TX_DATA);
    }
    d.tail(ring, 3);
    assert_eq!(d.machine.ram().quad(head), 3);
    assert_eq!(d.descriptor(ring, 2).1 & TX_DD, 0);
}

/// Transmission goes on through every slot of the ring, over its end.
#[test]
fn rings_wrap() {
    let d = Driver::new();
    let (out, into) = (d.transmit_ring(3, 8), d.receive_ring(0, 8, false));
    d.machine.loop_cable(true);
    d.write(FCTRL, FCTRL_UPE);
    d.post(into, 0, 7);
    for i in 0..50u64 {
        let frame = Driver::frame(i as u16, 300);
        d.describe(out, i, &frame, TX_DATA);
        d.tail(out, i + 1);
        d.machine.process();
        assert_eq!(d.received(into, i), Some(frame), "frame {i}");
        d.post(into, i + 7, i + 8);
    }
}

/// A DMA address that isn't memory is refused and counted, and the queue goes on.
#[test]
fn bad_addresses_are_refused() {
    let d = Driver::new();
    let (out, into) = (d.transmit_ring(0, 8), d.receive_ring(0, 8, false));
    d.describe(out, 0, &Driver::frame(1, 60), TX_DATA);
    d.machine.ram().set_quad(out.base, 0xDEAD_0000_0000);
    d.describe(out, 1, &Driver::frame(2, 60), TX_DATA);
    d.tail(out, 2);
    assert_eq!(d.machine.peer_receive(), Some(Driver::frame(2, 60)));
    d.post(into, 0, 7);
    d.machine.ram().set_quad(into.base, 0x1000);
    d.machine.peer_send(&Driver::frame(3, 60));
    d.machine.peer_send(&Driver::frame(4, 60));
    d.machine.process();
    assert_eq!(d.received(into, 1), Some(Driver::frame(4, 60)));
    let counters = d.machine.counters();
    assert_eq!((counters.dma_refused, counters.tx_refused, counters.rx_missed_dma), (2, 1, 1));
    assert!(counters.balanced());
}

/// Without bus mastering the card reaches no memory and sends no message; granted again, it goes on.
#[test]
fn bus_mastering_is_needed() {
    let d = Driver::new();
    let ring = d.transmit_ring(0, 8);
    d.machine.nic().write_pci(4, &[0x02, 0]);
    d.describe(ring, 0, &Driver::frame(1, 60), TX_DATA);
    d.tail(ring, 1);
    assert_eq!(d.machine.peer_receive(), None);
    d.machine.nic().write_pci(4, &[0x06, 0]);
    assert_eq!(d.machine.peer_receive(), Some(Driver::frame(1, 60)));
}
