//! Linux's own `ixgbe` as judge.

use prefix::{Prefix, Tool};

use super::guest::{Contents, IXGBE};
use super::{Error, Report, Setup, peer, run};

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
    let init = include_str!("linux.sh");
    let guest = Contents { init, modules: IXGBE.into(), programs: &["ethtool"], libraries: &[], files: vec![] };
    let run = run(&prefix, setup, &guest, peer::answer)?;
    run.require("iommu", if setup.iommu { "on" } else { "off" })?;
    for (check, wanted) in EXPECTED {
        run.require(check, wanted)?;
    }
    run.report()
}
