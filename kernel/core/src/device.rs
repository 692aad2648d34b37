//! Devices: how the kernel's binary offers trusted device crates to the core, which knows none of them.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};

use interfaces::{InterfaceId, abi::RawObject, gate::KernelInterface};

use crate::{
    capability,
    incarnation::Owner,
    platform::{PciFunction, PciIdentity},
};

/// A family of devices with its trusted crate, such as the 82599's.
pub trait DeviceClass: Sync {
    /// Whether this crate drives such a function.
    fn matches(&self, identity: &PciIdentity) -> bool;

    /// Makes the lease: the part that outlives every generation of the driver. Called once for each device that the manifest gives to a domain.
    fn lease(&self, function: &'static dyn PciFunction, cpus: &[usize]) -> Result<Arc<dyn Lease>, String>;
}

/// What lives in kernel memory across the driver's generations.
pub trait Lease: Send + Sync {
    /// Addresses by which a manifest may name the device.
    fn mac(&self) -> Option<[u8; 6]> {
        None
    }

    fn serial(&self) -> Option<String> {
        None
    }

    /// The kernel interface that `open` gives, such as `InterfaceId::of::<dyn IxgbeDevice>()`.
    fn interface(&self) -> InterfaceId;

    /// Makes the kernel object for one generation of the driver and gives it to that.
    fn open(&self, driver: &Recipient) -> RawObject;

    /// The generation that held the lease has just died; its threads may still be in the lease's objects. Whatever must not wait, not even for the supervisor. Called by
    /// whoever killed it, maybe in a trap: it takes no lock.
    fn died(&self) {}

    /// The generation that held the lease has died, and none of its threads runs any more: whatever must hold until the next one adopts.
    fn orphaned(&self) {}

    /// Packet buffers that are posted in the lease's rings now.
    fn buffers(&self) -> usize {
        0
    }

    /// Counters for the feed.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// A generation that is given kernel objects.
pub struct Recipient(pub(crate) Owner);

impl Recipient {
    /// Puts a proxy in front of `object`, which is dropped when the generation has ended.
    pub fn give<I: ?Sized + KernelInterface>(&self, object: Box<I>) -> RawObject {
        capability::hand_out(object, self.0).raw()
    }
}
