//! A device's ring is the driver's: its capability is no domain's to pass on.
use interfaces::{CallError, Cap, device::ixgbe::RxRing, interface};

#[interface]
pub trait Example {
    fn ring(&self) -> Result<Cap<dyn RxRing>, CallError>;
}

fn main() {}
