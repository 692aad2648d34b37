//! The register map: offsets in BAR0 and the bits in them that the model acts on.
//!
//! Names are the datasheet's (82599 §8.2), so that a reader can search for them there or in a
//! public driver. Registers that are only ever stored and read back have no name here.

/// Size of BAR0 in bytes (82599 §9.3.6.1: 128 KiB without flash).
pub const BAR_SIZE: u32 = 0x2_0000;
/// Queues of each direction in the register map (82599 §8.2.3.8, §8.2.3.9).
pub const QUEUES: usize = 128;
/// MSI-X vectors of the function (82599 §7.3.4.1: up to 64).
pub const VECTORS: usize = 64;

// General (82599 §8.2.3.1).
pub const CTRL: u32 = 0x0_0000;
/// CTRL's second address, kept for drivers that write it twice.
pub const CTRL_ALIAS: u32 = 0x0_0004;
pub const CTRL_GIO_MASTER_DISABLE: u32 = 1 << 2;
pub const CTRL_LINK_RESET: u32 = 1 << 3;
pub const CTRL_RESET: u32 = 1 << 26;
pub const STATUS: u32 = 0x0_0008;
pub const STATUS_LAN_ID_SHIFT: u32 = 2;
pub const STATUS_LINK_UP: u32 = 1 << 7;
pub const STATUS_GIO_MASTER: u32 = 1 << 19;
pub const CTRL_EXT: u32 = 0x0_0018;
pub const ESDP: u32 = 0x0_0020;
pub const I2CCTL: u32 = 0x0_0028;
pub const FRTIMER: u32 = 0x0_0048;

// Interrupts (82599 §8.2.3.5).
pub const EICR: u32 = 0x0_0800;
pub const EICS: u32 = 0x0_0808;
pub const EIAC: u32 = 0x0_0810;
pub const EITR_LOW: u32 = 0x0_0820;
pub const EIMS: u32 = 0x0_0880;
pub const EIMC: u32 = 0x0_0888;
pub const EIAM: u32 = 0x0_0890;
pub const GPIE: u32 = 0x0_0898;
pub const GPIE_MULTIPLE_MSIX: u32 = 1 << 4;
pub const GPIE_EIAME: u32 = 1 << 30;
pub const IVAR: u32 = 0x0_0900;
pub const IVAR_MISC: u32 = 0x0_0A00;
pub const EICS_EX: u32 = 0x0_0A90;
pub const EIMS_EX: u32 = 0x0_0AA0;
pub const EIMC_EX: u32 = 0x0_0AB0;
pub const EIAM_EX: u32 = 0x0_0AD0;
pub const EITR_HIGH: u32 = 0x1_2300;
/// EITR: don't reload the counter with what this write carries (82599 §8.2.3.5.12).
pub const EITR_CNT_WDIS: u32 = 1 << 31;
/// The causes of EICR that belong to queues and to the TCP timer, not to "other" (82599 §8.2.3.5.1).
pub const EICR_QUEUES: u32 = 0x0000_FFFF;
pub const EICR_RX_MISS: u32 = 1 << 17;
pub const EICR_LSC: u32 = 1 << 20;
pub const EICR_TCP_TIMER: u32 = 1 << 30;
pub const EICR_OTHER: u32 = 1 << 31;

// Receive queues (82599 §8.2.3.8): blocks of 0x40 bytes at 0x1000 and, from queue 64 on, 0xD000.
pub const RDBAL: u32 = 0x00;
pub const RDBAH: u32 = 0x04;
pub const RDLEN: u32 = 0x08;
pub const RDH: u32 = 0x10;
pub const SRRCTL: u32 = 0x14;
pub const RDT: u32 = 0x18;
pub const RXDCTL: u32 = 0x28;
pub const RXDCTL_RLPML_EN: u32 = 1 << 15;
pub const DCTL_ENABLE: u32 = 1 << 25;
pub const RXDCTL_VME: u32 = 1 << 30;
pub const SRRCTL_DROP_EN: u32 = 1 << 28;

// Transmit queues (82599 §8.2.3.9): blocks of 0x40 bytes at 0x6000.
pub const TDBAL: u32 = 0x00;
pub const TDBAH: u32 = 0x04;
pub const TDLEN: u32 = 0x08;
pub const TDH: u32 = 0x10;
pub const TDT: u32 = 0x18;
pub const TXDCTL: u32 = 0x28;
pub const TXDCTL_SWFLSH: u32 = 1 << 26;
pub const TDWBAL: u32 = 0x38;
pub const TDWBAH: u32 = 0x3C;

