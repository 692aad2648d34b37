//! What the kernel's trusted device crates offer to driver domains, one module per device family.

pub mod ixgbe;
pub mod nvme;
