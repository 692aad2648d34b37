//! The interface of a probe, over its [`State`].

use alloc::{boxed::Box, sync::Arc};

use interfaces::{
    CallError, Cap, RRef,
    probe::{Deed, Probe, ProbeHandle, Relayed, Word},
};

use crate::deeds::State;

/// What a probe exports.
pub struct Probed(pub Arc<State>);

impl Probe for Probed {
    fn next(&self, word: u64) -> Result<u64, CallError> {
        Ok(word + 1)
    }

    fn pass(&self, mut word: RRef<Word>) -> Result<RRef<Word>, CallError> {
        word.0 += 1;
        Ok(word)
    }

    fn keep(&self, word: RRef<Word>) -> Result<(), CallError> {
        self.0.keep(word);
        Ok(())
    }

    fn act(&self, deed: Deed) -> Result<(), CallError> {
        self.0.act(deed)
    }

    fn relay(&self, depth: u32, deed: Deed) -> Result<Relayed, CallError> {
        let answer = match (depth, self.0.next) {
            (0, _) => self.0.act(deed).map(|()| Relayed::Done),
            (_, Some(next)) => next.relay(depth - 1, deed),
            (_, None) => Err(CallError::Gone),
        };
        Ok(answer.unwrap_or_else(Relayed::Failed))
    }

    fn handle(&self) -> Result<Cap<dyn ProbeHandle>, CallError> {
        Ok(Cap::new(Box::new(self.0.handle())))
    }

    fn census(&self) -> Result<(u64, u64), CallError> {
        Ok((u64::from(self.0.env.generation()), self.0.handles()))
    }
}
