//! How fast the model itself is, natively: nanoseconds per received and sent 64-byte frame, and a profile's target.

use std::time::Instant;

use model::harness::Machine;
use model::registers::*;
use model::{NicConfig, frames};

const RING: u64 = 1024;
const ROUNDS: u64 = 500;

fn main() {
    let machine = Machine::new(NicConfig::default(), 16 << 20);
    let ring = machine.ram().allocate(16 * RING as usize);
    let buffers = machine.ram().allocate(2048 * RING as usize);
    let write = |register, value| machine.write32(register, value);
    write(FCTRL, FCTRL_BAM);
    write(RXCTRL, RXCTRL_RXEN);
    write(DMATXCTL, DMATXCTL_TE);
    write(MRQC, 1 | 1 << 22);
    for (offset, block) in [(rx(0, 0), 0), (tx(0, 0), 1)] {
        let base = ring + 16 * RING / 2 * block;
        write(offset + RDBAL, base as u32);
        write(offset + RDBAH, (base >> 32) as u32);
        write(offset + RDLEN, 16 * RING as u32 / 2);
        write(offset + RXDCTL, DCTL_ENABLE);
    }
    write(rx(0, SRRCTL), 2 | 1 << 25);
    let frame = frames::udp([10, 0, 0, 1], [10, 0, 0, 2], 1, 2, &[0; 18]);
    let batch = RING / 2 - 1;
    let (mut receiving, mut sending) = (0, 0);
    let mut tail = 0;
    for _ in 0..ROUNDS {
        for index in 0..RING / 2 {
            machine.ram().set_quad(ring + 16 * index, buffers + 2048 * index);
            machine.ram().set_quad(ring + 16 * index + 8, 0);
            let at = ring + 16 * (RING / 2 + index);
            machine.ram().set_quad(at, buffers + 2048 * index);
            machine.ram().set_quad(at + 8, 3 << 20 | 1 << 24 | 1 << 25 | 1 << 29 | 60);
        }
        for _ in 0..batch {
            machine.peer_send(&frame);
        }
        tail = (tail + batch) % (RING / 2);
        write(rx(0, RDT), tail as u32);
        let began = Instant::now();
        machine.process();
        receiving += began.elapsed().as_nanos();
        let began = Instant::now();
        write(tx(0, TDT), tail as u32);
        sending += began.elapsed().as_nanos();
        while machine.peer_receive().is_some() {}
    }
    let counters = machine.counters();
    println!(
        "receive: {} ns a frame ({} frames)",
        receiving / u128::from(counters.rx_delivered),
        counters.rx_delivered
    );
    println!("send:    {} ns a frame ({} frames)", sending / u128::from(counters.tx_wire), counters.tx_wire);
}
