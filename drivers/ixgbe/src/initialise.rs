//! From reset to running: the sequence of 82599 §4.6.3 to §4.6.8, after the trusted layer's reset. Every wait is bounded.

use interfaces::{
    Port,
    device::ixgbe::{DeviceError, IxgbeDevice},
    net::MacAddress,
};
use runtime::time::now;

use crate::{
    card::pause,
    config::{CHECK_SEQUENCE, Config, HEADER, Station, TAG},
    family::Variant,
    link,
    registers::*,
    statistics, steering,
};

/// For the EEPROM's auto-read and the like; the silicon needs some 10 ms.
const STEP_LIMIT: u64 = 1_000_000_000;
/// KiB of transmit packet buffer.
const TX_BUFFER_KIB: u32 = 160;
/// How many KiB of it are left when the DMA pauses, at least: one frame of 10 KiB (Linux's ixgbe_set_rxpba, whose frames are no longer).
const TX_BUFFER_LEFT_KIB: u32 = 10;

type Device = Port<dyn IxgbeDevice>;

pub fn initialise(device: Device, variant: &Variant, config: &Config, queues: u16) -> Result<(), DeviceError> {
    // §4.6.3: the EEPROM has been read, DMA is initialised.
    wait_for(device, EEC, EEC_AUTO_READ_DONE)?;
    wait_for(device, RDRXCTL, RDRXCTL_DMA_INIT_DONE)?;
    set(device, CTRL_EXT, CTRL_EXT_DRV_LOAD)?;
    statistics::clear(device)?;
    frames(device, config)?;
    receive(device, variant, config, queues)?;
    transmit(device, config, queues)?;
    interrupts(device, config, queues)?;
    enable_receiver(device)?;
    link::bring_up(device, variant)
}

/// The station's address, which the EEPROM's auto-read has put into the first receive address (§8.2.3.7.8).
pub fn address(device: Device) -> Result<MacAddress, DeviceError> {
    let [low, high] = [device.read(RAL)?, device.read(RAH)?];
    let [a, b, c, d] = low.to_le_bytes();
    let [e, f, ..] = high.to_le_bytes();
    let mac = [a, b, c, d, e, f];
    // A group address, or none: the EEPROM is empty or broken.
    if high & RAH_VALID == 0 || a & 1 != 0 || mac == [0; 6] { Err(DeviceError::Lied) } else { Ok(MacAddress(mac)) }
}

/// What the MAC does to frames (§4.6.7, §8.2.3.22.8).
fn frames(device: Device, config: &Config) -> Result<(), DeviceError> {
    let jumbo = if config.mtu > 1500 { HLREG0_JUMBO } else { 0 };
    let hlreg0 = device.read(HLREG0)? & !HLREG0_JUMBO;
    device.write(HLREG0, hlreg0 | HLREG0_TX_CRC | HLREG0_RX_CRC_STRIP | HLREG0_TX_PAD | jumbo)?;
    // A tag comes on top: the device allows for it by itself (§8.2.3.22.13, MFS).
    device.write(MAXFRS, u32::from(config.mtu + HEADER + CHECK_SEQUENCE) << 16)?;
    // No flow control: a balancer that stops its switch port stops everybody's traffic.
    device.write(FCCFG, 0)?;
    device.write(MFLCN, MFLCN_DISCARD_PAUSE)
}

/// §4.6.7, with RSS (§4.6.11.3.4: no DCB, no virtualisation: one packet buffer).
fn receive(device: Device, variant: &Variant, config: &Config, queues: u16) -> Result<(), DeviceError> {
    device.write(RXCTRL, device.read(RXCTRL)? & !RXCTRL_RXEN)?;
    for buffer in 0..8 {
        device.write(RXPBSIZE + 4 * buffer, if buffer == 0 { variant.packet_buffer_kib() << 10 } else { 0 })?;
    }
    // Stripping the CRC is said in two places, and the second has a field that must be 0 (§8.2.3.8.8).
    let rdrxctl = device.read(RDRXCTL)? & !RDRXCTL_RSC_FIRST_SIZE;
    device.write(RDRXCTL, rdrxctl | RDRXCTL_CRC_STRIP)?;
    filters(device, config)?;
    device.write(RXCSUM, RXCSUM_HASH)?;
    for (at, word) in (0..).zip(steering::KEY) {
        device.write(RSSRK + 4 * at, word)?;
    }
    for (at, word) in (0..).zip(steering::redirection(queues)) {
        device.write(RETA + 4 * at, word)?;
    }
    device.write(MRQC, if queues > 1 { steering::HASHED_FIELDS } else { 0 })?;
    for group in 0..queues.div_ceil(4) {
        // Queue i counts in statistics counter i (§8.2.3.23.71).
        let first = u32::from(group) * 4;
        device.write(RQSMR + 4 * u32::from(group), (0..4).fold(0, |word, at| word | (first + at) << (8 * at)))?;
    }
    for queue in 0..queues {
        // Opened and closed again: the ring stays in the lease, until somebody opens the queue.
        drop(device.rx_ring(queue, config.rx_ring, config.vlan)?);
    }
    Ok(())
}

