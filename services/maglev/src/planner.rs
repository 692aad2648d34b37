//! Makes the plan: watches the backends, obeys the operator, and builds lookup tables in portions that fit between two batches of packets.
//!
//! Run by the first CPU's worker alone. Promises about a start and a restart:
//! - Nothing is forwarded until it is known of every backend whether it is alive (`neighbours`), and all tables are built for just those.
//!   So the first connections aren't directed by a table that differs from the one before the restart.
//! - Backends that come, go or are drained later change the tables at once for new connections; connections that are remembered stay where
//!   they are as long as their backend is alive.

use alloc::{boxed::Box, sync::Arc, vec, vec::Vec};

use crate::{
    config::Config,
    frame::{ArpRequest, Heard, Mac},
    neighbours::{Change, Neighbours, Standing, Timing},
    plan::{Plan, Published, Stage},
    table::{BackendId, Builder, Member, Table},
};

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Up,
    /// Existing connections stay, new ones go elsewhere.
    Drain,
    /// As if it were dead.
    Down,
}

/// Slots looked at between two batches: some 20 µs natively.
const PORTION: usize = 8_192;

/// VIPs with the same backends and weights share a table.
struct Pool {
    shares: Vec<(BackendId, u16)>,
    table: Arc<Table>,
    /// For which members `table` is, or that in `building` will be.
    members: Vec<BackendId>,
    building: Option<Builder>,
}

pub struct Planner {
    config: Arc<Config>,
    neighbours: Neighbours,
    wishes: Box<[Wish]>,
    pools: Vec<Pool>,
    /// By service: its pool.
    pool_of: Vec<usize>,
    published: Arc<Published>,
    /// Whether the published plan is older than what is known.
    stale: bool,
}

impl Planner {
    pub fn new(config: Arc<Config>, now: u64) -> Planner {
        let timing = Timing {
            interval: config.neighbours.interval.nanos(),
            retry: config.neighbours.retry.nanos(),
            attempts: config.neighbours.attempts,
            startup_wait: config.neighbours.startup_wait.nanos(),
        };
        let addresses = config.backends.iter().map(|backend| backend.address.to_bits());
        let neighbours = Neighbours::new(config.address.addr().to_bits(), addresses, timing, now);
        let empty = Arc::new(Table::build(1, &[]));
        let (mut pools, mut pool_of) = (Vec::<Pool>::new(), Vec::new());
        for vip in &config.vips {
            let id =
                |name| config.backends.iter().position(|backend| &backend.name == name).map(|i| BackendId(i as u16));
            let mut shares: Vec<(BackendId, u16)> =
                vip.backends.iter().filter_map(|share| id(&share.name).map(|id| (id, share.weight))).collect();
            shares.sort();
            let pool = pools.iter().position(|pool| pool.shares == shares).unwrap_or_else(|| {
                pools.push(Pool { shares, table: empty.clone(), members: vec![], building: None });
                pools.len() - 1
            });
            pool_of.push(pool);
        }
        let plan = Plan {
            stage: Stage::Starting,
            tables: pool_of.iter().map(|_| empty.clone()).collect(),
            routes: config.backends.iter().map(|_| None).collect(),
        };
        let wishes = config.backends.iter().map(|_| Wish::Up).collect();
        let mut planner = Planner {
            config,
            neighbours,
            wishes,
            pools,
            pool_of,
            published: Arc::new(Published::new(plan)),
            stale: false,
        };
        // Most probably all are alive: build for that while ARP finds out.
        planner.review();
        planner
    }

    /// Where the plan in force is found.
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// Notes an ARP message of a station.
    pub fn heard(&mut self, heard: Heard, now: u64) {
        if self.neighbours.heard(heard, now) == Change::Some {
            self.review();
        }
    }

    /// Notes what the operator wants.
    pub fn wish(&mut self, backend: BackendId, wish: Wish) {
        if let Some(old) = self.wishes.get_mut(backend.index()) {
            *old = wish;
            self.review();
        }
    }

    /// The link address of a backend to which packets may be sent.
    fn route(&self, backend: BackendId, standing: Standing) -> Option<Mac> {
        match standing {
            Standing::Alive(mac) if self.wishes[backend.index()] != Wish::Down => Some(mac),
            _ => None,
        }
    }

    /// Begins new tables where the set of backends has changed.
    fn review(&mut self) {
        self.stale = true;
        let takes: Vec<bool> = self
            .neighbours
            .standings()
            .zip(&self.wishes)
            .map(|(standing, wish)| standing != Standing::Dead && *wish == Wish::Up)
            .collect();
        for pool in &mut self.pools {
            let members: Vec<&(BackendId, u16)> =
                pool.shares.iter().filter(|(backend, _)| takes[backend.index()]).collect();
            if members.iter().map(|(backend, _)| backend).eq(&pool.members) {
                continue;
            }
            let named: Vec<Member> = members
                .iter()
                .map(|&&(backend, weight)| Member {
                    backend,
                    name: &self.config.backends[backend.index()].name,
                    weight,
                })
                .collect();
            pool.building = Some(Builder::new(self.config.table_size as usize, &named));
            pool.members = members.iter().map(|&&(backend, _)| backend).collect();
        }
    }

    /// Goes on with what there is to do, a portion of it; `send` sends a request and says whether it went out.
    pub fn poll(&mut self, now: u64, send: impl FnMut(ArpRequest) -> bool) {
        if now >= self.neighbours.deadline() && self.neighbours.poll(now, send) == Change::Some {
            self.review();
        }
        if let Some(pool) = self.pools.iter_mut().find(|pool| pool.building.is_some())
            && let Some(mut builder) = pool.building.take()
        {
            if builder.advance(PORTION) {
                pool.table = Arc::new(builder.finish());
                self.stale = true;
            } else {
                pool.building = Some(builder);
            }
        }
        if self.stale {
            self.publish();
        }
    }

    fn is_building(&self) -> bool {
        self.pools.iter().any(|pool| pool.building.is_some())
    }

    fn publish(&mut self) {
        let serving = self.neighbours.is_settled() && (!self.is_building() || self.is_serving());
        let routes = self
            .neighbours
            .standings()
            .enumerate()
            .map(|(i, standing)| self.route(BackendId(i as u16), standing))
            .collect();
        self.published.publish(Plan {
            stage: if serving { Stage::Serving } else { Stage::Starting },
            tables: self.pool_of.iter().map(|&pool| self.pools[pool].table.clone()).collect(),
            routes,
        });
        self.stale = false;
    }

    /// Whether the box has begun to forward; it never goes back.
    pub fn is_serving(&self) -> bool {
        self.published.plan().stage == Stage::Serving
    }

    /// When `poll` has something to do next.
    pub fn deadline(&self) -> u64 {
        if self.is_building() { 0 } else { self.neighbours.deadline() }
    }
}
