//! Register accesses: which registers have a behaviour, and what it is.

use super::{Closing, EEC_INITIAL, Nic};
use crate::bank::statistic;
use crate::interrupt::Direction;
use crate::pci::device;
use crate::registers::*;
use crate::surroundings::{DmaMemory, Interrupts, Wire};

impl<M: DmaMemory, W: Wire, I: Interrupts> Nic<M, W, I> {
    /// Reads a register. `offset` is in BAR0; what lies beyond it, or isn't aligned, reads as zero.
    pub fn read32(&mut self, offset: u32) -> u32 {
        if self.faults.all_ones {
            return u32::MAX;
        }
        self.settle();
        let offset = canonical(offset);
        if !offset.is_multiple_of(4) {
            return 0;
        }
        if let Some(value) = self.interrupt_logic.read(&self.bank, offset) {
            return value;
        }
        match offset {
            FRTIMER => (self.now / 1000) as u32,
            RXMEMWRAP if self.receiver.held_bytes() > 0 => RXMEMWRAP_ALL_EMPTY & !RXMEMWRAP_TC0_EMPTY,
            RXMEMWRAP => RXMEMWRAP_ALL_EMPTY,
            I2CCTL => self.module.read(),
            EERD => self.eeprom.read(),
            SWSM => {
                // Reading takes the semaphore (82599 §8.2.3.4.12).
                let value = self.bank.get(SWSM);
                self.bank.set(SWSM, value | SWSM_SMBI);
                value
            }
            SW_FW_SYNC if device::is_copper(self.config.device) => {
                // There the register guards itself: reading takes its own semaphore (Linux:
                // `ixgbe_get_swfw_sync_semaphore`).
                let value = self.bank.get(SW_FW_SYNC);
                self.bank.set(SW_FW_SYNC, value | SW_FW_SYNC_REGSMP);
                value
            }
            _ => self.bank.read(offset),
        }
    }

    /// What stands in a register, whatever it does when it is read.
    pub(crate) fn stored(&self, offset: u32) -> u32 {
        self.bank.get(canonical(offset))
    }

    /// Writes a register; what it sets going has happened when this returns.
    pub fn write32(&mut self, offset: u32, value: u32) {
        let offset = canonical(offset);
        if self.faults.all_ones || !offset.is_multiple_of(4) || offset >= BAR_SIZE {
            return;
        }
        if self.interrupt_logic.write(&mut self.bank, self.now, offset, value) {
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
                // The reset bits clear themselves; master disable is acknowledged in STATUS (82599 §5.2.5.3.2).
                let under_way = self.bank.get(CTRL) & (CTRL_RESET | CTRL_LINK_RESET);
                if value & (CTRL_RESET | CTRL_LINK_RESET) != 0 {
                    self.reset();
                    self.reset_at = Some(self.now + self.config.reset_delay.as_nanos() as u64);
                }
                self.bank.set(CTRL, value | under_way);
                self.settle();
                let bank = &mut self.bank;
                if value & CTRL_GIO_MASTER_DISABLE != 0 {
                    bank.clear_bits(STATUS, STATUS_GIO_MASTER);
                } else {
                    bank.set_bits(STATUS, STATUS_GIO_MASTER);
                }
            }
            // Read only.
            STATUS | LINKS | ANLP1 | RXMEMWRAP | SECTXSTAT | SECRXSTAT | FWSM | FACTPS | FRTIMER => {}
            I2CCTL => self.module.write(value),
            EERD => self.eeprom.write(value),
            EEC => {
                let grant = if value & EEC_REQUEST != 0 { EEC_GRANT } else { 0 };
                bank.set(EEC, value & !EEC_GRANT | grant | EEC_INITIAL);
            }
            MSCA => {
                let data = self.mdio.command(value, bank.get(MSRWD));
                bank.set(MSRWD, data);
                // The command completes at once.
                bank.set(MSCA, value & !MSCA_COMMAND);
            }
            RXPBSIZE => bank.set(RXPBSIZE, (value & RXPBSIZE_BYTES).min(self.config.packet_buffer() as u32)),
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
                self.receiver.filters_in_use = (0..128).any(|i| self.bank.get(FTQF + 4 * i) >> 31 != 0);
            }
            _ if statistic::clears_on_read(offset) => {}
            _ => bank.set(offset, value),
        }
    }

    /// A queue control register as it will read: a cleared enable bit may take its time.
    fn enable_bit(&mut self, direction: Direction, queue: usize, control: bool, offset: u32, value: u32) -> u32 {
        if !control {
            return value;
        }
        self.closing.retain(|closing| (closing.direction, closing.queue) != (direction, queue));
        let delay = self.config.disable_delay.as_nanos() as u64;
        if delay == 0 || value & DCTL_ENABLE != 0 || !self.bank.has(offset, DCTL_ENABLE) {
            return value;
        }
        self.closing.push(Closing { direction, queue, at: self.now + delay });
        value | DCTL_ENABLE
    }

    fn write_receive_queue(&mut self, queue: usize, register: u32, value: u32) {
        let offset = rx(queue, register);
        if statistic::clears_on_read(offset) {
            return;
        }
        let value = self.enable_bit(Direction::Receive, queue, register == RXDCTL, offset, value);
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
        let value = if register == TXDCTL { value & !TXDCTL_SWFLSH } else { value };
        let value = self.enable_bit(Direction::Transmit, queue, register == TXDCTL, offset, value);
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