/// Whose frames are taken (§7.1.1).
fn filters(device: Device, config: &Config) -> Result<(), DeviceError> {
    let mut accepted = FCTRL_BROADCAST;
    if config.multicast {
        accepted |= FCTRL_ALL_MULTICAST;
    }
    if config.promiscuous {
        accepted |= FCTRL_ALL_MULTICAST | FCTRL_ALL_UNICAST;
    }
    device.write(FCTRL, accepted)?;
    // Behind the first, which is the device's own (§8.2.3.7.8).
    for (at, Station([a, b, c, d, e, f])) in (1..).zip(config.stations.iter().copied()) {
        device.write(RAL + 8 * at, u32::from_le_bytes([a, b, c, d]))?;
        device.write(RAH + 8 * at, RAH_VALID | u32::from_le_bytes([e, f, 0, 0]))?;
    }
    // Bits 47:36 of the address choose a bit (§7.1.1.3).
    let hashes = config.groups.iter().map(|Station([.., e, f])| u32::from(u16::from_le_bytes([*e, *f]) >> 4));
    bitmap(device, MTA, MTA_WORDS, hashes)?;
    device.write(MCSTCTRL, if config.groups.is_empty() { 0 } else { MCSTCTRL_FILTER })?;
    bitmap(device, VFTA, VFTA_WORDS, config.vlan.into_iter().map(u32::from))?;
    let vlnctrl = device.read(VLNCTRL)? & !VLNCTRL_FILTER;
    device.write(VLNCTRL, vlnctrl | if config.vlan.is_some() { VLNCTRL_FILTER } else { 0 })
}

/// Writes a table of bits, of which these are set.
fn bitmap(device: Device, table: u32, words: u32, set: impl Iterator<Item = u32> + Clone) -> Result<(), DeviceError> {
    (0..words).try_for_each(|word| {
        let bits = set.clone().filter(|bit| bit / 32 == word).fold(0, |bits, bit| bits | 1 << (bit % 32));
        device.write(table + 4 * word, bits)
    })
}

/// §4.6.8.
fn transmit(device: Device, config: &Config, queues: u16) -> Result<(), DeviceError> {
    // MTQC only changes while the arbiter is off.
    let rttdcs = device.read(RTTDCS)?;
    device.write(RTTDCS, rttdcs | RTTDCS_ARBITER_OFF)?;
    device.write(MTQC, 0)?;
    let longest = u32::from(config.mtu + HEADER + TAG + CHECK_SEQUENCE).div_ceil(1 << 10);
    let threshold = TX_BUFFER_KIB - longest.max(TX_BUFFER_LEFT_KIB);
    for buffer in 0..8 {
        device.write(TXPBSIZE + 4 * buffer, if buffer == 0 { TX_BUFFER_KIB << 10 } else { 0 })?;
        device.write(TXPBTHRESH + 4 * buffer, if buffer == 0 { threshold } else { 0 })?;
    }
    device.write(DTXMXSZRQ, 0xFFF)?;
    device.write(RTTDCS, rttdcs & !RTTDCS_ARBITER_OFF)?;
    set(device, DMATXCTL, DMATXCTL_ENABLE)?;
    for queue in 0..queues {
        drop(device.tx_ring(queue, config.tx_ring, config.vlan)?);
    }
    Ok(())
}

/// MSI-X with automatic clearing and masking: one message, then silence until the waiting thread arms its queue again (§7.3.1.3, §7.3.4).
fn interrupts(device: Device, config: &Config, queues: u16) -> Result<(), DeviceError> {
    device.write(GPIE, GPIE_MULTIPLE_MSIX | GPIE_OTHER_CLEAR_DISABLE | GPIE_EIAME | GPIE_PBA_SUPPORT)?;
    device.write(EIAC, QUEUE_CAUSES)?;
    device.write(EIAM_EX, u32::MAX)?;
    // Bits 11:3 in units of 2 µs (§8.2.3.5.12).
    let interval = (config.interrupt_interval.nanos() / 2_000).min(0x1FF) as u32;
    (0..queues).try_for_each(|queue| device.write(eitr(queue), interval << 3))
}

/// The security block is stopped while the receiver is switched on, or its DMA can hang (Linux's ixgbe_enable_rx_dma_82599).
fn enable_receiver(device: Device) -> Result<(), DeviceError> {
    set(device, SECRXCTRL, SECRXCTRL_RX_DIS)?;
    wait_for(device, SECRXSTAT, SECRXSTAT_READY)?;
    set(device, RXCTRL, RXCTRL_RXEN)?;
    device.write(SECRXCTRL, device.read(SECRXCTRL)? & !SECRXCTRL_RX_DIS)
}

fn set(device: Device, register: u32, bits: u32) -> Result<(), DeviceError> {
    device.write(register, device.read(register)? | bits)
}

fn wait_for(device: Device, register: u32, bits: u32) -> Result<(), DeviceError> {
    let limit = now() + STEP_LIMIT;
    while device.read(register)? & bits != bits {
        if now() > limit {
            return Err(DeviceError::TimedOut);
        }
        pause(100_000)?;
    }
    Ok(())
}
