//! The places in a domain's code where a deed may be done.

use alloc::{format, sync::Arc, vec::Vec};
use core::{cmp::Ordering, fmt};

use interfaces::{
    CallError, RRef,
    packet::Batch,
    probe::{Deed, Place, Word},
};
use runtime::sync::{Event, NEVER};

use crate::deeds::{State, parcel};

pub fn act(state: &Arc<State>, place: Place, deed: Deed) -> Result<(), CallError> {
    let full = |_| CallError::Overloaded;
    match place {
        Place::Method => state.act(deed),
        Place::AfterACall => {
            if let Some(next) = state.next {
                let word = next.pass(RRef::new(Word(1)).map_err(full)?)?;
                drop(word);
            }
            state.act(deed)
        }
        Place::Formatting => {
            let text = format!("{:>20} and {}", Acting(state, deed), 1);
            assert!(text.ends_with("and 1"));
            Ok(())
        }
        Place::LastWords => panic!("a probe was told to {}", Acting(state, deed)),
        Place::Sorting => {
            let mut numbers: Vec<u64> = (0..100).map(|number| number * 37 % 101).collect();
            numbers.sort_by(|one, other| {
                if (*one, *other) == (37, 0) || (*one, *other) == (0, 37) {
                    // The comparison that comes first.
                    let _ = state.act(deed);
                }
                one.cmp(other).then(Ordering::Equal)
            });
            assert!(numbers.is_sorted());
            Ok(())
        }
        Place::Dropping => {
            drop((Departing(state, deed), Vec::<u64>::with_capacity(100)));
            Ok(())
        }
        Place::WithObjects => {
            let words = (0..40).map(|word| RRef::new(Word(word)).map_err(full)).collect::<Result<Vec<_>, _>>()?;
            let mut batch = Batch::allocate().map_err(full)?;
            batch.fill(Batch::CAPACITY);
            let mut parcel = parcel(3)?;
            let taken = parcel.word.take();
            state.act(deed)?;
            drop((words, batch, parcel, taken));
            Ok(())
        }
        Place::Lending => {
            let word = RRef::new(Word(5)).map_err(full)?;
            let lent = word.lend();
            if let Some(next) = state.next {
                next.look(lent, 0)?;
            }
            state.act(deed)
        }
        Place::WithHandles => {
            let handles = match state.next {
                Some(next) => [Some(next.handle()?), Some(next.handle()?)],
                None => [None, None],
            };
            state.act(deed)?;
            drop(handles);
            Ok(())
        }
        Place::WithALock => {
            let _held = state.lock.lock();
            let waiting = state.clone();
            let cpu = state.env.cpus().last().copied().unwrap_or(0);
            state.env.spawn("waiting", cpu, move || drop(waiting.lock.lock())).map_err(|_| CallError::Overloaded)?;
            state.act(deed)
        }
        Place::InAThread => {
            state.spawn(deed)?;
            Event::new().wait(NEVER).map(drop).map_err(|_| CallError::Cancelled)
        }
    }
}

/// Does a deed when it is shown.
struct Acting<'a>(&'a Arc<State>, Deed);

impl fmt::Display for Acting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.act(self.1) {
            Ok(()) => f.pad("done"),
            Err(_) => Err(fmt::Error),
        }
    }
}

/// Does a deed when it goes.
struct Departing<'a>(&'a Arc<State>, Deed);

impl Drop for Departing<'_> {
    fn drop(&mut self) {
        let _ = self.0.act(self.1);
    }
}
