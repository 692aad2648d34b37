//! The register map, as far as this crate writes it, and the list of what a driver may write.

use interfaces::packet::BUFFER_UNIT;

/// Bytes of BAR 0 that hold registers (82599 §8.1.1).
pub const BAR_BYTES: u32 = 0x2_0000;

pub const CTRL: u32 = 0x0000;
/// No new requests as bus master (§5.2.5.3.2).
pub const CTRL_GIO_MASTER_DISABLE: u32 = 1 << 2;
pub const CTRL_LRST: u32 = 1 << 3;
pub const CTRL_RST: u32 = 1 << 26;
pub const STATUS: u32 = 0x0008;
pub const STATUS_GIO_MASTER_ENABLE: u32 = 1 << 19;
pub const CTRL_EXT: u32 = 0x0018;
/// No snoop-less and no relaxed-ordering requests, whatever the queues say.
pub const CTRL_EXT_NS_DIS: u32 = 1 << 16;
pub const CTRL_EXT_RO_DIS: u32 = 1 << 17;
pub const EIMC: u32 = 0x0888;
pub const EIMC_EX: [u32; 2] = [0x0AB0, 0x0AB4];
pub const IVAR_MISC: u32 = 0x0A00;
pub const IVAR_VALID: u32 = 0x80;
pub const RXCTRL: u32 = 0x3000;
pub const RXCTRL_RXEN: u32 = 1;
pub const SECRXCTRL: u32 = 0x8D00;
pub const SECRXCTRL_RX_DIS: u32 = 1 << 1;
pub const SECRXSTAT: u32 = 0x8D04;
pub const SECRXSTAT_SECRX_RDY: u32 = 1;

/// RXDCTL and TXDCTL (§8.2.3.8.4, §8.2.3.9.10).
pub const QUEUE_ENABLE: u32 = 1 << 25;
/// RXDCTL: VLAN tags are taken out of the frames (§8.2.3.8.4, VME).
pub const RXDCTL_TAKE_TAGS: u32 = 1 << 30;
/// Prefetch when fewer than 32 descriptors are in the device and at least 1 in memory; write back each as it is done (§7.2.3.4, as RS needs).
pub const TXDCTL_THRESHOLDS: u32 = 1 << 8 | 32;

/// One buffer of so many bytes per descriptor, in the advanced format (§8.2.3.8.7: BSIZEPACKET counts KiB).
pub const fn srrctl_one_buffer(bytes: u16) -> u32 {
    1 << 25 | (bytes / BUFFER_UNIT) as u32
}
/// Drop a frame for which there is no descriptor, instead of keeping it, and all behind it, in the packet buffer.
pub const SRRCTL_DROP_EN: u32 = 1 << 28;

/// Relaxed ordering of payload and header writes (§8.2.3.11.1): must be off, so that a descriptor's write-back comes after its packet.
pub const DCA_RXCTRL_RELAXED: u32 = 1 << 13 | 1 << 15;
/// Relaxed ordering of descriptor write-backs.
pub const DCA_TXCTRL_RELAXED: u32 = 1 << 11;

/// The registers of receive queue `q` (of the first 16).
#[derive(Clone, Copy)]
pub struct RxQueue(pub u16);

impl RxQueue {
    const fn at(self, offset: u32) -> u32 {
        0x1000 + 0x40 * self.0 as u32 + offset
    }
    pub const fn base_low(self) -> u32 {
        self.at(0x00)
    }
    pub const fn base_high(self) -> u32 {
        self.at(0x04)
    }
    pub const fn length(self) -> u32 {
        self.at(0x08)
    }
    pub const fn head(self) -> u32 {
        self.at(0x10)
    }
    pub const fn tail(self) -> u32 {
        self.at(0x18)
    }
    pub const fn control(self) -> u32 {
        self.at(0x28)
    }
    /// Receive-side coalescing.
    pub const fn coalescing(self) -> u32 {
        self.at(0x2C)
    }
    pub const fn split(self) -> u32 {
        0x2100 + 4 * self.0 as u32
    }
    pub const fn cache(self) -> u32 {
        0x2200 + 4 * self.0 as u32
    }
}

/// The registers of transmit queue `q`.
#[derive(Clone, Copy)]
pub struct TxQueue(pub u16);

impl TxQueue {
    const fn at(self, offset: u32) -> u32 {
        0x6000 + 0x40 * self.0 as u32 + offset
    }
    pub const fn base_low(self) -> u32 {
        self.at(0x00)
    }
    pub const fn base_high(self) -> u32 {
        self.at(0x04)
    }
    pub const fn length(self) -> u32 {
        self.at(0x08)
    }
    pub const fn cache(self) -> u32 {
        self.at(0x0C)
    }
    pub const fn head(self) -> u32 {
        self.at(0x10)
    }
    pub const fn tail(self) -> u32 {
        self.at(0x18)
    }
    pub const fn control(self) -> u32 {
        self.at(0x28)
    }
    pub const fn head_write_back_low(self) -> u32 {
        self.at(0x38)
    }
    pub const fn head_write_back_high(self) -> u32 {
        self.at(0x3C)
    }
}

