//! The devices whose register map this crate holds (physical functions; ids as in Linux's and DPDK's ixgbe).

const INTEL: u16 = 0x8086;

const I82599: &[u16] = &[
    0x10F7, 0x10F8, 0x10F9, 0x10FB, 0x10FC, 0x1507, 0x1514, 0x1517, 0x151C, 0x1529, 0x152A, 0x154A, 0x154D, 0x154F,
    0x1557, 0x1558,
];
const X540: &[u16] = &[0x1528, 0x1560];
const X550: &[u16] = &[0x1563, 0x15D1];

/// Whether this crate can take charge of the function.
pub fn matches(vendor: u16, device: u16) -> bool {
    vendor == INTEL && [I82599, X540, X550].iter().any(|ids| ids.contains(&device))
}

/// Whether CTRL.LRST belongs to a reset.
pub fn has_link_reset(device: u16) -> bool {
    I82599.contains(&device)
}
