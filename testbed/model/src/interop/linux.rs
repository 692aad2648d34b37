//! Linux's own `ixgbe` as judge.

use prefix::{Prefix, Tool};

use super::guest::Contents;
use super::{Error, Report, Setup, peer, run};

/// In the order that they must be loaded: what `ixgbe` depends on, then itself.
const MODULES: [&str; 6] = [
    "drivers/dca/dca",
    "drivers/net/mdio",
    "drivers/net/phy/libphy",
    "drivers/net/phy/mdio_devres",
    "net/xfrm/xfrm_algo",
    "drivers/net/ethernet/intel/ixgbe/ixgbe",
];

/// What the guest must answer, in its order.
const EXPECTED: [(&str, &str); 14] = [
    ("loaded", "yes"),
    ("carrier", "1"),
    ("speed", "10000"),
    ("vectors", "3"),
    ("ping", "5"),
    ("udp", "same"),
    ("tcp", "8"),
    ("statistics", "agree"),
    ("tcp-resets", "4"),
    ("tcp-plain", "4"),
    ("jumbo", "5"),
    ("errors", "0"),
    ("selftest", "PASS"),
    ("reload", "5"),
];

/// Boots the guest on the model and has it judge.
pub fn linux(setup: &Setup) -> Result<Report, Error> {
    let prefix = Prefix::ensure(&[Tool::Qemu, Tool::Linux, Tool::Network]).map_err(Error::Prefix)?;
    let guest = Contents { init: include_str!("linux.sh"), modules: &MODULES, programs: &["ethtool"], libraries: &[] };
    let run = run(&prefix, setup, &guest, peer::answer)?;
    run.require("iommu", if setup.iommu { "on" } else { "off" })?;
    for (check, wanted) in EXPECTED {
        run.require(check, wanted)?;
    }
    run.report()
}
