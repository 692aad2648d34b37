//! The interface of a probe, over its [`State`].

use alloc::{boxed::Box, sync::Arc};

use interfaces::{
    Borrowed, CallError, Cap, RRef,
    packet::Batch,
    probe::{Deed, Parcel, Place, Probe, ProbeHandle, Relayed, Word},
};

use crate::{deeds::State, places};

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

    fn make(&self, word: u64) -> Result<RRef<Word>, CallError> {
        RRef::new(Word(word)).map_err(|_| CallError::Overloaded)
    }

    fn repack(&self, mut parcel: RRef<Parcel>) -> Result<RRef<Parcel>, CallError> {
        let (Some(text), Some(mut word)) = (parcel.texts.pop_back(), parcel.word.take()) else {
            return Err(CallError::Gone);
        };
        word.0 += 1;
        parcel.number += 1;
        parcel.word.put(word).map_err(|_| CallError::Overloaded)?;
        drop(text);
        Ok(parcel)
    }

    fn post(&self, parcel: RRef<Parcel>) -> Result<(), CallError> {
        self.0.post(parcel);
        Ok(())
    }

    fn look(&self, word: Borrowed<'_, Word>, nanos: u64) -> Result<u64, CallError> {
        let before = word.0;
        self.0.linger(nanos)?;
        assert_eq!(word.0, before, "what is lent stays as it is");
        Ok(word.0)
    }

    fn look_and_act(&self, word: Borrowed<'_, Word>, deed: Deed) -> Result<u64, CallError> {
        self.0.act(deed)?;
        Ok(word.0)
    }

    fn look_on(&self, word: Borrowed<'_, Word>, depth: u32, nanos: u64) -> Result<u64, CallError> {
        match (depth, self.0.next) {
            (0, _) => self.look(word, nanos),
            (_, Some(next)) => next.look_on(word, depth - 1, nanos),
            (_, None) => Err(CallError::Gone),
        }
    }

    fn forward(&self, word: u64) -> Result<u64, CallError> {
        self.0.next.ok_or(CallError::Gone)?.next(word)
    }

    fn ferry(&self, batch: RRef<Batch>) -> Result<RRef<Batch>, CallError> {
        Ok(batch)
    }

    fn weigh(&self) -> Result<(u64, u64), CallError> {
        Ok(self.0.weigh())
    }

    fn keep(&self, word: RRef<Word>) -> Result<(), CallError> {
        self.0.keep(word);
        Ok(())
    }

    fn keep_and_act(&self, word: RRef<Word>, deed: Deed) -> Result<(), CallError> {
        self.0.keep(word);
        self.0.act(deed)
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

    fn act_at(&self, depth: u32, place: Place, deed: Deed) -> Result<Relayed, CallError> {
        match (depth, self.0.next) {
            (0, _) => places::act(&self.0, place, deed).map(|()| Relayed::Done),
            (_, Some(next)) => {
                let answer = next.act_at(depth - 1, place, deed);
                Ok(answer.unwrap_or_else(Relayed::Failed))
            }
            (_, None) => Ok(Relayed::Failed(CallError::Gone)),
        }
    }

    fn act_with(&self, word: RRef<Word>, parcel: RRef<Parcel>, deed: Deed) -> Result<RRef<Word>, CallError> {
        self.0.act(deed)?;
        drop(parcel);
        Ok(word)
    }

    fn is_staying(&self) -> Result<bool, CallError> {
        Ok(self.0.is_staying())
    }

    fn handle(&self) -> Result<Cap<dyn ProbeHandle>, CallError> {
        Ok(Cap::new(Box::new(self.0.handle())))
    }

    fn hold(&self, handle: Cap<dyn ProbeHandle>) -> Result<(), CallError> {
        self.0.hold(handle);
        Ok(())
    }

    fn census(&self) -> Result<(u64, u64), CallError> {
        Ok((u64::from(self.0.env.generation()), self.0.handles()))
    }
}
