//! What the operator sees of this domain.

use alloc::{string::String, sync::Arc};

use interfaces::{
    RRef,
    control::{Control, ControlError, Counters, Text},
};
use netstack_library::Placement;
use runtime::{serving::Tallies, tally::Tally};

use crate::server::Answers;

/// Of one thread.
#[derive(Debug, Default)]
pub struct Counts {
    pub clients: Tallies,
    pub answers: Answers,
}

/// The domain's `control` port.
pub struct Console {
    /// Of each thread.
    pub counts: Arc<[Counts]>,
    pub placement: Placement,
}

impl Control for Console {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let sum = |of: fn(&Counts) -> &Tally| self.counts.iter().map(|counts| of(counts).get()).sum::<u64>();
        let counters = [
            ("connections.accepted", sum(|counts| &counts.clients.accepted)),
            ("connections.open", sum(|counts| &counts.clients.open)),
            ("connections.refused", sum(|counts| &counts.clients.refused)),
            ("connections.timed-out", sum(|counts| &counts.clients.timed_out)),
            ("connections.broken", sum(|counts| &counts.clients.broken)),
            ("connections.lost", sum(|counts| &counts.clients.connections_lost)),
            ("stack.lost", sum(|counts| &counts.clients.stack_lost)),
            ("bytes.received", sum(|counts| &counts.clients.bytes_received)),
            ("bytes.sent", sum(|counts| &counts.clients.bytes_sent)),
            ("answers.ok", sum(|counts| &counts.answers.ok)),
            ("answers.redirected", sum(|counts| &counts.answers.redirected)),
            ("answers.not-modified", sum(|counts| &counts.answers.not_modified)),
            ("answers.client-errors", sum(|counts| &counts.answers.client_errors)),
            ("answers.server-errors", sum(|counts| &counts.answers.server_errors)),
        ];
        let counters = counters.map(|(name, value)| (String::from(name), value)).into_iter();
        let counters = counters.chain(self.placement.counters());
        counters.skip(first as usize).all(|(name, value)| page.push(&name, value));
        Ok(page)
    }

    fn command(&self, _line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        Err(ControlError::UnknownCommand)
    }
}
