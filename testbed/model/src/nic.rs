//! The device: registers in front, the data paths behind.
//!
//! [`Nic`] is a state machine without threads or clocks of its own. Register accesses act at once
//! (a tail write sends), [`Nic::process`] takes in what the wire has, and time is what
//! [`Nic::set_time`] said last. It never panics on what a driver writes, and reaches memory, wire
//! and interrupts only through the traits of [`crate::surroundings`].

use std::time::Duration;

use crate::bank::{Bank, statistic};
use crate::control::Fault;
use crate::counters::{SharedCounters, Snapshot};
use crate::eeprom::Eeprom;
use crate::fault::Faults;
use crate::interrupt::InterruptLogic;
use crate::loopback::Loopback;
use crate::pci::{self, ConfigSpace};
use crate::receive::{self, PACKET_BUFFER, Receiver};
use crate::registers::*;
use crate::sfp::Module;
use crate::surroundings::{DmaMemory, Interrupts, Wire};
use crate::transmit::{self, Transmitter};

/// How a card differs from the next one.
#[derive(Clone, Debug)]
pub struct NicConfig {
    pub mac: [u8; 6],
    /// PCI device id; see [`pci::device`].
    pub device: u16,
    /// From a reset to link up. The silicon takes a good part of a second; tests want none.
    pub link_delay: Duration,
}

impl Default for NicConfig {
    fn default() -> Self {
        NicConfig {
            mac: [0x02, 0, 0, 0, 0, 0x01],
            device: pci::device::SFP,
            link_delay: Duration::ZERO,
        }
    }
}

/// The EEPROM is there, has been read, and is this large (82599 §8.2.3.2.1).
const EEC_INITIAL: u32 = EEC_PRESENT | EEC_AUTO_READ_DONE | EEC_SIZE_1024_WORDS;

/// Frames that [`Nic::process`] takes from the wire in one go, so that registers stay responsive.
const RECEIVE_BATCH: usize = 256;

pub struct Nic<M, W, I> {
    config: NicConfig,
    space: ConfigSpace,
    bank: Bank,
    interrupt_logic: InterruptLogic,
    receiver: Receiver,
    transmitter: Transmitter,
    /// TX queues whose tail moved since they were last run.
    transmit_pending: u128,
    eeprom: Eeprom,
    module: Module,
    counters: SharedCounters,
    faults: Faults,
    memory: M,
    wire: W,
    interrupts: I,
    now: u64,
    /// The cable, as the operator has it.
    cable: bool,
    /// When a link that is coming up is up.
    link_at: u64,
    link_up: bool,
}

impl<M: DmaMemory, W: Wire, I: Interrupts> Nic<M, W, I> {
    pub fn new(config: NicConfig, memory: M, wire: W, interrupts: I) -> Self {
        Self::with_counters(config, memory, wire, interrupts, SharedCounters::new())
    }

    /// As [`Nic::new`], counting where the caller can read along.
    pub fn with_counters(
        config: NicConfig,
        memory: M,
        wire: W,
        interrupts: I,
        counters: SharedCounters,
    ) -> Self {
        let mut nic = Nic {
            space: ConfigSpace::new(config.device, config.mac),
            bank: Bank::new(),
            interrupt_logic: InterruptLogic::new(),
            receiver: Receiver::default(),
            transmitter: Transmitter::new(),
            transmit_pending: 0,
            eeprom: Eeprom::new(config.mac, config.device),
            module: Module::direct_attach(),
            counters,
            faults: Faults::default(),
            memory,
            wire,
            interrupts,
            now: 0,
            cable: true,
            link_at: 0,
            link_up: false,
            config,
        };
        nic.reset();
        nic
    }

    pub fn pci(&self) -> &ConfigSpace {
        &self.space
    }

    /// Writes configuration space. Bus mastering, once granted, lets what waited for it go on.
    pub fn write_pci(&mut self, offset: usize, bytes: &[u8]) {
        let before = self.space.bus_master();
        self.space.write(offset, bytes);
        if !before && self.space.bus_master() {
            self.drain();
            self.run_transmit();
            self.deliver();
        }
    }

    pub fn memory_mut(&mut self) -> &mut M {
        &mut self.memory
    }

    pub fn wire_mut(&mut self) -> &mut W {
        &mut self.wire
    }

    pub fn wire(&self) -> &W {
        &self.wire
    }

    pub fn interrupts_mut(&mut self) -> &mut I {
        &mut self.interrupts
    }

    pub fn counters(&self) -> Snapshot {
        self.counters.snapshot()
    }

    /// Tells the time, in nanoseconds from any fixed point. It must not run backwards.
    pub fn set_time(&mut self, now: u64) {
        self.now = self.now.max(now);
    }

