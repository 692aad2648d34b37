//! DPDK's polling driver as judge: testpmd in a guest, forwarding what the exerciser sends.

use prefix::{Prefix, Tool};

use super::guest::Contents;
use super::{Error, Report, Setup, exerciser, run};

const MODULES: [&str; 2] = ["drivers/uio/uio", "drivers/uio/uio_pci_generic"];
/// What testpmd loads by name.
const PLUGINS: [(Tool, &str); 1] = [(Tool::Dpdk, "usr/lib/x86_64-linux-gnu/librte_mempool_ring.so")];

/// Boots the guest on the model and has testpmd forward in each of its modes.
pub fn dpdk(setup: &Setup) -> Result<Report, Error> {
    let prefix = Prefix::ensure(&[Tool::Qemu, Tool::Linux, Tool::Dpdk]).map_err(Error::Prefix)?;
    let guest = Contents {
        init: include_str!("dpdk.sh"),
        modules: MODULES.into(),
        programs: &["dpdk-testpmd"],
        libraries: &PLUGINS,
        files: vec![],
    };
    let run = run(&prefix, setup, &guest, exerciser::exercise)?;
    run.require("device", "bound")?;
    let seen = &run.peer;
    for (check, count) in [
        ("frames that came back as they went (io)", seen.unchanged),
        ("frames sent on to testpmd's own peer (mac)", seen.readdressed),
        ("frames with addresses swapped (macswap)", seen.swapped),
        ("echo replies (icmpecho)", seen.pongs),
        ("wrong checksums put right by the card (csum)", seen.mended),
    ] {
        run.require_seen(check, count >= exerciser::ENOUGH, count)?;
    }
    run.require_seen("frames that came back damaged", seen.damaged == 0, seen.damaged)?;
    run.report()
}
