//! The transmit path: descriptors into frames, write-backs (82599 §7.2).

use crate::bank::{Bank, statistic};
use crate::counters::Counters;
use crate::fault::Faults;
use crate::interrupt::{Direction, InterruptLogic};
use crate::offload::{self, Context, Request};
use crate::receive::{count_queue, statistics_counter};
use crate::registers::*;
use crate::surroundings::{DmaMemory, Wire};

/// The longest frame the MAC sends, without FCS (82599 §1.3: jumbo frames up to 15.5 KiB).
pub const LONGEST: usize = 15_872;
/// The longest frame that segmentation may start from (PAYLEN has 18 bits; 82599 §7.2.3.2.4).
const LONGEST_REQUEST: usize = 1 << 18;

/// One queue's state that no register shows.
#[derive(Default)]
struct Queue {
    contexts: [Context; 2],
    frame: Vec<u8>,
    request: Request,
    in_frame: bool,
    /// Some descriptor of the frame was unusable: the frame is swallowed up to its end.
    spoiled: bool,
}

pub struct Transmitter {
    queues: Vec<Queue>,
}

pub struct Through<'a, M, W> {
    pub bank: &'a mut Bank,
    pub memory: &'a mut M,
    pub wire: &'a mut W,
    pub counters: &'a Counters,
    pub interrupts: &'a mut InterruptLogic,
    pub faults: &'a mut Faults,
}

// Bits of a descriptor's second quadword (82599 §7.2.3.2.2 and .4); legacy and advanced agree on these.
const EOP: u64 = 1 << 24;
const RS: u64 = 1 << 27;
const DEXT: u64 = 1 << 29;
const VLE: u64 = 1 << 30;
const TSE: u64 = 1 << 31;
const DD: u64 = 1 << 32;
/// Legacy: insert checksum.
const IC: u64 = 1 << 26;

impl Transmitter {
    pub fn new() -> Self {
        Transmitter { queues: (0..QUEUES).map(|_| Queue::default()).collect() }
    }

    pub fn reset(&mut self) {
        for queue in &mut self.queues {
            *queue = Queue::default();
        }
    }

    /// Sends what the ring of `number` holds.
    pub fn run<M: DmaMemory, W: Wire>(&mut self, through: &mut Through<'_, M, W>, number: usize) {
        let bank = &*through.bank;
        if !bank.has(DMATXCTL, DMATXCTL_TE)
            || !bank.has(tx(number, TXDCTL), DCTL_ENABLE)
            || through.faults.transmit_hangs(number)
        {
            return;
        }
        let ring = bank.get(tx(number, TDLEN)) / 16;
        let (mut head, tail) = (bank.get(tx(number, TDH)), bank.get(tx(number, TDT)));
        if head >= ring || tail >= ring || head == tail {
            return;
        }
        let base = bank.wide(tx(number, TDBAL), tx(number, TDBAH)) & !0x7F;
        let mut event = false;
        while head != tail {
            let address = base + 16 * u64::from(head);
            let mut descriptor = [0u8; 16];
            if let Err(error) = through.memory.read(address, &mut descriptor) {
                // The ring itself isn't there: the silicon would stop with an unsupported request.
                log::warn!("transmit queue {number}, descriptor {head}: {error}");
                through.counters.dma_refused.add(1);
                head = tail;
                break;
            }
            let (low, high) = descriptor.split_at(8);
            let low = u64::from_le_bytes(low.try_into().expect("eight bytes"));
            let high = u64::from_le_bytes(high.try_into().expect("eight bytes"));
            if through.faults.stops_transmit(number) {
                let mut half = vec![0; (high & 0xFFFF) as usize / 2];
                if let Err(error) = through.memory.read(low, &mut half) {
                    log::warn!("transmit queue {number}: {error}");
                }
                break;
            }
            self.take(through, number, low, high);
            head = if head + 1 == ring { 0 } else { head + 1 };
            if high & RS != 0 && !through.faults.skips_report() {
                event = true;
                let status = if through.faults.corrupts_report() { !DD } else { DD };
                self.write_back(through, number, address, high, status, head);
            }
        }
        through.bank.set(tx(number, TDH), head);
        if event {
            through.interrupts.queue_event(through.bank, Direction::Transmit, number);
        }
    }

