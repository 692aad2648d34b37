//! Drivers that we did not write, in a Debian guest under QEMU, accept the model and move traffic through it.
//!
//! It fetches QEMU and a kernel into the user's cache the first time, so it runs on request:
//! `redleaf test interop`, or `cargo test -p model --test interop -- --ignored`.

use model::interop::{self, Report, Setup};
use model::{NicConfig, pci};

fn judge(verdict: Result<Report, interop::Error>) {
    match verdict {
        Ok(report) => {
            let (checks, took) = (report.checks.len(), report.took.as_secs_f32());
            println!("{checks} checks in {took:.1} s: {:?}", report.counters.named());
        }
        Err(error) => panic!("{error}"),
    }
}

/// Protects what every other test of the model can't see: that a driver which we did not write works on it.
#[test]
#[ignore = "tier interop: boots a guest in QEMU, and fetches both the first time"]
fn linux_ixgbe_accepts_the_model() {
    judge(interop::linux(&Setup::default()));
}

/// The same behind an IOMMU, where each access outside what the driver mapped would be refused and found.
#[test]
#[ignore = "tier interop: boots a guest in QEMU, and fetches both the first time"]
fn linux_ixgbe_accepts_the_model_behind_an_iommu() {
    let setup = Setup { iommu: true, ..Setup::default() };
    judge(interop::linux(&setup));
}

/// A card with a 10GBASE-T PHY instead of a cage.
#[test]
#[ignore = "tier interop: boots a guest in QEMU, and fetches both the first time"]
fn linux_ixgbe_accepts_an_x540() {
    let card = NicConfig { device: pci::device::X540, ..NicConfig::default() };
    judge(interop::linux(&Setup { card, ..Setup::default() }));
}

/// DPDK's polling driver in testpmd's modes io, mac, macswap with RSS, icmpecho, and csum with the card's offloads.
#[test]
#[ignore = "tier interop: boots a guest in QEMU, and fetches both the first time"]
fn dpdk_accepts_the_model() {
    judge(interop::dpdk(&Setup::default()));
}
