//! Linux's own `ixgbe` driver, in a Debian guest under QEMU, accepts the model and moves traffic through it.
//!
//! It fetches QEMU and a kernel into the user's cache the first time, so it runs on request:
//! `cargo test -p model --test linux_guest -- --ignored`.

use model::interop::{self, Setup};
use model::{NicConfig, pci};

fn judge(setup: &Setup) {
    match interop::linux(setup) {
        Ok(report) => {
            let (checks, took) = (report.checks.len(), report.took.as_secs_f32());
            println!(
                "{checks} checks in {took:.1} s: {:?}",
                report.counters.named()
            );
        }
        Err(error) => panic!("{error}"),
    }
}

/// Protects what every other test of the model can't see: that a driver which we did not write works on it.
#[test]
#[ignore = "boots a guest in QEMU, and fetches both the first time"]
fn linux_ixgbe_accepts_the_model() {
    judge(&Setup::default());
}

/// The same behind an IOMMU, where each access outside what the driver mapped would be refused and found.
#[test]
#[ignore = "boots a guest in QEMU, and fetches both the first time"]
fn linux_ixgbe_accepts_the_model_behind_an_iommu() {
    judge(&Setup {
        iommu: true,
        ..Setup::default()
    });
}

/// A card with a 10GBASE-T PHY instead of a cage.
#[test]
#[ignore = "boots a guest in QEMU, and fetches both the first time"]
fn linux_ixgbe_accepts_an_x540() {
    let card = NicConfig {
        device: pci::device::X540,
        ..NicConfig::default()
    };
    judge(&Setup {
        card,
        ..Setup::default()
    });
}
