//! The receive path: MAC and address filters, steering, the packet buffer, descriptors (82599 §7.1).

use std::collections::VecDeque;

use crate::bank::{Bank, statistic};
use crate::counters::Counters;
use crate::fault::Faults;
use crate::interrupt::{Direction, InterruptLogic};
use crate::packet::{Network, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, Parsed};
use crate::registers::*;
use crate::steering::{HashKey, Steered, steer};
use crate::surroundings::{DmaMemory, DmaRefused};

/// All of the 82599's receive packet buffer (82599 §7.1.3: 512 KiB).
pub const PACKET_BUFFER: usize = 512 * 1024;

/// Bytes of a write that comes too late.
const LATE_BYTES: usize = 8;

/// A frame in the packet buffer, with its queue already chosen.
struct Held {
    frame: Vec<u8>,
    queue: usize,
}

/// A write that comes too late.
struct Late {
    queue: usize,
    /// The descriptor whose buffer it was.
    descriptor: usize,
    address: u64,
}

/// The state of the receive path that no register shows.
#[derive(Default)]
pub struct Receiver {
    held: VecDeque<Held>,
    held_bytes: usize,
    /// Emptied frame vectors, kept so that a full buffer costs no allocation per frame.
    spare: Vec<Vec<u8>>,
    /// A frame rewritten before delivery (tag taken out, FCS put on).
    scratch: Vec<u8>,
    late: Vec<Late>,
    /// Whether any 5-tuple filter is enabled; kept up by the register write.
    pub filters_in_use: bool,
    pub hash_key: HashKey,
}

/// What the receive path works on.
pub struct Through<'a, M> {
    pub bank: &'a mut Bank,
    pub memory: &'a mut M,
    pub counters: &'a Counters,
    pub interrupts: &'a mut InterruptLogic,
    pub faults: &'a mut Faults,
}

enum Placed {
    Done,
    /// No descriptors and DROP_EN clear: the frame must wait.
    Wait,
}

/// Whether the MAC takes a frame to this address (82599 §7.1.1).
fn address_accepted(bank: &Bank, to: &[u8; 6]) -> bool {
    let fctrl = bank.get(FCTRL);
    if *to == [0xFF; 6] {
        return fctrl & FCTRL_BAM != 0;
    }
    let multicast = to[0] & 1 != 0;
    if fctrl & (if multicast { FCTRL_MPE } else { FCTRL_UPE }) != 0 {
        return true;
    }
    let low = u32::from_le_bytes([to[0], to[1], to[2], to[3]]);
    let high = u32::from(to[4]) | u32::from(to[5]) << 8;
    for i in 0..128u32 {
        let rah = bank.get(RAL + 8 * i + 4);
        if rah >> 31 != 0 && rah & 0xFFFF == high && bank.get(RAL + 8 * i) == low {
            return true;
        }
    }
    // The hash tables: 12 bits of the address's top, at an offset that MO chooses (82599 §7.1.1.3).
    let mcstctrl = bank.get(MCSTCTRL);
    if mcstctrl & MCSTCTRL_MFE == 0 {
        return false;
    }
    let top = u32::from(to[4]) | u32::from(to[5]) << 8;
    let hash = (top >> [4, 3, 2, 0][(mcstctrl & 3) as usize]) & 0xFFF;
    let table = if multicast { MTA } else { PFUTA };
    bank.get(table + 4 * (hash >> 5)) >> (hash & 31) & 1 != 0
}

/// The longest frame, with FCS, that the MAC takes (82599 §8.2.3.22.8, HLREG0.JUMBOEN; §8.2.3.22.13, MFS): a VLAN's tag comes on top.
fn longest(bank: &Bank, tagged: bool) -> usize {
    let limit = if bank.has(HLREG0, HLREG0_JUMBOEN) { (bank.get(MAXFRS) >> 16) as usize } else { 1518 };
    limit + if tagged { 4 } else { 0 }
}

