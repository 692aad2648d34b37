//! One generation of the driver domain on the bench: started by its own `start`, and ended as a crash ends it, by what the kernel does to a dead
//! domain: its calls fail, its waits are cancelled, its handles are dropped.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use interfaces::{
    CallError, Cap, Port, RRef,
    control::{Control, Counters},
    device::ixgbe::{DeviceError, Identity, Interrupt, IxgbeDevice, LeaseState, Losses, RxRing, TxRing},
    net::{Net, NetQueue},
    packet::Batch,
};
use ixgbe::{Config, Imports};
use ixgbe_device::{Device, Lease};
use runtime::env::{Env, StartError};

use crate::bench::Bench;

pub struct Generation {
    pub net: Box<dyn Net>,
    pub control: Box<dyn Control>,
    dead: Arc<AtomicBool>,
}

impl Generation {
    pub fn start(lease: &Arc<Lease<Bench>>, cpus: &[u32], config: Config) -> Result<Self, StartError> {
        let dead = Arc::new(AtomicBool::new(false));
        let device: &'static dyn IxgbeDevice =
            Box::leak(Box::new(Gated { device: Device::new(lease), dead: dead.clone() }));
        let exports = ixgbe::start(Env::new("ixgbe0", 1, cpus), Imports { device: Port::new(device) }, config)?;
        Ok(Generation { net: exports.net, control: exports.control, dead })
    }

    pub fn open(&self, queue: u16) -> Cap<dyn NetQueue> {
        self.net.open_queue(queue).unwrap()
    }

    /// The domain is dead. Its queues' holders drop theirs themselves.
    pub fn crash(self) {}

    /// The value of a counter.
    pub fn counter(&self, name: &str) -> u64 {
        let page = self.control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
        page.as_slice()
            .iter()
            .find(|counter| counter.name.as_str() == name)
            .unwrap_or_else(|| panic!("no counter {name}"))
            .value
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.dead.store(true, SeqCst);
    }
}

/// All that has arrived at a queue, up to one batch.
pub fn receive(queue: &mut Cap<dyn NetQueue>) -> RRef<Batch> {
    queue.receive(Batch::allocate().unwrap()).unwrap()
}

/// The device as long as its generation lives.
struct Gated {
    device: Device<Bench>,
    dead: Arc<AtomicBool>,
}

impl Gated {
    fn alive(&self) -> Result<&Device<Bench>, DeviceError> {
        if self.dead.load(SeqCst) { Err(DeviceError::Call(CallError::Cancelled)) } else { Ok(&self.device) }
    }

    fn gate(&self, interrupt: Cap<dyn Interrupt>) -> Cap<dyn Interrupt> {
        Cap::new(Box::new(GatedInterrupt { interrupt, dead: self.dead.clone() }))
    }
}

impl IxgbeDevice for Gated {
    fn identity(&self) -> Identity {
        self.device.identity()
    }

    fn buffer_bytes(&self) -> u16 {
        self.device.buffer_bytes()
    }

    fn read(&self, offset: u32) -> Result<u32, DeviceError> {
        self.alive()?.read(offset)
    }

    fn write(&self, offset: u32, value: u32) -> Result<(), DeviceError> {
        self.alive()?.write(offset, value)
    }

    fn lease(&self) -> LeaseState {
        self.device.lease()
    }

    fn set_live(&self, rx_queues: u16, tx_queues: u16) -> Result<(), DeviceError> {
        self.alive()?.set_live(rx_queues, tx_queues)
    }

    fn set_suspect(&self) -> Result<(), DeviceError> {
        self.alive()?.set_suspect()
    }

    fn reset_lease(&self) -> Result<(), DeviceError> {
        self.alive()?.reset_lease()
    }

    fn losses(&self) -> Losses {
        self.device.losses()
    }

    fn rx_ring(&self, queue: u16, length: u16, vlan: Option<u16>) -> Result<Cap<dyn RxRing>, DeviceError> {
        self.alive()?.rx_ring(queue, length, vlan)
    }

    fn tx_ring(&self, queue: u16, length: u16, vlan: Option<u16>) -> Result<Cap<dyn TxRing>, DeviceError> {
        self.alive()?.tx_ring(queue, length, vlan)
    }

    fn queue_interrupt(&self, queue: u16) -> Result<Cap<dyn Interrupt>, DeviceError> {
        self.alive()?.queue_interrupt(queue).map(|interrupt| self.gate(interrupt))
    }

    fn misc_interrupt(&self) -> Result<Cap<dyn Interrupt>, DeviceError> {
        self.alive()?.misc_interrupt().map(|interrupt| self.gate(interrupt))
    }
}

struct GatedInterrupt {
    interrupt: Cap<dyn Interrupt>,
    dead: Arc<AtomicBool>,
}

impl Interrupt for GatedInterrupt {
    fn wait(&mut self, deadline: u64) -> Result<bool, DeviceError> {
        loop {
            let now = runtime::time::now();
            let slice = deadline.min(now + Duration::from_millis(5).as_nanos() as u64);
            if self.interrupt.wait(slice)? {
                return Ok(true);
            }
            if self.dead.load(SeqCst) {
                return Err(DeviceError::Call(CallError::Cancelled));
            }
            if slice == deadline {
                return Ok(false);
            }
        }
    }
}
