//! The registers that the driver reads and writes itself: none of them carries a bus address (82599 §8.2.3).

pub const CTRL_EXT: u32 = 0x0018;
/// A driver is in charge, for the management firmware.
pub const CTRL_EXT_DRV_LOAD: u32 = 1 << 28;
pub const ESDP: u32 = 0x0020;
/// Software-defined pin 3: transmit disable of an SFP+ module.
pub const ESDP_SDP3: u32 = 1 << 3;

pub const EICR: u32 = 0x0800;
pub const EICS: u32 = 0x0808;
pub const EIAC: u32 = 0x0810;
pub const EIMS: u32 = 0x0880;
pub const GPIE: u32 = 0x0898;
pub const GPIE_MULTIPLE_MSIX: u32 = 1 << 4;
/// Reading EICR clears no queue's cause.
pub const GPIE_OTHER_CLEAR_DISABLE: u32 = 1 << 5;
/// A message masks its causes, by EIAM.
pub const GPIE_EIAME: u32 = 1 << 30;
pub const GPIE_PBA_SUPPORT: u32 = 1 << 31;
pub const EICS_EX: u32 = 0x0A90;
pub const EIMS_EX: u32 = 0x0AA0;
pub const EIAM_EX: u32 = 0x0AD0;
/// Causes 0 to 15: receive and transmit queues.
pub const QUEUE_CAUSES: u32 = 0xFFFF;
/// Link status change.
pub const CAUSE_LINK: u32 = 1 << 20;

pub const fn eitr(vector: u16) -> u32 {
    0x0820 + 4 * vector as u32
}

pub const RQSMR: u32 = 0x2300;
pub const RDRXCTL: u32 = 0x2F00;
pub const RDRXCTL_CRC_STRIP: u32 = 1 << 1;
pub const RDRXCTL_DMA_INIT_DONE: u32 = 1 << 3;
pub const RDRXCTL_RSC_FIRST_SIZE: u32 = 0x1F << 17;
/// RDH: the descriptor that the device will use next.
pub const fn rdh(queue: u16) -> u32 {
    0x1010 + 0x40 * queue as u32
}

pub const RXCTRL: u32 = 0x3000;
pub const RXCTRL_RXEN: u32 = 1;
/// What is in the packet buffer (§8.2.3.8.11).
pub const RXMEMWRAP: u32 = 0x3190;
pub const RXMEMWRAP_EMPTY: u32 = 1 << 3;
pub const RXPBSIZE: u32 = 0x3C00;
pub const FCCFG: u32 = 0x3D00;
pub const HLREG0: u32 = 0x4240;
pub const HLREG0_TX_CRC: u32 = 1;
pub const HLREG0_RX_CRC_STRIP: u32 = 1 << 1;
pub const HLREG0_JUMBO: u32 = 1 << 2;
pub const HLREG0_TX_PAD: u32 = 1 << 10;
pub const MAXFRS: u32 = 0x4268;
pub const MFLCN: u32 = 0x4294;
/// Pause frames go no further than the MAC.
pub const MFLCN_DISCARD_PAUSE: u32 = 1 << 1;
pub const AUTOC: u32 = 0x42A0;
pub const AUTOC_RESTART: u32 = 1 << 12;
pub const AUTOC_LINK_MODE: u32 = 0x7 << 13;
pub const AUTOC_10G_SERIAL: u32 = 0x3 << 13;
pub const LINKS: u32 = 0x42A4;
pub const RTTDCS: u32 = 0x4900;
pub const RTTDCS_ARBITER_OFF: u32 = 1 << 6;
pub const TXPBTHRESH: u32 = 0x4950;
pub const DMATXCTL: u32 = 0x4A80;
pub const DMATXCTL_ENABLE: u32 = 1;
pub const RXCSUM: u32 = 0x5000;
/// The descriptor carries the RSS hash, not a fragment checksum.
pub const RXCSUM_HASH: u32 = 1 << 13;
pub const FCTRL: u32 = 0x5080;
pub const FCTRL_ALL_MULTICAST: u32 = 1 << 8;
pub const FCTRL_ALL_UNICAST: u32 = 1 << 9;
pub const FCTRL_BROADCAST: u32 = 1 << 10;
pub const VLNCTRL: u32 = 0x5088;
/// Tagged frames are filtered by VFTA.
pub const VLNCTRL_FILTER: u32 = 1 << 30;
pub const MCSTCTRL: u32 = 0x5090;
/// Multicast frames are filtered by MTA; which 12 bits of the address are hashed is left at 0: the topmost.
pub const MCSTCTRL_FILTER: u32 = 1 << 2;
pub const VFTA: u32 = 0xA000;
pub const VFTA_WORDS: u32 = 128;
pub const MTA: u32 = 0x5200;
pub const MTA_WORDS: u32 = 128;
pub const RAL: u32 = 0x5400;
pub const RAH: u32 = 0x5404;
pub const RAH_VALID: u32 = 1 << 31;
pub const MRQC: u32 = 0x5818;
pub const RETA: u32 = 0x5C00;
pub const RSSRK: u32 = 0x5C80;
pub const DTXMXSZRQ: u32 = 0x8100;
pub const MTQC: u32 = 0x8120;
pub const SECRXCTRL: u32 = 0x8D00;
pub const SECRXCTRL_RX_DIS: u32 = 1 << 1;
pub const SECRXSTAT: u32 = 0x8D04;
pub const SECRXSTAT_READY: u32 = 1;
pub const TXPBSIZE: u32 = 0xCC00;
pub const EEC: u32 = 0x1_0010;
pub const EEC_AUTO_READ_DONE: u32 = 1 << 9;