impl Receiver {
    /// A frame (without FCS) comes in from the wire.
    pub fn arrive<M: DmaMemory>(&mut self, through: &mut Through<'_, M>, frame: &[u8]) {
        let counters = through.counters;
        counters.rx_wire.add(1);
        counters.rx_wire_bytes.add(frame.len() as u64);
        let bank = &mut *through.bank;
        if !bank.has(RXCTRL, RXCTRL_RXEN) {
            counters.rx_missed_off.add(1);
            return;
        }
        let length = frame.len() + 4;
        bank.count(statistic::TPR, 1);
        bank.count_wide(statistic::TORL, length as u64);
        if frame.len() < 60 {
            bank.count(statistic::RUC, 1);
            counters.rx_bad_length.add(1);
            return;
        }
        let tagged = frame[12..14] == [0x81, 0x00];
        if length > longest(bank, tagged) {
            bank.count(statistic::ROC, 1);
            counters.rx_bad_length.add(1);
            return;
        }
        let to: &[u8; 6] = frame.first_chunk().expect("at least 60 bytes");
        if !address_accepted(bank, to) {
            counters.rx_filtered_address.add(1);
            return;
        }
        if tagged && bank.has(VLNCTRL, VLNCTRL_VFE) {
            let id = u32::from(frame[14] & 0xF) << 8 | u32::from(frame[15]);
            if bank.get(VFTA + 4 * (id >> 5)) >> (id & 31) & 1 == 0 {
                counters.rx_filtered_vlan.add(1);
                return;
            }
        }
        bank.count(statistic::GPRC, 1);
        bank.count_wide(statistic::GORCL, length as u64);
        bank.count_size(statistic::PRC64, length);
        if to == &[0xFF; 6] {
            bank.count(statistic::BPRC, 1);
        } else if to[0] & 1 != 0 {
            bank.count(statistic::MPRC, 1);
        }
        let parsed = Parsed::new(frame);
        let steered = steer(bank, &mut self.hash_key, self.filters_in_use, &parsed);
        // Behind a frame that waits, all wait: the buffer is one FIFO (82599 §7.1.3).
        if self.held.is_empty() {
            match self.place(through, frame, steered.queue, Some((parsed, steered))) {
                Placed::Done => return,
                Placed::Wait => {}
            }
        }
        self.hold(through, frame, steered.queue);
    }

