//! What the `config` table of an ixgbe domain may hold; all of it has defaults.
//!
//! ```toml
//! rx-ring = 512                  # descriptors per queue, a multiple of 8: what is held while a driver restarts, beside the packet buffer
//! tx-ring = 1024                 # more than rx-ring: what has piled up during a restart goes out in one go
//! mtu = 1500
//! rss = true                     # spread flows over one queue per CPU
//! interrupt-interval = "20us"    # at least so long between two interrupts of a queue
//! multicast = false              # accept all multicast frames
//! promiscuous = false            # accept frames to any station
//! ```

use alloc::{format, string::String, vec::Vec};

use interfaces::{
    config::{Configuration, Duration, Fault},
    packet::BUFFER_SIZE,
};
use serde::{Deserialize, Serialize};

/// Ethernet header with one VLAN tag.
pub const HEADER: u16 = 18;
/// The longest frame fits into one buffer.
const LARGEST_MTU: u16 = BUFFER_SIZE as u16 - HEADER;
/// RFC 791: every link carries 68 bytes.
const SMALLEST_MTU: u16 = 68;
/// EITR has 9 bits of 2 µs (82599 §8.2.3.5.12).
const LONGEST_INTERVAL: Duration = Duration(1_022_000);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    pub rx_ring: u16,
    pub tx_ring: u16,
    pub mtu: u16,
    pub rss: bool,
    pub interrupt_interval: Duration,
    pub multicast: bool,
    pub promiscuous: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            rx_ring: 512,
            tx_ring: 1024,
            mtu: 1500,
            rss: true,
            interrupt_interval: Duration(20_000),
            multicast: false,
            promiscuous: false,
        }
    }
}

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut wrong = |path: &str, message: String| faults.push(Fault { path: path.into(), message });
        for (path, length) in [("rx-ring", self.rx_ring), ("tx-ring", self.tx_ring)] {
            if !(64..=4096).contains(&length) || !length.is_multiple_of(8) {
                wrong(path, format!("{length} descriptors: a ring has 64 to 4096, in multiples of 8"));
            }
        }
        if !(SMALLEST_MTU..=LARGEST_MTU).contains(&self.mtu) {
            wrong(
                "mtu",
                format!(
                    "{} bytes: from {SMALLEST_MTU} to {LARGEST_MTU}, so that a frame fits into one buffer",
                    self.mtu
                ),
            );
        }
        if self.interrupt_interval > LONGEST_INTERVAL {
            wrong(
                "interrupt-interval",
                format!("{} is longer than the device's {LONGEST_INTERVAL}", self.interrupt_interval),
            );
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Config::default().validate(), []);
    }

    /// All faults are shown at once, each under the key that is written in the manifest.
    #[test]
    fn every_fault_is_named() {
        let config = Config {
            rx_ring: 100,
            tx_ring: 8192,
            mtu: 9000,
            interrupt_interval: Duration::from_millis(2),
            ..Config::default()
        };
        let paths: Vec<_> = config.validate().into_iter().map(|fault| fault.path).collect();
        assert_eq!(paths, ["rx-ring", "tx-ring", "mtu", "interrupt-interval"]);
    }
}
