//! The state word of an incarnation, as it is in `src/state.rs`.

#[allow(dead_code, reason = "not all of it is of interest here")]
#[path = "../../src/state.rs"]
mod state;

use std::sync::atomic::Ordering::Relaxed;

use loom::{cell::UnsafeCell, sync::Arc, thread};
use state::State;

use crate::{
    atomic::{AtomicBool, AtomicU32},
    explore,
};

/// How `State` is laid out.
#[repr(C)]
struct Words {
    word: AtomicU32,
    claimed: AtomicBool,
}

const _: () = assert!(size_of::<Words>() == size_of::<State>());

/// A live incarnation, both of whose words are made by the thread that makes all others.
fn live() -> Arc<State> {
    let state = Arc::new(State::new());
    // SAFETY: as it is laid out.
    let words = unsafe { &*Arc::as_ptr(&state).cast::<Words>() };
    assert!(words.word.load(Relaxed) == state::LIVE && !words.claimed.load(Relaxed));
    state
}

/// A fault that is injected and taken at the moment of death never makes the dead live.
#[test]
fn the_dead_stay_dead() {
    explore(4, || {
        let state = live();
        let others = [
            thread::spawn({
                let state = state.clone();
                move || {
                    state.inject(7);
                }
            }),
            thread::spawn({
                let state = state.clone();
                move || {
                    state.take_fault();
                }
            }),
        ];
        assert!(state.claim());
        state.die();
        others.into_iter().for_each(|other| other.join().expect("it ends"));
        assert!(!state.is_live() && state.take_fault().is_none() && !state.inject(7));
        state.set_quiet();
        assert!(state.is_quiet());
    });
}

/// An injected fault is committed once, by one of those who come.
#[test]
fn a_fault_is_taken_once() {
    explore(4, || {
        let state = live();
        assert!(state.inject(7));
        let taking = || {
            let state = state.clone();
            thread::spawn(move || state.take_fault())
        };
        let takers = [taking(), taking()];
        let taken = takers.map(|taker| taker.join().expect("it ends"));
        assert_eq!(taken.iter().flatten().count(), 1, "{taken:?}");
    });
}

/// Who dies in two ways at once dies in one of them, and whoever sees the death sees how.
#[test]
fn a_death_is_written_once_and_before_it_is_seen() {
    explore(4, || {
        let state = live();
        let death = Arc::new(UnsafeCell::new(0));
        let killing = |how: u32| {
            let (state, death) = (state.clone(), death.clone());
            thread::spawn(move || {
                let mine = state.claim();
                if mine {
                    // SAFETY: what Loom checks.
                    death.with_mut(|death| unsafe { *death = how });
                    state.die();
                }
                mine
            })
        };
        let killers = [killing(1), killing(2)];
        if !state.is_live() {
            // SAFETY: what Loom checks.
            death.with(|death| assert_ne!(unsafe { *death }, 0, "seen dead, and nobody knows of what"));
        }
        let killed = killers.map(|killer| killer.join().expect("it ends"));
        assert_eq!(killed.into_iter().filter(|mine| *mine).count(), 1);
    });
}