    fn hold<M>(&mut self, through: &mut Through<'_, M>, frame: &[u8], queue: usize) {
        // What software may set is bounded by what the card has.
        let size = through.bank.get(RXPBSIZE) as usize;
        if self.held_bytes + frame.len() > size {
            through.bank.count(statistic::MPC, 1);
            through.counters.rx_missed_buffer_full.add(1);
            through.interrupts.other_event(through.bank, EICR_RX_MISS);
            return;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        self.held_bytes += copy.len();
        self.held.push_back(Held { frame: copy, queue });
        through.counters.rx_held.set(self.held.len() as u64);
    }

    /// Moves frames from the packet buffer into rings, in order, as far as descriptors last.
    pub fn drain<M: DmaMemory>(&mut self, through: &mut Through<'_, M>) {
        self.write_late(through);
        while let Some(held) = self.held.pop_front() {
            match self.place(through, &held.frame, held.queue, None) {
                Placed::Done => {
                    self.held_bytes -= held.frame.len();
                    self.spare.push(held.frame);
                }
                Placed::Wait => {
                    self.held.push_front(held);
                    break;
                }
            }
        }
        through.counters.rx_held.set(self.held.len() as u64);
    }

    /// Does what comes too late, where the driver has taken the buffer: the tail has come past its descriptor once more.
    fn write_late<M: DmaMemory>(&mut self, through: &mut Through<'_, M>) {
        let Through { bank, memory, counters, .. } = through;
        self.late.retain(|late| {
            let ring = (bank.get(rx(late.queue, RDLEN)) / 16) as usize;
            let place = |register| bank.get(rx(late.queue, register)) as usize;
            let beyond = |index: usize| (index + ring).checked_sub(late.descriptor).map_or(0, |places| places % ring);
            if ring != 0 && beyond(place(RDT)) >= beyond(place(RDH)) {
                return true;
            }
            if let Err(error) = memory.write(late.address, &[0; LATE_BYTES]) {
                log::warn!("receive queue {}, descriptor {}, late: {error}", late.queue, late.descriptor);
                counters.dma_refused.add(1);
            }
            false
        });
    }

    /// Bytes in the packet buffer.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Forgets what the packet buffer holds, as a reset does.
    pub fn reset(&mut self, counters: &Counters) {
        counters.rx_missed_reset.add(self.held.len() as u64);
        self.held.clear();
        self.held_bytes = 0;
        self.late.clear();
        self.filters_in_use = false;
        self.hash_key.stale = true;
        counters.rx_held.set(0);
    }

    /// Puts a frame into its queue's ring, or says that it must wait.
    fn place<M: DmaMemory>(
        &mut self,
        through: &mut Through<'_, M>,
        frame: &[u8],
        queue: usize,
        seen: Option<(Parsed, Steered)>,
    ) -> Placed {
        let bank = &*through.bank;
        let counters = through.counters;
        if !bank.has(rx(queue, RXDCTL), DCTL_ENABLE) {
            // "Packets to a disabled queue are dropped" (82599 §4.6.7.1).
            counters.rx_missed_queue_disabled.add(1);
            return Placed::Done;
        }
        if through.faults.receive_hangs(queue) {
            return Placed::Wait;
        }
        let srrctl = bank.get(rx(queue, SRRCTL));
        let size = ((srrctl & 0x1F) as usize * 1024).max(1024);
        let ring = (bank.get(rx(queue, RDLEN)) / 16) as usize;
        let (head, tail) = (bank.get(rx(queue, RDH)) as usize, bank.get(rx(queue, RDT)) as usize);
        let available = if head < ring && tail < ring { (tail + ring - head) % ring } else { 0 };

        let strip_tag = bank.has(rx(queue, RXDCTL), RXDCTL_VME);
        let strip_crc = bank.has(HLREG0, HLREG0_RXCRCSTRP);
        let (parsed, steered) = seen.unwrap_or_else(|| {
            let parsed = Parsed::new(frame);
            let steered = steer(bank, &mut self.hash_key, self.filters_in_use, &parsed);
            (parsed, steered)
        });
        let stripped = strip_tag && parsed.vlan.is_some();
        let length = frame.len() - if stripped { 4 } else { 0 } + if strip_crc { 0 } else { 4 };
        let needed = length.div_ceil(size);
        if needed > available {
            if srrctl & SRRCTL_DROP_EN == 0 && needed < ring.max(2) {
                return Placed::Wait;
            }
            counters.rx_missed_no_descriptor.add(1);
            count_queue(through.bank, statistic::RQSMR, statistic::QPRDC, queue);
            return Placed::Done;
        }

        let data: &[u8] = if stripped || !strip_crc {
            self.scratch.clear();
            if stripped {
                self.scratch.extend_from_slice(&frame[..12]);
                self.scratch.extend_from_slice(&frame[16..]);
            } else {
                self.scratch.extend_from_slice(frame);
            }
            if !strip_crc {
                let fcs = crc32fast::hash(frame);
                self.scratch.extend_from_slice(&fcs.to_le_bytes());
            }
            &self.scratch
        } else {
            frame
        };
        let report = Report::new(bank, frame, &parsed, &steered, stripped, srrctl >> 25 & 7 == 0);
        let base = bank.wide(rx(queue, RDBAL), rx(queue, RDBAH)) & !0x7F;
        if through.faults.stops_receive(queue) {
            let half = &data[..data.len().min(size) / 2];
            if let Err(error) = fill(through.memory, base + 16 * head as u64, half) {
                log::warn!("receive queue {queue}, descriptor {head}: {error}");
            }
            return Placed::Wait;
        }
        let mut refused = false;
        let mut at = head;
        for (i, chunk) in data.chunks(size).enumerate() {
            let last = i + 1 == needed;
            if through.faults.writes_late()
                && let Ok(buffer) = named_by(through.memory, base + 16 * at as u64)
            {
                let address = buffer.wrapping_add((size - LATE_BYTES) as u64);
                self.late.push(Late { queue, descriptor: at, address });
            }
            if let Err(error) = write_back(through.memory, through.faults, base + 16 * at as u64, chunk, last, &report)
            {
                log::warn!("receive queue {queue}, descriptor {at}: {error}");
                counters.dma_refused.add(1);
                refused = true;
            }
            at = (at + 1) % ring;
        }
        through.bank.set(rx(queue, RDH), at as u32);
        if refused {
            counters.rx_missed_dma.add(1);
        } else {
            counters.rx_delivered.add(1);
            counters.rx_delivered_bytes.add(frame.len() as u64);
            counters.rx_longest.raise(frame.len() as u64);
            counters.rx_queue[queue].add(1);
            count_queue(through.bank, statistic::RQSMR, statistic::QPRC, queue);
            let counter = statistics_counter(through.bank, statistic::RQSMR, queue);
            through.bank.count_wide(statistic::QBRC_L + 0x40 * counter, frame.len() as u64 + 4);
        }
        through.interrupts.queue_event(through.bank, Direction::Receive, queue);
        Placed::Done
    }
}

/// Which of the 16 statistics counters a queue counts in (82599 §8.2.3.23.71: RQSMR, TQSM).
pub fn statistics_counter(bank: &Bank, map: u32, queue: usize) -> u32 {
    let queue = queue as u32;
    bank.get(map + 4 * (queue / 4)) >> (8 * (queue % 4)) & 0xF
}

/// Adds one to a queue's statistics counter.
pub fn count_queue(bank: &mut Bank, map: u32, first: u32, queue: usize) {
    let counter = statistics_counter(bank, map, queue);
    bank.count(first + 0x40 * counter, 1);
}

/// What a write-back says about the frame.
struct Report {
    legacy: bool,
    low: u64,
    /// Status and errors of the last descriptor, without DD and EOP.
    status: u32,
    tag: u16,
}

/// Advanced write-back status and error bits (82599 §7.1.6.2).
const DD: u32 = 1 << 0;
const EOP: u32 = 1 << 1;
const VLAN_STRIPPED: u32 = 1 << 3;
const UDP_SUM: u32 = 1 << 4;
const L4_CHECKED: u32 = 1 << 5;
const IP_CHECKED: u32 = 1 << 6;
const UDP_VALID: u32 = 1 << 10;
const L4_ERROR: u32 = 1 << 30;
const IP_ERROR: u32 = 1 << 31;

impl Report {
    fn new(bank: &Bank, frame: &[u8], parsed: &Parsed, steered: &Steered, stripped: bool, legacy: bool) -> Report {
        let mut status = 0;
        let mut tag = 0;
        if stripped {
            status |= VLAN_STRIPPED;
            tag = parsed.vlan.unwrap_or(0);
        }
        if let Some(good) = parsed.network_sum_good(frame) {
            status |= IP_CHECKED | if good { 0 } else { IP_ERROR };
        }
        if let Some(good) = parsed.transport_sum_good(frame) {
            status |= L4_CHECKED | if good { 0 } else { L4_ERROR };
            if parsed.protocol == Some(PROTOCOL_UDP) {
                status |= UDP_SUM | UDP_VALID;
            }
        }
        // Packet type, from bit 4 of the first word (82599 table 7-18).
        let mut kind = 0u64;
        if let Some(filter) = steered.ethertype_filter {
            kind = 1 << 15 | u64::from(filter) << 4;
        } else if let Some(network) = parsed.network {
            kind |= match network {
                Network::V4 { options: false, .. } => 1 << 4,
                Network::V4 { options: true, .. } => 3 << 4,
                Network::V6 { extensions: false, .. } => 1 << 6,
                Network::V6 { extensions: true, .. } => 3 << 6,
            };
            if parsed.ports.is_some() {
                kind |= match parsed.protocol {
                    Some(PROTOCOL_TCP) => 1 << 8,
                    Some(PROTOCOL_UDP) => 1 << 9,
                    Some(PROTOCOL_SCTP) => 1 << 10,
                    _ => 0,
                };
            }
        }
        // With PCSD the high half is the RSS hash, else the fragment checksum (82599 §7.1.6.2);
        // a driver that clears PCSD finds zero there.
        let high = if bank.has(RXCSUM, RXCSUM_PCSD) { u64::from(steered.hash) } else { 0 };
        Report { legacy, low: high << 32 | kind | u64::from(steered.hash_type), status, tag }
    }
}

/// The buffer that a descriptor names.
fn named_by<M: DmaMemory>(memory: &mut M, descriptor: u64) -> Result<u64, DmaRefused> {
    let mut address = [0u8; 8];
    memory.read(descriptor, &mut address)?;
    Ok(u64::from_le_bytes(address))
}

/// Writes into the buffer that a descriptor names.
fn fill<M: DmaMemory>(memory: &mut M, descriptor: u64, bytes: &[u8]) -> Result<(), DmaRefused> {
    let buffer = named_by(memory, descriptor)?;
    memory.write(buffer, bytes)
}

/// Fills one descriptor's buffer and writes the descriptor back.
fn write_back<M: DmaMemory>(
    memory: &mut M,
    faults: &mut Faults,
    descriptor: u64,
    chunk: &[u8],
    last: bool,
    report: &Report,
) -> Result<(), DmaRefused> {
    let written = if faults.halves_frame() { chunk.len() / 2 } else { chunk.len() };
    fill(memory, descriptor, &chunk[..written])?;
    if faults.skips_write_back() {
        return Ok(());
    }
    let status = DD | if last { EOP | report.status } else { 0 };
    let tag = if last { u64::from(report.tag) } else { 0 };
    let length = faults.false_length().map_or(chunk.len() as u64, u64::from);
    if report.legacy {
        // Length, checksum, status, errors (8 bits each, errors' IPE and TCPE on top), tag (82599 §7.1.5).
        let errors = u64::from(status >> 30) << 6;
        memory.publish(descriptor + 8, length | u64::from(status & 0xFF) << 32 | errors << 40 | tag << 48)
    } else {
        memory.write(descriptor, &report.low.to_le_bytes())?;
        memory.publish(descriptor + 8, u64::from(status) | length << 32 | tag << 48)
    }
}