/// IVAR of a queue pair, and the shift of the pair's half in it (§8.2.3.5.13): RX in its low byte, TX in the next.
pub const fn ivar(queue: u16) -> (u32, u32) {
    (0x0900 + 4 * (queue as u32 / 2), 16 * (queue as u32 & 1))
}

/// First and last register of each stretch that a driver may write: they hold no bus address, enable no queue, set no buffer's size, route no interrupt.
/// Whatever is not here is forbidden, known or not.
const WRITABLE: &[(u32, u32)] = &[
    (CTRL_EXT, CTRL_EXT),
    (0x0020, 0x0020), // ESDP: pins
    (0x0800, 0x0898), // EICR, EICS, EIAC, EITR 0-23, EIMS, EIMC, EIAM, GPIE
    (0x0A90, 0x0AD4), // EICS, EIMS, EIMC, EIAM, the extended ones
    (0x2300, 0x237C), // RQSMR: statistics counters of receive queues
    (0x2F00, 0x2F00), // RDRXCTL
    (RXCTRL, RXCTRL),
    (0x3200, 0x32A0), // FCTTV, FCRTL, FCRTH, FCRTV: flow control
    (0x3C00, 0x3C1C), // RXPBSIZE
    (0x3D00, 0x3D00), // FCCFG
    (0x4240, 0x4240), // HLREG0
    (0x4268, 0x4268), // MAXFRS
    (0x4294, 0x4294), // MFLCN
    (0x42A0, 0x42A0), // AUTOC
    (0x42A8, 0x42A8), // AUTOC2
    (0x4900, 0x4900), // RTTDCS
    (0x4950, 0x496C), // TXPBTHRESH
    (0x4A80, 0x4A80), // DMATXCTL
    (0x5000, 0x5000), // RXCSUM
    (0x5080, 0x5090), // FCTRL, VLNCTRL, MCSTCTRL
    (0x5200, 0x53FC), // MTA
    (0x5400, 0x547C), // RAL, RAH 0-15
    (0x5480, 0x54BC), // PSRTYPE
    (0x5818, 0x5818), // MRQC
    (0x5C00, 0x5CA4), // RETA, RSSRK
    (0x8100, 0x8100), // DTXMXSZRQ
    (0x8120, 0x8120), // MTQC
    (0x8600, 0x867C), // TQSM: statistics counters of transmit queues
    (SECRXCTRL, SECRXCTRL),
    (0xA000, 0xA1FC),     // VFTA
    (0xCC00, 0xCC1C),     // TXPBSIZE
    (0x1_0014, 0x1_0014), // EERD: reads the EEPROM
    (0x1_0140, 0x1_0140), // SWSM: semaphore with the firmware
    (0x1_0160, 0x1_0160), // SW_FW_SYNC
];

/// Whether a driver may write this to this register.
pub fn driver_may_write(offset: u32, value: u32) -> bool {
    // Besides its enable bit RXCTRL has one that has descriptors used unseen (§8.2.3.8.10).
    let harmless = offset != RXCTRL || value & !RXCTRL_RXEN == 0;
    harmless && offset.is_multiple_of(4) && WRITABLE.iter().any(|&(first, last)| (first..=last).contains(&offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(offset: u32) -> bool {
        driver_may_write(offset, 0)
    }

    /// Protects "no device writes memory that has been given to someone else" against the driver: none of the registers by which this crate
    /// steers DMA, nor an interrupt's route, is open to it.
    #[test]
    fn dma_and_routing_are_closed_to_the_driver() {
        for queue in 0..128u32 {
            // All aliases of the queue's block (§8.2.3.8.1: RX 0-63 at 0x1000, 64-127 at 0xD000; TX at 0x6000).
            let rx = if queue < 64 { 0x1000 + 0x40 * queue } else { 0xD000 + 0x40 * (queue - 64) };
            for offset in (0..0x40).step_by(4) {
                assert!(!open(rx + offset), "receive queue {queue}, {offset:#x}");
                assert!(!open(0x6000 + 0x40 * queue + offset), "transmit queue {queue}, {offset:#x}");
            }
        }
        for queue in 0..16 {
            assert!(!open(RxQueue(queue).split()) && !open(RxQueue(queue).cache()));
            assert!(!open(ivar(queue).0));
        }
        for offset in [CTRL, 0x0004, IVAR_MISC, 0x1_1074, 0x2410, 0x5108, 0xEE00] {
            assert!(!open(offset), "{offset:#x}: reset, interrupts, DCA, FCoE contexts, flow director");
        }
        for (first, last) in [(0x0900, 0x09FC), (0x1_0200, BAR_BYTES + 64)] {
            assert!((first..=last).all(|offset| !open(offset)), "{first:#x}");
        }
    }

    /// Protects the driver's own work, and that an odd offset isn't taken for its neighbour.
    #[test]
    fn plain_registers_are_open() {
        assert!(driver_may_write(RXCTRL, 1) && !driver_may_write(RXCTRL, 2));
        assert!([RXCTRL, 0x5080, 0x0880, 0x42A0].into_iter().all(open));
        assert!(!open(0x5081) && !open(BAR_BYTES) && !open(u32::MAX));
    }
}
