//! What a backend that was cut off cost, and what is therefore no fault of the box's: its own connections, and nobody else's.

use super::millis;
use crate::clock::Moment;
use crate::load::{Loss, Tally};
use crate::options::{Protocol, RunOptions};
use crate::report::OutageReport;
use crate::witness::{Service, Witness};

/// Whether an outage answers for what happened to a connection of this backend at this moment.
pub fn excuse(witness: &Witness, backend: usize, at: Moment) -> bool {
    witness.outages.iter().any(|outage| outage.excuses(backend, at))
}

/// Failures of requests on connections: those of backends that were cut off, and the others, with the backend that got their SYN.
pub struct Losses<'a> {
    excused: Vec<(usize, &'a Loss)>,
    others: Vec<(Option<usize>, &'a Loss)>,
}

impl<'a> Losses<'a> {
    pub fn new(options: &RunOptions, tally: &'a Tally, witness: &Witness) -> Self {
        let (mut excused, mut others) = (Vec::new(), Vec::new());
        for loss in &tally.losses {
            let (address, port) = (*loss.end.target.ip(), loss.end.target.port());
            let service = Service { address, port, protocol: Protocol::Tcp };
            match witness.backend_of(options.lab.client.address, loss.end.port, service, loss.end.opened) {
                Some(backend) if excuse(witness, backend, loss.at) => excused.push((backend, loss)),
                backend => others.push((backend, loss)),
            }
        }
        Self { excused, others }
    }

    /// The first of those that nothing excuses, for whoever looks for the cause.
    pub fn first_unexcused(&self, options: &RunOptions, up: Moment) -> Option<String> {
        let (backend, loss) = self.others.first()?;
        let whose = backend.map_or("nobody", |backend| &options.backends[backend].name);
        Some(format!(
            "{} from port {}, whose SYN {whose} got, at {:.0} ms",
            loss.why,
            loss.end.port,
            millis(loss.at.since(up))
        ))
    }

    pub fn failed(&self) -> u64 {
        self.excused.len() as u64
    }

    pub fn broken(&self) -> u64 {
        self.excused.iter().filter(|(_, loss)| loss.broke).count() as u64
    }

    /// How many of the failures of this kind are excused.
    pub fn excused_for(&self, why: &str) -> u64 {
        self.excused.iter().filter(|(_, loss)| loss.why == why).count() as u64
    }
}

pub fn reports(options: &RunOptions, losses: &Losses, witness: &Witness, up: Moment, end: Moment) -> Vec<OutageReport> {
    let reports = witness.outages.iter().map(|outage| {
        let to = outage.to.unwrap_or(end);
        let own = losses.excused.iter().filter(|(backend, loss)| outage.excuses(*backend, loss.at));
        OutageReport {
            backend: options.backends[outage.backend].name.clone(),
            at_ms: millis(outage.from.since(up)),
            length_ms: millis(to.since(outage.from)),
            given_up_after_ms: outage.last_sent.map(|at| millis(at.since(outage.from))),
            found_again_after_ms: outage.first_after.map(|at| millis(at.since(to))),
            broken: own.clone().filter(|(_, loss)| loss.broke).count() as u64,
            failed: own.count() as u64,
        }
    });
    reports.collect()
}
