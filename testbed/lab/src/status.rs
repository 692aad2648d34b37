//! What a live view of a run shows, some times a second.

use crate::feed::DomainFacts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// What the run is at: "booting", "under load", …
    pub phase: String,
    /// Since the box was up.
    pub elapsed_s: f64,
    pub duration_s: Option<f64>,
    pub domains: Vec<DomainFacts>,
    /// VIP frames that the box forwarded in the last second.
    pub packets_per_s: f64,
    pub completed: u64,
    pub failed: u64,
    pub broken: u64,
    pub moved: u64,
    /// Distinct connections so far, by backend.
    pub connections: BTreeMap<String, u64>,
    pub crashes: usize,
    /// The worst so far.
    pub blocked_ms: f64,
}
