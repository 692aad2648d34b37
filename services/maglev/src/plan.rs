//! What every CPU forwards by, and how it learns of changes without a lock on a packet's way.
//!
//! [`Services`] never changes while the domain lives; a [`Plan`] is immutable and replaced as a whole. The first CPU's worker publishes;
//! the others compare one word per batch, and take the lock only when it differs.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU64, Ordering};

use runtime::sync::Mutex;

use crate::{
    config::Config,
    frame::{Mac, Protocol},
    table::{BackendId, Table},
};

/// A VIP's number: its place in the configuration's list of VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u16);

impl ServiceId {
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Which addresses are the box's to speak for, and what is served there.
#[derive(Debug)]
pub struct Services {
    /// Address, protocol and port in one number, sorted. Port 0 stands for every port.
    served: Box<[(u64, ServiceId)]>,
    /// VIPs and the box's own address, sorted.
    addresses: Box<[u32]>,
    /// Backends' addresses, in the order of the configuration.
    backends: Box<[u32]>,
}

fn served_key(address: u32, protocol: Protocol, port: u16) -> u64 {
    u64::from(address) << 32 | u64::from(protocol == Protocol::Udp) << 16 | u64::from(port)
}

impl Services {
    pub fn new(config: &Config) -> Services {
        let mut served: Vec<(u64, ServiceId)> = config
            .vips
            .iter()
            .enumerate()
            .map(|(i, vip)| {
                (served_key(vip.address.to_bits(), vip.protocol, vip.port.unwrap_or(0)), ServiceId(i as u16))
            })
            .collect();
        served.sort();
        let mut addresses: Vec<u32> = config.vips.iter().map(|vip| vip.address.to_bits()).collect();
        addresses.push(config.address.addr().to_bits());
        addresses.sort();
        addresses.dedup();
        Services {
            served: served.into(),
            addresses: addresses.into(),
            backends: config.backends.iter().map(|backend| backend.address.to_bits()).collect(),
        }
    }

    /// The service at an address and port: that of the very port, or else that of every port.
    #[inline]
    pub fn find(&self, address: u32, protocol: Protocol, port: u16) -> Option<ServiceId> {
        let at = |port| {
            let key = served_key(address, protocol, port);
            self.served.binary_search_by_key(&key, |&(key, _)| key).ok().map(|i| self.served[i].1)
        };
        // Port 0 is no port to send to (RFC 6335 §6).
        if port == 0 { None } else { at(port).or_else(|| at(0)) }
    }

    /// Whether the box speaks for this address.
    pub fn owns(&self, address: u32) -> bool {
        self.addresses.binary_search(&address).is_ok()
    }

    pub fn addresses(&self) -> &[u32] {
        &self.addresses
    }

    pub fn is_backend(&self, address: u32) -> bool {
        self.backends.contains(&address)
    }
}

/// Whether the box forwards already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not yet known which backends are alive: a connection directed now might go elsewhere than before the restart.
    Starting,
    Serving,
}

/// The state of all backends, as of one moment.
#[derive(Clone, Debug)]
pub struct Plan {
    pub stage: Stage,
    /// By service: whom new connections go to.
    pub tables: Box<[Arc<Table>]>,
    /// By backend: its link address, if packets may be sent there. A backend that is being drained has one, but is in no table.
    pub routes: Box<[Option<Mac>]>,
}

impl Plan {
    #[inline]
    pub fn route(&self, backend: BackendId) -> Option<Mac> {
        self.routes.get(backend.index()).copied().flatten()
    }
}

/// The plan in force.
pub struct Published {
    version: AtomicU64,
    plan: Mutex<Arc<Plan>>,
}

impl Published {
    pub fn new(plan: Plan) -> Published {
        Published { version: AtomicU64::new(1), plan: Mutex::new(Arc::new(plan)) }
    }

    /// Puts another plan in force.
    pub fn publish(&self, plan: Plan) {
        *self.plan.lock() = Arc::new(plan);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The plan in force, by the lock: for those who aren't on a packet's way.
    pub fn plan(&self) -> Arc<Plan> {
        self.plan.lock().clone()
    }
}

/// One CPU's view of the plan in force.
pub struct View {
    published: Arc<Published>,
    version: u64,
    plan: Arc<Plan>,
}

impl View {
    pub fn new(published: Arc<Published>) -> View {
        // Before the plan: if one is published in between, `refresh` fetches it again.
        let version = published.version.load(Ordering::Acquire);
        let plan = published.plan();
        View { published, version, plan }
    }

    /// Takes up a new plan, if there is one. Called between batches.
    #[inline]
    pub fn refresh(&mut self) {
        let version = self.published.version.load(Ordering::Acquire);
        if version != self.version {
            self.plan = self.published.plan();
            self.version = version;
        }
    }

    #[inline]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}
