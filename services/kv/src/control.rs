//! What the operator sees of this domain, and may ask of it.

use alloc::{string::String, sync::Arc};

use interfaces::{
    RRef,
    control::{Control, ControlError, Counters, Text},
};
use netstack_library::Placement;
use runtime::{serving::Tallies, tally::Tally};

use crate::{clock::Clock, statistics::Traffic, store::Store};

/// The domain's `control` port.
pub struct Console {
    pub store: Arc<Store>,
    pub traffic: Arc<[Traffic]>,
    pub placement: Placement,
}

impl Control for Console {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let sum =
            |of: fn(&Tallies) -> &Tally| self.traffic.iter().map(|traffic| of(&traffic.clients).get()).sum::<u64>();
        let totals = self.store.totals();
        let counts = totals.counts;
        let counters = [
            ("connections.accepted", sum(|clients| &clients.accepted)),
            ("connections.open", sum(|clients| &clients.open)),
            ("connections.refused", sum(|clients| &clients.refused)),
            ("connections.timed-out", sum(|clients| &clients.timed_out)),
            ("connections.broken", sum(|clients| &clients.broken)),
            ("connections.lost", sum(|clients| &clients.connections_lost)),
            ("stack.lost", sum(|clients| &clients.stack_lost)),
            ("bytes.received", sum(|clients| &clients.bytes_received)),
            ("bytes.sent", sum(|clients| &clients.bytes_sent)),
            ("datagrams", sum(|clients| &clients.datagrams)),
            ("items", totals.items),
            ("items.bytes", totals.bytes),
            ("items.limit", totals.limit),
            ("items.stored", counts.stored),
            ("items.evicted", counts.evictions),
            ("items.expired", counts.expired + counts.reclaimed),
            ("get.hits", counts.get_hits),
            ("get.misses", counts.get_misses),
            ("set", counts.set_commands),
            ("set.too-large", counts.too_large),
            ("set.no-memory", counts.no_memory),
            ("meta", counts.meta_commands),
        ];
        let log = self.store.journal().map(|journal| {
            let log = &journal.statistics;
            [
                ("log.commits", log.commits.get()),
                ("log.committed-bytes", log.committed.get()),
                ("log.written-bytes", log.written.get()),
                ("log.write-amplification-permille", log.amplification()),
                ("log.flushes", log.flushes.get()),
                ("log.compactions", log.compactions.get()),
                ("log.fill-permille", log.fill.get()),
                ("log.recovery-us", log.recovery_nanos.get() / 1000),
                ("log.recovered-changes", log.recovered_changes.get()),
                ("log.recovered-bytes", log.recovered_bytes.get()),
                ("log.torn-tail", log.torn.get()),
            ]
        });
        let counters = counters.into_iter().chain(log.into_iter().flatten());
        let counters = counters.map(|(name, value)| (String::from(name), value)).chain(self.placement.counters());
        counters.skip(first as usize).all(|(name, value)| page.push(&name, value));
        Ok(page)
    }

    fn command(&self, mut line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        match line.as_str() {
            "flush" => {
                self.store.flush(None, Clock::new(0, None));
                *line = Text::new("everything is gone");
                Ok(line)
            }
            _ => Err(ControlError::UnknownCommand),
        }
    }
}