    /// When [`Nic::process`] has something to do even if nobody touches the device.
    pub fn next_deadline(&self) -> Option<u64> {
        let link = (self.cable && !self.link_up).then_some(self.link_at);
        [self.interrupt_logic.next_delivery(), link]
            .into_iter()
            .flatten()
            .min()
    }

    /// Plugs the cable in or pulls it.
    pub fn set_cable(&mut self, plugged: bool) {
        if plugged && !self.cable {
            self.link_at = self.now + self.config.link_delay.as_nanos() as u64;
        }
        self.cable = plugged;
        self.follow_link();
        self.deliver();
    }

    /// Takes in what the wire has, sends what is still pending, delivers interrupts.
    /// Returns whether the wire may have more.
    pub fn process(&mut self) -> bool {
        self.follow_link();
        self.run_transmit();
        let mut taken = 0;
        while taken < RECEIVE_BATCH {
            let Some(frame) = self.wire.receive() else {
                break;
            };
            taken += 1;
            // Without link nothing gets in, without bus mastering nothing gets on (82599 §9.3.3.3).
            if !self.link_up || !self.space.bus_master() || self.faults.all_ones {
                self.counters.rx_wire.add(1);
                self.counters.rx_wire_bytes.add(frame.len() as u64);
                self.counters.rx_missed_off.add(1);
                continue;
            }
            let mut through = receive::Through {
                bank: &mut self.bank,
                memory: &mut self.memory,
                counters: &self.counters,
                interrupts: &mut self.interrupt_logic,
                faults: &mut self.faults,
            };
            self.receiver.arrive(&mut through, frame);
        }
        self.drain();
        self.deliver();
        taken == RECEIVE_BATCH
    }

    fn drain(&mut self) {
        if !self.space.bus_master() || self.faults.all_ones {
            return;
        }
        let mut through = receive::Through {
            bank: &mut self.bank,
            memory: &mut self.memory,
            counters: &self.counters,
            interrupts: &mut self.interrupt_logic,
            faults: &mut self.faults,
        };
        self.receiver.drain(&mut through);
    }

    fn run_transmit(&mut self) {
        // Without link or bus mastering the transmitter holds what it was given.
        let looped = self.bank.has(HLREG0, HLREG0_LPBK);
        if self.transmit_pending == 0 || !(self.link_up || looped) || !self.space.bus_master() {
            return;
        }
        let pending = std::mem::take(&mut self.transmit_pending);
        if !looped {
            let through = transmit::Through {
                bank: &mut self.bank,
                memory: &mut self.memory,
                wire: &mut self.wire,
                counters: &self.counters,
                interrupts: &mut self.interrupt_logic,
                faults: &mut self.faults,
            };
            run_queues(&mut self.transmitter, pending, through);
            return;
        }
        let mut inside = Loopback::default();
        let through = transmit::Through {
            bank: &mut self.bank,
            memory: &mut self.memory,
            wire: &mut inside,
            counters: &self.counters,
            interrupts: &mut self.interrupt_logic,
            faults: &mut self.faults,
        };
        run_queues(&mut self.transmitter, pending, through);
        while let Some(frame) = inside.receive() {
            let mut through = receive::Through {
                bank: &mut self.bank,
                memory: &mut self.memory,
                counters: &self.counters,
                interrupts: &mut self.interrupt_logic,
                faults: &mut self.faults,
            };
            self.receiver.arrive(&mut through, frame);
        }
    }

    fn deliver(&mut self) {
        if !self.space.bus_master() || self.faults.all_ones {
            return;
        }
        let (interrupts, counters) = (&mut self.interrupts, &self.counters);
        self.interrupt_logic
            .deliver(&self.bank, self.now, |vector| {
                counters.interrupts.add(1);
                interrupts.raise(vector);
            });
    }

    /// Breaks something; see [`Fault`].
    pub fn inject(&mut self, fault: Fault) {
        log::info!("fault injected: {fault:?}");
        self.faults.set(fault);
        match fault {
            Fault::LoseInterrupts { count } => self.interrupt_logic.lose = count,
            Fault::SpuriousInterrupt { vector } if self.space.bus_master() => {
                self.counters.interrupts.add(1);
                self.interrupts.raise(u16::from(vector));
            }
            _ => {}
        }
    }

    /// Function-level reset: the device and its configuration space as after power-on (82599 §4.2.1.5.1).
    pub fn function_reset(&mut self) {
        self.space = ConfigSpace::new(self.config.device, self.config.mac);
        self.reset();
    }

