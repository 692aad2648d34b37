//! The device: registers in front, the data paths behind.
//!
//! [`Nic`] is a state machine without threads or clocks of its own. Register accesses act at once
//! (a tail write sends), [`Nic::process`] takes in what the wire has, and time is what
//! [`Nic::set_time`] said last. It never panics on what a driver writes, and reaches memory, wire
//! and interrupts only through the traits of [`crate::surroundings`].

mod access;

use crate::bank::Bank;
use crate::config::{NicConfig, SfpModule};
use crate::control::{Control, Fault};
use crate::counters::{SharedCounters, Snapshot};
use crate::eeprom::Eeprom;
use crate::fault::Faults;
use crate::flow_control::FlowControl;
use crate::interrupt::{Direction, InterruptLogic};
use crate::loopback::Loopback;
use crate::mdio::Mdio;
use crate::pci::{self, ConfigSpace};
use crate::receive::{self, Receiver};
use crate::registers::*;
use crate::sfp::Module;
use crate::surroundings::{DmaMemory, Interrupts, Wire};
use crate::transmit::{self, Transmitter};

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
    mdio: Mdio,
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
    flow_control: FlowControl,
    /// Queues whose enable bit software has cleared and that still run.
    closing: Vec<Closing>,
    /// When the reset that is under way is over.
    reset_at: Option<u64>,
}

/// A queue on its way to being disabled.
struct Closing {
    direction: Direction,
    queue: usize,
    /// When its enable bit reads as cleared.
    at: u64,
}

impl<M: DmaMemory, W: Wire, I: Interrupts> Nic<M, W, I> {
    pub fn new(config: NicConfig, memory: M, wire: W, interrupts: I) -> Self {
        Self::with_counters(config, memory, wire, interrupts, SharedCounters::new())
    }

    /// As [`Nic::new`], counting where the caller can read along.
    pub fn with_counters(config: NicConfig, memory: M, wire: W, interrupts: I, counters: SharedCounters) -> Self {
        let mut nic = Nic {
            space: ConfigSpace::new(config.device, config.mac, config.ports),
            bank: Bank::new(),
            interrupt_logic: InterruptLogic::new(),
            receiver: Receiver::default(),
            transmitter: Transmitter::new(),
            transmit_pending: 0,
            eeprom: Eeprom::new(config.mac, config.device),
            module: Module::new(config.module),
            mdio: Mdio::new(config.device),
            counters,
            faults: Faults::default(),
            memory,
            wire,
            interrupts,
            now: 0,
            cable: true,
            link_at: 0,
            link_up: false,
            flow_control: FlowControl::default(),
            closing: Vec::new(),
            reset_at: None,
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
        let works = self.space.bus_master() && !self.faults.all_ones;
        let message = self.interrupt_logic.next_delivery().filter(|_| works);
        let resume = self.flow_control.resumes().filter(|_| works && self.link_up && self.transmit_pending != 0);
        let closed = self.closing.iter().map(|closing| closing.at).min();
        [message, link, resume, closed, self.reset_at].into_iter().flatten().min()
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
        self.settle();
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
            if self.flow_control.takes(&mut self.bank, self.now, frame) {
                self.counters.rx_wire.add(1);
                self.counters.rx_wire_bytes.add(frame.len() as u64);
                self.counters.rx_control.add(1);
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
        let pause = self.flow_control.regulate(&mut self.bank, self.receiver.held_bytes());
        if let Some(frame) = pause.filter(|_| self.link_up) {
            self.wire.send(&frame);
            self.wire.flush();
            self.counters.tx_pause.add(1);
        }
    }

    /// Ends what takes its time and is over by now: a reset, and queues on their way to being disabled.
    fn settle(&mut self) {
        let now = self.now;
        if self.reset_at.take_if(|at| now >= *at).is_some() {
            self.bank.clear_bits(CTRL, CTRL_RESET | CTRL_LINK_RESET);
        }
        let bank = &mut self.bank;
        self.closing.retain(|closing| {
            let done = now >= closing.at;
            if done {
                let offset = match closing.direction {
                    Direction::Receive => rx(closing.queue, RXDCTL),
                    Direction::Transmit => tx(closing.queue, TXDCTL),
                };
                bank.clear_bits(offset, DCTL_ENABLE);
            }
            !done
        });
    }

    fn run_transmit(&mut self) {
        // Without link or bus mastering the transmitter holds what it was given.
        let looped = self.bank.has(HLREG0, HLREG0_LPBK);
        let reaches = self.space.bus_master() && !self.faults.all_ones;
        if self.transmit_pending == 0 || !(self.link_up || looped) || !reaches {
            return;
        }
        if self.flow_control.pauses(self.now) && !looped {
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
        self.interrupt_logic.deliver(&self.bank, self.now, |vector| {
            counters.interrupts.add(1);
            interrupts.raise(vector);
        });
    }

    /// Does what it is commanded. False: it was told to end.
    pub fn obey(&mut self, control: Control) -> bool {
        match control {
            Control::Cable(plugged) => self.set_cable(plugged),
            Control::Fault(fault) => self.inject(fault),
            Control::Stop => return false,
        }
        true
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
        self.space = ConfigSpace::new(self.config.device, self.config.mac, self.config.ports);
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
            self.bank.set(LINKS, LINKS_UP | LINKS_SPEED_10G | LINKS_AN_COMPLETE);
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
        self.flow_control = FlowControl::default();
        self.closing.clear();
        self.reset_at = None;
        let bank = &mut self.bank;
        bank.set(STATUS, STATUS_GIO_MASTER | u32::from(self.config.port & 3) << STATUS_LAN_ID_SHIFT);
        // SDP2: a module is in the cage (Linux: `need_crosstalk_fix` reads it so).
        let copper = pci::device::is_copper(self.config.device);
        let present = self.config.module != SfpModule::Absent && !copper;
        bank.set(ESDP, u32::from(present) << 2);
        bank.set(RDRXCTL, RDRXCTL_DMA_INIT_DONE);
        bank.set(RXPBSIZE, self.config.packet_buffer() as u32);
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
        let mode = if self.config.device == pci::device::KX4 { 4 } else { 3 };
        bank.set(AUTOC, 0xC09C_0004 | mode << 13);
        bank.set(AUTOC2, 0x000A_0000);
        // Autonegotiation state machine running (Linux: `ixgbe_reset_pipeline_82599`).
        bank.set(ANLP1, 0x0004_0000);
        for queue in 0..QUEUES {
            bank.set(rx(queue, SRRCTL), 2);
        }
        let mac = self.config.mac;
        bank.set(RAL, u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]));
        bank.set(RAL + 4, 1 << 31 | u32::from(mac[4]) | u32::from(mac[5]) << 8);
        self.restart_link();
    }

    /// The link goes down and, cable permitting, comes up after the configured delay.
    fn restart_link(&mut self) {
        self.link_at = self.now + self.config.link_delay.as_nanos() as u64;
        self.link_up = self.cable && self.now >= self.link_at;
        self.show_link();
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
