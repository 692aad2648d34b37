//! What all parts of the driver share: the device, what it is, its namespaces, and what queues ask of the keeper.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use interfaces::{
    Port,
    block::{BlockInfo, LARGEST_BUFFER},
    device::nvme::{DeviceError, NvmeDevice},
};
use runtime::sync::Mutex;

use crate::{
    config::Config,
    identify::{ControllerData, NamespaceData},
    statistics::Statistics,
};

/// Bytes of a memory page, as CC.MPS says.
const PAGE: u32 = 4096;
/// Blocks that one command's field holds.
const MOST_BLOCKS: u32 = 1 << 16;

pub struct Controller {
    pub device: Port<dyn NvmeDevice>,
    pub config: Config,
    pub data: ControllerData,
    pub queues: u16,
    pub depth: u16,
    /// Whether there is an MSI-X vector for each queue and one for the rest.
    pub interrupts: bool,
    /// By index: number less 1. `None`: inactive, or of a format that isn't supported.
    pub namespaces: Mutex<Vec<Option<NamespaceData>>>,
    pub statistics: Statistics,
    /// A command to abort, by queue; 0: none, else its number and 1 in bit 16.
    overdue: Vec<AtomicU64>,
}

impl Controller {
    pub fn new(
        device: Port<dyn NvmeDevice>,
        config: &Config,
        data: ControllerData,
        queues: u16,
        depth: u16,
        interrupts: bool,
        namespaces: Vec<Option<NamespaceData>>,
    ) -> Self {
        Controller {
            device,
            config: config.clone(),
            data,
            queues,
            depth,
            interrupts,
            namespaces: Mutex::new(namespaces),
            statistics: Statistics::new(queues),
            overdue: (0..queues).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub fn info(&self, namespace: u16) -> Option<BlockInfo> {
        let namespaces = self.namespaces.lock();
        let NamespaceData { blocks, block_size } = (*namespaces.get(usize::from(namespace))?)?;
        let limit = self.data.transfer_pages.map_or(u32::MAX, |pages| pages.saturating_mul(PAGE));
        let max_blocks = (limit.min(LARGEST_BUFFER as u32) / block_size).clamp(1, MOST_BLOCKS);
        Some(BlockInfo {
            namespaces: namespaces.len() as u16,
            block_size,
            blocks,
            max_blocks,
            queues: self.queues,
            depth: self.depth,
            volatile_cache: self.data.volatile_cache && self.config.volatile_cache,
            write_zeroes: self.data.write_zeroes,
            deallocate: self.data.deallocate,
        })
    }

    /// A command of a queue takes too long: the keeper shall abort it.
    pub fn ask_to_abort(&self, queue: u16, command: u16) {
        self.overdue[usize::from(queue)].store(1 << 16 | u64::from(command), Ordering::Release);
    }

    /// The commands to abort.
    pub fn to_abort(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        let asked = self.overdue.iter().map(|place| place.swap(0, Ordering::AcqRel));
        (0..).zip(asked).filter(|(_, asked)| asked >> 16 != 0).map(|(queue, asked)| (queue, asked as u16))
    }

    /// The device is not to be trusted any more: the next generation resets it.
    pub fn give_up(&self, what: &str, why: DeviceError) -> ! {
        // If even that can't be said, the lease knows: what it refuses is what it has seen itself.
        let _ = self.device.set_suspect();
        panic!("{what}: {why}")
    }
}