    /// One descriptor.
    fn take<M: DmaMemory, W: Wire>(&mut self, through: &mut Through<'_, M, W>, number: usize, low: u64, high: u64) {
        let queue = &mut self.queues[number];
        let advanced = high & DEXT != 0;
        // DTYP 2 is a context descriptor, which carries no data (82599 §7.2.3.2.3).
        if advanced && high >> 20 & 0xF == 2 {
            queue.contexts[(high >> 36 & 1) as usize] = Context::decode(low, high);
            return;
        }
        if !queue.in_frame {
            queue.in_frame = true;
            queue.spoiled = false;
            queue.frame.clear();
            queue.request = Request::default();
            if advanced {
                // POPTS bits 40 and 41, context index bit 36 (82599 §7.2.3.2.4).
                let context = queue.contexts[(high >> 36 & 1) as usize];
                queue.request = Request {
                    ip_sum: high >> 40 & 1 != 0,
                    l4_sum: high >> 41 & 1 != 0,
                    segmentation: high & TSE != 0,
                    tag: (high & VLE != 0).then_some(context.tag),
                    legacy_sum: None,
                    context,
                };
            } else if high & IC != 0 {
                queue.request.legacy_sum = Some(((high >> 40 & 0xFF) as usize, (high >> 16 & 0xFF) as usize));
            }
        }
        let length = (high & 0xFFFF) as usize;
        let from = queue.frame.len();
        if from + length > LONGEST_REQUEST {
            queue.spoiled = true;
        } else if !queue.spoiled {
            queue.frame.resize(from + length, 0);
            if let Err(error) = through.memory.read(low, &mut queue.frame[from..]) {
                log::warn!("transmit queue {number}: {error}");
                through.counters.dma_refused.add(1);
                queue.spoiled = true;
            }
        }
        if high & EOP == 0 {
            return;
        }
        queue.in_frame = false;
        if !advanced && high & VLE != 0 {
            queue.request.tag = Some((high >> 48) as u16);
        }
        if queue.spoiled {
            through.counters.tx_refused.add(1);
            return;
        }
        let pad = through.bank.has(HLREG0, HLREG0_TXPADEN);
        let Through { bank, wire, counters, .. } = through;
        let outcome = offload::apply(&mut queue.frame, &queue.request, pad, LONGEST, |frame| {
            wire.send(frame);
            count(bank, counters, number, frame);
        });
        if let Err(refused) = outcome {
            log::warn!("transmit queue {number}: frame refused: {refused:?}");
            counters.tx_refused.add(1);
        }
    }

    /// Reports progress as RS asks: into the descriptor, or into the head's own word.
    fn write_back<M: DmaMemory, W>(
        &self,
        through: &mut Through<'_, M, W>,
        number: usize,
        address: u64,
        high: u64,
        status: u64,
        head: u32,
    ) {
        let bank = &*through.bank;
        let to = bank.wide(tx(number, TDWBAL), tx(number, TDWBAH));
        let outcome = if to & 1 != 0 {
            // Head write-back replaces the descriptors' (82599 §7.2.3.5.2).
            through.memory.write(to & !3, &head.to_le_bytes())
        } else if high & DEXT != 0 {
            // All but the status is reserved in an advanced write-back (82599 §7.2.3.2.5).
            through.memory.write(address, &[0; 8]).and_then(|()| through.memory.publish(address + 8, status))
        } else {
            through.memory.publish(address + 8, high | status)
        };
        if let Err(error) = outcome {
            log::warn!("transmit queue {number}, write-back: {error}");
            through.counters.dma_refused.add(1);
        }
    }
}

fn count(bank: &mut Bank, counters: &Counters, queue: usize, frame: &[u8]) {
    let length = frame.len() + 4;
    counters.tx_wire.add(1);
    counters.tx_wire_bytes.add(frame.len() as u64);
    counters.tx_longest.raise(frame.len() as u64);
    counters.tx_queue[queue].add(1);
    bank.count(statistic::GPTC, 1);
    bank.count(statistic::TPT, 1);
    bank.count_wide(statistic::GOTCL, length as u64);
    bank.count_size(statistic::PTC64, length);
    match frame.first_chunk::<6>() {
        Some([0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]) => bank.count(statistic::BPTC, 1),
        Some(to) if to[0] & 1 != 0 => bank.count(statistic::MPTC, 1),
        _ => {}
    }
    count_queue(bank, statistic::TQSM, statistic::QPTC, queue);
    let counter = statistics_counter(bank, statistic::TQSM, queue);
    bank.count_wide(statistic::QBTC_L + 8 * counter, length as u64);
}
