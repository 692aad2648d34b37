//! What the `config` table of an ixgbe domain may hold; all of it has defaults.
//!
//! ```toml
//! rx-ring = 512                  # descriptors per queue, a multiple of 8: what is held while a driver restarts, beside the packet buffer
//! tx-ring = 1024                 # more than rx-ring: what has piled up during a restart goes out in one go
//! mtu = 1500                     # up to 15,850; the box's packet buffers are as large as frames of it need
//! rss = true                     # spread flows over one queue per CPU
//! interrupt-interval = "20us"    # at least so long between two interrupts of a queue
//! multicast = false              # accept all multicast frames
//! promiscuous = false            # accept frames to any station
//! stations = []                  # further addresses that frames may be to, such as "02:00:00:00:00:07"
//! groups = []                    # multicast addresses whose frames are accepted (and some others': the device hashes them)
//! vlan = 10                      # the box is in this VLAN (default: in none): the device takes the tag out of what comes and puts it into what goes, and frames without it are dropped
//! ```

use alloc::{format, string::String, vec::Vec};

use interfaces::config::{Configuration, Duration, Fault};
use serde::{Deserialize, Serialize};

/// Of Ethernet.
pub const HEADER: u16 = 14;
/// A VLAN's tag.
pub const TAG: u16 = 4;
/// Of a frame, behind all else.
pub const CHECK_SEQUENCE: u16 = 4;
/// The longest frame that a member of the family takes or sends, with all of these (82599 §1.3: 15.5 KiB).
const LONGEST_FRAME: u16 = 15_872;
const LARGEST_MTU: u16 = LONGEST_FRAME - HEADER - TAG - CHECK_SEQUENCE;
/// RFC 791: every link carries 68 bytes.
const SMALLEST_MTU: u16 = 68;
/// Receive addresses besides the device's own (82599 §8.2.3.7.8; the first 16 are where all members of the family have them).
const MOST_STATIONS: usize = 15;
/// IEEE 802.1Q: 0 is no VLAN, 4,095 reserved.
const VLANS: core::ops::RangeInclusive<u16> = 1..=4094;
/// EITR has 9 bits of 2 µs (82599 §8.2.3.5.12).
const LONGEST_INTERVAL: Duration = Duration(1_022_000);

/// A station's or a group's address, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Station(pub [u8; 6]);

impl TryFrom<String> for Station {
    type Error = String;

    fn try_from(text: String) -> Result<Station, String> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).and_then(|part| u8::from_str_radix(part, 16).ok());
            *byte = part.ok_or_else(|| format!("\"{text}\" is no address such as \"02:00:00:00:00:07\""))?;
        }
        match parts.next() {
            None => Ok(Station(bytes)),
            Some(_) => Err(format!("\"{text}\" is longer than an address such as \"02:00:00:00:00:07\"")),
        }
    }
}

impl From<Station> for String {
    fn from(Station([a, b, c, d, e, f]): Station) -> String {
        format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl Station {
    fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

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
    pub stations: Vec<Station>,
    pub groups: Vec<Station>,
    pub vlan: Option<u16>,
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
            stations: Vec::new(),
            groups: Vec::new(),
            vlan: None,
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
            wrong("mtu", format!("{} bytes: the device takes from {SMALLEST_MTU} to {LARGEST_MTU}", self.mtu));
        }
        if self.interrupt_interval > LONGEST_INTERVAL {
            wrong(
                "interrupt-interval",
                format!("{} is longer than the device's {LONGEST_INTERVAL}", self.interrupt_interval),
            );
        }
        if self.stations.len() > MOST_STATIONS {
            wrong(
                "stations",
                format!("{} addresses: the device has room for {MOST_STATIONS} beside its own", self.stations.len()),
            );
        }
        let is_odd = |stations: &[Station], group: bool| stations.iter().any(|station| station.is_group() != group);
        if is_odd(&self.stations, false) {
            wrong("stations", "a multicast address is no station's: it belongs to `groups`".into());
        }
        if is_odd(&self.groups, true) {
            wrong("groups", "a station's address is no multicast address: it belongs to `stations`".into());
        }
        if let Some(vlan) = self.vlan.filter(|vlan| !VLANS.contains(vlan)) {
            wrong("vlan", format!("{vlan}: a VLAN's number is from {} to {}", VLANS.start(), VLANS.end()));
        }
        faults
    }

    /// With a tag, which is in what comes unless the device takes it out.
    fn longest_frame(&self) -> u16 {
        self.mtu.saturating_add(HEADER + TAG)
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
            mtu: LARGEST_MTU + 1,
            interrupt_interval: Duration::from_millis(2),
            stations: alloc::vec![Station([1, 0, 0x5E, 0, 0, 1])],
            groups: alloc::vec![Station([2, 0, 0, 0, 0, 7])],
            vlan: Some(4095),
            ..Config::default()
        };
        let paths: Vec<_> = config.validate().into_iter().map(|fault| fault.path).collect();
        assert_eq!(paths, ["rx-ring", "tx-ring", "mtu", "interrupt-interval", "stations", "groups", "vlan"]);
    }

    /// Addresses are read as they are shown, and nothing else is.
    #[test]
    fn addresses() {
        let station = Station::try_from(String::from("02:00:00:00:0a:07")).unwrap();
        assert_eq!((station, String::from(station).as_str()), (Station([2, 0, 0, 0, 10, 7]), "02:00:00:00:0a:07"));
        for wrong in ["", "02:00:00:00:00", "02:00:00:00:00:07:01", "2:0:0:0:0:7", "02:00:00:00:00:0g"] {
            assert!(Station::try_from(String::from(wrong)).is_err(), "{wrong}");
        }
    }
}