// Receive (82599 §8.2.3.7, §8.2.3.8).
pub const RDRXCTL: u32 = 0x0_2F00;
pub const RDRXCTL_DMA_INIT_DONE: u32 = 1 << 3;
/// What the packet buffer is in, by traffic class: bit 3 of each four says "empty" (82599 §8.2.3.8.11; Linux and DPDK read it in their register dumps).
pub const RXMEMWRAP: u32 = 0x0_3190;
pub const RXMEMWRAP_TC0_EMPTY: u32 = 1 << 3;
pub const RXMEMWRAP_ALL_EMPTY: u32 = 0x8888_8888;
pub const RXCTRL: u32 = 0x0_3000;
pub const RXCTRL_RXEN: u32 = 1 << 0;
pub const RXPBSIZE: u32 = 0x0_3C00;
/// The size field counts KiB from bit 10, so it reads as bytes (82599 §8.2.3.8.9).
pub const RXPBSIZE_BYTES: u32 = 0x000F_FC00;
pub const RXCSUM: u32 = 0x0_5000;
pub const RXCSUM_IPPCSE: u32 = 1 << 12;
pub const RXCSUM_PCSD: u32 = 1 << 13;
pub const FCTRL: u32 = 0x0_5080;
pub const FCTRL_STORE_BAD: u32 = 1 << 1;
pub const FCTRL_MPE: u32 = 1 << 8;
pub const FCTRL_UPE: u32 = 1 << 9;
pub const FCTRL_BAM: u32 = 1 << 10;
pub const VLNCTRL: u32 = 0x0_5088;
pub const VLNCTRL_VFE: u32 = 1 << 30;
pub const MCSTCTRL: u32 = 0x0_5090;
pub const MCSTCTRL_MFE: u32 = 1 << 2;
pub const ETQF: u32 = 0x0_5128;
pub const MTA: u32 = 0x0_5200;
pub const MRQC: u32 = 0x0_EC80;
pub const ETQS: u32 = 0x0_EC00;
pub const RETA: u32 = 0x0_EB00;
pub const RSSRK: u32 = 0x0_EB80;
pub const RSSRK_END: u32 = RSSRK + 40;
pub const VFTA: u32 = 0x0_A000;
pub const RAL: u32 = 0x0_A200;
pub const RAL_END: u32 = RAL + 8 * 128;
pub const PFUTA: u32 = 0x0_F400;
pub const SAQF: u32 = 0x0_E000;
pub const DAQF: u32 = 0x0_E200;
pub const SDPQF: u32 = 0x0_E400;
pub const FTQF: u32 = 0x0_E600;
pub const L34TIMIR: u32 = 0x0_E800;
pub const FDIRCTRL: u32 = 0x0_EE00;
pub const FDIRCTRL_INIT_DONE: u32 = 1 << 3;
pub const FDIRCMD: u32 = 0x0_EE2C;

// Flow control (82599 §8.2.3.3).
pub const FCTTV: u32 = 0x0_3200;
pub const FCRTL: u32 = 0x0_3220;
pub const FCRTL_XONE: u32 = 1 << 31;
pub const FCRTH: u32 = 0x0_3260;
pub const FCRTH_FCEN: u32 = 1 << 31;
pub const FCCFG: u32 = 0x0_3D00;
/// FCCFG.TFCE: link flow control.
pub const FCCFG_TFCE_LINK: u32 = 1 << 3;
pub const FCCFG_TFCE: u32 = 3 << 3;
pub const MFLCN_RFCE: u32 = 1 << 3;

// Transmit (82599 §8.2.3.9).
pub const DMATXCTL: u32 = 0x0_4A80;
pub const DMATXCTL_TE: u32 = 1 << 0;

// MAC (82599 §8.2.3.22).
pub const HLREG0: u32 = 0x0_4240;
pub const HLREG0_RXCRCSTRP: u32 = 1 << 1;
pub const HLREG0_JUMBOEN: u32 = 1 << 2;
pub const HLREG0_TXPADEN: u32 = 1 << 10;
pub const HLREG0_LPBK: u32 = 1 << 15;
pub const MSCA: u32 = 0x0_425C;
pub const MSCA_COMMAND: u32 = 1 << 30;
pub const MSRWD: u32 = 0x0_4260;
pub const MAXFRS: u32 = 0x0_4268;
pub const MFLCN: u32 = 0x0_4294;
pub const AUTOC: u32 = 0x0_42A0;
pub const AUTOC_RESTART: u32 = 1 << 12;
pub const LINKS: u32 = 0x0_42A4;
/// Autonegotiation done, which backplane drivers wait for (Linux: `ixgbe_start_mac_link_82599`).
pub const LINKS_AN_COMPLETE: u32 = 1 << 31;
pub const LINKS_UP: u32 = 1 << 30;
pub const LINKS_SPEED_10G: u32 = 3 << 28;
pub const AUTOC2: u32 = 0x0_42A8;
pub const ANLP1: u32 = 0x0_42B0;