    /// Brings link state and its registers up to date.
    fn follow_link(&mut self) {
        let up = self.cable && self.now >= self.link_at;
        if up == self.link_up {
            return;
        }
        self.link_up = up;
        self.show_link();
        log::info!("link {}", if up { "up, 10 Gb/s" } else { "down" });
        self.interrupt_logic.other_event(&self.bank, EICR_LSC);
    }

    fn show_link(&mut self) {
        if self.link_up {
            self.bank
                .set(LINKS, LINKS_UP | LINKS_SPEED_10G | LINKS_AN_COMPLETE);
            self.bank.set_bits(STATUS, STATUS_LINK_UP);
        } else {
            self.bank.set(LINKS, 0);
            self.bank.clear_bits(STATUS, STATUS_LINK_UP);
        }
    }

    /// CTRL.RST: everything but PCI configuration and the cable returns to its initial state (82599 §4.2.1.6).
    fn reset(&mut self) {
        self.bank = Bank::new();
        self.faults.repair();
        self.interrupt_logic = InterruptLogic::new();
        self.receiver.reset(&self.counters);
        self.transmitter.reset();
        self.transmit_pending = 0;
        let bank = &mut self.bank;
        bank.set(STATUS, STATUS_GIO_MASTER);
        // SDP2: a module is in the cage (Linux: `need_crosstalk_fix` reads it so).
        bank.set(ESDP, 1 << 2);
        bank.set(RDRXCTL, RDRXCTL_DMA_INIT_DONE);
        bank.set(RXPBSIZE, PACKET_BUFFER as u32);
        bank.set(MAXFRS, 1518 << 16);
        // CRC append, CRC strip, padding, and the reserved bits that read as one (82599 §8.2.3.22.8).
        bank.set(HLREG0, 0x0000_6C03);
        bank.set(VLNCTRL, 0x8100);
        bank.set(FWSM, FWSM_VALID);
        bank.set(SECTXSTAT, 1);
        bank.set(SECRXSTAT, 1);
        bank.set(EEC, EEC_INITIAL);
        // Link mode in bits 15:13: 10G serial for SFP+, KX4 with autonegotiation on a backplane
        // (82599 §8.2.3.22.19).
        let mode = if self.config.device == pci::device::KX4 {
            4
        } else {
            3
        };
        bank.set(AUTOC, 0xC09C_0004 | mode << 13);
        bank.set(AUTOC2, 0x000A_0000);
        // Autonegotiation state machine running (Linux: `ixgbe_reset_pipeline_82599`).
        bank.set(ANLP1, 0x0004_0000);
        for queue in 0..QUEUES {
            bank.set(rx(queue, SRRCTL), 2);
        }
        let mac = self.config.mac;
        bank.set(RAL, u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]));
        bank.set(
            RAL + 4,
            1 << 31 | u32::from(mac[4]) | u32::from(mac[5]) << 8,
        );
        self.restart_link();
    }

    /// The link goes down and, cable permitting, comes up after the configured delay.
    fn restart_link(&mut self) {
        self.link_at = self.now + self.config.link_delay.as_nanos() as u64;
        self.link_up = self.cable && self.now >= self.link_at;
        self.show_link();
    }

    /// Reads a register. `offset` is in BAR0; what lies beyond it, or isn't aligned, reads as zero.
    pub fn read32(&mut self, offset: u32) -> u32 {
        if self.faults.all_ones {
            return u32::MAX;
        }
        let offset = canonical(offset);
        if !offset.is_multiple_of(4) {
            return 0;
        }
        if let Some(value) = self.interrupt_logic.read(&self.bank, offset) {
            return value;
        }
        match offset {
            FRTIMER => (self.now / 1000) as u32,
            I2CCTL => self.module.read(),
            EERD => self.eeprom.read(),
            SWSM => {
                // Reading takes the semaphore (82599 §8.2.3.4.12).
                let value = self.bank.get(SWSM);
                self.bank.set(SWSM, value | SWSM_SMBI);
                value
            }
            _ => self.bank.read(offset),
        }
    }

    /// Writes a register; what it sets going has happened when this returns.
    pub fn write32(&mut self, offset: u32, value: u32) {
        let offset = canonical(offset);
        if self.faults.all_ones || !offset.is_multiple_of(4) || offset >= BAR_SIZE {
            return;
        }
        if self
            .interrupt_logic
            .write(&mut self.bank, self.now, offset, value)
        {
            self.deliver();
            return;
        }
        if let Some((queue, register)) = receive_queue(offset) {
            self.write_receive_queue(queue, register, value);
            return;
        }
        if let Some((queue, register)) = transmit_queue(offset) {
            self.write_transmit_queue(queue, register, value);
            return;
        }
        let bank = &mut self.bank;
        match offset {
            CTRL => {
                if value & (CTRL_RESET | CTRL_LINK_RESET) != 0 {
                    self.reset();
                }
                // The reset bits clear themselves; master disable is acknowledged in STATUS (82599 §5.2.5.3.2).
                let bank = &mut self.bank;
                bank.set(CTRL, value & !(CTRL_RESET | CTRL_LINK_RESET));
                if value & CTRL_GIO_MASTER_DISABLE != 0 {
                    bank.clear_bits(STATUS, STATUS_GIO_MASTER);
                } else {
                    bank.set_bits(STATUS, STATUS_GIO_MASTER);
                }
            }
            // Read only.
            STATUS | LINKS | ANLP1 | SECTXSTAT | SECRXSTAT | FWSM | FACTPS | FRTIMER => {}
            I2CCTL => self.module.write(value),
            EERD => self.eeprom.write(value),
            EEC => {
                let grant = if value & EEC_REQUEST != 0 {
                    EEC_GRANT
                } else {
                    0
                };
                bank.set(EEC, value & !EEC_GRANT | grant | EEC_INITIAL);
            }
            MSCA => {
                // No PHY on the bus: the command completes and finds nothing (82599 §8.2.3.22.9).
                bank.set(MSCA, value & !MSCA_COMMAND);
                bank.set(MSRWD, 0xFFFF_0000);
            }
            AUTOC => {
                bank.set(AUTOC, value & !AUTOC_RESTART);
                if value & AUTOC_RESTART != 0 {
                    let was = self.link_up;
                    self.restart_link();
                    if was != self.link_up {
                        self.interrupt_logic.other_event(&self.bank, EICR_LSC);
                        self.deliver();
                    }
                }
            }
            RDRXCTL => bank.set(RDRXCTL, value | RDRXCTL_DMA_INIT_DONE),
            FDIRCTRL => bank.set(FDIRCTRL, value | FDIRCTRL_INIT_DONE),
            // Commands complete at once (82599 §8.2.3.21.7).
            FDIRCMD => bank.set(FDIRCMD, value & !3),
            DMATXCTL => {
                bank.set(DMATXCTL, value);
                self.transmit_pending = u128::MAX;
                self.run_transmit();
                self.deliver();
            }
            // Only the address and its valid bit exist in the high half (82599 §8.2.3.7.9).
            RAL..RAL_END if offset & 4 != 0 => bank.set(offset, value & 0x8000_FFFF),
            RSSRK..RSSRK_END => {
                bank.set(offset, value);
                self.receiver.hash_key.stale = true;
            }
            FTQF..0xE800 => {
                bank.set(offset, value);
                self.receiver.filters_in_use =
                    (0..128).any(|i| self.bank.get(FTQF + 4 * i) >> 31 != 0);
            }
            _ if statistic::clears_on_read(offset) => {}
            _ => bank.set(offset, value),
        }
    }

    fn write_receive_queue(&mut self, queue: usize, register: u32, value: u32) {
        let offset = rx(queue, register);
        if statistic::clears_on_read(offset) {
            return;
        }
        self.bank.set(offset, value & ring_bits(register));
        // Descriptors, or permission to drop, may free the head of the packet buffer.
        if matches!(register, RDT | RXDCTL | SRRCTL) {
            self.drain();
            self.deliver();
        }
    }

    fn write_transmit_queue(&mut self, queue: usize, register: u32, value: u32) {
        let offset = tx(queue, register);
        if statistic::clears_on_read(offset) {
            return;
        }
        let value = if register == TXDCTL {
            value & !TXDCTL_SWFLSH
        } else {
            value
        };
        self.bank.set(offset, value & ring_bits(register));
        if matches!(register, TDT | TXDCTL) {
            self.transmit_pending |= 1 << queue;
            self.run_transmit();
            self.deliver();
        }
    }
}

/// The bits that a ring's registers have; both directions number them alike (82599 §8.2.3.8, §8.2.3.9).
fn ring_bits(register: u32) -> u32 {
    match register {
        RDBAL => !0x7F,
        RDLEN => 0x000F_FF80,
        RDH | RDT => 0xFFFF,
        _ => u32::MAX,
    }
}

/// Runs the transmit queues whose bits are set, and pushes out what they sent.
fn run_queues<M: DmaMemory, W: Wire>(
    transmitter: &mut Transmitter,
    pending: u128,
    mut through: transmit::Through<'_, M, W>,
) {
    for queue in (0..QUEUES).filter(|queue| pending >> queue & 1 != 0) {
        transmitter.run(&mut through, queue);
    }
    through.wire.flush();
}
