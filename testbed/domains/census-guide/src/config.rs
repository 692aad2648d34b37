//! What the `config` table of a census in the manifest may hold.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};

use interfaces::config::{Configuration, Fault};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The kinds of frames to count.
    pub count: Vec<Kind>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Kind {
    /// As the console shows it.
    pub name: String,
    /// Bytes 12 and 13 of a frame, such as 0x0806 for ARP.
    pub ether_type: u16,
}

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let mut seen = BTreeSet::new();
        let twice = |(at, kind): (usize, &Kind)| {
            let message = format!("EtherType {:#06x} is counted already", kind.ether_type);
            (!seen.insert(kind.ether_type)).then(|| Fault { path: format!("count[{at}].ether-type"), message })
        };
        self.count.iter().enumerate().filter_map(twice).collect()
    }
}