// Security blocks: only their "ready" bits matter here (82599 §8.2.3.12).
pub const SECTXSTAT: u32 = 0x0_8804;
pub const SECRXSTAT: u32 = 0x0_8D04;

// EEPROM, semaphores, firmware (82599 §8.2.3.2, §8.2.3.4).
pub const EEC: u32 = 0x1_0010;
pub const EEC_REQUEST: u32 = 1 << 6;
pub const EEC_GRANT: u32 = 1 << 7;
pub const EEC_PRESENT: u32 = 1 << 8;
pub const EEC_AUTO_READ_DONE: u32 = 1 << 9;
/// EE_SIZE: 2^(4 + 6) words.
pub const EEC_SIZE_1024_WORDS: u32 = 4 << 11;
pub const EERD: u32 = 0x1_0014;
pub const SWSM: u32 = 0x1_0140;
pub const SWSM_SMBI: u32 = 1 << 0;
pub const FWSM: u32 = 0x1_0148;
/// The firmware is valid and reports no error (Linux: `ixgbe_check_fw_error`).
pub const FWSM_VALID: u32 = 1 << 15;
pub const SW_FW_SYNC: u32 = 0x1_0160;
pub const SW_FW_SYNC_REGSMP: u32 = 1 << 31;
pub const FACTPS: u32 = 0x1_0150;

/// Queue and offset in its block, if `offset` lies in a receive queue's block.
pub fn receive_queue(offset: u32) -> Option<(usize, u32)> {
    match offset {
        0x1000..=0x1FFF => Some((((offset - 0x1000) / 0x40) as usize, offset % 0x40)),
        0xD000..=0xDFFF => Some((((offset - 0xD000) / 0x40 + 64) as usize, offset % 0x40)),
        _ => None,
    }
}

/// Queue and offset in its block, if `offset` lies in a transmit queue's block.
pub fn transmit_queue(offset: u32) -> Option<(usize, u32)> {
    match offset {
        0x6000..=0x7FFF => Some((((offset - 0x6000) / 0x40) as usize, offset % 0x40)),
        _ => None,
    }
}

/// BAR0 offset of `register` in the block of receive queue `queue`.
pub const fn rx(queue: usize, register: u32) -> u32 {
    let queue = queue as u32;
    if queue < 64 { 0x1000 + 0x40 * queue + register } else { 0xD000 + 0x40 * (queue - 64) + register }
}

/// BAR0 offset of `register` in the block of transmit queue `queue`.
pub const fn tx(queue: usize, register: u32) -> u32 {
    0x6000 + 0x40 * queue as u32 + register
}

/// BAR0 offset of the interrupt throttle register of `vector` (82599 §8.2.3.5.12).
pub const fn eitr(vector: usize) -> u32 {
    if vector < 24 { EITR_LOW + 4 * vector as u32 } else { EITR_HIGH + 4 * (vector as u32 - 24) }
}

/// Where registers that the 82598 had elsewhere live on the 82599: both addresses reach the same
/// register (82599 §8.2.1, "alias" column).
pub fn canonical(offset: u32) -> u32 {
    match offset {
        CTRL_ALIAS => CTRL,
        0x2100..=0x213F => rx(((offset - 0x2100) / 4) as usize, SRRCTL),
        0x2200..=0x223F => rx(((offset - 0x2200) / 4) as usize, 0x0C),
        0x5400..=0x547F => RAL + (offset - 0x5400),
        0x5818 => MRQC,
        0x5C00..=0x5C7F => RETA + (offset - 0x5C00),
        0x5C80..=0x5CA7 => RSSRK + (offset - 0x5C80),
        _ => offset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the mapping of queue numbers to blocks in both ranges.
    #[test]
    fn queue_blocks_round_trip() {
        for queue in 0..QUEUES {
            assert_eq!(receive_queue(rx(queue, RDT)), Some((queue, RDT)));
            assert_eq!(transmit_queue(tx(queue, TDT)), Some((queue, TDT)));
        }
        assert_eq!(receive_queue(0x2000), None);
        assert_eq!(transmit_queue(0x8000), None);
    }

    /// Protects old drivers' addresses: an alias reaches the register that the data path reads.
    #[test]
    fn aliases_reach_the_register_itself() {
        assert_eq!(canonical(0x5818), MRQC);
        assert_eq!(canonical(0x2104), rx(1, SRRCTL));
        assert_eq!(canonical(0x5404), RAL + 4);
        assert_eq!(canonical(EITR_LOW), EITR_LOW);
    }
}
