//! How a driver is measured, ours and others alike: the model fills a ring and stands still; then the driver's draining is timed. So the model isn't what is measured, and
//! its frames lie in this CPU's caches, as a card's would in the shared one.

use rig::{
    Card, Tester,
    bench::{Row, median, stamp},
};

/// Descriptors of each ring.
pub const RING: u16 = 1024;
/// The most packets that a batch of ours holds.
pub const BATCH: usize = 32;
/// Rounds that are timed, after some that aren't; and how often it all is done, so that what disturbs a busy machine for seconds doesn't fall on one path alone.
const ROUNDS: usize = 101;
const WARM_UP: usize = 10;
pub const PASSES: usize = 5;
/// Packets of a round: whole batches, and three batches fewer than a ring has descriptors, since DPDK's driver has two that it posts later.
pub const PACKETS: usize = (RING as usize / BATCH - 3) * BATCH;
/// Bytes of a 64-byte frame without its check sequence.
pub const LENGTH: usize = 60;

/// Has the card take `frames` from the wire, and everything else that is to be done.
pub fn work(card: &Card<Tester>, frames: usize) {
    card.with(|device| {
        device.nic().wire_mut().allow(frames as u64);
        while device.look() {}
    });
}

/// Flows of which each goes to another queue, from the first on.
pub fn flows_by_queue(card: &Card<Tester>, queues: usize) -> Vec<u32> {
    let mut found = vec![None; queues];
    for flow in 0..1024 {
        let before = card.with(|device| device.nic().counters().rx_queue);
        card.with(|device| device.nic().wire_mut().set_flows(vec![flow]));
        work(card, 1);
        let after = card.with(|device| device.nic().counters().rx_queue);
        let queue = (0..queues).find(|queue| after[*queue] > before[*queue]);
        if let Some(queue) = queue {
            found[queue].get_or_insert(flow);
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found.into_iter().map(|flow| flow.expect("each queue has its part of the redirection table")).collect()
}

/// Cycles a packet, of the driver and of the model.
#[derive(Default)]
pub struct Rounds {
    pub driver: Vec<f64>,
    pub model: Vec<f64>,
}

impl Rounds {
    pub fn extend(&mut self, more: Rounds) {
        self.driver.extend(more.driver);
        self.model.extend(more.model);
    }
}

/// Rounds by path, direction and batch, over all passes.
#[derive(Default)]
pub struct Book(Vec<((String, &'static str, usize), Rounds)>);

impl Book {
    pub fn add(&mut self, path: &str, direction: &'static str, batch: usize, rounds: Rounds) {
        let key = (path.to_owned(), direction, batch);
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, before)) => before.extend(rounds),
            None => self.0.push((key, rounds)),
        }
    }

    /// Cycles a packet; and of what is sent and received by batches, the card's own, which would bound whatever is measured while it works.
    pub fn rows(self) -> Vec<Row> {
        let rows = self.0.into_iter().flat_map(|((path, direction, batch), rounds)| {
            let cost = |name, samples| Row::new(name, "cost", median(samples), "cycles/packet");
            let driver = cost(format!("net.{direction}.{path}.batch-{batch}"), rounds.driver);
            let ceiling = (batch == BATCH && !rounds.model.is_empty())
                .then(|| cost(format!("model.{direction}.{path}"), rounds.model));
            [Some(driver), ceiling]
        });
        rows.flatten().collect()
    }
}

/// Runs rounds: the card receives `frames`, then `run` is to handle [`PACKETS`] packets, and says how many cycles that took.
pub fn rounds(card: &Card<Tester>, frames: usize, mut run: impl FnMut() -> u64) -> Rounds {
    let mut rounds = Rounds { driver: Vec::with_capacity(ROUNDS), model: Vec::with_capacity(ROUNDS) };
    for round in 0..WARM_UP + ROUNDS {
        let begun = stamp();
        work(card, frames);
        let worked = stamp() - begun;
        let cycles = run();
        if round >= WARM_UP {
            rounds.driver.push(cycles as f64 / PACKETS as f64);
            rounds.model.push(worked as f64 / PACKETS as f64);
        }
    }
    rounds
}

/// How many there are in a run of [`rounds`].
pub const fn all_rounds() -> usize {
    WARM_UP + ROUNDS
}

/// Of the rounds of one who takes part in another's, those that count.
pub fn counted(mut samples: Vec<f64>) -> Vec<f64> {
    samples.split_off(WARM_UP.min(samples.len()))
}
