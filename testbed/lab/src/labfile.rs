//! `configs/NAME.lab.toml`: the lab's wiring and load, never part of what is flashed.
//!
//! Every key has a default, so the file may be absent or say only what differs. Unknown keys are refused.

use crate::units::{duration_text, size_text};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LabFile {
    /// Where the client lives: never in a VIP's subnet.
    pub client: ClientNet,
    pub router: RouterNet,
    /// The box's segment.
    pub segment: SegmentNet,
    /// What the NVMe drives are, by the domains that drive them.
    pub disks: BTreeMap<String, DiskSettings>,
    pub load: Load,
    pub limits: Limits,
    /// What the lab adds to the manifest; merged by the builder before the bundle is made.
    pub console: ConsoleAddition,
}

/// The client's side of the router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ClientNet {
    pub address: Ipv4Addr,
    pub prefix: u8,
    /// Used if the box speaks IPv6.
    pub address6: Ipv6Addr,
    pub prefix6: u8,
}

impl Default for ClientNet {
    fn default() -> Self {
        // RFC 5737's documentation networks and RFC 1918's: none of them is anybody's.
        Self {
            address: Ipv4Addr::new(192, 168, 77, 2),
            prefix: 24,
            // RFC 3849's.
            address6: Ipv6Addr::new(0x2001, 0xdb8, 77, 0, 0, 0, 0, 2),
            prefix6: 64,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct RouterNet {
    /// The router's address on the client's side.
    pub client_side: Ipv4Addr,
    pub client_side6: Ipv6Addr,
    /// The router's address on the segment; by default the last host address of the box's subnet.
    pub segment_side: Option<Ipv4Addr>,
}

impl Default for RouterNet {
    fn default() -> Self {
        Self {
            client_side: Ipv4Addr::new(192, 168, 77, 1),
            client_side6: Ipv6Addr::new(0x2001, 0xdb8, 77, 0, 0, 0, 0, 1),
            segment_side: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SegmentNet {
    /// Of the hosts' links; the box's, if nothing is said.
    pub mtu: Option<u32>,
    /// What DHCP tells a box whose manifest leaves its address to the network, with the length of the segment's prefix.
    pub leased: Ipv4Addr,
    pub prefix: u8,
    /// The prefix, of 64 bits, that the router advertises to one that leaves that of IPv6 to it.
    pub advertised: Ipv6Addr,
}

impl Default for SegmentNet {
    fn default() -> Self {
        Self {
            mtu: None,
            leased: Ipv4Addr::new(10, 0, 1, 3),
            prefix: 24,
            advertised: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DiskSettings {
    #[serde(with = "size_text")]
    pub size: u64,
    /// 512B or 4KiB.
    #[serde(with = "size_text")]
    pub block_size: u64,
}

impl Default for DiskSettings {
    fn default() -> Self {
        Self { size: 256 << 20, block_size: 4096 }
    }
}

/// What the client does all the while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Load {
    /// Connections that stay open for the whole run.
    pub keep_alive: u32,
    /// Pause of a keep-alive connection between an answer and the next request.
    #[serde(with = "duration_text")]
    pub think_time: Duration,
    /// New short connections a second, started by the clock, whatever became of the earlier ones.
    pub short_rate: u32,
    /// Size of the files that keep-alive and short connections fetch.
    #[serde(with = "size_text")]
    pub small_size: u64,
    /// Long downloads under way at any time.
    pub downloads: u32,
    #[serde(with = "size_text")]
    pub download_size: u64,
    /// Rate of one download; the backend holds it back, so that it lasts.
    #[serde(with = "size_text")]
    pub download_rate: u64,
    /// Long uploads under way at any time: what passes the box in direct server return.
    pub uploads: u32,
    #[serde(with = "size_text")]
    pub upload_size: u64,
    #[serde(with = "size_text")]
    pub upload_rate: u64,
    /// Datagrams a second of the sequence-numbered stream to the first UDP VIP; every other one gets a tenth of it.
    pub probe_rate: u32,
    /// Flows a second to each VIP, every one from another port and of a single packet: shows how a VIP's flows are shared out.
    pub spread_rate: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            keep_alive: 100,
            think_time: Duration::from_millis(1000),
            short_rate: 20,
            small_size: 4 << 10,
            downloads: 4,
            download_size: 4 << 20,
            download_rate: 1 << 20,
            uploads: 4,
            upload_size: 1 << 20,
            upload_rate: 256 << 10,
            probe_rate: 1000,
            spread_rate: 20,
        }
    }
}

/// What still counts as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Longest time from QEMU's start to the first datagram at a backend.
    #[serde(with = "duration_text")]
    pub boot: Duration,
    /// Longest time after a crash without forwarding, above the noise floor.
    #[serde(with = "duration_text")]
    pub blocked: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { boot: Duration::from_secs(60), blocked: Duration::from_millis(250) }
    }
}

/// Additions to the manifest's `[console]`, merged before the bundle is made: a flashed image never has them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ConsoleAddition {
    pub fault_injection: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default_lab() {
        let lab: LabFile = toml::from_str("").unwrap();
        assert_eq!(lab, LabFile::default());
        // The floor for the load; a smaller default would quietly measure less.
        assert!(lab.load.keep_alive >= 100);
        assert_eq!(lab.load.probe_rate, 1000);
    }

    #[test]
    fn keys_are_kebab_case_and_values_have_units() {
        let lab: LabFile = toml::from_str(
            "[load]\nkeep-alive = 120\nthink-time = \"250ms\"\nupload-size = \"2MiB\"\n[limits]\nblocked = \"1s\"\n[console]\nfault-injection = true\n",
        )
        .unwrap();
        assert_eq!(lab.load.keep_alive, 120);
        assert_eq!(lab.load.think_time, Duration::from_millis(250));
        assert_eq!(lab.load.upload_size, 2 << 20);
        assert_eq!(lab.limits.blocked, Duration::from_secs(1));
        assert_eq!(lab.console.fault_injection, Some(true));
    }

    #[test]
    fn what_nobody_reads_is_refused() {
        for text in
            ["[load]\nkeepalive = 1\n", "[lode]\n", "[load]\nthink-time = 5\n", "[load]\nthink-time = \"5 parsecs\"\n"]
        {
            assert!(toml::from_str::<LabFile>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn it_survives_the_trip_to_the_inner_process() {
        let mut lab = LabFile::default();
        lab.load.think_time = Duration::from_micros(1500);
        let text = serde_json::to_string(&lab).unwrap();
        assert_eq!(serde_json::from_str::<LabFile>(&text).unwrap(), lab);
    }
}
